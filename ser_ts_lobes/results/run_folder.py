"""The folder of a run: the one place that knows its files."""

import importlib.metadata
import json
import math
import platform
import re
import reprlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import ser_ts_lobes
from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing, walk_files
from ser_ts_lobes.fingerprint import fingerprint_file
from ser_ts_lobes.provenance import SCORES_FILE, SETTINGS_FILE
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.text_tables import ccc_table
from ser_ts_lobes.seals import is_intact, seal
from ser_ts_lobes.settings import flatten, read_settings
from ser_ts_lobes.text_files import parse_json, parse_number, read_rows, write_csv

if TYPE_CHECKING:
    from ser_ts_lobes.data.manifests import Manifest

_LABELS = tuple(f"label_{dimension}" for dimension in DIMENSIONS)
_COLUMNS = ("ID", "split", "spk_id", *DIMENSIONS, *_LABELS)
# In metrics.json, of predictions.csv; earlier versions did not tell it.
_DIGEST = "predictions_sha256"
_EMOTIONS = ("emotion", "label_emotion")
# Predictions are written with six decimals.
_TOLERANCE = 1e-4
_PACKAGES = ("speechbrain", "torch", "transformers", "numpy")
_LOGGED = re.compile(r"([a-z][\w ]*): ([-+.\w]+)")
_LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} - (.*)")


class Predictions(NamedTuple):
    """What a run predicted on one test set, in the order of the file.

    Attributes
    ----------
    ids, speakers
        Of the N utterances.
    prediction, label
        (N, 3), on the corpus's scale; the labels of an unlabelled set are NaN.
    """

    ids: list[str]
    speakers: list[str]
    prediction: np.ndarray
    label: np.ndarray


@dataclass
class Outputs:
    """What a Brain says of a whole set.

    Parameters
    ----------
    ids
        Utterance ids.
    embedding
        (N, E) float32.
    prediction
        (N, 3) float64, on the corpus's scale.
    label
        (N, 3) float64, on the corpus's scale.
    emotion
        The likeliest emotion class of each; none of a system that does not learn them.
    """

    ids: list[str]
    embedding: np.ndarray
    prediction: np.ndarray
    label: np.ndarray
    emotion: Sequence[str] = ()


def write_predictions(
    path: str | Path,
    rows: Iterable[tuple[str, str, str, Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]],
    emotions: Iterable[tuple[str, str]] | None = None,
) -> None:
    """Write predictions beside their labels, in the columns of a run's ``predictions.csv``.

    Parameters
    ----------
    path
        The CSV.
    rows
        Id of the utterance, name of the test set, speaker, prediction (3,) and label (3,). NaN, as of the labels of
        an unlabelled set, becomes an empty cell.
    emotions
        Predicted class and class of each row, in two more columns; None for none.
    """
    cells = (
        (*who, *("" if np.isnan(value) else f"{value:.6f}" for value in (*prediction, *label)))
        for *who, prediction, label in rows
    )
    if emotions is None:
        write_csv(path, _COLUMNS, cells)
    else:
        write_csv(path, (*_COLUMNS, *_EMOTIONS), ((*row, *pair) for row, pair in zip(cells, emotions, strict=True)))


