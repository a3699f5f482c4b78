"""Parts of a test set: by gender, by speaker, by how long and how strong they are."""

from typing import NamedTuple

import numpy as np

from ser_ts_lobes import UNKNOWN_SPEAKER
from ser_ts_lobes.report.sources import TestSet

_DURATIONS_S = (2, 4, 6, 8)  # ends of the bins


class Group(NamedTuple):
    """Some utterances of a test set.

    Attributes
    ----------
    name
        For people.
    rows
        (N,) bool.
    """

    name: str
    rows: np.ndarray

    @property
    def size(self) -> int:
        """How many utterances."""
        return int(self.rows.sum())

    def speakers(self, test_set: TestSet) -> int:
        """Count the known speakers."""
        return len({test_set.speakers[row] for row in np.flatnonzero(self.rows)} - {UNKNOWN_SPEAKER})


def by_gender(test_set: TestSet) -> list[Group]:
    """Return a group a gender, as the corpus says it; none where nobody says it."""
    gender = test_set.known("gender")
    return [] if gender is None else [Group(name, gender == name) for name in sorted({*gender} - {None})]


def by_duration(test_set: TestSet) -> list[Group]:
    """Return a group a range of durations; none where they are not known."""
    known = test_set.known("duration")
    if known is None:
        return []
    duration = np.array([np.nan if value is None else value for value in known], dtype=np.float64)
    edges = (0, *_DURATIONS_S, np.inf)
    names = [f"{low}–{high} s" for low, high in zip(edges, edges[1:], strict=False)]
    names[0], names[-1] = f"< {_DURATIONS_S[0]} s", f"≥ {_DURATIONS_S[-1]} s"
    return [
        Group(name, (low <= duration) & (duration < high))
        for name, low, high in zip(names, edges, edges[1:], strict=False)
    ]


def by_region(test_set: TestSet, dimension: int) -> list[Group]:
    """Return the low, the middle and the high third of the label scale of a dimension (its place in `DIMENSIONS`)."""
    low, high = test_set.label_range
    ends = low + (high - low) / 3, high - (high - low) / 3
    third = np.digitize(test_set.label[:, dimension], ends)
    names = f"low (< {ends[0]:.3g})", "middle", f"high (≥ {ends[1]:.3g})"
    return [Group(name, third == number) for number, name in enumerate(names)]


def by_speaker(test_set: TestSet) -> list[Group]:
    """Return a group a known speaker."""
    speakers = np.array(test_set.speakers)
    return [Group(name, speakers == name) for name in sorted({*test_set.speakers} - {UNKNOWN_SPEAKER})]


def large(groups: list[Group], smallest: int) -> list[Group]:
    """Return those of at least so many utterances."""
    return [group for group in groups if group.size >= smallest]
