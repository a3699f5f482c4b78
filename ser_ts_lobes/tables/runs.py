"""Finished runs: found on disk, checked, and put together to the rows of a table."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser_ts_lobes import DIMENSIONS, UNKNOWN_SPEAKER
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.settings import TELLS_RUNS_APART, difference, flatten
from ser_ts_lobes.tables.plan import TEACHER, in_order

_RUN = re.compile(r"(?:(?P<key>[A-Za-z_]\w*)/(?P<value>[^/]+)/)?(?:fold(?P<fold>\d+)/)?(?P<seed>\d+)")


@dataclass
class Run:
    """A finished run on disk.

    Attributes
    ----------
    system
        What was trained.
    key
        The setting that a sweep varied; None for the system's own run.
    seed
        The run's seed.
    fold
        The run's fold; None in a recipe without folds.
    run_folder
        Its files.
    """

    system: str
    key: str | None
    seed: int
    fold: int | None
    run_folder: RunFolder

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.run_folder.path

    @property
    def metrics(self) -> dict[str, Any]:
        """Its scores, checked."""
        return self.run_folder.report()

    @property
    def settings(self) -> dict[str, Any]:
        """Its hparams, as `ser_ts_lobes.settings.read_settings` gives them."""
        return self.run_folder.settings

    @property
    def corpus(self) -> str | None:
        """Name of the folder of its corpus; None where that isn't known."""
        return self.run_folder.corpus

    def value(self, key: str) -> str:
        """Name the value that a setting has in this run; ``none`` is YAML's null."""
        value = self.settings[key]
        return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    def tested_on(self) -> dict[str, str]:
        """Return the fingerprint of each labelled test set."""
        return {split: self.metrics["manifests"][split] for split in self.metrics["test"]}


def find_runs(
    results: Path,
    systems: Sequence[str] | None = None,
    seeds: Collection[int] | None = None,
    folds: Collection[int] | None = None,
    rows: Sequence[str] = (),
) -> list[Run]:
    """Find the finished runs below a results folder.

    Parameters
    ----------
    results
        With ``<system>/[<key>/<value>/][fold<k>/]<seed>/metrics.json``.
    systems
        Those of the runs to find, in the order of the rows; None for all.
    seeds, folds
        Those of the runs to find; None for all.
    rows
        The order of all systems, where `systems` gives none; others follow by name.

    Returns
    -------
    list[Run]

    Raises
    ------
    InputError
        If a run's numbers are not of whole test sets or of another training than its settings say, if runs of one row
        were trained differently, or runs of one fold tested on different data.
    """
    if systems is None:
        systems = in_order({folder.name for folder in results.glob("*") if RunFolder.finished_below(folder)}, rows)
    runs = []
    for system in systems:
        for run_folder in RunFolder.finished_below(results / system):
            match = _RUN.fullmatch(run_folder.path.relative_to(results / system).as_posix())
            if not match:
                continue
            seed, fold = int(match["seed"]), int(match["fold"]) if match["fold"] else None
            if (seeds is None or seed in seeds) and (folds is None or fold in folds):
                runs.append(Run(system, match["key"], seed, fold, run_folder))
                _check_settings(runs[-1])
    _check_alike(runs)
    return runs


def _check_settings(run):
    """Refuse results of an earlier training, such as a shorter one that was to go on and was cut."""
    tested, settings = run.metrics.get("settings", {}), flatten(run.settings)
    problem = difference({key: value for key, value in tested.items() if key in settings}, settings)
    if tested and problem:  # an earlier version wrote none
        raise InputError(
            f"{run.folder}: its results are of a training with {problem}, as hyperparams.yaml there says: run its "
            "training command again, which tests it."
        )


def _check_alike(runs):
    """Refuse runs that can't stand in one table."""
    rows: dict[tuple[str, str | None, str | None], Run] = {}
    tests: dict[int | None, Run] = {}
    for run in runs:
        row = (run.system, run.key, run.key and run.value(run.key))
        first = rows.setdefault(row, run)
        if problem := difference(first.run_folder.made_with(), run.run_folder.made_with(), TELLS_RUNS_APART):
            raise InputError(
                f"{first.folder} and {run.folder} are one row of the table, but the first was trained with {problem}: "
                "delete one, or choose by --seeds and --folds."
            )
        other = tests.setdefault(run.fold, run)
        if other.tested_on() != run.tested_on():
            raise InputError(
                f"{other.folder} and {run.folder} were tested on different data: train one of them anew, or choose by "
                "--systems."
            )


