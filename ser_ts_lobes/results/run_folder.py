"""A finished run on disk, read by whoever needs its numbers."""

import json
import math
import reprlib
from pathlib import Path

import numpy as np

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results import metrics
from ser_ts_lobes.text_files import parse_number, read_rows

_LABELS = tuple(f"label_{dimension}" for dimension in DIMENSIONS)
# Predictions are written with six decimals.
_TOLERANCE = 1e-4


class RunFolder:
    """The output folder of a run, ``results/<system>/<run>``.

    Parameters
    ----------
    path : str or pathlib.Path
        The folder; it need not be there.
    """

    def __init__(self, path):
        self.path = Path(path)

    @property
    def finished(self):
        """Whether the run has been tested: what it writes last is there."""
        return (self.path / "metrics.json").is_file()

    def report(self):
        """Read the run's metrics, and check that they are of its predictions and of all utterances.

        Returns
        -------
        dict
            What ``metrics.json`` holds.

        Raises
        ------
        InputError
            If the run isn't finished, or its numbers are not those of whole test sets.
        """
        if not self.finished:
            raise InputError(
                f"{self.path} has no metrics.json, so it isn't a finished run: name a folder like results/cts/1986, or "
                "train and test there first."
            )
        report = json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))
        for split, scores in report["test"].items():
            expected = report["counts"][split]
            _, prediction, label = self.predictions(split)
            for name, n in (("metrics.json", scores["utterances"]), ("predictions.csv", len(label))):
                if n != expected:
                    raise self._refused(f"{name} has {n} of the {expected} utterances of {split}")
            written = [scores[dimension]["ccc"] for dimension in DIMENSIONS]
            if not np.allclose(metrics.ccc(prediction, label), written, rtol=0, atol=_TOLERANCE, equal_nan=True):
                raise self._refused(f"metrics.json and predictions.csv do not agree on {split}")
        return report

    def predictions(self, split):
        """Read the predictions of one test set.

        Parameters
        ----------
        split : str
            Name of the test set.

        Returns
        -------
        tuple of list of str, numpy.ndarray and numpy.ndarray
            Speakers; predictions and labels, (N, 3), in the order of the file.
        """
        rows = [(row["spk_id"], *numbers) for row, *numbers in self.read_predictions() if row["split"] == split]
        speakers, prediction, label = zip(*rows, strict=True) if rows else ((), (), ())
        return list(speakers), *(np.array(numbers, dtype=float).reshape(-1, 3) for numbers in (prediction, label))

    def read_predictions(self):
        """Read ``predictions.csv`` row by row.

        Yields
        ------
        tuple of dict, list of float and list of float
            The row, its predictions and its labels; NaN for those of an unlabelled set, whose cells are empty.

        Raises
        ------
        InputError
            Where something else than a number stands, with its line and utterance.
        """
        columns = ["ID", "split", "spk_id", *DIMENSIONS, *_LABELS]
        for line, row in read_rows(self.path / "predictions.csv", columns):
            labelled = any(row[name] for name in _LABELS)
            label = [self._number(row, name, line) for name in _LABELS] if labelled else [math.nan] * len(_LABELS)
            yield row, [self._number(row, name, line) for name in DIMENSIONS], label

    def _number(self, row, column, line):
        number = parse_number(row[column])
        if number is None:
            written = reprlib.repr(row[column])
            raise self._refused(f"predictions.csv, line {line}: the {column} of {row['ID']} is {written}, not a number")
        return number

    def _refused(self, problem):
        return InputError(f"{self.path}: {problem}: run its training command again, which tests it.")
