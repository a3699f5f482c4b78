"""How far the teacher is trusted with each utterance: weights of what a student is taught.

``cut`` is the paper's rule (section 3.2): an utterance is taught or not. ``soft`` lets its weight fall with what the
rule compares, and ``per_dimension`` cuts each dimension of the teacher's prediction on its own. Where there are
ratings, residuals are compared (`ser_ts_lobes.training.residuals`), elsewhere the spread of the teacher's predictions
(`ser_ts_lobes.training.uncertainty`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ser_ts_lobes.results.metrics import finite_array
from ser_ts_lobes.training.residuals import keep_mask
from ser_ts_lobes.training.uncertainty import keep_surest


class Trust(NamedTuple):
    """Weights of what the teacher says of N utterances: bool, or float32 in 0-1.

    Attributes
    ----------
    embedding
        (N,), of its embedding.
    prediction
        (N, D), of each dimension of its prediction.
    """

    embedding: np.ndarray
    prediction: np.ndarray


def trust_by_residual(residual: ArrayLike, threshold: float | None, kind: str) -> Trust:
    """Trust the teacher where its residual is small.

    Parameters
    ----------
    residual
        r, training residuals, (N, D), from `ser_ts_lobes.training.residuals.fit_residuals`.
    threshold
        k, in standard deviations sigma_j of each dimension, as of `ser_ts_lobes.training.residuals.keep_mask`; of
        ``soft``, above 0. None, which keeps all, is of ``cut`` alone.
    kind
        ``cut``: what `keep_mask` keeps, all of it alike. ``soft``: exp(-(max_j abs(r_j) / (k sigma_j))^2), the weight
        of Welsch's robust regression (Holland and Welsch 1977). ``per_dimension``: dimension j of the prediction where
        abs(r_j) <= k sigma_j; the embedding, which has no dimensions of its own, as ``cut``.

    Returns
    -------
    Trust

    Raises
    ------
    InputError
        As of `keep_mask`.

    Example
    -------
    >>> residual = [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [0.0, 4.0], [0.0, -4.0]]
    >>> trust_by_residual(residual, 1.5, "per_dimension").prediction[4].tolist()
    [True, False]
    >>> print(trust_by_residual(residual, 1.5, "soft").embedding.round(2))
    [0.51 0.51 0.51 0.51 0.31 0.31]
    """
    r = finite_array(residual, "residual")
    kept = keep_mask(r, threshold)
    if kind == "soft":
        assert threshold
        return _of_all(r, _fall(np.abs(r), threshold * r.std(axis=0)))
    return _cut(kind, kept, r, lambda column: keep_mask(column, threshold))


def trust_by_spread(spread: ArrayLike, share: float, kind: str) -> Trust:
    """Trust the teacher where its predictions spread little, for want of a label.

    Parameters
    ----------
    spread
        s, (N, D), >= 0, on a scale on which the dimensions are alike.
    share
        Of the utterances that ``cut`` keeps, as of `ser_ts_lobes.training.uncertainty.keep_surest`.
    kind
        ``cut``: what `keep_surest` keeps. ``soft``: exp(-(max_j s_j / q)^2), where q is the largest spread that
        it keeps. ``per_dimension``: each dimension of the prediction on that share of the utterances whose spread in it
        is least; the embedding as ``cut``.

    Returns
    -------
    Trust

    Raises
    ------
    InputError
        As of `keep_surest`.

    Example
    -------
    >>> spread = [[0.1, 0.4], [0.2, 0.3], [0.3, 0.2], [0.8, 0.1]]
    >>> trust_by_spread(spread, 0.5, "per_dimension").prediction.tolist()
    [[True, False], [True, False], [False, True], [False, True]]
    >>> print(trust_by_spread(spread, 0.75, "soft").embedding.round(2))
    [0.37 0.57 0.57 0.02]
    """
    s = finite_array(spread, "spread")
    kept = keep_surest(s, share)
    if kind == "soft":
        return _of_all(s, _fall(s, s[kept].max()))
    return _cut(kind, kept, s, lambda column: keep_surest(column, share))


def _cut(kind: str, kept: np.ndarray, values: np.ndarray, rule: Callable[[np.ndarray], np.ndarray]) -> Trust:
    """Trust what a rule keeps of utterances, (N,), or of each column of what it compares, (N, D)."""
    if kind == "per_dimension":
        return Trust(kept, np.stack([rule(column[:, None]) for column in values.T], axis=1))
    assert kind == "cut"
    return _of_all(values, kept)


def _of_all(values: np.ndarray, trust: np.ndarray) -> Trust:
    """Trust all dimensions as the embedding."""
    return Trust(trust, np.repeat(trust[:, None], values.shape[1], axis=1))


def _fall(values: np.ndarray, threshold: ArrayLike) -> np.ndarray:
    """Let weights, (N,), fall with the largest of values >= 0, (N, D), in units of their threshold."""
    with np.errstate(divide="ignore"):  # beyond a threshold of 0 nothing is trusted, on it all
        ratio = np.divide(values, threshold, out=np.zeros_like(values), where=values > 0)
    weights: np.ndarray = np.exp(-np.square(ratio.max(axis=1))).astype(np.float32)
    return weights
