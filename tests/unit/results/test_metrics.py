"""Metrics against scipy and plain formulas; their algebra; bootstrap intervals."""

import math
import re
import tracemalloc

import audmetric
import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.metrics import (
    bootstrap_ci,
    ccc,
    evaluate,
    finite_array,
    moments,
    paired_bootstrap,
    pearson,
    percentile_interval,
    resample,
    rmse,
    two_sided_p,
)


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


def test_metrics_are_those_of_audeerings_package():
    predictions, targets = ratings()
    for ours, theirs in ((ccc, audmetric.concordance_cc), (pearson, audmetric.pearson_cc)):
        expected = [theirs(targets[:, j], predictions[:, j]) for j in range(3)]
        np.testing.assert_allclose(ours(predictions, targets), expected, rtol=1e-12)


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
    expected = scipy.stats.bootstrap(
        (predictions[:, 0], targets[:, 0]),
        statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        confidence_level=0.9,
        n_resamples=2000,
        rng=1,
    ).confidence_interval
    np.testing.assert_allclose(interval[:, 0], expected, atol=0.1 * np.ptp(expected))


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
    with pytest.raises(
        InputError, match="^All utterances are in one group; a bootstrap over groups needs at least 2.$"
    ):
        bootstrap_ci(predictions, targets, ["speaker"] * 30)
    with pytest.raises(InputError, match="one for each of 30"):
        bootstrap_ci(predictions, targets, ["speaker"] * 29)


def test_settings_that_mean_nothing_are_refused():
    predictions, targets = ratings()
    for setting in ({"statistic": "rmse"}, {"n_resamples": 0}, {"confidence": 95}):
        (name,) = setting
        with pytest.raises(InputError, match=name):
            bootstrap_ci(predictions, targets, **setting)
    with pytest.raises(InputError, match="^statistic is 'rmse'; choose one of ccc, pearson.$"):
        resample(predictions, targets, statistic="rmse")


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


@pytest.mark.parametrize(("name", "statistic"), [("ccc", ccc), ("pearson", pearson)])
@pytest.mark.parametrize("counts_at_once", [1, 150, 10**6])  # one resample a chunk, two and a rest of one, all
def test_a_resample_is_the_statistic_of_the_rows_drawn(name, statistic, counts_at_once, monkeypatch):
    monkeypatch.setattr(metrics, "_MAX_COUNTS", counts_at_once)
    predictions, targets = ratings()
    predictions += 1e3  # the origin that sums are taken from must drop out
    rng = np.random.default_rng(7)
    drawn = [rng.integers(60, size=60) for _ in range(9)]
    expected = [statistic(predictions[rows], targets[rows]) for rows in drawn]
    resampled = resample(predictions, targets, statistic=name, n_resamples=9, seed=7)
    np.testing.assert_allclose(resampled, expected, rtol=1e-9)


def test_a_resample_over_speakers_takes_all_that_each_said():
    predictions, targets = ratings(n=8)
    speakers = ["b", "Unknown", "a", "b", "Unknown", "b", "a", "c"]
    said = [[2, 6], [0, 3, 5], [7], [1], [4]]  # a, b, c, and two who aren't known
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(20):
        rows = np.concatenate([said[speaker] for speaker in rng.integers(5, size=5)])
        expected.append(ccc(predictions[rows], targets[rows]))
    resampled = resample(predictions, targets, speakers, n_resamples=20)
    constant = np.isnan(resampled)  # the same utterance five times
    np.testing.assert_allclose(resampled[~constant], np.array(expected)[~constant], rtol=1e-9)
    assert constant.mean() < 0.2


def test_moments_are_those_of_numpy():
    predictions, targets = ratings()
    m = moments(predictions.astype(np.float32), targets.tolist())
    predictions = predictions.astype(np.float32).astype(np.float64)
    for j in range(3):
        (var_p, cov), (_, var_y) = np.cov(predictions[:, j], targets[:, j], ddof=0)
        expected = [predictions[:, j].mean(), targets[:, j].mean(), var_p, var_y, cov]
        np.testing.assert_allclose([moment[j] for moment in m], expected, rtol=1e-12)
    assert m.mean_p.dtype == np.float64


def test_values_left_out_are_those_that_are_documented():
    predictions, targets = ratings(n=20)
    settings = {"groups": None, "statistic": "ccc", "n_resamples": 2000, "seed": 0}
    drawn = resample(predictions, targets)
    assert drawn.shape == (2000, 3)
    np.testing.assert_array_equal(drawn, resample(predictions, targets, **settings))
    interval = bootstrap_ci(predictions, targets)
    np.testing.assert_array_equal(interval, bootstrap_ci(predictions, targets, confidence=0.95, **settings))
    pair = predictions, targets + predictions, targets
    default = paired_bootstrap(*pair)
    explicit = paired_bootstrap(*pair, confidence=0.95, **settings)
    for value, expected in zip(default, explicit, strict=True):
        np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(percentile_interval(np.arange(1001.0)[:, None]), [[25], [975]])


