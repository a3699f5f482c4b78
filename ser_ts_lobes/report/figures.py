"""The figures of a report: small SVGs in the colours and the type of the page, light or dark."""

import io
import itertools
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

#: Colours of the page that lines and words have, by what stands for them in matplotlib.
_INK, _FAINT, _GRID = "#010203", "#010204", "#010205"
_SERIES = [f"#0102{number:02x}" for number in range(16, 24)]
_ON_PAGE = {_INK: "var(--ink)", _FAINT: "var(--faint)", _GRID: "var(--grid)"} | {
    color: f"var(--s{number})" for number, color in enumerate(_SERIES)
}
_MARKERS = "osD^vPX*"
#: Width and height of a panel in inches: 9-point type is legible when it fills a phone, and when three stand abreast.
_WIDTH, _HEIGHT = 4.4, 3.2
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ser_ts_lobes",
}
_FEW = 5  # utterances, whose mean says nothing
_numbers = itertools.count()


class Series(NamedTuple):
    """A line.

    Attributes
    ----------
    system
        Number of its system, for its colour.
    x, y
        (P,): the points.
    interval
        (2, P), or None.
    """

    system: int
    x: np.ndarray
    y: np.ndarray
    interval: np.ndarray | None = None


def color_of(number: int) -> str:
    """Return the CSS colour of the system of that number."""
    return f"var(--s{number % len(_SERIES)})"