def summarise(rows: dict[str, list[Run]], against: str | None = None) -> dict[str, dict[str, Any]]:
    """Put the runs of each row together.

    A row's CCC is the mean over seeds of the mean over folds; only seeds that have all folds count. Its interval is
    the bootstrap's of that mean: a resample draws from each fold's test set, the same for all seeds and rows.

    Parameters
    ----------
    rows
        Runs by row.
    against
        The row that p-values compare with, by the same resamples; None for no p-values.

    Returns
    -------
    dict[str, dict[str, Any]]
        For each row that has a whole seed: ``seeds``, ``hours`` (mean over seeds; None if a log lacks it), ``folds``,
        and ``test`` as in ``metrics.json``, with ``ccc_std`` (sample standard deviation over seeds, if there are
        several); but for the row `against` itself with ``p``, ``difference`` (row - against) and ``difference_95``;
        and, where the teacher is a row and surely better than `against`, with ``gap_closed`` and ``gap_closed_95``:
        (row - against) / (teacher - against). All are of the same resamples.
    """
    runs = {(row, run.seed, run.fold): run for row, members in rows.items() for run in members}
    folds = sorted({fold for _, _, fold in runs}, key=lambda fold: fold or 0)
    seeds = {row: sorted({run.seed for run in members}) for row, members in rows.items()}
    whole = [(row, seed) for row in rows for seed in seeds[row] if all((row, seed, fold) in runs for fold in folds)]
    summary: dict[str, dict[str, Any]] = {
        row: {"seeds": [seed for name, seed in whole if name == row], "folds": folds} for row in rows
    }
    summary = {row: report for row, report in summary.items() if report["seeds"]}
    for row, report in summary.items():
        hours = [runs[row, seed, fold].run_folder.training_hours for seed in report["seeds"] for fold in folds]
        known = [of_run for of_run in hours if of_run is not None]
        report["hours"] = sum(known) / len(report["seeds"]) if len(known) == len(hours) else None
        report["test"] = {}
    for split in dict.fromkeys(split for run in runs.values() for split in run.metrics["test"]):
        per_fold = [
            _bootstrap([runs[row, seed, fold] for row, seed in whole], split, number)
            for number, fold in enumerate(folds)
        ]
        counts, n_speakers = [fold[0] for fold in per_fold], min(fold[1] for fold in per_fold)
        ccc, samples = (np.mean([fold[part] for fold in per_fold], axis=0) for part in (2, 3))
        means = {}
        for row, report in summary.items():
            mine = [index for index, (name, _) in enumerate(whole) if name == row]
            means[row] = samples[:, mine].mean(1)
            interval = metrics.percentile_interval(means[row])
            report["test"][split] = {
                "utterances": sum(counts),
                "resampled": "speakers" if n_speakers else "utterances",
                "speakers": n_speakers,
            }
            for j, dimension in enumerate(DIMENSIONS):
                score = {"ccc": float(ccc[mine, j].mean()), "ccc_95": interval[:, j].tolist()}
                if len(mine) > 1:
                    score["ccc_std"] = float(ccc[mine, j].std(ddof=1))
                report["test"][split][dimension] = score
        if against in means:
            for row in summary:
                if row != against:
                    differences = means[row] - means[against]
                    p_values, interval = metrics.two_sided_p(differences), metrics.percentile_interval(differences)
                    for j, dimension in enumerate(DIMENSIONS):
                        score, reference = (summary[name]["test"][split][dimension] for name in (row, against))
                        score["p"] = float(p_values[j])
                        score["difference"] = score["ccc"] - reference["ccc"]
                        score["difference_95"] = interval[:, j].tolist()
            _compare_with_teacher({row: report["test"][split] for row, report in summary.items()}, means, against)
    return summary


def _compare_with_teacher(scores, means, against):
    """Add the share of the gap between two rows, one of them the teacher, that each other row closes."""
    if TEACHER not in means or against == TEACHER:
        return
    gap = means[TEACHER] - means[against]
    is_open = metrics.percentile_interval(gap)[0] > 0
    for row in means.keys() - {TEACHER, against}:
        for j, dimension in enumerate(DIMENSIONS):
            if is_open[j]:
                low, of_row, high = (scores[name][dimension]["ccc"] for name in (against, row, TEACHER))
                closed = (means[row][:, j] - means[against][:, j]) / gap[:, j]
                scores[row][dimension]["gap_closed"] = (of_row - low) / (high - low)
                scores[row][dimension]["gap_closed_95"] = metrics.percentile_interval(closed).tolist()


def _bootstrap(runs, split, seed) -> tuple:
    """Bootstrap one fold's test set for all runs at once.

    Returns
    -------
    tuple
        Utterances; how many speakers were resampled, 0 if utterances were; CCCs, (runs, 3); resampled CCCs,
        (resamples, runs, 3).
    """
    tested = [run.run_folder.predictions(split) for run in runs]
    groups = metrics.resampling_groups(tested[0].speakers)
    predictions = np.hstack([predicted.prediction for predicted in tested])
    labels = np.tile(tested[0].label, len(runs))
    ccc = metrics.ccc(predictions, labels).reshape(len(runs), -1)
    samples = metrics.resample(predictions, labels, groups, seed=seed)
    return len(labels), len({*(groups or ())} - {UNKNOWN_SPEAKER}), ccc, samples.reshape(-1, *ccc.shape)
