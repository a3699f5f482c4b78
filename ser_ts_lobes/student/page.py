"""A page in the browser on which a student tells how a voice sounds.

`ser-ts demo-app my-student` opens it. The same file stands in an exported folder as ``app.py``: ``python app.py`` opens
the page there, and a Space on the Hugging Face Hub that holds the folder shows it.
"""

import atexit
import importlib.util
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from numpy.typing import ArrayLike
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from ser_ts_lobes.student.inference import Emotion, Timeline

try:
    from ser_ts_lobes.errors import InputError
    from ser_ts_lobes.student.inference import EmotionRegressor
except ModuleNotFoundError:  # in an exported folder, on a machine without the package
    from custom_interface import EmotionRegressor, InputError  # type: ignore[no-redef]

MAX_UPLOAD = "100mb"
# Nobody goes on with an upload of which nothing has come for so long, in seconds; how often that is looked at.
_IDLE_S, _SWEEP_S = 600.0, 60.0
# Where Silero's voice activity detector is installed, a timeline has gaps where nobody speaks.
_VAD = importlib.util.find_spec("silero_vad") is not None

# In the order of predictions: name, and what its low and its high end sound like.
_DIMENSIONS = (
    ("activation", "calm", "excited"),
    ("valence", "negative", "positive"),
    ("dominance", "yielding", "dominant"),
)
_THIN_ARC = "Thin arc: mean ± 1 standard deviation of the training labels."
_CSS = """
.gradio-container {max-width: 1080px !important; margin: 0 auto}
.ser {--activation: #d9480f; --valence: #0b7285; --dominance: #7048e8}
.dark .ser {--activation: #ff922b; --valence: #3bc9db; --dominance: #b197fc}
.ser h2 {font-size: 1rem; margin: 0 0 .25rem}
.ser svg {width: 100%; height: auto; display: block}
.ser text {fill: var(--body-text-color); font-family: inherit; font-size: 12px}
.ser .faint {fill: var(--body-text-color-subdued)}
.ser p {margin: .4rem 0 0; font-size: .85rem; line-height: 1.4; color: var(--body-text-color-subdued)}
.ser .problem {padding: .7rem 1rem; margin: 0 0 1rem; border-left: 4px solid #c92a2a; border-radius: 4px;
  font-size: 1rem; color: var(--body-text-color); background: var(--background-fill-secondary)}
.ser .dials {display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 1rem}
.ser .dials .value {font-size: 34px; font-weight: 600}
.ser .dials .name {font-size: 15px; font-weight: 600}
.ser .below {display: grid; grid-template-columns: 2fr 3fr; gap: 1.5rem; margin-top: 1.25rem}
.ser .line {stroke: var(--border-color-primary); fill: none}
@media (max-width: 640px) {.ser .below, .ser .dials {grid-template-columns: minmax(0, 1fr)}
  .ser .dials svg {max-width: 260px; margin: 0 auto}}
"""


def make_page(student: EmotionRegressor) -> gr.Blocks:
    """Make the page of a student.

    Parameters
    ----------
    student
        The student that hears the recordings.

    Returns
    -------
    gradio.Blocks
    """
    config = student.config
    low, high = config["label_range"]

    def hear(path: str | None) -> str:
        if path is None:
            return render(config)
        try:
            emotion, timeline, note = _ask(student, path)
        except InputError as error:
            # The upload lies in a temporary folder, which says nothing to whoever uploaded it.
            return render(config, problem=str(error).replace(str(path), Path(path).name))
        return render(config, emotion, timeline, note)

    # Uploads are deleted after an hour.
    with gr.Blocks(title="How does this voice sound?", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            f"# How does this voice sound?\nActivation, valence and dominance, each from {low:g} to {high:g}, as "
            f"listeners would rate them. It only hears: no transcript is read.",
        )
        audio = gr.Audio(
            type="filepath", label="Upload a recording, or speak", sources=["upload", "microphone"], buttons=[]
        )
        result = gr.HTML(render(config))
        gr.Markdown(_limits(student))
        audio.change(hear, audio, result, api_visibility="private", show_progress="full")
    return page


