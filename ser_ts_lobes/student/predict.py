"""What `ser-ts predict` does: audio in, emotion out as a table, CSV, JSON or a plot.

What takes long to import, the networks and the plots, is imported when all that can be wrong with less has been said.
"""

import contextlib
import csv
import importlib.util
import json
import math
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import soundfile

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing
from ser_ts_lobes.student.config import CONFIG_FILE
from ser_ts_lobes.text_files import parse_number, read_rows

if TYPE_CHECKING:
    from ser_ts_lobes.student.inference import EmotionRegressor, Timeline

#: Standard input is copied to a file, of at most this many bytes.
MAX_STDIN_BYTES = 2**31

STDIN = "-"
_PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_SPREADS = tuple(f"{dimension}_sd" for dimension in DIMENSIONS)
#: A line of the output by column.
_Row = dict[str, Any]
#: Begin and end of parts of a recording, in seconds.
_Segments = list[tuple[float, float]]

_DECIMALS = {"start_s": 2, "end_s": 2} | dict.fromkeys((*DIMENSIONS, *_SPREADS), 4)


def predict(
    model: str,
    audio: list[str],
    timeline: bool = False,
    window: float | None = None,
    hop: float | None = None,
    segments: str | None = None,
    plot: str | None = None,
    embeddings: str | None = None,
    vad: bool | None = None,
    format: Literal["table", "csv", "json"] = "table",
    batch_size: int = 8,
    device: str = "cpu",
    revision: str | None = None,
) -> int:
    """Predict files, folders and standard input; print what was heard, and on standard error what can't be used.

    Parameters
    ----------
    model
        What `ser_ts_lobes.student.public_models.load_regressor` loads.
    audio
        Files; folders, of which all audio files below are taken; ``-``, standard input. Students' folders before them
        hear, too: the mean of all students is printed, and their standard deviation.
    timeline
        Whether to predict window by window.
    window, hop
        Length of a window and the time to the next, in seconds; None for the student's own.
    segments
        CSV of ``start_s`` and ``end_s``, and ``path`` where there are several recordings: what to predict of them.
    plot
        PNG, SVG or PDF to draw the timeline of the one recording to; implies `timeline`.
    embeddings
        NumPy file (``.npz``) to write the embeddings of the recordings to: ``path``, (N,), and ``embedding``, (N, E).
    vad
        Whether to leave out silence; None: of timelines, where silero-vad is installed.
    format
        What to print.
    batch_size
        Clips at a time.
    device, revision
        As in `ser_ts_lobes.student.public_models.load_regressor`.

    Returns
    -------
    int
        Exit status: 0, or 1 when some of the audio could not be used.

    Raises
    ------
    InputError
        If a model can't be loaded, a folder holds no audio, several recordings are to be plotted, a file can't be
        written, or options are given that do not go together.
    """
    models = [model]
    while audio and os.path.isfile(os.path.join(audio[0], CONFIG_FILE)):
        models.append(audio[0])
        audio = audio[1:]
    if not audio:
        raise InputError("Only students are named: name recordings behind them.")
    paths = find_audio(audio)
    timeline = timeline or plot is not None
    if not timeline and (window is not None or hop is not None):
        raise InputError("--window and --hop are of --timeline: give that too, or leave them out.")
    if segments is not None and timeline:
        raise InputError("--segments and --timeline both say what parts to hear: leave one out.")
    if embeddings is not None and (timeline or segments is not None or len(models) > 1):
        raise InputError("--embeddings are of whole recordings, by one student: leave out what says something else.")
    if plot:
        _check_plot(Path(plot), len(paths))
    if embeddings is not None:
        _check_writable("--embeddings", Path(embeddings), [".npz"])
    parts = None if segments is None else read_segments(segments, paths)
    if vad is None and timeline:
        vad = importlib.util.find_spec("silero_vad") is not None
        if not vad:
            print("note: silence is heard, too; `pip install silero-vad` lets it be left out.", file=sys.stderr)

    from ser_ts_lobes.student.public_models import load_regressor

    students = [load_regressor(name, device, revision) for name in models]
    _check_scales(models, students)
    hearing: dict[str, Any] = {"batch_size": batch_size, "progress": sys.stderr.isatty(), "vad": bool(vad)}
    with _standard_input(paths) as local:
        if timeline or parts is not None:
            lengths = (students[0].window_s if window is None else window, hop)

            def hear(student: "EmotionRegressor", path: str, place: str) -> "Timeline":
                if parts is not None:
                    return student.predict_segments(place, parts[path], **hearing)
                return student.predict_timeline(place, *lengths, **hearing)

            rows, errors = _predict_windows(students, paths, local, hear, plot)
        else:
            rows, errors = _predict_clips(students, paths, local, hearing, embeddings)
    windows = ["start_s", "end_s"] if timeline or parts is not None else []
    columns = ["path", *windows, *DIMENSIONS, *(_SPREADS if len(students) > 1 else [])]
    try:
        _PRINTERS[format](columns, rows)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def read_segments(file: str | Path, paths: list[str]) -> dict[str, _Segments]:
    """Read which parts of recordings to hear.

    Parameters
    ----------
    file
        CSV of ``start_s`` and ``end_s``, in seconds, and ``path`` where there are several recordings.
    paths
        The recordings.

    Returns
    -------
    dict
        Begin and end of the parts of each recording, in the order of the file.

    Raises
    ------
    InputError
        If the file can't be used, or names other recordings, or not all of them.
    """
    parts: dict[str, _Segments] = defaultdict(list)
    for line, row in read_rows(file, ("start_s", "end_s", *(["path"] if len(paths) > 1 else []))):
        start_s, end_s = (parse_number(row[name]) for name in ("start_s", "end_s"))
        if start_s is None or end_s is None:
            raise InputError(f"{file}, line {line}: start_s and end_s are not both numbers; give seconds.")
        path = row["path"] if "path" in row else paths[0]
        if path not in paths:
            raise InputError(f"{file}, line {line}: {path} is not among the recordings to hear; name it there, too.")
        parts[path].append((start_s, end_s))
    without = [path for path in paths if path not in parts]
    if without:
        raise InputError(f"{file} has no segment of {without[0]}: give one, or leave the recording out.")
    return dict(parts)