def test_settings_reach_the_draws_of_a_pair():
    system_a, targets = ratings(n=30)
    system_b = targets[::-1]
    speakers = np.repeat(np.arange(10), 3)
    settings = {"statistic": "pearson", "n_resamples": 50, "seed": 3}
    result = paired_bootstrap(system_a, system_b, targets, speakers, confidence=0.5, **settings)
    differences = resample(system_a, targets, speakers, **settings) - resample(system_b, targets, speakers, **settings)
    np.testing.assert_allclose(result.difference, pearson(system_a, targets) - pearson(system_b, targets))
    np.testing.assert_allclose(result.interval, np.quantile(differences, [0.25, 0.75], axis=0))
    np.testing.assert_allclose(result.p_value, two_sided_p(differences))


def test_confidence_lies_between_0_and_1():
    for confidence in (0, 1, -0.1, float("nan")):
        with pytest.raises(InputError, match=f"confidence is {confidence}; "):
            percentile_interval(np.zeros((5, 1)), confidence)


def test_one_resample_and_two_groups_are_enough():
    predictions, targets = ratings(n=4)
    assert resample(predictions, targets, ["a", "a", "b", "b"], n_resamples=1).shape == (1, 3)


def test_p_value_is_twice_the_smaller_tail():
    # Of ten with the set itself: one on the other side and the set; those of 0 are on both sides; never above 1.
    below = [-1.0] + [1.0] * 8
    on_it = [0.0] + [1.0] * 8
    all_on_it = [0.0] * 9
    undefined = [np.nan] + [1.0] * 8
    columns = np.column_stack([below, np.negative(below), on_it, all_on_it, undefined])
    np.testing.assert_allclose(two_sided_p(columns), [0.4, 0.4, 0.4, 1, np.nan])


def test_what_is_not_finite_is_named_with_its_place():
    with pytest.raises(InputError, match=r"^speech, row 2 \(from 0\), column 0: inf isn't a finite number; "):
        finite_array([1, 2, np.inf, np.nan], "speech")
    with pytest.raises(InputError, match=r"^speech, row 1 \(from 0\), column 2: nan"):
        finite_array([[1, 2, 3], [1, 2, np.nan]], "speech")
    for shape in ((), (2, 2, 2)):
        with pytest.raises(InputError, match=f"^speech: shape {re.escape(str(shape))}"):
            finite_array(np.zeros(shape), "speech")


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
    for system, arguments in ("a", (predictions[:4], predictions)), ("b", (predictions, predictions[:4])):
        with pytest.raises(InputError, match=rf"^predictions_{system} have shape \(4, 3\)"):
            paired_bootstrap(*arguments, targets)


@pytest.mark.parametrize(("n_known", "n_unknown", "speakers_are_drawn"), [(10, 0, True), (9, 5, False), (10, 5, True)])
def test_speakers_are_drawn_if_enough_are_known(n_known, n_unknown, speakers_are_drawn):
    speakers = [f"s{i}" for i in range(n_known)] * 2 + [metrics.UNKNOWN_SPEAKER] * n_unknown
    assert metrics.resampling_groups(speakers) == (speakers if speakers_are_drawn else None)


@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_carries_no_correlation_past_1(sign):
    values = np.random.default_rng(0).normal(size=(5, 200))
    correlation = pearson(values, sign * 0.1 * values)
    assert np.abs(correlation).max() == 1 and (sign * correlation > 0.999).all()


def test_classes_are_scored_as_by_counting():
    random = np.random.default_rng(2)
    targets = random.choice(["ang", "hap", "neu"], 60, p=[0.1, 0.2, 0.7]).tolist()
    said = [t if random.random() < 0.6 else str(random.choice(["ang", "neu", "sad"])) for t in targets]
    pairs = list(zip(said, targets, strict=True))
    recalls, f1 = [], []
    for name in sorted({*said, *targets}):
        hits = sum(p == y == name for p, y in pairs)
        predicted, there = said.count(name), targets.count(name)
        if there:
            recalls.append(hits / there)
        precision, recall = hits / max(predicted, 1), hits / max(there, 1)
        f1.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert len(recalls) == 3 and len(f1) == 4  # sad is said, and never there
    assert metrics.classify(said, targets) == pytest.approx(
        {"accuracy": np.mean([p == y for p, y in pairs]), "uar": np.mean(recalls), "macro_f1": np.mean(f1)}
    )
    with pytest.raises(InputError, match="^0 classes are predicted of 0 utterances; give one for each.$"):
        metrics.classify([], [])
