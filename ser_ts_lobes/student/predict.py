"""What `ser-ts predict` does: audio in, emotion out as a table, CSV, JSON or a plot.

What takes long to import, the networks and the plots, is imported when all that can be wrong with less has been said.
"""

import contextlib
import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import soundfile

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing

if TYPE_CHECKING:
    from ser_ts_lobes.student.inference import EmotionRegressor, Timeline

#: Standard input is copied to a file, of at most this many bytes.
MAX_STDIN_BYTES = 2**31

STDIN = "-"
#: Seconds of a window, and to the next.
WINDOW_S, HOP_S = 4.0, 1.0
_PLOT_SUFFIXES = (".png", ".svg", ".pdf")
#: A line of the output by column.
_Row = dict[str, Any]

_DECIMALS = {"start_s": 2, "end_s": 2} | dict.fromkeys(DIMENSIONS, 4)


def predict(
    model: str,
    audio: list[str],
    timeline: bool = False,
    window: float | None = None,
    hop: float | None = None,
    plot: str | None = None,
    format: Literal["table", "csv", "json"] = "table",
    batch_size: int = 8,
    device: str = "cpu",
    revision: str | None = None,
) -> int:
    """Predict files, folders and standard input; print what was heard, and on standard error what can't be used.

    Parameters
    ----------
    model
        What `EmotionRegressor.from_pretrained` loads.
    audio
        Files; folders, of which all audio files below are taken; ``-``, standard input.
    timeline
        Whether to predict window by window.
    window, hop
        Length of a window and the time to the next, in seconds; None for `WINDOW_S` and `HOP_S`.
    plot
        PNG, SVG or PDF to draw the timeline of the one recording to; implies `timeline`.
    format
        What to print.
    batch_size
        Clips at a time.
    device, revision
        As in `EmotionRegressor.from_pretrained`.

    Returns
    -------
    int
        Exit status: 0, or 1 when some of the audio could not be used.

    Raises
    ------
    InputError
        If the model can't be loaded, a folder holds no audio, several recordings are to be plotted, the plot can't be
        written, or windows are given without `timeline`.
    """
    paths = find_audio(audio)
    timeline = timeline or plot is not None
    if not timeline and (window is not None or hop is not None):
        raise InputError("--window and --hop are of --timeline: give that too, or leave them out.")
    if plot:
        _check_plot(Path(plot), len(paths))

    from ser_ts_lobes.student.inference import EmotionRegressor

    student = EmotionRegressor.from_pretrained(model, device, revision)
    with _standard_input(paths) as local:
        if timeline:
            lengths = (WINDOW_S if window is None else window, HOP_S if hop is None else hop)
            rows, errors = _predict_timelines(student, paths, local, lengths, batch_size, plot)
        else:
            rows, errors = _predict_clips(student, paths, local, batch_size)
    columns = ["path", *(["start_s", "end_s"] if timeline else []), *DIMENSIONS]
    try:
        _PRINTERS[format](columns, rows)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def _check_plot(plot: Path, n_recordings: int) -> None:
    """Refuse a plot that could not be written, or not be read, when all has been heard."""
    if n_recordings > 1:
        raise InputError(f"--plot draws one recording, and {n_recordings} are given: name one.")
    if plot.suffix.lower() not in _PLOT_SUFFIXES:
        raise InputError(f"--plot {plot}: give a name that ends in {', '.join(_PLOT_SUFFIXES)}.")
    if not (plot.parent.is_dir() and os.access(plot.parent, os.W_OK)) or plot.is_dir():
        raise InputError(f"--plot {plot} can't be written: give a file in a folder that is there and is yours.")


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
            values = uniform_filter1d(values, averaged, mode="nearest")
        axis.plot(time, values, marker="." if len(time) <= 120 else None, lw=1.6, color=f"C{j}")
        axis.axhline((low + high) / 2, color="0.6", lw=0.8, zorder=0)
        axis.set_ylabel(DIMENSIONS[j])
        axis.grid(alpha=0.25)
    axes[0].set_ylim(min(low, timeline.values.min()), max(high, timeline.values.max()))
    axes[0].set_xlim(0, timeline.end_s[-1] / scale)
    what = f"middle of windows of {np.max(timeline.end_s - timeline.start_s):.3g} s"
    what += f"; bold: average of {averaged} windows" if averaged > 1 else ""
    axes[-1].set_xlabel(f"time in {'minutes' if minutes else 'seconds'} ({what})")
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format=Path(path).suffix.lower().removeprefix("."))


def _predict_clips(
    student: "EmotionRegressor", paths: list[str], local: list[str], batch_size: int
) -> tuple[list[_Row], list[str]]:
    rows: list[_Row] = []
    errors: list[str] = []
    predictions = student.predict_files(local, batch_size, progress=sys.stderr.isatty())
    for path, prediction in zip(paths, predictions, strict=True):
        if prediction.emotion is not None:
            rows.append({"path": path, **prediction.emotion._asdict()})
        if prediction.error is not None:
            errors.append(prediction.error)
    return rows, errors


def _predict_timelines(
    student: "EmotionRegressor",
    paths: list[str],
    local: list[str],
    lengths: tuple[float, float],
    batch_size: int,
    plot: str | None,
) -> tuple[list[_Row], list[str]]:
    rows: list[_Row] = []
    errors: list[str] = []
    for path, place in zip(paths, local, strict=True):
        try:
            timeline = student.predict_timeline(place, *lengths, batch_size, progress=sys.stderr.isatty())
        except InputError as error:
            errors.append(str(error))
            continue
        for start_s, end_s, values in zip(*timeline, strict=True):
            times = {"start_s": float(start_s), "end_s": float(end_s)}
            rows.append({"path": path, **times, **dict(zip(DIMENSIONS, values.tolist(), strict=True))})
        if plot:
            title = "standard input" if path == STDIN else path
            plot_timeline(plot, timeline, student.config["label_range"], title)
    return rows, errors


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
    print(json.dumps(rows, indent=1))


def _print_table(columns: list[str], rows: list[_Row]) -> None:
    cells = [columns, *map(_texts, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for path, *values in cells:
        numbers = (f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True))
        print("  ".join([f"{path:<{widths[0]}}", *numbers]))


def _texts(row: _Row) -> list[str]:
    return [f"{value:.{_DECIMALS[key]}f}" if key in _DECIMALS else value for key, value in row.items()]


_PRINTERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}
