"""Metrics against scipy and plain formulas; their algebra; bootstrap intervals."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.metrics import bootstrap_ci, ccc, evaluate, paired_bootstrap, pearson, rmse


def ratings(n=60, noise=0.7, seed=0):
    """Return predictions and labels, shape (n, 3), on a scale like MSP-Podcast's."""
    rng = np.random.default_rng(seed)
    targets = rng.normal(4, 1, (n, 3))
    return 0.6 * targets + 1.5 + noise * rng.normal(size=(n, 3)), targets


def ccc_in_a_loop(predictions, targets):
    """Return CCC of two lists from its definition."""
    n = len(predictions)
    mean_p, mean_y = math.fsum(predictions) / n, math.fsum(targets) / n
    cov = math.fsum((p - mean_p) * (y - mean_y) for p, y in zip(predictions, targets, strict=True)) / n
    var_p = math.fsum((p - mean_p) ** 2 for p in predictions) / n
    var_y = math.fsum((y - mean_y) ** 2 for y in targets) / n
    return 2 * cov / (var_p + var_y + (mean_p - mean_y) ** 2)


def test_metrics_match_independent_computations():
    predictions, targets = ratings()
    scores = evaluate(predictions, targets)
    assert tuple(scores) == DIMENSIONS
    for j, dimension in enumerate(DIMENSIONS):
        p, y = predictions[:, j].tolist(), targets[:, j].tolist()
        assert scores[dimension]["ccc"] == pytest.approx(ccc_in_a_loop(p, y), rel=1e-12)
        assert scores[dimension]["pearson"] == pytest.approx(scipy.stats.pearsonr(p, y).statistic, rel=1e-12)
        assert scores[dimension]["rmse"] == pytest.approx(math.dist(p, y) / math.sqrt(len(p)), rel=1e-12)


def test_one_dimension_gives_a_scalar():
    predictions, targets = ratings()
    for metric in (ccc, pearson, rmse):
        assert np.ndim(metric(predictions[:, 0], targets[:, 0])) == 0
        assert metric(predictions[:, 0], targets[:, 0]) == pytest.approx(metric(predictions, targets)[0])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1])  # the mean of 0.1s isn't 0.1
def test_constant_input_has_no_correlation(value):
    predictions, targets = ratings(n=7)
    constant = np.full_like(targets, value)
    for metric in (ccc, pearson):
        assert np.isnan(metric(constant, targets)).all()
        assert np.isnan(metric(predictions, constant)).all()
        assert np.isnan(metric(constant, constant)).all()
    assert (rmse(constant, constant) == 0).all()


pairs = arrays(
    np.float64,
    st.tuples(st.integers(2, 20), st.just(2)),
    elements=st.floats(-100, 100).map(lambda x: round(x, 3)),
).filter(lambda pair: (np.ptp(pair, axis=0) > 0).all())


@given(pairs)
def test_ccc_is_pearson_times_the_bias_correction(pair):
    p, y = pair.T
    scale_shift = p.std() / y.std()
    location_shift = (p.mean() - y.mean()) / math.sqrt(p.std() * y.std())
    bias_correction = 2 / (scale_shift + 1 / scale_shift + location_shift**2)  # C_b of Lin (1989)
    assert ccc(p, y) == pytest.approx(pearson(p, y) * bias_correction, abs=1e-9)
    assert abs(ccc(p, y)) <= abs(pearson(p, y)) + 1e-12


@given(pairs, st.floats(0.1, 10), st.floats(-10, 10))
def test_ccc_is_symmetric_and_ignores_a_common_scale(pair, scale, shift):
    p, y = pair.T
    assert ccc(y, p) == pytest.approx(ccc(p, y), abs=1e-12)
    assert ccc(scale * p + shift, scale * y + shift) == pytest.approx(ccc(p, y), abs=1e-9)
    assume(shift != 0)
    assert abs(ccc(p, p + shift)) <= 1  # but not a shift of one of them


@pytest.mark.parametrize("metric", [ccc, pearson, rmse, bootstrap_ci])
def test_bad_input_is_refused_with_its_place(metric):
    predictions, targets = ratings(n=5)
    for bad in (np.nan, np.inf):
        spoilt = targets.copy()
        spoilt[3, 1] = bad
        with pytest.raises(InputError, match=r"targets, row 3 \(from 0\), column 1"):
            metric(predictions, spoilt)
    with pytest.raises(InputError, match=r"\(5, 3\) and targets \(4, 3\)"):
        metric(predictions, targets[:4])
    with pytest.raises(InputError, match="at least 2 utterances, not 1"):
        metric(predictions[:1], targets[:1])


def test_evaluate_needs_three_columns():
    predictions, targets = ratings(n=5)
    with pytest.raises(InputError, match="activation, valence, dominance"):
        evaluate(predictions[:, :2], targets[:, :2])


@pytest.mark.parametrize(("name", "statistic"), [("ccc", ccc), ("pearson", pearson)])
def test_interval_is_scipys(name, statistic):
    predictions, targets = ratings()
    interval = bootstrap_ci(predictions, targets, statistic=name, n_resamples=9999, confidence=0.9)
    for j in range(3):
        expected = scipy.stats.bootstrap(
            (predictions[:, j], targets[:, j]),
            lambda p, y: statistic(p, y),
            paired=True,
            vectorized=False,
            method="percentile",
            confidence_level=0.9,
            n_resamples=2000,
            rng=1,
        ).confidence_interval
        np.testing.assert_allclose(interval[:, j], expected, atol=0.1 * np.ptp(expected))