def _check_scales(models: list[str], students: "list[EmotionRegressor]") -> None:
    """Refuse a mean over different scales."""
    for name, student in zip(models, students, strict=True):
        low, high = student.config["label_range"]
        if [low, high] != students[0].config["label_range"]:
            first, last = students[0].config["label_range"]
            raise InputError(
                f"{name} predicts from {low:g} to {high:g}, {models[0]} from {first:g} to {last:g}: their mean says "
                "nothing; ask them one by one."
            )


def _check_plot(plot: Path, n_recordings: int) -> None:
    """Refuse a plot that could not be written, or not be read, when all has been heard."""
    if n_recordings > 1:
        raise InputError(f"--plot draws one recording, and {n_recordings} are given: name one.")
    _check_writable("--plot", plot, _PLOT_SUFFIXES)


def _check_writable(option: str, path: Path, suffixes: Sequence[str]) -> None:
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{option} {path}: give a name that ends in {', '.join(suffixes)}.")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)) or path.is_dir():
        raise InputError(f"{option} {path} can't be written: give a file in a folder that is there and is yours.")


def find_audio(names: list[str]) -> list[str]:
    """Replace folders by the audio files below them, in alphabetical order.

    Parameters
    ----------
    names
        Files, folders and ``-``; what is no folder is kept as it is.

    Returns
    -------
    list[str]

    Raises
    ------
    InputError
        If a folder holds no audio file.
    """
    suffixes = {f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".oga", ".opus"}
    suffixes.remove(".raw")  # has no header
    paths = []
    for name in names:
        if name == STDIN or not os.path.isdir(name):
            paths.append(name)
            continue
        found = sorted(
            str(path) for path in Path(name).rglob("*") if path.suffix.lower() in suffixes and path.is_file()
        )
        if not found:
            raise InputError(f"The folder {name} holds no audio files.")
        paths += found
    return paths


