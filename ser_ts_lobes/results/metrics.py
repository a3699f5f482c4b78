"""Metrics over a whole set, in float64, with bootstrap confidence intervals."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ser_ts_lobes import DIMENSIONS, UNKNOWN_SPEAKER
from ser_ts_lobes.errors import InputError

# Fewer clusters than this make percentile intervals of a cluster bootstrap far too narrow.
_MIN_SPEAKERS = 10
_MAX_COUNTS = 2**21  # resampling counts held at once, 16 MiB of float64


class Moments(NamedTuple):
    """Population moments of predictions p and targets y, each of shape (..., D)."""

    mean_p: np.ndarray
    mean_y: np.ndarray
    var_p: np.ndarray
    var_y: np.ndarray
    cov: np.ndarray


def ccc(predictions: ArrayLike, targets: ArrayLike) -> np.ndarray:
    """Return the concordance correlation coefficient (Lin, 1989).

    CCC = 2 cov / (var_p + var_y + (mean_p - mean_y)^2) with population moments; it equals Pearson's
    correlation times C_b <= 1, a penalty for a difference in location and scale.

    Parameters
    ----------
    predictions, targets
        Shape (N, D), or (N,) for a single dimension; N >= 2.

    Returns
    -------
    numpy.ndarray or numpy.float64
        One value in [-1, 1] a column, shape (D,); a scalar for (N,). NaN where predictions or targets are
        constant.

    Raises
    ------
    InputError
        If the shapes differ, there are fewer than 2 utterances, or a value isn't finite.

    Example
    -------
    >>> round(float(ccc([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])), 6)  # perfectly correlated, but 1 too low
    0.571429
    """
    return _ccc(moments(predictions, targets))


def pearson(predictions: ArrayLike, targets: ArrayLike) -> np.ndarray:
    """Return Pearson's correlation coefficient.

    Parameters, return value (NaN for constant input) and errors are those of `ccc`.

    Example
    -------
    >>> round(float(pearson([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])), 6)
    1.0
    """
    return _pearson(moments(predictions, targets))


def rmse(predictions: ArrayLike, targets: ArrayLike) -> np.ndarray:
    """Return the root mean square error, on the scale of the labels.

    Parameters and errors are those of `ccc`; the values are >= 0 and never NaN.

    Example
    -------
    >>> float(rmse([1.0, 2.0], [4.0, 5.0]))
    3.0
    """
    p, y = _pairs(predictions, targets)
    error: np.ndarray = np.sqrt(np.mean((p - y) ** 2, axis=0))
    return error


def evaluate(predictions: ArrayLike, targets: ArrayLike) -> dict[str, dict[str, float]]:
    """Return all metrics of all dimensions.

    Parameters
    ----------
    predictions, targets
        Shape (N, 3) in the order of `ser_ts_lobes.DIMENSIONS`, N >= 2.

    Returns
    -------
    dict of str to dict of str to float
        ``{dimension: {"ccc": ..., "pearson": ..., "rmse": ...}}``; NaN as in `ccc`.

    Raises
    ------
    InputError
        As in `ccc`, or if there aren't three columns.
    """
    p, y = _pairs(predictions, targets)
    if p.shape[1:] != (len(DIMENSIONS),):
        raise InputError(
            f"predictions have shape {p.shape}; evaluate needs one column for each of {', '.join(DIMENSIONS)}."
        )
    columns = {"ccc": ccc(p, y), "pearson": pearson(p, y), "rmse": rmse(p, y)}
    return {
        dimension: {name: float(values[j]) for name, values in columns.items()}
        for j, dimension in enumerate(DIMENSIONS)
    }


#: How well classes are told (`classify`): names, and what to call them.
CLASSIFICATION = {"accuracy": "accuracy", "uar": "UAR", "macro_f1": "macro-F1"}


def classify(predictions: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Return how well classes are told.

    Parameters
    ----------
    predictions, targets
        A class of each of N >= 1 utterances.

    Returns
    -------
    dict of str to float
        ``accuracy``, the share that is right; ``uar``, the unweighted average of the recalls of the classes that occur
        among the targets; ``macro_f1``, that of F1 = 2 hits / (predicted + there) over the classes that occur at all.

    Raises
    ------
    InputError
        If there are not as many predictions as targets, or none.

    Example
    -------
    >>> {name: round(value, 3) for name, value in classify(["a", "a", "b"], ["a", "b", "b"]).items()}
    {'accuracy': 0.667, 'uar': 0.75, 'macro_f1': 0.667}
    """
    if len(predictions) != len(targets) or not targets:
        raise InputError(f"{len(predictions)} classes are predicted of {len(targets)} utterances; give one for each.")
    names, places = np.unique([predictions, targets], return_inverse=True)
    p, y = places.reshape(2, -1)
    predicted, there, hits = (np.bincount(of, minlength=len(names)) for of in (p, y, y[p == y]))
    recall = hits[there > 0] / there[there > 0]
    f1 = 2 * hits / (predicted + there)
    return {"accuracy": float(np.mean(p == y)), "uar": float(recall.mean()), "macro_f1": float(f1.mean())}