class RunFolder:
    """The output folder of a run, ``results/<system>/<run>``, which any script may be writing in.

    What it has read it keeps: another one reads afresh.

    Parameters
    ----------
    path
        The folder; it need not be there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def finished_below(cls, folder: Path) -> "list[RunFolder]":
        """Find all finished runs in a folder, at any depth; links are followed.

        Parameters
        ----------
        folder
            It need not be there.

        Returns
        -------
        list[RunFolder]
            Sorted by path.
        """
        if not folder.is_dir():
            return []
        files = (folder / name for name, status in walk_files(folder) if status)
        return [cls(path.parent) for path in sorted(files) if path == cls(path.parent).metrics_file]

    # ------------------------------------------------------------------ files

    @property
    def hyperparams_file(self) -> Path:
        """Its settings, as SpeechBrain writes them."""
        return self.path / SETTINGS_FILE

    @property
    def log_file(self) -> Path:
        """What its scripts logged."""
        return self.path / "log.txt"

    @property
    def train_log_file(self) -> Path:
        """One line an epoch."""
        return self.path / "train_log.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.path / "save"

    @property
    def predictions_file(self) -> Path:
        """The predictions on all test sets."""
        return self.path / "predictions.csv"

    @property
    def metrics_file(self) -> Path:
        """The scores; written last."""
        return self.path / SCORES_FILE

    @property
    def text_encoder_folder(self) -> Path:
        """The text encoder of a teacher of which some layers have learnt."""
        return self.path / "text_encoder"

    def targets_path(self, split: str) -> Path:
        """Return the file of a teacher's targets of one split."""
        return self.path / "targets" / f"{split}.safetensors"

    def targets_paths(self) -> list[Path]:
        """Return the files of all targets that a teacher has, a list of pathlib.Path."""
        of_any_split = self.targets_path("*")
        return sorted(of_any_split.parent.glob(of_any_split.name))

    @property
    def table1_file(self) -> Path:
        """The paper's Table 1, of a teacher with targets."""
        return self.path / "table1.md"

    @property
    def uncertainty_file(self) -> Path:
        """How a teacher's uncertainty agrees with its residuals."""
        return self.path / "uncertainty.json"

    @property
    def residuals_plot(self) -> Path:
        """A teacher's residuals."""
        return self.path / "residuals.png"

    def predictions_plot(self, split: str) -> Path:
        """Return the plot of a teacher's predictions of one split."""
        return self.path / f"predictions_{split}.png"

    # ------------------------------------------------------------------ reading

    @property
    def started(self) -> bool:
        """Whether it has come to train."""
        return self.train_log_file.is_file()

    @property
    def finished(self) -> bool:
        """Whether it has been tested: what is written last is there."""
        return self.metrics_file.is_file()

    @property
    def epochs(self) -> int:
        """How many epochs it has trained."""
        if not self.started:
            return 0
        lines = self.train_log_file.read_text(encoding="utf-8").splitlines()
        return sum(line.startswith("epoch: ") for line in lines)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its hparams, as `ser_ts_lobes.settings.read_settings` gives them."""
        return read_settings(self.hyperparams_file)

    @cached_property
    def working_folder(self) -> Path:
        """The folder to which relative paths in the settings belong, a pathlib.Path.

        It is the one that the script ran in, if the run still lies there where its ``output_folder`` says; otherwise
        the current one.
        """
        here, written = self.path.resolve(), Path(self.settings["output_folder"])
        if not written.is_absolute() and here.parts[-len(written.parts) :] == written.parts:
            return here.parents[len(written.parts) - 1]
        return Path.cwd()

    @property
    def corpus(self) -> str | None:
        """Name of the folder of its corpus, as a student's model card has it; None where that isn't known."""
        folder = self.settings.get("data_folder")
        return folder and Path(folder).name

    def manifest_path(self, split: str) -> Path:
        """Return where the manifest of a split was when it was run."""
        return Path(self.working_folder, self.settings["manifest_folder"], f"{split}.csv")

    def made_with(self) -> dict[str, Any]:
        """Return the settings of the model that was tested, flat; they stand with its numbers."""
        return self.report().get("settings") or flatten(self.settings)  # of an earlier version: beside them

    def learning_curve(self) -> dict[int, tuple[float, ...]]:
        """Read how well it did on the validation set.

        Returns
        -------
        dict
            By epoch, the CCCs in the order of `ser_ts_lobes.DIMENSIONS`; of an epoch that was trained twice, after an
            interruption, the last. Empty without a log.
        """
        if not self.started:
            return {}
        curve = {}
        for line in self.train_log_file.read_text(encoding="utf-8").splitlines():
            values = dict(_LOGGED.findall(line))
            if line.startswith("epoch: ") and all(f"valid ccc_{name}" in values for name in DIMENSIONS):
                curve[int(values["epoch"])] = tuple(float(values[f"valid ccc_{name}"]) for name in DIMENSIONS)
        return curve

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model that was tested; of a finished run."""
        return str(self.report()["fingerprint"])

    def report(self) -> dict[str, Any]:
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
        return self._report

    @cached_property
    def _report(self) -> dict[str, Any]:
        try:
            report: Any = parse_json(self.metrics_file.read_text(encoding="utf-8"), self.metrics_file)
        except (InputError, UnicodeDecodeError) as error:
            raise self._refused("metrics.json is damaged") from error
        if not (isinstance(report, dict) and is_intact(report)):
            raise self._refused("metrics.json is not as it was written")
        if "test" not in report:
            raise InputError(f"{self.path} is a pretraining, which tests nothing: name a run like results/cts/1986.")
        if not _is_report(report):
            raise self._refused("metrics.json is damaged")
        if _DIGEST in report and not self.predictions_file.is_file():
            raise self._refused("predictions.csv is missing")
        for split, scores in report["test"].items():
            expected = report["counts"][split]
            tested = self.predictions(split)
            for name, n in (("metrics.json", scores["utterances"]), ("predictions.csv", len(tested.ids))):
                if n != expected:
                    raise self._refused(f"{name} has {n} of the {expected} utterances of {split}")
            ccc = metrics.ccc(tested.prediction, tested.label)
            written = [scores[dimension]["ccc"] for dimension in DIMENSIONS]
            if not np.allclose(ccc, written, rtol=0, atol=_TOLERANCE, equal_nan=True):
                raise self._refused(f"metrics.json and predictions.csv do not agree on {split}")
        if _DIGEST in report and report[_DIGEST] != fingerprint_file(self.predictions_file):
            raise self._refused("predictions.csv is not as it was written")
        return report

    def predictions(self, split: str) -> Predictions:
        """Read the predictions of one test set.

        Parameters
        ----------
        split
            Name of the test set.

        Returns
        -------
        Predictions
            Of no utterance if there is no such set.

        Raises
        ------
        InputError
            Where something else than a number stands, with its line and utterance.
        """
        return self._predictions.get(split, Predictions([], [], *np.empty((2, 0, len(DIMENSIONS)))))

    @cached_property
    def _predictions(self) -> dict[str, Predictions]:
        """All predictions, by test set."""
        rows = defaultdict(list)
        for line, row in read_rows(self.predictions_file, _COLUMNS):
            labelled = any(row[name] for name in _LABELS)
            label = [self._number(row, name, line) for name in _LABELS] if labelled else [math.nan] * len(_LABELS)
            prediction = [self._number(row, name, line) for name in DIMENSIONS]
            # The runs of a table have the same names, and share them.
            rows[row["split"]].append((sys.intern(row["ID"]), sys.intern(row["spk_id"]), prediction, label))
        predictions = {}
        for split, columns in ((split, zip(*of_split, strict=True)) for split, of_split in rows.items()):
            ids, speakers, predicted, labels = columns
            predictions[split] = Predictions(list(ids), list(speakers), np.array(predicted), np.array(labels))
        return predictions

    def _number(self, row: dict[str, str], column: str, line: int) -> float:
        number = parse_number(row[column])
        if number is None:
            written = reprlib.repr(row[column])
            raise self._refused(f"predictions.csv, line {line}: the {column} of {row['ID']} is {written}, not a number")
        return number

    def _refused(self, problem: str) -> InputError:
        return InputError(f"{self.path}: {problem}: run its training command again, which tests it.")

    @cached_property
    def training_hours(self) -> float | None:
        """Wall-clock time of the run's sessions in its log, added up; None without a log.

        Each is from the first to the last line that it logged, which is before testing; computing frozen features is in
        it.
        """
        if not self.log_file.is_file():
            return None
        seconds = 0.0
        session: list[datetime] = []
        for line in [*self.log_file.read_text(encoding="utf-8", errors="replace").splitlines(), None]:
            match = line and _LOG_LINE.match(line)
            if line is None or (match and match[2].endswith("Beginning experiment!")):
                # The clock may have been set back meanwhile.
                seconds += max(0, (session[-1] - session[0]).total_seconds()) if session else 0
                session = []
            if match:
                session.append(datetime.fromisoformat(match[1]))
        return seconds / 3600

    # ------------------------------------------------------------------ writing

    def write(self, outputs: dict[str, Outputs], manifests: "dict[str, Manifest]", reads: bool, **run: Any) -> None:
        """Write the predictions on all test sets, then the scores.

        Of each labelled test set and dimension these are CCC with its 95 % bootstrap interval, Pearson's rho and RMSE.
        Intervals resample speakers or utterances (``"resampled"``), as `metrics.resampling_groups` decides. Of emotion
        classes, where they are learnt, the scores are those of `ser_ts_lobes.results.metrics.classify`.

        Parameters
        ----------
        outputs
            Test sets by name.
        manifests
            All manifests of the run.
        reads
            Whether the system reads the transcripts, so that these have made its numbers too.
        **run
            What else to record of the run: system, seed, ...
        """
        self._write_predictions(outputs, manifests)
        fingerprints: dict[str, str] = {}
        for manifest in manifests.values():
            fingerprints |= manifest.fingerprints(reads)
        self.write_report(
            {
                **run,
                "counts": {name: len(manifest.utterances) for name, manifest in manifests.items()},
                "manifests": fingerprints,
                _DIGEST: fingerprint_file(self.predictions_file),
                "test": {
                    split: _scores(output, manifests[split])
                    for split, output in outputs.items()
                    if manifests[split].labelled
                },
                "versions": {"ser_ts_lobes": ser_ts_lobes.__version__, "python": platform.python_version()}
                | {package: importlib.metadata.version(package) for package in _PACKAGES},
            }
        )

    def _write_predictions(self, outputs: dict[str, Outputs], manifests: "dict[str, Manifest]") -> None:
        """Write ``predictions.csv``, on the corpus's scale."""
        rows = [
            (utterance, split, manifests[split].utterances[utterance]["spk_id"], prediction, label)
            for split, output in outputs.items()
            for utterance, prediction, label in zip(output.ids, output.prediction, output.label, strict=True)
        ]
        rows.sort(key=lambda row: row[:3])
        predicted = {
            (utterance, split): emotion
            for split, output in outputs.items()
            for utterance, emotion in zip(output.ids, output.emotion, strict=bool(output.emotion))
        }
        told = [(predicted[row[:2]], known_emotion(manifests[row[1]], row[0])) for row in rows] if predicted else None
        write_predictions(self.predictions_file, rows, told)

    def write_report(self, report: dict[str, Any]) -> None:
        """Write ``metrics.json``, with which the run is finished.

        Parameters
        ----------
        report
            Fit for JSON.
        """
        with replacing(self.metrics_file) as temporary:
            temporary.write_text(json.dumps(seal(report), indent=2) + "\n")
        self._forget_results()

    def remove_results(self) -> None:
        """Remove what `write` left, for the run is not finished any more."""
        for path in (self.metrics_file, self.predictions_file):
            path.unlink(missing_ok=True)
        self._forget_results()

    def describe_scores(self) -> str:
        """Say how it did on the test sets, and where that is written; of a finished run.

        Returns
        -------
        str
            A Markdown table of CCCs with their intervals for each labelled test set, and the paths.
        """
        report = self.report()
        tables = [
            f"Test CCC [95 % bootstrap interval over {scores['resampled']}] of epoch {report['best']['epoch']}\n\n"
            f"{ccc_table({report['system']: report}, split)}{_describe_emotions(scores)}"
            for split, scores in report["test"].items()
        ]
        return "\n\n".join([*tables, f"Written: {self.metrics_file}, {self.predictions_file}"])

    def _forget_results(self) -> None:
        for name in ("_report", "_predictions"):
            vars(self).pop(name, None)