def plot_timeline(path: str | Path, timeline: "Timeline", label_range: Sequence[float], title: str) -> None:
    """Plot emotion over time, one panel a dimension; many windows pale, under their moving average.

    Parameters
    ----------
    path
        The PNG, SVG or PDF to write, as its suffix says.
    timeline
        What a student heard in one recording.
    label_range
        Lowest and highest label of the corpus: the ends of the vertical axes.
    title
        The figure's title.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from scipy.ndimage import uniform_filter1d

    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(len(DIMENSIONS), sharex=True, sharey=True)
    minutes = timeline.end_s[-1] > 180
    scale = 60 if minutes else 1
    time = (timeline.start_s + timeline.end_s) / 2 / scale
    averaged = (
        len(time) // 100 if len(time) >= 300 else 1
    )  # windows, so that about a hundred averages can be told apart
    low, high = label_range
    for j, axis in enumerate(axes):
        values = timeline.values[:, j]
        if averaged > 1:
            axis.plot(time, values, lw=0.5, alpha=0.35, color=f"C{j}")
            spoken = np.isfinite(values)  # elsewhere nobody speaks
            sums = uniform_filter1d(np.where(spoken, values, 0), averaged, mode="nearest")
            shares = uniform_filter1d(spoken.astype(float), averaged, mode="nearest")
            values = np.divide(sums, shares, out=np.full_like(sums, np.nan), where=spoken)
        axis.plot(time, values, marker="." if len(time) <= 120 else None, lw=1.6, color=f"C{j}")
        axis.axhline((low + high) / 2, color="0.6", lw=0.8, zorder=0)
        axis.set_ylabel(DIMENSIONS[j])
        axis.grid(alpha=0.25)
    heard = timeline.values[np.isfinite(timeline.values)]
    axes[0].set_ylim(min([low, *heard]), max([high, *heard]))
    axes[0].set_xlim(0, timeline.end_s[-1] / scale)
    what = f"middle of windows of {np.max(timeline.end_s - timeline.start_s):.3g} s"
    what += f"; bold: average of {averaged} windows" if averaged > 1 else ""
    axes[-1].set_xlabel(f"time in {'minutes' if minutes else 'seconds'} ({what})")
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format=Path(path).suffix.lower().removeprefix("."))


def _predict_clips(
    students: "list[EmotionRegressor]",
    paths: list[str],
    local: list[str],
    hearing: dict[str, Any],
    embeddings: str | None,
) -> tuple[list[_Row], list[str]]:
    rows: list[_Row] = []
    errors: list[str] = []
    unusual: list[str] = []
    embedded = {}
    heard = [student.predict_files(local, **hearing) for student in students]
    for path, *predictions in zip(paths, *heard, strict=True):
        failed = [prediction.error for prediction in predictions if prediction.error is not None]
        if failed:
            errors.append(failed[0])
            continue
        rows.append({"path": path} | _summarise([prediction.emotion for prediction in predictions]))
        embedded[path] = predictions[0].embedding
        if any(student.is_unusual(predictions[0].duration_s) for student in students):
            unusual.append(path)
    if unusual:
        _warn_of_durations(students, f"{len(unusual)} of {len(rows)} recordings (first: {unusual[0]})")
    if embeddings is not None:
        import numpy as np

        with replacing(embeddings) as temporary, open(temporary, "wb") as file:
            np.savez(file, path=np.array(list(embedded)), embedding=np.array(list(embedded.values())))
    return rows, errors


def _predict_windows(
    students: "list[EmotionRegressor]",
    paths: list[str],
    local: list[str],
    hear: "Callable[[EmotionRegressor, str, str], Timeline]",
    plot: str | None,
) -> tuple[list[_Row], list[str]]:
    rows: list[_Row] = []
    errors: list[str] = []
    longest = 0.0
    for path, place in zip(paths, local, strict=True):
        try:
            timelines = [hear(student, path, place) for student in students]
        except InputError as error:
            errors.append(str(error))
            continue
        start_s, end_s, _ = timelines[0]
        longest = max(longest, *(end_s - start_s))
        for start, end, *values in zip(start_s, end_s, *(timeline.values for timeline in timelines), strict=True):
            rows.append({"path": path, "start_s": float(start), "end_s": float(end)} | _summarise(values))
        if plot:
            title = "standard input" if path == STDIN else path
            import numpy as np

            mean = np.mean([timeline.values for timeline in timelines], axis=0)
            plot_timeline(plot, timelines[0]._replace(values=mean), students[0].config["label_range"], title)
    if any(student.is_unusual(longest) for student in students):
        _warn_of_durations(students, f"Windows of {longest:.3g} s")
    return rows, errors


def _summarise(values: Sequence[Sequence[float]]) -> _Row:
    """Give the mean of what students say by dimension and, of several, their standard deviation."""
    by_dimension = [[float(value) for value in column] for column in zip(*values, strict=True)]
    row: _Row = dict(zip(DIMENSIONS, map(statistics.fmean, by_dimension), strict=True))
    if len(values) > 1:
        spreads = (math.nan if math.isnan(sum(column)) else statistics.stdev(column) for column in by_dimension)
        row |= dict(zip(_SPREADS, spreads, strict=True))
    return row


def _warn_of_durations(students: "list[EmotionRegressor]", what: str) -> None:
    durations = [student.config.get("training_durations_s") for student in students]
    shortest = max(seconds["shortest"] for seconds in durations if seconds)
    longest = min(seconds["longest"] for seconds in durations if seconds)
    print(
        f"note: {what} are shorter or longer than nearly all training clips ({shortest:.1f} to {longest:.1f} s): their "
        "values are less sure.",
        file=sys.stderr,
    )


@contextlib.contextmanager
def _standard_input(paths: list[str]) -> Iterator[list[str]]:
    """Give the paths of the files to read: where ``-`` is among them, that of a copy of standard input."""
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "standard_input")
        if STDIN in paths:
            with open(copy, "wb") as file:
                while block := sys.stdin.buffer.read(2**20):
                    file.write(block)
                    if file.tell() > MAX_STDIN_BYTES:
                        raise InputError(f"Standard input holds more than {MAX_STDIN_BYTES} bytes: give it as a file.")
        yield [copy if path == STDIN else path for path in paths]


def _print_csv(columns: list[str], rows: list[_Row]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(_texts(row) for row in rows)


def _print_json(columns: list[str], rows: list[_Row]) -> None:
    del columns  # each row says its own
    print(
        json.dumps([{key: None if value != value else value for key, value in row.items()} for row in rows], indent=1)
    )


def _print_table(columns: list[str], rows: list[_Row]) -> None:
    cells = [columns, *map(_texts, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for path, *values in cells:
        numbers = (f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True))
        print("  ".join([f"{path:<{widths[0]}}", *numbers]))


def _texts(row: _Row) -> list[str]:
    """Write numbers as text; nothing where nobody spoke."""
    return [
        ("" if math.isnan(value) else f"{value:.{_DECIMALS[key]}f}") if key in _DECIMALS else value
        for key, value in row.items()
    ]


_PRINTERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}
