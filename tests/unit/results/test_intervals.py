import numpy as np
import pytest
from scipy import stats

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results.intervals import MEASURES, compare, compare_means, estimate, holm, mean_interval

RANDOM = np.random.default_rng(0)
SIZES = (3, 9, 4, 30, 2, 7, 12)
SPEAKERS = [f"s{i}" for i, size in enumerate(SIZES) for _ in range(size)]
LABEL = RANDOM.uniform(1, 7, (sum(SIZES), 3))
SEEDS = 0.6 * LABEL + RANDOM.normal(1, 0.8, (3, *LABEL.shape))
OTHER = 0.5 * LABEL + RANDOM.normal(2, 0.9, (2, *LABEL.shape))


def naive(measure, prediction, label):
    """Compute a measure of one column from its definition."""
    if measure == "ccc":
        covariance = np.cov(prediction, label, bias=True)
        means = prediction.mean() - label.mean()
        return 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + means**2)
    return {
        "pearson": lambda: stats.pearsonr(prediction, label).statistic,
        "rmse": lambda: np.sqrt(np.mean((prediction - label) ** 2)),
        "bias": lambda: np.mean(prediction - label),
        "variance_ratio": lambda: np.var(prediction) / np.var(label),
    }[measure]()


def naive_jackknife(function):
    """Leave out one speaker after another, and return the values and their jackknife variance."""
    names = np.array(SPEAKERS)
    values = np.array([function(names != name) for name in dict.fromkeys(SPEAKERS)])
    return (len(values) - 1) / len(values) * ((values - values.mean(axis=0)) ** 2).sum(axis=0)


def degrees_of_freedom():
    sizes = np.array(SIZES)
    return (len(sizes) + sizes.sum() ** 2 / (sizes**2).sum()) / 2 - 1


SCALES = {
    "ccc": np.arctanh,
    "pearson": np.arctanh,
    "rmse": np.log,
    "variance_ratio": np.log,
    "bias": lambda value: value,
}
BACK = {np.arctanh: np.tanh, np.log: np.exp}


@pytest.mark.parametrize("measure", MEASURES)
def test_the_interval_of_one_seed_is_that_of_a_loop_over_speakers(measure):
    scale = SCALES[measure]
    result = estimate(SEEDS[:1], LABEL, SPEAKERS, measure, confidence=0.9)
    assert result.std is None and result.groups == len(SIZES)
    for j in range(3):
        value = naive(measure, SEEDS[0, :, j], LABEL[:, j])
        variance = naive_jackknife(lambda rows, j=j: scale(naive(measure, SEEDS[0, rows, j], LABEL[rows, j])))
        half = stats.t.ppf(0.95, degrees_of_freedom()) * np.sqrt(variance)
        expected = BACK.get(scale, scale)(np.array([scale(value) - half, scale(value) + half]))
        assert result.value[j] == pytest.approx(value, abs=1e-9)
        assert result.interval[:, j] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_interval_of_several_seeds_adds_their_variance(measure):
    scale = SCALES[measure]
    result = estimate(SEEDS, LABEL, SPEAKERS, measure)
    of_seeds = np.array([[naive(measure, seed[:, j], LABEL[:, j]) for j in range(3)] for seed in SEEDS])
    assert result.value == pytest.approx(of_seeds.mean(axis=0)) and result.std == pytest.approx(
        of_seeds.std(axis=0, ddof=1)
    )
    for j in range(3):

        def mean_of(rows, j=j):
            return scale(np.mean([naive(measure, seed[rows, j], LABEL[rows, j]) for seed in SEEDS]))

        of_speakers = naive_jackknife(mean_of)
        value = of_seeds[:, j].mean()
        slope = (scale(value + 1e-6) - scale(value - 1e-6)) / 2e-6
        of_seed = slope**2 * of_seeds[:, j].var(ddof=1) / 3
        df = (of_speakers + of_seed) ** 2 / (of_speakers**2 / degrees_of_freedom() + of_seed**2 / 2)
        half = stats.t.ppf(0.975, df) * np.sqrt(of_speakers + of_seed)
        expected = BACK.get(scale, scale)(np.array([scale(value) - half, scale(value) + half]))
        assert result.interval[:, j] == pytest.approx(expected, abs=1e-6)


def test_without_speakers_it_is_scipys_t_interval_of_a_bias():
    """The jackknife of a mean is its standard error; utterances all weigh alike."""
    error = (SEEDS[0] - LABEL)[:, 1]
    expected = stats.ttest_1samp(error, 0).confidence_interval(0.95)
    assert estimate(SEEDS[:1], LABEL, measure="bias").interval[:, 1] == pytest.approx([expected.low, expected.high])
    assert mean_interval(error[:, None])[:, 0] == pytest.approx([expected.low, expected.high])