def _is_report(report: dict[str, Any]) -> bool:
    """Say whether what metrics.json says of test sets has the form in which it is written."""
    counts, tests = report.get("counts", {}), report["test"]
    return (
        isinstance(counts, dict)
        and isinstance(report.get("manifests", {}), dict)
        and isinstance(tests, dict)
        and all(
            isinstance(scores, dict)
            and split in counts
            and type(scores.get("utterances")) is int
            and all(isinstance(scores.get(name), dict) for name in DIMENSIONS)
            and all(isinstance(scores[name].get("ccc"), float) for name in DIMENSIONS)
            for split, scores in tests.items()
        )
    )


def score_emotions(output: Outputs, manifest: "Manifest") -> dict[str, float] | None:
    """Score the emotion classes of a set.

    Parameters
    ----------
    output
        What a Brain says of the set.
    manifest
        Of the set.

    Returns
    -------
    dict or None
        As of `ser_ts_lobes.results.metrics.classify`, of the utterances that are of a class which is learnt, and
        ``utterances``, how many these are; None where there is none, or no class is learnt.
    """
    pairs = [
        (told, known)
        for utterance, told in zip(output.ids, output.emotion, strict=bool(output.emotion))
        if (known := known_emotion(manifest, utterance))
    ]
    return {"utterances": len(pairs), **metrics.classify(*zip(*pairs, strict=True))} if pairs else None


