"""What all parts of a page have in common: how systems are numbered, and how numbers are written."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ser_ts_lobes.report.html import Cell, ends, number
from ser_ts_lobes.report.sources import System, TestSet
from ser_ts_lobes.results.intervals import Estimate, estimate


class View(NamedTuple):
    """What a page shows.

    Attributes
    ----------
    names
        All systems; their places are their colours on the whole page.
    against
        The system that all others are compared with; None compares all with one another.
    smallest
        The fewest utterances of a group that is shown by itself.
    """

    names: list[str]
    against: str | None
    smallest: int

    def keys(self, systems: Iterable[str]) -> list[tuple[int, str]]:
        """Return number and name of some systems."""
        return [(self.names.index(name), name) for name in systems]


def measure(test_set: TestSet, system: System, of: str = "ccc", rows: np.ndarray | None = None) -> Estimate:
    """Measure a system on a test set, or on some rows (N,) of it; see `ser_ts_lobes.results.intervals.estimate`."""
    rows = np.ones(len(test_set.ids), dtype=bool) if rows is None else rows
    return estimate(system.prediction[:, rows], test_set.label[rows], groups_of(test_set, rows), of)


def groups_of(test_set: TestSet, rows: np.ndarray) -> list[str] | None:
    """Return what intervals of some rows (N,) leave out."""
    groups = test_set.groups
    return None if groups is None else [groups[row] for row in np.flatnonzero(rows).tolist()]


def estimate_cell(found: Estimate, j: int, digits: int = 3, sign: bool = False) -> Cell:
    """Write the estimate of a dimension, with its interval below."""
    return Cell(number(found.value[j], digits, sign), ends(found.interval[:, j], digits, sign))


def count(n: int, what: str) -> str:
    """Write how many.

    Example
    -------
    >>> count(1, "speaker"), count(1400, "utterance")
    ('1 speaker', '1,400 utterances')
    """
    return f"{n:,} {what}{'' if n == 1 else 's'}"