def panel(title: str, describe: str, draw: Callable[[Any], None], height: float = _HEIGHT) -> str:
    """Draw one panel as an SVG that stands in a page.

    Parameters
    ----------
    title
        Above the axes.
    describe
        What is to be seen, for who can't see it.
    draw
        Draws into matplotlib's axes.
    height
        In inches.

    Returns
    -------
    str
        An ``<svg>``, which fetches nothing.
    """
    # Imported here: it takes half a second, and only reports need it.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    text = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontweight="bold")
        draw(axes)
        figure.savefig(
            text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _embed(text.getvalue(), describe)


def _embed(svg: str, describe: str) -> str:
    """Fit an SVG of matplotlib's into a page that has others."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    number = next(_numbers)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{number}-", svg)
    for color, on_page in _ON_PAGE.items():
        svg = svg.replace(color, on_page)
    svg = svg.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif").replace(
        "'DejaVu Sans'", "system-ui, sans-serif"
    )
    opening = re.search(r'viewBox="[^"]+"', svg)
    assert opening
    start = svg.index(">") + 1
    return f'<svg {opening[0]} role="img" aria-label="{escape(describe)}">{svg[start:]}'


# ------------------------------------------------------------------ kinds of panels


def forest(
    title: str,
    names: Sequence[str],
    values: np.ndarray,
    intervals: np.ndarray,
    label: str,
    systems: Sequence[int] | None = None,
) -> str:
    """Draw a value and its interval a row.

    Parameters
    ----------
    title
        Of the panel.
    names
        R names, the first on top.
    values, intervals
        (R,), (2, R).
    label
        Of the axis.
    systems
        Number of each row's system, for its colour; None for differences, which are 0 where there is none.
    """

    def draw(axes: Any) -> None:
        if systems is None:
            axes.axvline(0, color=_FAINT, lw=1)
        for row, (value, low, high) in enumerate(zip(values, *intervals, strict=True)):
            color, marker = (_INK, _MARKERS[0]) if systems is None else _look(systems[row])
            axes.plot([low, high], [-row, -row], color=color, lw=2, solid_capstyle="butt")
            axes.plot([value], [-row], marker, color=color, ms=6)
        axes.set_yticks(-np.arange(len(names)), names)
        axes.set_ylim(0.6 - len(names), 0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(label)

    said = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, values, strict=True))
    return panel(title, f"{title}, {label}: {said}", draw, 0.9 + 0.27 * len(names))


def agreement(title: str, prediction: np.ndarray, label: np.ndarray, ends: tuple[float, float], series: int) -> str:
    """Draw predictions against labels: where many are, perfect agreement, and the mean prediction of a label.

    Parameters
    ----------
    title
        Of the panel.
    prediction, label
        (N,).
    ends
        Of the label scale.
    series
        Number of the system, for its colour.
    """

    def draw(axes: Any) -> None:
        _density(axes, label, prediction, ends, _look(series)[0])
        axes.plot(ends, ends, color=_FAINT, lw=1, ls="--")
        edges = np.linspace(*ends, 13)
        place = np.digitize(label, edges)
        bins = [place == bin for bin in np.unique(place) if (place == bin).sum() >= _FEW]
        axes.plot([label[rows].mean() for rows in bins], [prediction[rows].mean() for rows in bins], color=_INK, lw=1.6)
        axes.set(xlabel="label", ylabel="prediction", aspect="equal")

    return panel(title, f"{title}: predictions against labels of {len(label)} utterances", draw, 4.0)


def plane(title: str, prediction: np.ndarray, label: np.ndarray, ends: tuple[float, float], series: int) -> str:
    """Draw the valence-activation plane: where labels are, and where predictions of a region are drawn to.

    Parameters
    ----------
    title
        Of the panel.
    prediction, label
        (N, 2): valence, activation.
    ends
        Of the label scale.
    series
        Number of the system, for its colour.
    """

    def draw(axes: Any) -> None:
        _density(axes, label[:, 0], label[:, 1], ends, _INK, strength=0.3)
        edges = np.linspace(*ends, 7)
        cell = np.digitize(label, edges)
        for place in np.unique(cell, axis=0):
            rows = (cell == place).all(axis=1)
            if rows.sum() >= max(_FEW, 0.003 * len(label)):
                start, end = label[rows].mean(axis=0), prediction[rows].mean(axis=0)
                arrow = {"arrowstyle": "-|>", "color": _look(series)[0], "lw": 1.6, "mutation_scale": 9}
                axes.annotate("", end, start, arrowprops=arrow | {"shrinkA": 0, "shrinkB": 0})
        middle = sum(ends) / 2
        axes.axhline(middle, color=_GRID, lw=1, zorder=0)
        axes.axvline(middle, color=_GRID, lw=1, zorder=0)
        axes.set(xlabel="valence", ylabel="activation", aspect="equal")

    return panel(title, f"{title}: valence and activation, from labels to predictions", draw, 4.0)


def lines(
    title: str,
    series: Sequence[Series],
    labels: tuple[str, str],
    ticks: Sequence[str] | None = None,
    zero: bool = False,
    steps: bool = False,
    joined: bool = True,
) -> str:
    """Draw lines over numbers or over names.

    Parameters
    ----------
    title
        Of the panel.
    series
        The lines.
    labels
        Of the axes.
    ticks
        Names of the x 0, 1, ...; None for numbers.
    zero
        Whether to mark y = 0.
    steps
        Whether y changes where a point is, and only there.
    joined
        Whether points are joined; names in no order are not.
    """

    def draw(axes: Any) -> None:
        if zero:
            axes.axhline(0, color=_FAINT, lw=1)
        shift = 0.25 / len(series) if ticks else 0  # so that intervals don't cover one another
        style = {"lw": 1.4 if joined else 0, "ms": 5, "drawstyle": "steps-post" if steps else None}
        for place, line in enumerate(series):
            x = line.x + shift * (place - (len(series) - 1) / 2)
            color, marker = _look(line.system)
            axes.plot(x, line.y, color=color, marker=marker if ticks else None, **style)
            if line.interval is not None:
                axes.vlines(x, *line.interval, color=color, lw=1.4)
        if ticks:
            axes.set_xticks(range(len(ticks)), ticks)
        else:
            axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y")
        axes.locator_params(axis="y", nbins=5)
        axes.set(xlabel=labels[0], ylabel=labels[1])

    return panel(title, f"{title}: {labels[1]} by {labels[0]}", draw)


def confusion(title: str, shares: np.ndarray, names: Sequence[str]) -> str:
    """Draw which class is taken for which.

    Parameters
    ----------
    title
        Of the panel.
    shares
        (C, C): of each class (row), the share that is taken for each (column).
    names
        Of the C classes.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    def draw(axes: Any) -> None:
        for (row, column), share in np.ndenumerate(shares):
            square = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=(*to_rgb(_INK), 0.55 * share), lw=0)
            axes.add_patch(square)
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8)
        places = range(len(names))
        axes.set_xticks(places, names)
        axes.set_yticks(places, names)
        axes.tick_params(length=0)
        ends = (-0.5, len(names) - 0.5)
        axes.set(xlim=ends, ylim=ends[::-1], aspect="equal", xlabel="nearest class", ylabel="class")

    right = ", ".join(f"{name} {100 * share:.0f} %" for name, share in zip(names, np.diag(shares), strict=True))
    return panel(title, f"{title}: share of each class that is nearest to it: {right}", draw, 4.0)


def _look(system: int) -> tuple[str, str]:
    """Give the colour and the marker of a system; the ninth has the colour of the first."""
    return _SERIES[system % len(_SERIES)], _MARKERS[system % len(_MARKERS)]


def _density(
    axes: Any, x: np.ndarray, y: np.ndarray, ends: tuple[float, float], color: str, strength: float = 0.72
) -> None:
    """Shade where many points are; those beyond the scale are kept at its ends."""
    from matplotlib.colors import to_rgb

    low, high = ends
    margin = 0.03 * (high - low)
    hexagons = axes.hexbin(
        np.clip(x, low, high), np.clip(y, low, high), gridsize=26, extent=(low, high, low, high), mincnt=1, linewidths=0
    )
    share = np.sqrt(hexagons.get_array() / hexagons.get_array().max())
    hexagons.set_array(None)
    hexagons.set_facecolor([(*to_rgb(color), 0.08 + strength * value) for value in share])
    hexagons.set_edgecolor("none")
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
