"""Where the teacher can be trusted: residuals of its predictions on the training set."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results.metrics import finite_array, moments


class Residuals(NamedTuple):
    """The line from prediction to label of each dimension, and what it leaves unexplained (paper, Eq. 8).

    Attributes
    ----------
    weight, offset
        w and b, shape (D,).
    residual
        r = w * prediction + b - label of the fitted utterances, shape (N, D), on the scale of the labels.
        Each column has a mean of zero.
    """

    weight: np.ndarray
    offset: np.ndarray
    residual: np.ndarray

    def apply(self, predictions: ArrayLike, targets: ArrayLike) -> np.ndarray:
        """Return the residuals, shape (N, D), of utterances that weren't fitted (validation, test).

        Raises
        ------
        InputError
            If the shapes differ or a value isn't finite.
        """
        p, y = finite_array(predictions, "predictions"), finite_array(targets, "targets")
        if not p.shape == y.shape == (len(y), *self.weight.shape):
            raise InputError(
                f"predictions have shape {p.shape} and targets {y.shape}; "
                f"both have to be (utterances, {self.weight.size})."
            )
        residual: np.ndarray = self.weight * p + self.offset - y
        return residual


def fit_residuals(predictions: ArrayLike, targets: ArrayLike) -> Residuals:
    """Fit label = w * prediction + b by least squares, for each dimension on its own.

    Fit training utterances only; `Residuals.apply` serves all others.

    Parameters
    ----------
    predictions, targets
        Teacher predictions and labels, shape (N, D), N >= 2.

    Returns
    -------
    Residuals
        float64. Constant predictions give w = 0 and b = the mean label.

    Raises
    ------
    InputError
        If the shapes differ, there are fewer than 2 utterances, or a value isn't finite.

    Example
    -------
    >>> fitted = fit_residuals([[1.0], [2.0], [3.0]], [[3.0], [5.0], [7.0]])
    >>> fitted.weight.tolist(), fitted.offset.tolist(), fitted.residual.ravel().tolist()
    ([2.0], [1.0], [0.0, 0.0, 0.0])
    """
    m = moments(predictions, targets)
    weight = np.divide(m.cov, m.var_p, out=np.zeros_like(m.cov), where=m.var_p > 0)
    line = Residuals(weight, m.mean_y - weight * m.mean_p, residual=np.empty((0, len(weight))))
    return line._replace(residual=line.apply(predictions, targets))


def keep_mask(residual: ArrayLike, threshold: float | None = 2.0) -> np.ndarray:
    """Return which training utterances the student learns from: those that the teacher got about right.

    An utterance is left out when ``|r_j| > threshold * sigma_j`` in any dimension j. sigma_j is the population
    standard deviation of that column, so give the residuals of the whole training set, whose mean is zero.

    Parameters
    ----------
    residual
        Training residuals, shape (N, D), from `fit_residuals`.
    threshold
        In standard deviations, >= 0; 2 in the paper (section 4.2). None keeps all.

    Returns
    -------
    numpy.ndarray
        bool, shape (N,), True where kept.

    Raises
    ------
    InputError
        If a residual isn't finite, there is no utterance, or the threshold is negative.

    Example
    -------
    >>> keep_mask([[0.0], [1.0], [-1.0], [1.0], [-1.0], [9.0]]).tolist()
    [True, True, True, True, True, False]
    """
    r = finite_array(residual, "residual")
    if r.ndim != 2 or len(r) == 0:
        raise InputError(f"residual has shape {r.shape}; it has to be (utterances, dimensions).")
    if threshold is None:
        return np.ones(len(r), dtype=bool)
    if not threshold >= 0:
        raise InputError(f"The residual threshold is {threshold}; give a number >= 0, or None to keep all.")
    kept: np.ndarray = (np.abs(r) <= threshold * r.std(axis=0)).all(axis=1)
    return kept