def serve(
    student: EmotionRegressor,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    block: bool = True,
) -> str:
    """Show the page of a student in a local web server, which sends nothing anywhere.

    Parameters
    ----------
    student
        The student that hears the recordings.
    host
        Address to listen on; None: this machine alone (127.0.0.1), or what GRADIO_SERVER_NAME says.
    port
        Port to listen on; None: the first free one from 7860 on.
    share
        Whether to open a tunnel through gradio's servers, for anyone who has the link.
    block
        Whether to return only when the server is stopped.

    Returns
    -------
    str
        Address of the page.

    Raises
    ------
    InputError
        If the port is taken.
    """
    uploads = _own_upload_folder()
    page = make_page(student)
    threading.Thread(target=_keep_tidy, args=(uploads,), daemon=True).start()
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=not block,
            css=_CSS,
            theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            max_file_size=MAX_UPLOAD,
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
            run_history=False,
            app_kwargs={"exception_handlers": {ClientDisconnect: _forget}},
        )
    except OSError as error:
        raise InputError(f"The page can't be shown on port {port or 7860} ({error}): choose another --port.") from error
    return str(address)


def _own_upload_folder() -> Path:
    """Let gradio keep uploads in a folder that goes with this program, unless GRADIO_TEMP_DIR names another."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="ser-ts-uploads-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["GRADIO_TEMP_DIR"] = folder
    return Path(os.environ["GRADIO_TEMP_DIR"])


async def _forget(request: Request, error: Exception) -> PlainTextResponse:
    """Answer nobody: who has cut an upload off is gone, which is no fault of the server's."""
    return PlainTextResponse("The upload was cut off.", 400)


def _keep_tidy(uploads: Path) -> None:
    while True:
        remove_cut_off(uploads, _IDLE_S)
        time.sleep(_SWEEP_S)


def remove_cut_off(uploads: Path, idle_s: float) -> None:
    """Remove what gradio leaves of uploads that were cut off; whole ones lie in folders, and are deleted in time.

    Parameters
    ----------
    uploads
        Where gradio keeps them; it need not be there.
    idle_s
        Seconds that nothing has come.
    """
    for path in uploads.glob("*"):
        try:
            if path.is_file() and time.time() - path.stat().st_mtime > idle_s:
                path.unlink()
        except FileNotFoundError:  # it is whole, and has just been moved
            continue


def render(
    config: dict[str, Any],
    emotion: Sequence[float] | np.ndarray | None = None,
    timeline: "Timeline | None" = None,
    note: str = "",
    problem: str = "",
) -> str:
    """Draw what a student says of a recording, as HTML.

    Parameters
    ----------
    config
        The student's: its ``label_...`` entries are drawn, of a model that does not tell them only the range.
    emotion
        Activation, valence, dominance; None draws the page without a recording.
    timeline
        The same over time; drawn if it has two windows or more.
    note
        What is to be said of the values.
    problem
        Why there are no values.

    Returns
    -------
    str
    """
    dials = "".join(_dial(config, j, None if emotion is None else emotion[j]) for j in range(len(_DIMENSIONS)))
    return (
        '<div class="ser">'
        + (f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else "")
        + f'<div class="dials">{dials}</div>'
        + f"<p>{escape(note)} {_THIN_ARC if _tells_labels(config) else ''}</p>"
        + f'<div class="below"><section>{_plane(config, emotion)}</section>'
        + f"<section>{_timeline(config, timeline)}</section></div></div>"
    )


def _ask(student: EmotionRegressor, path: str) -> "tuple[Emotion | np.ndarray, Timeline, str]":
    """Give emotion, timeline and what to say of them."""
    timeline = student.predict_timeline(path, vad=_VAD)
    duration_s = timeline.end_s[-1]
    if duration_s <= student.max_clip_s:
        return student.predict_file(path), timeline, f"The whole recording, {duration_s:.1f} s."
    spoken = np.isfinite(timeline.values[:, 0])
    if not spoken.any():
        raise InputError(f"Nobody speaks in {path}: give a recording of a voice.")
    note = f"{duration_s:.0f} s are more than are heard at once: the mean of the timeline below."
    return timeline.values[spoken].mean(axis=0), timeline, note


def _tells_labels(config: dict[str, Any]) -> bool:
    """Whether it is known what labels the student has learnt from; of a public model it is not."""
    return "label_histogram" in config