def _describe_emotions(scores: dict[str, Any]) -> str:
    """Say how well the classes of a test set are told, if that is known."""
    if "emotion" not in scores:
        return ""
    of_classes = scores["emotion"]
    shown = (f"{title} {of_classes[name]:.3f}" for name, title in metrics.CLASSIFICATION.items())
    return f"\n\nEmotion classes of {of_classes['utterances']} utterances: {', '.join(shown)}"


def known_emotion(manifest: "Manifest", utterance: str) -> str:
    """Give the class of an utterance, or an empty string where it is of none that is learnt."""
    emotion: str = manifest.utterances[utterance]["emotion"]
    return emotion if emotion in manifest.emotion_classes else ""


def _scores(output: Outputs, manifest: "Manifest") -> dict[str, Any]:
    """Score one test set."""
    # In the order of predictions.csv, so that intervals made from there are the same.
    order = np.argsort(output.ids)
    groups = metrics.resampling_groups([manifest.utterances[output.ids[row]]["spk_id"] for row in order])
    intervals = metrics.bootstrap_ci(output.prediction[order], output.label[order], groups)
    scores: dict[str, dict[str, Any]] = dict(metrics.evaluate(output.prediction, output.label))
    for j, dimension in enumerate(DIMENSIONS):
        scores[dimension]["ccc_95"] = intervals[:, j].tolist()
    return {
        "utterances": len(output.ids),
        "resampled": "utterances" if groups is None else "speakers",
        **scores,
        **({"emotion": emotion} if (emotion := score_emotions(output, manifest)) else {}),
    }