def test_without_speakers_the_test_of_two_biases_is_scipys_paired_t_test():
    result = compare(SEEDS[:1], OTHER[:1], LABEL, measure="bias")
    expected = stats.ttest_rel(SEEDS[0], OTHER[0])
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.interval == pytest.approx(np.array(expected.confidence_interval(0.95)))
    assert result.counts_seeds is False


def test_seeds_of_two_systems_count_as_two_samples():
    """With constant errors speakers say nothing, and what is left is Welch's test of the seeds."""
    label = np.array([[1.0], [2.0], [3.0], [5.0]])
    a, b = (label + np.array(offsets)[:, None, None] for offsets in ([0.1, 0.4, 0.3], [0.6, 0.5, 0.9, 0.7]))
    result = compare(a, b, label, list("xxyy"), measure="bias")
    expected = stats.ttest_ind([0.1, 0.4, 0.3], [0.6, 0.5, 0.9, 0.7], equal_var=False)
    assert result.counts_seeds is True
    assert result.p_value == pytest.approx([expected.pvalue], rel=1e-6)
    assert result.interval[:, 0] == pytest.approx(np.array(expected.confidence_interval(0.95)))


@pytest.mark.parametrize("measure", ["ccc", "rmse"])
def test_a_comparison_is_that_of_a_loop_over_speakers(measure):
    result = compare(SEEDS[:1], OTHER[:1], LABEL, SPEAKERS, measure)
    for j in range(3):

        def difference(rows, j=j):
            a, b = (naive(measure, system[0, rows, j], LABEL[rows, j]) for system in (SEEDS, OTHER))
            return a - b

        t = difference(slice(None)) / np.sqrt(naive_jackknife(difference))
        assert result.p_value[j] == pytest.approx(2 * stats.t.sf(abs(t), degrees_of_freedom()))
        leaves_out_0 = not result.interval[0, j] <= 0 <= result.interval[1, j]
        assert leaves_out_0 == (result.p_value[j] < 0.05)


def test_one_seed_beside_several_does_not_count_them():
    assert compare(SEEDS, OTHER[:1], LABEL, SPEAKERS).counts_seeds is False
    assert compare(SEEDS, OTHER, LABEL, SPEAKERS).counts_seeds is True


def test_the_same_system_twice_does_not_differ():
    result = compare(SEEDS[:1], SEEDS[:1], LABEL, SPEAKERS)
    assert result.difference.tolist() == [0, 0, 0] and result.p_value.tolist() == [1, 1, 1]


def test_a_perfect_system_and_a_single_speaker_have_no_interval():
    perfect = estimate(LABEL[None], LABEL, SPEAKERS)
    assert perfect.value == pytest.approx(1) and np.isnan(perfect.interval).all()
    assert np.isnan(estimate(SEEDS[:1], LABEL, ["s"] * len(LABEL)).interval).all()
    assert np.isnan(compare(SEEDS[:1], OTHER[:1], LABEL, ["s"] * len(LABEL)).p_value).all()


def test_means_of_two_kinds_are_those_of_a_loop_over_speakers():
    inside = RANDOM.random(len(LABEL)) < 0.6
    values = LABEL + inside[:, None]
    result = compare_means(values, inside, SPEAKERS)

    def difference(rows):
        kind = inside[rows]
        return values[rows][kind].mean(axis=0) - values[rows][~kind].mean(axis=0)

    assert result.difference == pytest.approx(difference(slice(None)))
    t = result.difference / np.sqrt(naive_jackknife(difference))
    assert result.p_value == pytest.approx(2 * stats.t.sf(np.abs(t), degrees_of_freedom()))


def test_the_mean_of_clusters_is_that_of_a_loop_over_speakers():
    half = stats.t.ppf(0.975, degrees_of_freedom()) * np.sqrt(naive_jackknife(lambda rows: LABEL[rows].mean(axis=0)))
    assert mean_interval(LABEL, SPEAKERS) == pytest.approx(LABEL.mean(axis=0) + np.array([-half, half]))


def test_holm_is_done_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 -> no less than 0.06, 0.5.
    assert holm([[0.02, 0.5], [0.01, 0.03]]) == pytest.approx(np.array([[0.06, 0.5], [0.04, 0.06]]))
    assert holm([0.4, np.nan, 0.9]) == pytest.approx([0.8, np.nan, 0.9], nan_ok=True)
    assert holm([]).tolist() == []


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="have to be"):
        estimate(SEEDS[0], LABEL)
    with pytest.raises(InputError, match="isn't a finite number"):
        estimate(np.full_like(SEEDS, np.nan), LABEL)
    with pytest.raises(InputError, match="confidence is 95"):
        estimate(SEEDS, LABEL, confidence=95)
