"""Plots of residuals, predictions and scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.files import replacing
from ser_ts_lobes.results import metrics


def plot_residuals(
    path: str | Path,
    prediction: np.ndarray,
    residual: np.ndarray,
    keep: np.ndarray,
    threshold: float,
    label_range: Sequence[float] | None = None,
) -> None:
    """Plot a teacher's residuals against its predictions, with the band that students are taught in.

    Parameters
    ----------
    path
        The PNG to write.
    prediction, residual
        (N, 3), of the training set, on the corpus's scale.
    keep
        (N,) bool: utterances inside the band in every dimension.
    threshold
        Half the height of the band, in standard deviations of each dimension's residuals.
    label_range
        The ends of the label scale; None shows what the predictions span.
    """
    title = f"Teacher residuals on the training set: {keep.mean():.1%} kept, which are in the band in all dimensions"
    figure, [axes] = _panels(title)
    labels = {"kept": keep, "left out, here or in another dimension": ~keep}
    for j, axis in enumerate(axes):
        sigma = residual[:, j].std()
        axis.axhspan(-threshold * sigma, threshold * sigma, color="tab:green", alpha=0.12, lw=0)
        axis.axhline(0, color="0.4", lw=0.8)
        for (label, mask), color in zip(labels.items(), ("tab:blue", "tab:red"), strict=True):
            axis.plot(prediction[mask, j], residual[mask, j], ".", ms=3, alpha=0.5, color=color, label=label)
        axis.set_xlim(*_ends(prediction[:, j], label_range))
        axis.set_title(f"{DIMENSIONS[j]} (band ±{threshold:g} σ, σ = {sigma:.2f})")
        axis.set_xlabel("prediction")
        axis.set_ylabel("residual w·ŷ + b − y")
    figure.legend(*axes[0].get_legend_handles_labels(), markerscale=4, ncols=2, loc="outside lower center")
    _save(figure, path)


def plot_predictions(
    path: str | Path,
    prediction: np.ndarray,
    label: np.ndarray,
    title: str,
    label_range: Sequence[float] | None = None,
) -> None:
    """Plot predictions against labels.

    Parameters
    ----------
    path
        The PNG to write.
    prediction, label
        (N, 3), on the corpus's scale.
    title
        Of the figure.
    label_range
        The ends of the label scale; None shows what labels and predictions span.
    """
    figure, [axes] = _panels(title)
    ccc = metrics.ccc(prediction, label)
    for j, axis in enumerate(axes):
        ends = _ends([*label[:, j], *prediction[:, j]], label_range)
        axis.plot(ends, ends, color="0.4", lw=0.8)
        axis.plot(label[:, j], prediction[:, j], ".", ms=3, alpha=0.5)
        axis.set(xlim=ends, ylim=ends, aspect="equal")
        axis.set_title(f"{DIMENSIONS[j]} (CCC {ccc[j]:.3f})")
        axis.set_xlabel("label")
        axis.set_ylabel("prediction")
    _save(figure, path)


def plot_comparison(
    path: str | Path, reports: dict[str, dict[str, Any]], split: str, title: str, against: str | None = None
) -> None:
    """Plot the CCCs of several rows on one test set; below, how they differ from one of them. All with 95 % intervals.

    Intervals of the CCCs are of each row by itself. Those of the differences are paired, of the same resamples, and so
    show what the others hide: rows err on the same utterances.

    Parameters
    ----------
    path
        The PNG to write.
    reports
        What ``metrics.json`` holds, by row name; with ``difference`` and ``difference_95`` as of
        `ser_ts_lobes.tables.runs.summarise`.
    split
        Name of the test set.
    title
        Of the figure.
    against
        The row that the differences are from; None for no differences.
    """
    scores = {row: report["test"][split] for row, report in reports.items()}
    of_others = {row: score for row, score in scores.items() if "difference" in score[DIMENSIONS[0]]}
    if against not in scores:
        of_others = {}
    n_rows = 2 if of_others else 1
    figure, panels = _panels(title, n_rows, height=n_rows * (1.6 + 0.35 * len(scores)), sharex="row", sharey=True)
    places = dict(zip(scores, np.arange(len(scores))[::-1], strict=True))
    for j, dimension in enumerate(DIMENSIONS):
        parts = [("ccc", scores, "CCC (95 % interval)")]
        if of_others:
            parts.append(("difference", of_others, f"CCC − that of {against} (paired 95 % interval)"))
        for (key, shown, label), axis in zip(parts, panels[:, j], strict=True):
            value, error = _points([score[dimension] for score in shown.values()], key)
            axis.errorbar(value, [places[row] for row in shown], xerr=error, fmt="o", capsize=4)
            axis.set_yticks(list(places.values()), list(places))
            axis.set_ylim(-0.6, len(scores) - 0.4)
            axis.set_xlabel(label)
            axis.locator_params(axis="x", nbins=6)
            axis.grid(axis="x", alpha=0.3)
        panels[0, j].set_title(dimension)
        if of_others:
            panels[1, j].axvline(0, color="0.4", lw=0.8)
    _save(figure, path)


def plot_sweep(
    path: str | Path, curves: dict[str, dict[str, dict[str, Any]]], split: str, title: str, key: str
) -> None:
    """Plot CCCs with their 95 % intervals over the values of a setting, one curve a system.

    Parameters
    ----------
    path
        The PNG to write.
    curves
        By system and value, what ``metrics.json`` holds.
    split
        Name of the test set.
    title
        Of the figure.
    key
        Name of the setting.
    """
    figure, [axes] = _panels(title, sharey=True)
    values = list(dict.fromkeys(value for reports in curves.values() for value in reports))
    for dimension, axis in zip(DIMENSIONS, axes, strict=True):
        for row, (system, reports) in enumerate(curves.items()):
            ccc, error = _points([report["test"][split][dimension] for report in reports.values()])
            places = np.array([values.index(value) for value in reports]) + 0.05 * row  # so that bars don't cover
            axis.errorbar(places, ccc, yerr=error, fmt="o-", capsize=4, label=system)
        axis.set_xticks(range(len(values)), values)
        axis.set_title(dimension)
        axis.set_xlabel(key)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("CCC (95 % interval)")
    axes[0].legend()
    _save(figure, path)


def _points(scores: Sequence[dict[str, Any]], key: str = "ccc") -> tuple[np.ndarray, np.ndarray]:
    """Values, and the lengths of their error bars to either side, shape (2, N); an interval may be NaN."""
    values = np.array([score[key] for score in scores])
    low, high = np.array([score[f"{key}_95"] for score in scores]).T
    return values, np.clip([values - low, high - values], 0, None)


def _ends(values: ArrayLike, label_range: Sequence[float] | None) -> tuple[float, float]:
    """Give the ends of an axis: those of the label scale, but nothing is cut off."""
    shown = np.concatenate([np.ravel(values), label_range or []])
    return float(shown.min()), float(shown.max())


def _panels(title: str, n_rows: int = 1, height: float = 4.5, **options: Any) -> tuple[Any, Any]:
    """Make a figure with rows of panels, one a dimension: the figure, and the axes (n_rows, 3)."""
    # Imported here: it takes half a second, and only reports need it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, height), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(n_rows, len(DIMENSIONS), squeeze=False, **options)


def _save(figure: Any, path: str | Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
