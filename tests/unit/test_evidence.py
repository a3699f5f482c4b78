import numpy as np
import pytest

from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.intervals import estimate
from tools import evidence


def test_the_true_ccc_of_the_simulation_is_that_of_a_large_sample():
    speaker, label, predictions = evidence.draw(np.random.default_rng(0), 20_000, [evidence.FIRST, evidence.OTHER])
    assert len(np.unique(speaker)) == 20_000
    for prediction in predictions:
        assert metrics.ccc(prediction[0], label) == pytest.approx(evidence.FIRST.ccc, abs=0.005)
    assert evidence.OTHER.ccc == pytest.approx(evidence.FIRST.ccc)
    assert evidence.FIRST.with_ccc(0.7).ccc == pytest.approx(0.7)


def test_with_ten_speakers_the_interval_holds_and_the_percentile_one_does_not():
    """400 simulations tell 95 % from 90 %; `make evidence` says more."""
    random, held = np.random.default_rng(1), []
    for _ in range(400):
        speaker, label, [prediction] = evidence.draw(random, 10, [evidence.FIRST])
        ends = (
            estimate(prediction, label, speaker).interval[:, 0],
            metrics.bootstrap_ci(prediction[0], label, speaker, n_resamples=300)[:, 0],
        )
        held.append([low <= evidence.FIRST.ccc <= high for low, high in ends])
    ours, percentile = np.mean(held, axis=0)
    assert 0.93 <= ours <= 0.97
    assert percentile < 0.92


def test_with_ten_speakers_the_test_errs_as_often_as_it_says():
    shares = evidence.rejections(10, 600, np.random.default_rng(2), evidence.FIRST)
    assert 0.03 <= shares["jackknife, t"] <= 0.07
    assert shares["paired bootstrap, speakers"] > shares["jackknife, t"]
    of_seeds = evidence.rejections(50, 300, np.random.default_rng(3), evidence.FIRST, n_seeds=3)
    assert of_seeds["jackknife, t"] < 0.08 < of_seeds["one seed of each, jackknife, t"]


def test_the_tables_have_a_row_a_method_and_a_world(capsys):
    evidence.main(["--simulations", "4"])
    text = capsys.readouterr().out
    assert "4 with 10 speakers, 4 with 50 speakers, 1 with 500 speakers" in text
    assert text.count("\n| ") == 2 + 2 + 5 + 2 * len(evidence.WORLDS) - 1