def _limits(student: EmotionRegressor) -> str:
    config = student.config
    low, high = config["label_range"]
    scores = []
    for split, score in config["test"].items():
        cccs = {name: score[name]["ccc"] for name, *_ in _DIMENSIONS}
        known = [f"{name} {ccc:.2f}" for name, ccc in cccs.items() if ccc is not None]
        if known:
            scores.append(f"{split} {', '.join(known)}")
    weakest = student.weakest_dimension
    least = f" Trust {weakest} least, where that is lowest." if weakest else ""
    licence = f"- Licence of the model: {config['licence']}.\n" if "licence" in config else ""
    return (
        f"### What the values mean, and what they do not\n"
        f"The student `{config['system']}` was trained on {config['corpus']}, whose listeners rated each utterance "
        f"from {low:g} to {high:g}: **activation** from calm to excited, **valence** from negative to positive, "
        f"**dominance** from yielding to dominant. It predicts such ratings, not what a person feels.\n\n"
        f"- How well (CCC on its test sets; 1 is perfect, 0 is chance): {'; '.join(scores) or 'not measured'}.{least} "
        f"Valence lives in the words, and the student {student.what_it_reads}.\n"
        f"- Predictions keep close to the mean of the training labels; other languages, rooms and microphones than "
        f"the corpus's shift them. Silence, noise and music get values too, which mean nothing.\n"
        f"- Not for decisions about people.\n"
        f"- At most {student.max_clip_s:g} s are heard at once; longer recordings window by window.\n"
        f"{licence}"
        f"- The recording is sent to the server of this page, heard there, and to nobody else."
    )


def _dial(config: dict[str, Any], j: int, value: float | None) -> str:
    """Draw the dial of dimension `j`."""
    name, at_low, at_high = _DIMENSIONS[j]
    low, high = config["label_range"]
    shown = "–" if value is None else f"{value:.2f}"
    arcs = _arc(low, high, config, 80, 'class="line" stroke-width="12"')
    if _tells_labels(config):
        mean, std = config["label_mean"][j], config["label_std"][j]
        arcs += _arc(mean - std, mean + std, config, 67, 'class="line" style="stroke: currentColor; opacity: .45"')
    if value is not None:
        x, y = _on_dial(value, config, 80)
        arcs += _arc(low, value, config, 80, f'fill="none" style="stroke: var(--{name})" stroke-width="12"')
        arcs += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" style="fill: var(--{name})" stroke="white" stroke-width="3"/>'
    texts = [
        _text(110, 102, shown, css_class="value"),
        _text(110, 134, name, css_class="name"),
        _text(30, 128, f"{low:g}", css_class="ends"),
        _text(190, 128, f"{high:g}", css_class="ends"),
        _text(30, 145, at_low, css_class="ends faint"),
        _text(190, 145, at_high, css_class="ends faint"),
    ]
    return (
        f'<svg viewBox="0 0 220 158" role="img" data-dimension="{name}" aria-label="{name}: {shown}, from {low:g} '
        f'({at_low}) to {high:g} ({at_high})">{arcs}{"".join(texts)}</svg>'
    )


def _text(x: float, y: float, content: str | int, anchor: str = "middle", css_class: str = "", style: str = "") -> str:
    return f'<text class="{css_class}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{content}</text>'


def _on_dial(value: float, config: dict[str, Any], radius: float) -> tuple[float, float]:
    low, high = config["label_range"]
    angle = np.pi * (1 - np.clip((value - low) / (high - low), 0, 1))
    return 110 + radius * np.cos(angle), 106 - radius * np.sin(angle)


def _arc(start: float, end: float, config: dict[str, Any], radius: float, style: str) -> str:
    (x0, y0), (x1, y1) = (_on_dial(value, config, radius) for value in (start, end))
    return f'<path d="M{x0:.1f} {y0:.1f} A{radius} {radius} 0 0 1 {x1:.1f} {y1:.1f}" {style} stroke-linecap="round"/>'