def moments(predictions: ArrayLike, targets: ArrayLike) -> Moments:
    """Return the population moments of predictions and targets, computed in two passes.

    Parameters and errors are those of `ccc`. The variance of a constant column is exactly 0.

    Returns
    -------
    Moments
        Each of shape (D,), or scalars for (N,).
    """
    p, y = _pairs(predictions, targets)
    mean_p, centred_p = _centre(p)
    mean_y, centred_y = _centre(y)
    return Moments(
        mean_p,
        mean_y,
        np.mean(centred_p**2, axis=0),
        np.mean(centred_y**2, axis=0),
        np.mean(centred_p * centred_y, axis=0),
    )


def bootstrap_ci(
    predictions: ArrayLike,
    targets: ArrayLike,
    groups: Sequence[Any] | None = None,
    statistic: Literal["ccc", "pearson"] = "ccc",
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> np.ndarray:
    """Return percentile bootstrap confidence intervals.

    Utterances are drawn with replacement; with `groups`, whole groups are, because utterances of one speaker
    aren't independent.

    Parameters
    ----------
    predictions, targets
        Shape (N, D), N >= 2.
    groups
        N speaker ids; each utterance of the speaker "Unknown" is a group of its own.
    statistic
        What the interval is for.
    n_resamples
        Number of resamples.
    confidence
        Coverage of the interval, between 0 and 1.
    seed
        Seed of the draws: the same seed gives the same interval.

    Returns
    -------
    numpy.ndarray
        Lower and upper ends, shape (2, D). NaN for a dimension in which some resample is constant, as happens
        in very small sets: the statistic isn't defined there.

    Raises
    ------
    InputError
        As in `ccc`, or if there are fewer than 2 groups, not one group an utterance, or a setting that can't
        be used.
    """
    return percentile_interval(resample(predictions, targets, groups, statistic, n_resamples, seed), confidence)


def resample(
    predictions: ArrayLike,
    targets: ArrayLike,
    groups: Sequence[Any] | None = None,
    statistic: Literal["ccc", "pearson"] = "ccc",
    n_resamples: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """Return a statistic of each bootstrap resample; columns, which may be systems too, share the draws.

    A resample is a count for each group, and its moments follow from the groups' sums: all resamples are one
    matrix product of counts and sums, made in chunks to bound the memory.

    Parameters
    ----------
    predictions, targets, groups, statistic, n_resamples, seed
        As in `bootstrap_ci`.

    Returns
    -------
    numpy.ndarray
        Shape (n_resamples, D); NaN for a resample that is constant.

    Raises
    ------
    InputError
        As in `bootstrap_ci`.
    """
    of_moments = _statistic(statistic)
    if n_resamples < 1:
        raise InputError(f"n_resamples is {n_resamples}; draw at least 1.")
    predictions, targets = _pairs(predictions, targets)
    sums, origin = group_sums(predictions, targets, groups)
    n_groups = len(sums)
    if n_groups < 2:
        raise InputError("All utterances are in one group; a bootstrap over groups needs at least 2.")

    rng = np.random.default_rng(seed)
    resampled_sums = np.empty((n_resamples, sums.shape[1]))
    chunk = max(1, _MAX_COUNTS // n_groups)
    for start in range(0, n_resamples, chunk):
        out = resampled_sums[start : start + chunk]
        counts = np.empty((len(out), n_groups))
        for row in counts:
            row[:] = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
        np.matmul(counts, sums, out=out)
    return of_moments(moments_from_sums(resampled_sums, origin))


def resampling_groups(speakers: Sequence[str]) -> Sequence[str] | None:
    """Decide what a bootstrap over a test set draws.

    Speakers, since utterances of one speaker are not independent; utterances, if there are fewer than 10 known
    speakers.

    Parameters
    ----------
    speakers
        One id an utterance.

    Returns
    -------
    sequence of str or None
        ``groups`` of `bootstrap_ci`; None draws utterances.
    """
    known = set(speakers) - {UNKNOWN_SPEAKER}
    return speakers if len(known) >= _MIN_SPEAKERS else None


def percentile_interval(resampled: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Return the interval that holds the middle share of resampled values.

    Parameters
    ----------
    resampled
        Shape (n_resamples, D).
    confidence
        That share, between 0 and 1.

    Returns
    -------
    numpy.ndarray
        Lower and upper ends, shape (2, D); NaN for a column with NaN.

    Raises
    ------
    InputError
        If `confidence` isn't between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it has to lie between 0 and 1, as 0.95 does.")
    interval: np.ndarray = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return interval


def group_sums(
    predictions: np.ndarray, targets: np.ndarray, groups: Sequence[Any] | None
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return what every moment of any set of whole groups follows from.

    Values are centred on the mean of the whole set first, which keeps the one-pass variances accurate.

    Parameters
    ----------
    predictions, targets
        Shape (N, D) or (N,).
    groups
        As in `bootstrap_ci`; None makes each utterance a group.

    Returns
    -------
    tuple
        Each group's n and sums of p, y, pp, yy, py, shape (G, 1 + 5 D); the origin of p and y, two (D,).
    """
    n = len(predictions)
    mean_p, p = _centre(predictions.reshape(n, -1))
    mean_y, y = _centre(targets.reshape(n, -1))
    rows = np.hstack([np.ones((n, 1)), p, y, p * p, y * y, p * y])
    return sum_groups(rows, groups), (mean_p, mean_y)


def sum_groups(rows: np.ndarray, groups: Sequence[Any] | None) -> np.ndarray:
    """Add up the rows of each group.

    Parameters
    ----------
    rows
        Shape (N, M).
    groups
        As in `bootstrap_ci`; None makes each row a group.

    Returns
    -------
    numpy.ndarray
        Shape (G, M).

    Example
    -------
    >>> sum_groups(np.array([[1.0], [2.0], [3.0], [4.0]]), ["b", "a", "b", "Unknown"]).ravel().tolist()
    [2.0, 4.0, 4.0]
    """
    if groups is None:
        return rows
    index = _group_index(groups, len(rows))
    sums = np.zeros((index.max() + 1, rows.shape[1]))
    np.add.at(sums, index, rows)
    return sums


def moments_from_sums(sums: np.ndarray, origin: tuple[np.ndarray, np.ndarray]) -> Moments:
    """Return the moments of sets of groups, from the sums of `group_sums` over each set, shape (..., 1 + 5 D)."""
    n = sums[..., :1]
    p, y, pp, yy, py = np.split(sums[..., 1:] / n, 5, axis=-1)
    return Moments(origin[0] + p, origin[1] + y, _variance_from_means(p, pp), _variance_from_means(y, yy), py - p * y)


class PairedBootstrap(NamedTuple):
    """How system a differs from system b; see `paired_bootstrap`."""

    difference: np.ndarray
    interval: np.ndarray
    p_value: np.ndarray


def paired_bootstrap(
    predictions_a: ArrayLike,
    predictions_b: ArrayLike,
    targets: ArrayLike,
    groups: Sequence[Any] | None = None,
    statistic: Literal["ccc", "pearson"] = "ccc",
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedBootstrap:
    """Compare two systems on the same utterances; each resample is drawn for both.

    Parameters
    ----------
    predictions_a, predictions_b, targets
        Shape (N, D), N >= 2, rows in the same order.
    groups, statistic, n_resamples, confidence, seed
        As in `bootstrap_ci`.

    Returns
    -------
    PairedBootstrap
        ``difference`` (D,): statistic of a minus that of b on the whole set. ``interval`` (2, D): its
        percentile interval. ``p_value`` (D,): as `two_sided_p` says. NaN as in `bootstrap_ci`.

    Raises
    ------
    InputError
        As in `bootstrap_ci`.
    """
    _pairs(predictions_a, targets, "predictions_a")
    _pairs(predictions_b, targets, "predictions_b")
    # Systems side by side: one set of draws serves both.
    both = np.column_stack([predictions_a, predictions_b])
    twice = np.column_stack([targets, targets])
    value_a, value_b = np.split(_statistic(statistic)(moments(both, twice)), 2)
    resampled_a, resampled_b = np.split(resample(both, twice, groups, statistic, n_resamples, seed), 2, axis=1)
    differences = resampled_a - resampled_b
    return PairedBootstrap(value_a - value_b, percentile_interval(differences, confidence), two_sided_p(differences))


def two_sided_p(differences: np.ndarray) -> np.ndarray:
    """Return the p-value of no difference, from resampled differences.

    Twice the smaller share of differences on either side of 0, counting the set itself as one more resample
    (Davison & Hinkley, 1997, section 4.2), so never 0.

    Parameters
    ----------
    differences
        Shape (n_resamples, D).

    Returns
    -------
    numpy.ndarray
        Shape (D,), in (0, 1]; NaN where a difference is.

    Example
    -------
    >>> two_sided_p(np.array([[0.1, -0.1], [0.2, 0.1], [0.3, 0.2]]))
    array([0.5, 1. ])
    """
    smaller_tail = np.minimum((differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0))
    p_value: np.ndarray = np.minimum(2 * (1 + smaller_tail) / (1 + len(differences)), 1)
    p_value[np.isnan(differences).any(axis=0)] = np.nan
    return p_value


def divide(numerator: np.ndarray, denominator: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Divide where that is allowed, and give NaN elsewhere; a scalar for scalars."""
    quotient: np.ndarray = np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=where)[()]
    return quotient


def finite_array(values: ArrayLike, name: str) -> np.ndarray:
    """Return `values` as a float64 array of utterances by dimensions, shape (N, D) or (N,).

    Raises
    ------
    InputError
        If the shape is another one, or a value isn't finite; it names the first such row.

    Example
    -------
    >>> finite_array([[1, 2, 3], [4, float("nan"), 6]], "predictions")
    Traceback (most recent call last):
    ser_ts_lobes.errors.InputError: predictions, row 1 (from 0), column 1: nan isn't a finite number; ...
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2):
        raise InputError(f"{name}: shape {array.shape} isn't (utterances,) or (utterances, dimensions).")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, column = (*bad[0], 0)[:2]
        raise InputError(
            f"{name}, row {row} (from 0), column {column}: {array[tuple(bad[0])]} isn't a finite number; "
            f"check the utterance in that row."
        )
    return array


def _pairs(predictions: ArrayLike, targets: ArrayLike, name: str = "predictions") -> tuple[np.ndarray, np.ndarray]:
    p, y = finite_array(predictions, name), finite_array(targets, "targets")
    if p.shape != y.shape:
        raise InputError(
            f"{name} have shape {p.shape} and targets {y.shape}; "
            f"give one row for each utterance in both, in the same order."
        )
    if len(p) < 2:
        raise InputError(f"A metric needs at least 2 utterances, not {len(p)}.")
    return p, y


def _centre(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Starting from the first row makes a constant column exactly 0, whatever the rounding of its mean.
    shifted = values - values[0]
    mean = shifted.mean(axis=0)
    return values[0] + mean, shifted - mean


def _ccc(m: Moments) -> np.ndarray:
    denominator = m.var_p + m.var_y + (m.mean_p - m.mean_y) ** 2
    return divide(2 * m.cov, denominator, where=(m.var_p > 0) & (m.var_y > 0))


def _pearson(m: Moments) -> np.ndarray:
    # Rounding may carry a perfect correlation past 1.
    scale = np.sqrt(m.var_p) * np.sqrt(m.var_y)
    clipped: np.ndarray = np.clip(divide(m.cov, scale, where=scale > 0), -1, 1)
    return clipped


#: By name: what is computed of moments, one value a column.
STATISTICS: dict[str, Callable[[Moments], np.ndarray]] = {"ccc": _ccc, "pearson": _pearson}


def _statistic(name: str) -> Callable[[Moments], np.ndarray]:
    if name not in STATISTICS:
        raise InputError(f"statistic is {name!r}; choose one of {', '.join(STATISTICS)}.")
    return STATISTICS[name]


def _group_index(groups: Sequence[Any], n_utterances: int) -> np.ndarray:
    group_of = np.asarray(groups).astype(str)
    if group_of.shape != (n_utterances,):
        raise InputError(f"groups have shape {group_of.shape}; give one for each of {n_utterances} utterances.")
    names, index = np.unique(group_of, return_inverse=True)
    unknown = group_of == UNKNOWN_SPEAKER
    index[unknown] = len(names) + np.arange(unknown.sum())
    return np.unique(index, return_inverse=True)[1]  # the id of "Unknown" itself is no longer in use


def _variance_from_means(mean: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    variance = mean_square - mean**2
    # A resample that repeats one value has a variance of rounding errors; make it the 0 that it is.
    return np.where(variance > 1e-12 * mean_square, variance, 0)
