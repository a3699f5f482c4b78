"""How far a teacher is trusted, against the formulas and the rules that the weights stand on."""

import numpy as np
import pytest

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.training.residuals import keep_mask
from ser_ts_lobes.training.trust import trust_by_residual, trust_by_spread
from ser_ts_lobes.training.uncertainty import keep_surest


@pytest.fixture
def residual():
    values = np.random.default_rng(0).normal(0, [0.5, 1, 2], (200, 3))
    return values - values.mean(axis=0)


@pytest.fixture
def spread():
    return np.random.default_rng(1).gamma(4, 0.05, (200, 3))


@pytest.mark.parametrize("threshold", [0.5, 2.0, None])
def test_a_cut_is_the_papers_mask_of_embedding_and_prediction(residual, threshold):
    trust = trust_by_residual(residual, threshold, "cut")
    kept = keep_mask(residual, threshold)
    assert trust.embedding.dtype == trust.prediction.dtype == bool
    np.testing.assert_array_equal(trust.embedding, kept)
    np.testing.assert_array_equal(trust.prediction, np.stack([kept] * 3, axis=1))


@pytest.mark.parametrize("threshold", [0.5, 2.0])
def test_soft_trust_falls_with_the_largest_residual(residual, threshold):
    trust = trust_by_residual(residual, threshold, "soft")
    sigma = np.sqrt((residual**2).mean(axis=0))  # the mean is 0
    expected = [
        np.exp(-(max(abs(r_j) / s_j for r_j, s_j in zip(r, sigma, strict=True)) ** 2) / threshold**2) for r in residual
    ]
    assert trust.embedding.dtype == np.float32
    np.testing.assert_allclose(trust.embedding, expected, rtol=1e-6)
    np.testing.assert_array_equal(trust.prediction, np.stack([trust.embedding] * 3, axis=1))
    # What the cut keeps has a weight of 1 / e or more.
    np.testing.assert_array_equal(trust.embedding >= np.exp(-1), keep_mask(residual, threshold))


def test_a_dimension_that_leaves_no_residual_is_trusted():
    residual = np.array([[0.0, 1.0], [0.0, -1.0]])
    for kind in ("soft", "per_dimension"):
        trust = trust_by_residual(residual, 2.0, kind)
        np.testing.assert_allclose(trust.embedding, np.exp(-0.25) if kind == "soft" else 1)
    assert trust_by_spread(np.zeros((2, 3)), 0.5, "soft").embedding.tolist() == [1, 1]
    beside = trust_by_spread([[0.0], [0.0], [0.1]], 0.5, "soft")
    assert beside.embedding.tolist() == [1, 1, 0]


@pytest.mark.parametrize("threshold", [0.5, 2.0])
def test_each_dimension_of_the_prediction_has_a_residual_of_its_own(residual, threshold):
    trust = trust_by_residual(residual, threshold, "per_dimension")
    np.testing.assert_array_equal(trust.embedding, keep_mask(residual, threshold))
    within = np.abs(residual) <= threshold * residual.std(axis=0)
    assert 0 < within.mean() < 1
    np.testing.assert_array_equal(trust.prediction, within)


@pytest.mark.parametrize("share", [0.3, 0.87, 1.0])
def test_trust_by_spread_is_of_the_surest(spread, share):
    kept = keep_surest(spread, share)
    cut, soft, each = (trust_by_spread(spread, share, kind) for kind in ("cut", "soft", "per_dimension"))
    np.testing.assert_array_equal(cut.embedding, kept)
    np.testing.assert_array_equal(cut.prediction, np.stack([kept] * 3, axis=1))
    largest = spread.max(axis=1)
    quantile = np.sort(largest)[int(np.ceil(share * 200)) - 1]
    np.testing.assert_allclose(soft.embedding, np.exp(-((largest / quantile) ** 2)), rtol=1e-6)
    np.testing.assert_array_equal(soft.prediction, np.stack([soft.embedding] * 3, axis=1))
    np.testing.assert_array_equal(each.embedding, kept)
    limits = np.sort(spread, axis=0)[int(np.ceil(share * 200)) - 1]
    np.testing.assert_array_equal(each.prediction, spread <= limits)


@pytest.mark.parametrize("kind", ["cut", "soft", "per_dimension"])
def test_bad_input_is_refused(residual, kind):
    residual[7, 2] = np.nan
    with pytest.raises(InputError, match="^residual, row 7 "):
        trust_by_residual(residual, 2.0, kind)
    with pytest.raises(InputError, match="^spread, row 7 "):
        trust_by_spread(residual, 0.5, kind)
    with pytest.raises(InputError, match="threshold is -1"):
        trust_by_residual(np.ones((2, 3)), -1, kind)
    with pytest.raises(InputError, match="share of utterances to keep is 0"):
        trust_by_spread(np.ones((2, 3)), 0, kind)
