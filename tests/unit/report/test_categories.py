import re

import numpy as np
import pytest
from scipy.stats import norm

from ser_ts_lobes.report.categories import by_category, confusion, nearest
from ser_ts_lobes.report.sources import System, TestSet
from ser_ts_lobes.report.strangers import Facts
from ser_ts_lobes.report.view import View

RANDOM = np.random.default_rng(0)
EMOTIONS = ["A"] * 40 + ["H"] * 80 + ["X"] * 30
CENTRES = {"A": (6, 2, 5), "H": (5, 6, 5), "X": (4, 4, 4)}
LABEL = np.array([CENTRES[name] for name in EMOTIONS]) + RANDOM.normal(0, 0.8, (150, 3))


def make(emotions):
    facts = [Facts(None, "Unknown", None, None, name, None) for name in emotions]
    test_set = TestSet("test1", None, list(map(str, range(150))), ["Unknown"] * 150, LABEL, facts, (1, 7))
    prediction = LABEL + RANDOM.normal(0, 2, (2, 150, 3))
    test_set.systems["ft"] = System("ft", [1, 2], prediction, [[], []], [])
    return test_set


def test_the_nearest_is_that_of_a_loop():
    true = RANDOM.integers(3, size=50)
    label, points = RANDOM.normal(size=(50, 3)) * (1, 5, 0.2), RANDOM.normal(size=(20, 3))
    for point, found in zip(points, nearest(points, label, true), strict=True):
        distances = [np.linalg.norm((point - label[true == c].mean(axis=0)) / label.std(axis=0)) for c in range(3)]
        assert found == np.argmin(distances)


def test_classes_without_agreement_or_with_few_are_left_out():
    html = by_category(make(EMOTIONS), View(["ft"], None, 20))
    assert "(A 40, H 80)" in html and html.count("<svg") == 2
    assert by_category(make(EMOTIONS), View(["ft"], None, 50)) == ""  # one class is left
    assert by_category(make([None] * 150), View(["ft"], None, 20)) == ""


def test_recalls_are_those_of_a_count_and_their_interval_that_of_the_classes():
    test_set = make(EMOTIONS)
    html = by_category(test_set, View(["ft"], None, 20))
    rows = [re.findall(r"\d\.\d+", row) for row in re.findall(r"<tr><th.*?</tr>", html)]
    true, label = np.array([0] * 40 + [1] * 80), LABEL[:120]
    for row, points in ((rows[1], label[None]), (rows[2], test_set.systems["ft"].prediction[:, :120])):
        hits = np.mean([nearest(seed, label, true) == true for seed in points], axis=0)
        recall = [hits[true == c].mean() for c in (0, 1)]
        mean, low, high, *of_classes = map(float, row)
        assert [mean, *of_classes] == pytest.approx([np.mean(recall), *recall], abs=6e-3)
        # Stratified by class, the standard error would be a little smaller.
        error = np.sqrt(sum(hits[true == c].var() / (true == c).sum() for c in (0, 1))) / 2
        assert high - low >= 2 * norm.ppf(0.975) * error - 2e-3


def test_rows_of_a_confusion_are_shares():
    shares = confusion(np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 2, 1, 1, 0]))
    assert shares.tolist() == [[0.5, 0.25, 0.25], [0, 1, 0], [1, 0, 0]]
