"""Residuals against other least squares, and the mask against the normal distribution."""

import re

import numpy as np
import pytest
import scipy.stats

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.training.residuals import fit_residuals, keep_mask


@pytest.fixture
def ratings():
    """Return predictions and labels, shape (50, 3)."""
    rng = np.random.default_rng(0)
    targets = rng.normal(4, 1, (50, 3))
    return [0.4, 0.6, 1.2] * targets + rng.normal(0, 0.5, (50, 3)), targets


def test_line_is_the_least_squares_of_label_on_prediction(ratings):
    predictions, targets = ratings
    fitted = fit_residuals(predictions, targets)
    for j in range(3):
        line = scipy.stats.linregress(predictions[:, j], targets[:, j])
        assert fitted.weight[j] == pytest.approx(line.slope, rel=1e-12)
        assert fitted.offset[j] == pytest.approx(line.intercept, rel=1e-12)
        polynomial = np.polyfit(predictions[:, j], targets[:, j], 1)
        expected = np.polyval(polynomial, predictions[:, j]) - targets[:, j]
        np.testing.assert_allclose(fitted.residual[:, j], expected, atol=1e-12)


def test_float32_predictions_are_fitted_in_float64(ratings):
    predictions, targets = (array.astype(np.float32) for array in ratings)
    fitted = fit_residuals(predictions, targets)
    assert fitted.residual.dtype == np.float64
    assert fitted.residual.mean(axis=0) == pytest.approx(0, abs=1e-12)


def test_apply_uses_the_training_line(ratings):
    predictions, targets = ratings
    fitted = fit_residuals(predictions[:40], targets[:40])
    expected = fitted.weight * predictions[40:] + fitted.offset - targets[40:]
    np.testing.assert_array_equal(fitted.apply(predictions[40:], targets[40:]), expected)
    assert fitted.apply(predictions[40:41], targets[40:41]).shape == (1, 3)
    with pytest.raises(InputError, match=r"\(utterances, 3\)"):
        fitted.apply(predictions[:, :1], targets[:, :1])


def test_constant_predictions_fit_the_mean_label(ratings):
    _, targets = ratings
    fitted = fit_residuals(np.full_like(targets, 0.1), targets)
    assert (fitted.weight == 0).all()
    np.testing.assert_allclose(fitted.offset, targets.mean(axis=0), rtol=1e-12)


def test_mask_leaves_out_as_many_as_the_normal_distribution_says():
    residual = np.random.default_rng(1).normal(0, [0.5, 1, 2], (100_000, 3))
    assert 1 - keep_mask(residual).mean() == pytest.approx(0.130, abs=0.005)  # 1 - 0.9545^3
    assert 1 - keep_mask(residual, threshold=1).mean() == pytest.approx(1 - 0.6827**3, abs=0.005)


def test_one_bad_dimension_is_enough():
    residual = np.tile([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]], (10, 1))
    residual[4, 2] = -9
    assert np.flatnonzero(~keep_mask(residual)).tolist() == [4]


def test_no_threshold_keeps_all():
    assert keep_mask([[0.0, 0.0], [0.0, 99.0], [0.0, 0.0]], threshold=None).tolist() == [True] * 3
    assert keep_mask([[0.0]], threshold=None).dtype == bool  # numbers would choose rows 0 and 1


def test_sigma_is_the_population_standard_deviation():
    residual = np.array([[-1.0], [1.0]])  # population 1, sample 1.41
    assert keep_mask(residual, threshold=0.9).tolist() == [False, False]


def test_a_residual_on_the_threshold_is_kept():
    assert keep_mask([[-1.0], [1.0]], threshold=1).tolist() == [True, True]
    assert keep_mask([[0.0, -1.0], [0.0, 1.0]], threshold=1).tolist() == [True, True]  # sigma 0
    assert keep_mask([[-1.0], [0.0], [1.0]], threshold=0).tolist() == [False, True, False]
    assert keep_mask([[0.0]]).tolist() == [True]


def test_bad_input_is_refused(ratings):
    predictions, targets = ratings
    predictions[7, 2] = np.nan
    with pytest.raises(InputError, match="predictions, row 7 "):
        fit_residuals(predictions, targets)
    with pytest.raises(InputError, match="residual, row 7 "):
        keep_mask(predictions)
    fitted = fit_residuals(targets, targets)
    with pytest.raises(InputError, match="^predictions, row 7 "):
        fitted.apply(predictions, targets)
    with pytest.raises(InputError, match="^targets, row 7 "):
        fitted.apply(targets, predictions)
    for shape in ((50,), (0, 3)):
        with pytest.raises(InputError, match=re.escape(f"residual has shape {shape}")):
            keep_mask(np.zeros(shape))
    with pytest.raises(InputError, match="threshold is -1"):
        keep_mask(targets, threshold=-1)
    with pytest.raises(InputError, match="at least 2 utterances"):
        fit_residuals(targets[:1], targets[:1])