def test_interval_over_speakers_is_scipys():
    predictions, targets = ratings(n=90)
    rng = np.random.default_rng(2)
    speakers = rng.integers(12, size=90)
    predictions += rng.normal(size=(12, 3))[speakers]
    rows = [np.flatnonzero(speakers == speaker) for speaker in range(12)]

    def ccc_of_speakers(drawn):
        index = np.concatenate([rows[speaker] for speaker in drawn])
        return ccc(predictions[index, 0], targets[index, 0])

    expected = scipy.stats.bootstrap(
        (np.arange(12),), ccc_of_speakers, vectorized=False, method="percentile", n_resamples=2000, rng=1
    ).confidence_interval
    interval = bootstrap_ci(predictions, targets, speakers, n_resamples=9999)[:, 0]
    np.testing.assert_allclose(interval, expected, atol=0.1 * np.ptp(expected))


def test_saying_the_same_again_makes_a_speaker_no_surer():
    predictions, targets = ratings()
    speakers = np.repeat([f"{speaker:02d}" for speaker in range(60)], 5)
    interval = bootstrap_ci(np.repeat(predictions, 5, axis=0), np.repeat(targets, 5, axis=0), speakers)
    np.testing.assert_allclose(interval, bootstrap_ci(predictions, targets), rtol=1e-9)


def test_unknown_speakers_do_not_form_a_group():
    predictions, targets = ratings(n=30)
    all_unknown = bootstrap_ci(predictions, targets, ["Unknown"] * 30)
    np.testing.assert_allclose(all_unknown, bootstrap_ci(predictions, targets), rtol=1e-12)
    with pytest.raises(InputError, match="one group"):
        bootstrap_ci(predictions, targets, ["speaker"] * 30)
    with pytest.raises(InputError, match="one for each of 30"):
        bootstrap_ci(predictions, targets, ["speaker"] * 29)


def test_settings_that_mean_nothing_are_refused():
    predictions, targets = ratings()
    for setting in ({"statistic": "rmse"}, {"n_resamples": 0}, {"confidence": 95}):
        (name,) = setting
        with pytest.raises(InputError, match=name):
            bootstrap_ci(predictions, targets, **setting)


def test_interval_is_undefined_where_a_resample_is_constant():
    # Of three utterances one resample in nine is a single utterance three times.
    predictions, targets = ratings(n=3)
    assert np.isnan(bootstrap_ci(predictions + 1e3, targets + 1e3)).all()


@pytest.mark.parametrize("size", range(2, 14))
def test_rounding_does_not_hide_a_constant_resample(size):
    # One resample in four is the constant speaker twice, with a variance of rounding errors for some sizes.
    predictions, targets = ratings(n=size + 5)
    predictions[:size] = 3.7
    speakers = ["constant"] * size + ["varied"] * 5
    assert np.isnan(bootstrap_ci(predictions, targets, speakers, n_resamples=50)).all()


def test_draws_depend_on_the_seed_only():
    predictions, targets = ratings()
    np.testing.assert_array_equal(bootstrap_ci(predictions, targets), bootstrap_ci(predictions, targets))
    assert (bootstrap_ci(predictions, targets) != bootstrap_ci(predictions, targets, seed=1)).any()


def test_memory_is_bounded_for_a_large_set():
    predictions, targets = ratings(n=50_000)
    tracemalloc.start()
    bootstrap_ci(predictions, targets, n_resamples=400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20  # all counts at once would take 153 MiB


def test_paired_bootstrap_tells_a_better_system_from_an_equal_one():
    better, targets = ratings(n=200, noise=0.4)
    noise = np.random.default_rng(3).normal(size=(200, 3))
    worse = better + [0.0, 0.5, 1.5] * noise  # the first dimension is the same
    result = paired_bootstrap(better, worse, targets)
    np.testing.assert_allclose(result.difference, ccc(better, targets) - ccc(worse, targets), rtol=1e-12)
    assert (result.interval[:, 0] == 0).all() and result.p_value[0] == 1
    assert (result.interval[0, 1:] > 0).all() and (result.p_value[1:] < 0.01).all()
    assert (result.p_value > 0).all()
    reverse = paired_bootstrap(worse, better, targets)
    np.testing.assert_allclose(reverse.interval, -result.interval[::-1], atol=1e-12)
    np.testing.assert_allclose(reverse.p_value, result.p_value)


def test_paired_interval_is_scipys():
    system_a, targets = ratings()
    system_b = system_a + np.random.default_rng(4).normal(0, 0.5, targets.shape)
    interval = paired_bootstrap(system_a, system_b, targets, n_resamples=9999).interval[:, 0]
    expected = scipy.stats.bootstrap(
        (system_a[:, 0], system_b[:, 0], targets[:, 0]),
        lambda a, b, y: ccc(a, y) - ccc(b, y),
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=1,
    ).confidence_interval
    np.testing.assert_allclose(interval, expected, atol=0.1 * np.ptp(expected))


def test_p_values_are_uniform_for_equal_systems():
    rng = np.random.default_rng(5)
    targets = rng.normal(size=(100, 200))  # 200 dimensions: as many tests of a true null hypothesis
    system_a, system_b = (targets + rng.normal(size=targets.shape) for _ in range(2))
    p_values = paired_bootstrap(system_a, system_b, targets, n_resamples=500).p_value
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01


def test_paired_bootstrap_names_the_system_with_bad_input():
    predictions, targets = ratings(n=5)
    with pytest.raises(InputError, match=r"predictions_b have shape \(4, 3\)"):
        paired_bootstrap(predictions, predictions[:4], targets)
