"""A finished run on disk, read by whoever needs its numbers."""

import json
from pathlib import Path

import numpy as np

from ser_ts_lobes import DIMENSIONS, metrics
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.manifests import read_rows

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
        path = self.path / "predictions.csv"
        rows = [
            row for _, row in read_rows(path, ["ID", "split", "spk_id", *DIMENSIONS, *_LABELS]) if row["split"] == split
        ]
        values = np.array([[float(row[name]) for name in (*DIMENSIONS, *_LABELS)] for row in rows]).reshape(-1, 6)
        return [row["spk_id"] for row in rows], *np.split(values, 2, axis=1)

    def _refused(self, problem):
        return InputError(f"{self.path}: {problem}: run its training command again, which tests it.")
