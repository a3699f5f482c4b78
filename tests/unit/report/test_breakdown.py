import numpy as np

from ser_ts_lobes.report import breakdown
from ser_ts_lobes.report.sources import TestSet
from ser_ts_lobes.report.strangers import Facts

LABEL = np.array([[1.0, 4.0, 7.0], [2.9, 4.0, 7.0], [3.0, 4.0, 5.0], [5.0, 4.0, 4.9], [4.9, 4.0, 1.0]])
SPEAKERS = ["b", "a", "b", "Unknown", "Unknown"]


def make(**facts):
    all_facts = [
        Facts(None, "Unknown", *(facts.get(name, [None] * 5)[row] for name in ("gender", "duration")), None, None)
        for row in range(5)
    ]
    return TestSet("test1", None, list("vwxyz"), SPEAKERS, LABEL, all_facts, (1, 7))


def shown(groups):
    return {group.name: np.flatnonzero(group.rows).tolist() for group in groups}


def test_groups_of_gender_are_the_corpus_own():
    assert shown(breakdown.by_gender(make(gender=["M", "F", None, "M", "F"]))) == {"F": [1, 4], "M": [0, 3]}
    assert breakdown.by_gender(make()) == []


def test_durations_at_an_edge_are_in_the_longer_bin():
    groups = shown(breakdown.by_duration(make(duration=[1.99, 2.0, 7.9, 8.0, None])))
    assert groups == {"< 2 s": [0], "2–4 s": [1], "4–6 s": [], "6–8 s": [2], "≥ 8 s": [3]}
    assert breakdown.by_duration(make()) == []


def test_regions_are_thirds_of_the_scale():
    assert shown(breakdown.by_region(make(), 0)) == {"low (< 3)": [0, 1], "middle": [2, 4], "high (≥ 5)": [3]}
    assert shown(breakdown.by_region(make(), 2)) == {"low (< 3)": [4], "middle": [3], "high (≥ 5)": [0, 1, 2]}


def test_unknown_speakers_are_no_group_and_not_counted():
    groups = breakdown.by_speaker(make())
    assert shown(groups) == {"a": [1], "b": [0, 2]}
    assert breakdown.Group("all", np.ones(5, dtype=bool)).speakers(make()) == 2
    assert [group.name for group in breakdown.large(groups, 2)] == ["b"]
