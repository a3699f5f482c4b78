"""What `ser-ts evaluate` does: how well a student does on any labelled recordings, whatever corpus they are from."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from ser_ts_lobes import DIMENSIONS, UNKNOWN_SPEAKER
from ser_ts_lobes.data.manifests import ROOT_VARIABLE, known_speaker
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.run_folder import write_predictions
from ser_ts_lobes.results.text_tables import markdown_table
from ser_ts_lobes.text_files import parse_number, read_rows

if TYPE_CHECKING:
    from ser_ts_lobes.student.inference import EmotionRegressor

#: What a table's columns are called unless told otherwise: as in a manifest.
COLUMNS = ("wav", "spk_id", "gender", *DIMENSIONS)


@dataclass
class LabelledTable:
    """Recordings with labels, of anybody.

    Parameters
    ----------
    paths
        Of the N audio files.
    speakers
        `UNKNOWN_SPEAKER` where the table does not say.
    labels
        (N, 3) float64, on the student's scale; NaN in a dimension that the table does not have.
    groups
        By column: the N values of what scores are to be divided by.
    ids
        Of the N recordings: a manifest's, so that others who predict the same can be compared; else their paths.
    """

    paths: list[Path]
    speakers: list[str]
    labels: np.ndarray
    groups: dict[str, list[str]]
    ids: list[str]

    @property
    def dimensions(self) -> list[int]:
        """Which of `DIMENSIONS` are labelled."""
        return [j for j in range(len(DIMENSIONS)) if not math.isnan(self.labels[0, j])]


def read_table(
    path: str | Path,
    label_range: Sequence[float],
    audio: str | Path | None = None,
    columns: dict[str, str] | None = None,
    scale: tuple[float, float] | None = None,
    by: Sequence[str] = (),
) -> LabelledTable:
    """Read recordings with labels from a CSV: a manifest, or a table of any other form.

    Parameters
    ----------
    path
        The CSV: a recording a line, at least its file and one of the dimensions.
    label_range
        Lowest and highest label of the student's scale.
    audio
        The folder that files are relative to, ``$data_root`` of a manifest; None for that of the table.
    columns
        What the columns are called that are not called as in a manifest: name there by name in `COLUMNS`.
    scale
        Lowest and highest label of the table's own scale, which is brought to the student's; None where it is the same.
    by
        Columns to divide scores by.

    Returns
    -------
    LabelledTable

    Raises
    ------
    InputError
        If the table lacks a column or a label, or a label is not within the scale.
    """
    path, columns = Path(path), columns or {}
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise InputError(f"--columns names {', '.join(unknown)}; it can name {', '.join(COLUMNS)}.")
    if scale is not None and not scale[0] < scale[1]:
        raise InputError(f"--scale {scale[0]:g},{scale[1]:g} is no scale: give its lowest and its highest label.")
    names = {name: columns.get(name, name) for name in COLUMNS}
    low, high = scale or label_range
    root = path.parent if audio is None else Path(audio)
    paths, speakers, labels, ids = [], [], [], []
    groups: dict[str, list[str]] = {name: [] for name in by}
    for line, row in read_rows(path, [names["wav"], *columns.values(), *(names.get(name, name) for name in by)]):
        paths.append(root / row[names["wav"]].removeprefix(f"{ROOT_VARIABLE}/"))
        ids.append(row.get("ID") or str(paths[-1]))
        speakers.append(known_speaker(row.get(names["spk_id"], "")))
        for name in by:
            groups[name].append(row[names.get(name, name)])
        values = [
            _read_label(row[names[name]], name, low, high, f"{path}, line {line}") if names[name] in row else math.nan
            for name in DIMENSIONS
        ]
        labels.append(values)
    if not labels:
        raise InputError(f"{path} has no recordings; give it a line for each.")
    table = LabelledTable(paths, speakers, np.array(labels), groups, ids)
    if not table.dimensions:
        raise InputError(
            f"{path} has none of the columns {', '.join(names[name] for name in DIMENSIONS)}: say what they are called "
            "there, such as --columns activation=arousal."
        )
    if scale is not None:
        share = (table.labels - scale[0]) / (scale[1] - scale[0])
        table.labels = label_range[0] + share * (label_range[1] - label_range[0])
    return table


def _read_label(text: str, dimension: str, low: float, high: float, where: str) -> float:
    label = parse_number(text)
    if label is None:
        raise InputError(f"{where}: {dimension} is {text!r}, not a number.")
    if not low <= label <= high:
        raise InputError(
            f"{where}: {dimension} {label:g} is not within {low:g} to {high:g}; say the table's own scale by "
            "--scale LOW,HIGH."
        )
    return label


def evaluate(
    model: str,
    table: str,
    audio: str | None = None,
    columns: dict[str, str] | None = None,
    scale: tuple[float, float] | None = None,
    by: Sequence[str] = (),
    vad: bool = False,
    robustness: bool = False,
    out: str | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    revision: str | None = None,
) -> None:
    """Predict labelled recordings, and print how well.

    Parameters
    ----------
    model, device, revision
        As in `ser_ts_lobes.student.public_models.load_regressor`.
    table, audio, columns, scale, by
        As of `read_table`.
    vad
        Whether to leave out silence around the words.
    robustness
        Whether to say what becomes of the predictions when the recordings are changed, too
        (`ser_ts_lobes.student.robustness`).
    out
        CSV to write the predictions to, as a run's ``predictions.csv``.
    batch_size
        Recordings at a time.

    Raises
    ------
    InputError
        If the model, the table or a recording can't be used.
    """
    from ser_ts_lobes.student.public_models import load_regressor

    student = load_regressor(model, device, revision)
    labelled = read_table(table, student.config["label_range"], audio, columns, scale, by)
    heard = student.predict_files(labelled.paths, batch_size, progress=True, vad=vad)
    failed = [prediction.error for prediction in heard if prediction.error is not None]
    if failed:
        raise InputError(f"{len(failed)} of {len(heard)} recordings can't be heard; the first: {failed[0]}")
    predictions = np.array([prediction.emotion for prediction in heard], dtype=np.float64)
    name = Path(table).stem
    if out is not None:
        who = zip(labelled.ids, itertools.repeat(name), labelled.speakers)
        rows = ((*row, *values) for row, *values in zip(who, predictions, labelled.labels, strict=True))
        write_predictions(out, rows)
    print(score_table(name, labelled, predictions))
    for column, values in labelled.groups.items():
        print(f"\n{group_table(column, values, labelled, predictions)}")
    unusual = sum(student.is_unusual(prediction.duration_s or 0) for prediction in heard)
    if unusual:
        print(f"\n{unusual} of {len(heard)} recordings are shorter or longer than nearly all training clips.")
    if robustness:
        print(f"\n{robustness_table(student, labelled, predictions, vad, batch_size)}")


def score_table(name: str, table: LabelledTable, predictions: np.ndarray) -> str:
    """Format how well predictions agree with labels.

    Parameters
    ----------
    name
        Of the test set.
    table
        The labels.
    predictions
        (N, 3).

    Returns
    -------
    str
        A Markdown table: CCC [95 % interval], Pearson's ρ, root mean square error, and bias, which is the mean
        prediction less the mean label, a dimension.
    """
    dimensions = table.dimensions
    p, y = predictions[:, dimensions], table.labels[:, dimensions]
    groups = metrics.resampling_groups(table.speakers)
    low, high = metrics.bootstrap_ci(p, y, groups)
    cells = [f"{value:.3f} [{a:.3f}, {b:.3f}]" for value, a, b in zip(metrics.ccc(p, y), low, high, strict=True)]
    rows = [
        ["CCC", *cells],
        ["Pearson's ρ", *(f"{value:.3f}" for value in metrics.pearson(p, y))],
        ["RMSE", *(f"{value:.3f}" for value in metrics.rmse(p, y))],
        ["bias", *(f"{value:+.3f}" for value in (p - y).mean(axis=0))],
    ]
    what = f"{name}: {len(p)} recordings, intervals over {'recordings' if groups is None else 'speakers'}"
    return markdown_table([what, *(DIMENSIONS[j] for j in dimensions)], rows)


def group_table(column: str, values: Sequence[str], table: LabelledTable, predictions: np.ndarray) -> str:
    """Format the CCC of each group of recordings.

    Parameters
    ----------
    column
        What the recordings are divided by.
    values
        Of each recording.
    table
        The labels.
    predictions
        (N, 3).

    Returns
    -------
    str
        A Markdown table: a row for each value, a dash where the CCC is not defined; the smaller a group, the less its
        CCC says.
    """
    rows = []
    for value in sorted(set(values)):
        members = [i for i, other in enumerate(values) if other == value]
        cells = ["–" for _ in table.dimensions]
        if len(members) > 1:
            cccs = metrics.ccc(*(x[members][:, table.dimensions] for x in (predictions, table.labels)))
            cells = ["–" if math.isnan(ccc) else f"{ccc:.3f}" for ccc in cccs]
        rows.append([value or UNKNOWN_SPEAKER, str(len(members)), *cells])
    return markdown_table([column, "recordings", *(DIMENSIONS[j] for j in table.dimensions)], rows)


def robustness_table(
    student: "EmotionRegressor", table: LabelledTable, predictions: np.ndarray, vad: bool, batch_size: int
) -> str:
    """Hear all recordings changed, and format what becomes of the predictions.

    Parameters
    ----------
    student
        Hears.
    table
        Recordings and labels.
    predictions
        (N, 3), of the recordings as they are.
    vad
        Whether to leave out silence around the words.
    batch_size
        Recordings at a time.

    Returns
    -------
    str
        A Markdown table: by change and dimension the CCC and, in brackets, the mean absolute difference to the
        prediction of the unchanged recording, on the student's scale.
    """
    from ser_ts_lobes.data.audio import read_audio
    from ser_ts_lobes.student.robustness import CHANGES

    heard: dict[str, list[np.ndarray]] = {name: [] for name in CHANGES}
    for start in tqdm(range(0, len(table.paths), batch_size), desc="changed", unit="batch"):
        clips = [read_audio(path) for path in table.paths[start : start + batch_size]]
        for name, change in CHANGES.items():
            changed = [change(clip, np.random.default_rng(start + i)) for i, clip in enumerate(clips)]
            heard[name].append(student.predict_clips(changed, vad).double().cpu().numpy())
    labels, unchanged = table.labels[:, table.dimensions], predictions[:, table.dimensions]
    predictions_of = {name: np.concatenate(batches)[:, table.dimensions] for name, batches in heard.items()}
    rows = [
        [
            name,
            *(f"{c:.3f} ({d:.2f})" for c, d in zip(metrics.ccc(p, labels), np.abs(p - unchanged).mean(0), strict=True)),
        ]
        for name, p in {"as they are": unchanged, **predictions_of}.items()
    ]
    return markdown_table(["recordings", *(DIMENSIONS[j] for j in table.dimensions)], rows)
