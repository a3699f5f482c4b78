"""Intervals and tests that hold with few speakers of unequal size, and that count the variance over seeds.

A percentile bootstrap over 10 speakers covers too rarely and tests too boldly (docs/report.md has the table). Here the
standard error is the jackknife's: how far a value moves when one speaker is left out (Efron & Stein, 1981); on a scale
on which errors are symmetric, Fisher's z for correlations; with quantiles of Student's t, whose degrees of freedom
follow from how many speakers there are and how unequal they are.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results import metrics


class Measure(NamedTuple):
    """What is measured, from moments, and the scale on which its errors are symmetric.

    Attributes
    ----------
    of_moments
        The value of each column.
    scale, unscale
        To that scale, and back.
    slope
        Derivative of `scale`.
    """

    of_moments: Callable[[metrics.Moments], np.ndarray]
    scale: Callable[[np.ndarray], np.ndarray]
    unscale: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


def _same(values: np.ndarray) -> np.ndarray:
    return values


_AS_IT_IS = (_same, _same, np.ones_like)
_LOG = (np.log, np.exp, np.reciprocal)
_FISHER_Z = (np.arctanh, np.tanh, lambda value: 1 / (1 - value**2))


def _bias(m: metrics.Moments) -> np.ndarray:
    bias: np.ndarray = m.mean_p - m.mean_y
    return bias


def _variance_ratio(m: metrics.Moments) -> np.ndarray:
    return metrics.divide(m.var_p, m.var_y, where=m.var_y > 0)


def _rmse(m: metrics.Moments) -> np.ndarray:
    root: np.ndarray = np.sqrt(np.maximum(m.var_p + m.var_y - 2 * m.cov + _bias(m) ** 2, 0))
    return root


#: By name: ``bias`` is mean prediction - mean label, ``variance_ratio`` variance of predictions / that of labels.
MEASURES = {
    "ccc": Measure(metrics.STATISTICS["ccc"], *_FISHER_Z),
    "pearson": Measure(metrics.STATISTICS["pearson"], *_FISHER_Z),
    "rmse": Measure(_rmse, *_LOG),
    "bias": Measure(_bias, *_AS_IT_IS),
    "variance_ratio": Measure(_variance_ratio, *_LOG),
}


class Estimate(NamedTuple):
    """A measure of a system on a test set; see `estimate`.

    Attributes
    ----------
    value
        (D,): the mean over seeds.
    interval
        (2, D); NaN where there is one group, or the measure isn't defined.
    std
        (D,): the sample standard deviation over seeds; None for one seed.
    groups
        How many speakers (or utterances) were left out in turn.
    """

    value: np.ndarray
    interval: np.ndarray
    std: np.ndarray | None
    groups: int


class Comparison(NamedTuple):
    """How a differs from b; see `compare`.

    Attributes
    ----------
    difference
        (D,).
    interval
        (2, D).
    p_value
        (D,), two-sided, of no difference.
    counts_seeds
        Whether the variance over seeds is in; if not, all this is about these trained networks alone.
    """

    difference: np.ndarray
    interval: np.ndarray
    p_value: np.ndarray
    counts_seeds: bool


def estimate(
    predictions: ArrayLike,
    targets: ArrayLike,
    groups: Sequence[Any] | None = None,
    measure: str = "ccc",
    confidence: float = 0.95,
) -> Estimate:
    """Measure a system, with an interval.

    With several seeds the interval is that of their mean for other speakers and other seeds: to the jackknife's
    variance it adds that over seeds, divided by their number (what seeds and speakers do together is in both, so it is
    a little wide).

    Parameters
    ----------
    predictions
        Shape (S, N, D): S seeds of a system, on the corpus's scale.
    targets
        (N, D), N >= 2.
    groups
        N speaker ids, as of `ser_ts_lobes.results.metrics.resampling_groups`; None leaves out utterances.
    measure
        One of `MEASURES`.
    confidence
        Coverage of the interval, between 0 and 1.

    Returns
    -------
    Estimate

    Raises
    ------
    InputError
        As in `ser_ts_lobes.results.metrics.ccc`, or if `predictions` have another shape.

    Example
    -------
    >>> labels = np.random.default_rng(0).normal(size=(200, 1))
    >>> predictions = labels + np.random.default_rng(1).normal(size=(1, 200, 1))
    >>> of_ccc = estimate(predictions, labels, [i // 10 for i in range(200)])
    >>> of_ccc.value.round(2), of_ccc.interval.ravel().round(2), of_ccc.groups
    (array([0.66]), array([0.56, 0.74]), 20)
    """
    of = MEASURES[measure]
    jackknife = _jackknife(predictions, targets, groups, of)
    value = jackknife.value.mean(axis=0)
    std = jackknife.value.std(axis=0, ddof=1) if len(jackknife.value) > 1 else None
    with np.errstate(divide="ignore", invalid="ignore"):  # a perfect system has no finite z
        error = _error(of.scale(jackknife.left_out.mean(axis=1)), jackknife.df)
        if std is not None:
            error = _add(error, _Error((of.slope(value) * std) ** 2 / len(jackknife.value), len(jackknife.value) - 1))
        interval = of.unscale(of.scale(value) + _ends(error, confidence))
    interval[:, ~np.isfinite(interval).all(axis=0)] = np.nan
    return Estimate(value, interval, std, len(jackknife.left_out))


def compare(
    predictions_a: ArrayLike,
    predictions_b: ArrayLike,
    targets: ArrayLike,
    groups: Sequence[Any] | None = None,
    measure: str = "ccc",
    confidence: float = 0.95,
) -> Comparison:
    """Compare two systems on the same utterances: t-test of the difference, by the jackknife.

    The interval leaves out 0 just where p is less than 1 - `confidence`. If both have several seeds, the variances over
    them are in, added as those of independent samples (Welch), for seed 1 of one system has nothing to do with seed 1
    of another. If one of them has a single seed nothing is known of what another would do; ``counts_seeds`` says so.

    Parameters
    ----------
    predictions_a, predictions_b
        Shape (S, N, D) each; they may have different numbers of seeds S.
    targets, groups, measure, confidence
        As in `estimate`.

    Returns
    -------
    Comparison
        a minus b.

    Raises
    ------
    InputError
        As in `estimate`.
    """
    of = MEASURES[measure]
    a, b = (_jackknife(predictions, targets, groups, of) for predictions in (predictions_a, predictions_b))
    error = _error(a.left_out.mean(axis=1) - b.left_out.mean(axis=1), a.df)
    counts_seeds = min(len(a.value), len(b.value)) > 1
    if counts_seeds:
        for seeds in (a.value, b.value):
            error = _add(error, _Error(seeds.var(axis=0, ddof=1) / len(seeds), len(seeds) - 1))
    return _comparison(a.value.mean(axis=0) - b.value.mean(axis=0), error, confidence, counts_seeds)


def compare_means(
    values: np.ndarray, inside: np.ndarray, groups: Sequence[Any] | None = None, confidence: float = 0.95
) -> Comparison:
    """Compare the mean of some utterances' values with that of the others.

    Parameters
    ----------
    values
        (N, D).
    inside
        (N,) bool; both kinds occur.
    groups, confidence
        As in `estimate`.

    Returns
    -------
    Comparison
        Mean inside minus mean outside; of these values alone.
    """
    side = inside[:, None]
    rows = np.hstack([side, ~side, values * side, values * ~side])
    n_values = values.shape[1]

    def of_sums(sums: np.ndarray) -> np.ndarray:
        inside_sum, outside_sum = sums[..., 2 : 2 + n_values], sums[..., 2 + n_values :]
        difference: np.ndarray = inside_sum / sums[..., :1] - outside_sum / sums[..., 1:2]
        return difference

    sums = metrics.sum_groups(rows, groups)
    with np.errstate(divide="ignore", invalid="ignore"):  # one side may be of one speaker alone
        value, left_out = _leave_out(sums, of_sums)
    return _comparison(value, _error(left_out, _degrees_of_freedom(sums[:, 0] + sums[:, 1])), confidence, False)


def mean_interval(values: np.ndarray, groups: Sequence[Any] | None = None, confidence: float = 0.95) -> np.ndarray:
    """Return the interval of a mean over utterances, by the jackknife over groups.

    Parameters
    ----------
    values
        (N, D).
    groups, confidence
        As in `estimate`.

    Returns
    -------
    numpy.ndarray
        (2, D); NaN for one group.
    """
    sums = metrics.sum_groups(np.hstack([np.ones((len(values), 1)), values]), groups)
    value, left_out = _leave_out(sums, lambda sums: sums[..., 1:] / sums[..., :1])
    interval: np.ndarray = value + _ends(_error(left_out, _degrees_of_freedom(sums[:, 0])), confidence)
    return interval


def holm(p_values: ArrayLike) -> np.ndarray:
    """Correct p-values for their number, so that all are true at once with the confidence of one (Holm, 1979).

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes smaller than one before it.

    Parameters
    ----------
    p_values
        Of any shape, all of one family; NaN are of no test and stay.

    Returns
    -------
    numpy.ndarray
        Of that shape, each at most 1.

    Example
    -------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.array(p_values, dtype=np.float64)
    tested = ~np.isnan(p)
    order = np.argsort(p[tested])
    corrected = np.maximum.accumulate(p[tested][order] * np.arange(len(order), 0, -1))
    p[tested] = np.minimum(corrected[np.argsort(order)], 1)
    return p


class _Jackknife(NamedTuple):
    value: np.ndarray  # (S, D)
    left_out: np.ndarray  # (G, S, D): of all but one group
    df: float


class _Error(NamedTuple):
    """A variance, and how surely it is known."""

    variance: np.ndarray
    df: ArrayLike


def _jackknife(predictions: ArrayLike, targets: ArrayLike, groups: Sequence[Any] | None, of: Measure) -> _Jackknife:
    p, y = np.asarray(predictions, dtype=np.float64), metrics.finite_array(targets, "targets")
    if p.ndim != 3 or p.shape[1:] != y.shape:
        raise InputError(f"predictions have shape {p.shape}; they have to be (seeds, *{y.shape}), as the targets are.")
    # Seeds side by side: each column has its moments.
    columns, twice = np.hstack(list(p)), np.tile(y, len(p))
    metrics.finite_array(columns, "predictions")
    sums, origin = metrics.group_sums(columns, twice, groups)
    value, left_out = _leave_out(sums, lambda sums: of.of_moments(metrics.moments_from_sums(sums, origin)))
    shape = len(p), y.shape[1]
    return _Jackknife(value.reshape(shape), left_out.reshape(-1, *shape), _degrees_of_freedom(sums[:, 0]))


def _leave_out(sums: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    total = sums.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # without the only group nothing is left
        return function(total[None])[0], function(total - sums)


def _degrees_of_freedom(sizes: np.ndarray) -> float:
    """Half way between the number of groups and the number of equal groups that would weigh as much (Kish), less 1.

    Where one speaker says much more than the others the variance rests on few of them. The number itself tests too
    boldly, Kish's too timidly (docs/report.md).
    """
    equal = sizes.sum() ** 2 / (sizes**2).sum()
    return float(max((len(sizes) + equal) / 2 - 1, 1))


def _error(left_out: np.ndarray, df: float) -> _Error:
    n = len(left_out)
    if n < 2:
        return _Error(np.full(left_out.shape[1:], np.nan), df)
    return _Error((n - 1) / n * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0), df)


def _add(first: _Error, second: _Error) -> _Error:
    """Add two independent variances; degrees of freedom by Welch and Satterthwaite."""
    variance = first.variance + second.variance
    shares = first.variance**2 / first.df + second.variance**2 / second.df
    return _Error(variance, np.divide(variance**2, shares, out=np.ones_like(variance), where=shares > 0))


def _ends(error: _Error, confidence: float) -> np.ndarray:
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; it has to lie between 0 and 1, as 0.95 does.")
    half = stdtrit(error.df, (1 + confidence) / 2) * np.sqrt(error.variance)
    return np.stack([-half, half])


def _comparison(difference: np.ndarray, error: _Error, confidence: float, counts_seeds: bool) -> Comparison:
    with np.errstate(divide="ignore", invalid="ignore"):  # systems that are the same differ by 0, surely
        t = np.abs(difference) / np.sqrt(error.variance)
    p_value = np.where((difference == 0) & (error.variance == 0), 1.0, 2 * stdtr(error.df, -t))
    return Comparison(difference, difference + _ends(error, confidence), p_value, counts_seeds)
