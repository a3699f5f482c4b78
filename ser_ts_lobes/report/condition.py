"""Does a large teacher residual tell where teaching helps? What the rule of conditional teaching rests on."""

from dataclasses import dataclass

import numpy as np

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.report.sources import System, TestSet
from ser_ts_lobes.results import intervals
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.training.targets import TeacherTargets

_EDGES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, np.inf)  # of the bins, in standard deviations
_PAPERS_THRESHOLD = 2.0


@dataclass(eq=False)
class Condition:
    """How far each test utterance is from the line that was fitted to a teacher's predictions of the training set.

    Attributes
    ----------
    teacher
        Name of its row.
    residual
        (N,): the largest of the three dimensions' residuals, in standard deviations of those of the training set. The
        rule leaves an utterance out where it is more than `threshold`.
    threshold
        Of the students that were taught; the paper's where they do not say.
    """

    teacher: str
    residual: np.ndarray
    threshold: float

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool: utterances that the rule would keep."""
        return self.residual <= self.threshold

    def bins(self) -> list[tuple[str, np.ndarray]]:
        """Return name and rows (N,) of each range of residuals."""
        return [
            (f"{low:g}–{high:g}" if high < np.inf else f"≥ {low:g}", (low <= self.residual) & (self.residual < high))
            for low, high in zip(_EDGES, _EDGES[1:], strict=False)
        ]


def find_condition(test_set: TestSet) -> Condition | None:
    """Look for a row that has left teacher's targets of this test set.

    Parameters
    ----------
    test_set
        With its systems.

    Returns
    -------
    Condition or None
        None if there is no such row. Of a teacher with several seeds it is the first one's.

    Raises
    ------
    InputError
        If targets are of other utterances.
    """
    for system in test_set.systems.values():
        runs = system.runs[0]
        if runs and all(_has_targets(run, test_set.name) for run in runs):
            residual = {id: value for run in runs for id, value in _residuals(run, test_set.name).items()}
            if missing := [id for id in test_set.ids if id not in residual]:
                raise InputError(f"{runs[0].path}: its targets lack {missing[0]}: make the teacher targets again.")
            return Condition(system.name, np.array([residual[id] for id in test_set.ids]), _threshold(test_set))
    return None


def gain(test_set: TestSet, taught: System, reference: System) -> np.ndarray:
    """Return by how much the squared error of the reference is larger, each a mean over seeds, (N, 3)."""
    errors = [((system.prediction - test_set.label) ** 2).mean(axis=0) for system in (reference, taught)]
    difference: np.ndarray = errors[0] - errors[1]
    return difference


def compare_sides(condition: Condition, gains: np.ndarray, test_set: TestSet) -> intervals.Comparison | None:
    """Compare the gain where the rule keeps with that where it leaves out; None where it does but one of them."""
    if condition.kept.all() or not condition.kept.any():
        return None
    return intervals.compare_means(gains, condition.kept, test_set.groups)


def _has_targets(run: RunFolder, split: str) -> bool:
    return all(run.targets_path(name).is_file() for name in ("train", split))


def _residuals(run: RunFolder, split: str) -> dict[str, float]:
    train, tested = (TeacherTargets.load(run.targets_path(name)) for name in ("train", split))
    if train.residual is None or tested.residual is None:
        return {}
    largest = np.abs(tested.residual / train.residual.std(axis=0)).max(axis=1)
    return dict(zip(tested.ids, largest, strict=True))


def _threshold(test_set: TestSet) -> float:
    for system in test_set.systems.values():
        for run in system.runs[0][:1]:
            threshold = run.settings.get("residual_threshold")
            if isinstance(threshold, int | float):
                return float(threshold)
    return _PAPERS_THRESHOLD