def _plane(config: dict[str, Any], emotion: Sequence[float] | np.ndarray | None) -> str:
    """Draw where a recording lies among the training labels in the valence-activation plane."""
    low, high = config["label_range"]
    left, top, size = 34, 8, 270

    def across(valence: ArrayLike) -> Any:
        return left + size * (np.clip(valence, low, high) - low) / (high - low)

    def down(activation: ArrayLike) -> Any:
        return top + size * (high - np.clip(activation, low, high)) / (high - low)

    marks = []
    heading, shades, label = "In the plane", "How its training labels lie there is not known.", ""
    if _tells_labels(config):
        histogram = config["label_histogram"]
        counts = np.array(histogram["counts"])
        heading, label = "Among the training labels", ": training labels"
        shades = (
            f"The stronger the shade, the more of the {counts.sum():,} utterances that the student has learnt from."
        )
        for v, a in zip(*counts.nonzero(), strict=True):
            x0, x1 = across(histogram["valence_edges"][v : v + 2])
            y1, y0 = down(histogram["activation_edges"][a : a + 2])
            shade = 0.08 + 0.72 * np.sqrt(counts[v, a] / counts.max())
            marks.append(
                f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" fill="#868e96" '
                f'fill-opacity="{shade:.2f}"/>'
            )
    marks.append(f'<rect class="line" x="{left}" y="{top}" width="{size}" height="{size}"/>')
    for tick in range(round(low), round(high) + 1):
        marks.append(_text(across(tick), top + size + 16, tick))
        marks.append(_text(left - 6, down(tick) + 4, tick, "end"))
    marks.append(_text(left + size / 2, top + size + 34, "valence", css_class="faint"))
    marks.append(f'<g transform="translate(11 {top + size / 2}) rotate(-90)">')
    marks.append(_text(0, 0, "activation", css_class="faint") + "</g>")
    caption = ""
    if emotion is not None:
        x, y = across(emotion[1]), down(emotion[0])
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="#d6336c" stroke="white" stroke-width="3"/>')
        label += f"{', and' if label else ':'} this recording at valence {emotion[1]:.2f}, activation {emotion[0]:.2f}"
        caption = " The dot is this recording."
    return (
        f'<h2>{heading}</h2><svg viewBox="0 0 312 316" role="img" aria-label="Plane of valence and '
        f'activation{label}">{"".join(marks)}</svg>'
        f"<p>{shades}{caption}</p>"
    )


def _timeline(config: dict[str, Any], timeline: "Timeline | None") -> str:
    """Draw emotion over time."""
    heading = "<h2>Over time</h2>"
    if timeline is None:
        return heading + "<p>For recordings longer than the clips that it was trained on.</p>"
    window_s = timeline.end_s[0] - timeline.start_s[0]
    if len(timeline.values) < 2:
        return heading + f"<p>The recording is no longer than one window, {window_s:.1f} s.</p>"
    spoken = np.flatnonzero(np.isfinite(timeline.values[:, 0]))
    if not len(spoken):
        return heading + "<p>Nobody speaks in it.</p>"
    turns = np.split(spoken, np.flatnonzero(np.diff(spoken) > 1) + 1)
    low, high = config["label_range"]
    left, right, top, bottom = 26, 382, 8, 224
    middle_s, end_s = (timeline.start_s + timeline.end_s) / 2, timeline.end_s[-1]
    x = left + (right - left) * middle_s / end_s

    def down(value: ArrayLike) -> Any:
        return top + (bottom - top) * (high - np.clip(value, low, high)) / (high - low)

    marks = []
    for tick in range(round(low), round(high) + 1):
        marks.append(f'<line class="line" x1="{left}" x2="{right}" y1="{down(tick):.1f}" y2="{down(tick):.1f}"/>')
        marks.append(_text(left - 8, down(tick) + 4, tick, "end"))
    for seconds in _ticks(end_s):
        place = left + (right - left) * seconds / end_s
        marks.append(_text(place, bottom + 17, f"{seconds:g} s"))
    # Names stand where the lines end, a line's height apart.
    places = down(timeline.values[spoken[-1]])
    order = np.argsort(places)
    for above, below in zip(order, order[1:], strict=False):
        places[below] = max(places[below], places[above] + 14)
    for j, (name, *_) in enumerate(_DIMENSIONS):
        points = np.array([f"{px:.1f},{py:.1f}" for px, py in zip(x, down(timeline.values[:, j]), strict=True)])
        for turn in turns:
            line = " ".join(points[turn]) if len(turn) > 1 else f"{points[turn[0]]} {points[turn[0]]}"  # a dot
            marks.append(
                f'<polyline points="{line}" fill="none" style="stroke: var(--{name})" stroke-width="2.5" '
                'stroke-linecap="round"/>'
            )
        marks.append(_text(right + 6, places[j] + 4, name, "start", style=f"fill: var(--{name})"))
    return (
        f'{heading}<svg viewBox="0 0 460 250" role="img" aria-label="Activation, valence and dominance over '
        f'{end_s:.0f} s">{"".join(marks)}</svg><p>One value for each window of {window_s:.3g} s, at its middle; a '
        f"window begins each {timeline.start_s[1] - timeline.start_s[0]:.3g} s.</p>"
    )


def _ticks(end_s: float) -> np.ndarray:
    """Choose about five round times from 0 to `end_s`."""
    steps = [factor * 10**power for power in range(-1, 6) for factor in (1, 2, 5)]
    step = next(step for step in steps if end_s / step <= 6)
    return np.arange(0, end_s + 1e-9, step)


if __name__ == "__main__":
    serve(EmotionRegressor.from_pretrained(Path(__file__).resolve().parent))
