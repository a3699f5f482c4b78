"""Plots of residuals, predictions and scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.files import replacing
from ser_ts_lobes.results import metrics


def plot_residuals(
    path: str | Path, prediction: np.ndarray, residual: np.ndarray, keep: np.ndarray, threshold: float
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
    """
    figure, axes = _panels(f"Teacher residuals on the training set: {keep.mean():.1%} kept")
    for j, axis in enumerate(axes):
        sigma = residual[:, j].std()
        axis.axhspan(-threshold * sigma, threshold * sigma, color="tab:green", alpha=0.12, lw=0)
        axis.axhline(0, color="0.4", lw=0.8)
        for mask, color, label in ((keep, "tab:blue", "kept"), (~keep, "tab:red", "left out")):
            axis.plot(prediction[mask, j], residual[mask, j], ".", ms=3, alpha=0.5, color=color, label=label)
        axis.set_title(f"{DIMENSIONS[j]} (band ±{threshold:g} σ, σ = {sigma:.2f})")
        axis.set_xlabel("prediction")
        axis.set_ylabel("residual w·ŷ + b − y")
    axes[0].legend(markerscale=4)
    _save(figure, path)


def plot_predictions(path: str | Path, prediction: np.ndarray, label: np.ndarray, title: str) -> None:
    """Plot predictions against labels.

    Parameters
    ----------
    path
        The PNG to write.
    prediction, label
        (N, 3), on the corpus's scale.
    title
        Of the figure.
    """
    figure, axes = _panels(title)
    ccc = metrics.ccc(prediction, label)
    for j, axis in enumerate(axes):
        ends = [min(label[:, j].min(), prediction[:, j].min()), max(label[:, j].max(), prediction[:, j].max())]
        axis.plot(ends, ends, color="0.4", lw=0.8)
        axis.plot(label[:, j], prediction[:, j], ".", ms=3, alpha=0.5)
        axis.set_aspect("equal")
        axis.set_title(f"{DIMENSIONS[j]} (CCC {ccc[j]:.3f})")
        axis.set_xlabel("label")
        axis.set_ylabel("prediction")
    _save(figure, path)


def plot_comparison(
    path: str | Path, reports: dict[str, dict[str, Any]], split: str, title: str, dimensions: Sequence[str] = DIMENSIONS
) -> None:
    """Plot the CCCs of several runs on one test set, with their 95 % intervals.

    Parameters
    ----------
    path
        The PNG to write.
    reports
        What ``metrics.json`` holds, by row name.
    split
        Name of the test set.
    title
        Of the figure.
    dimensions
        One panel each.
    """
    figure, axes = _panels(title, len(dimensions), sharey=True)
    rows = np.arange(len(reports))[::-1]
    # Intervals of tiny sets may be NaN.
    lowest = np.nanmin([0, *(report["test"][split][d]["ccc_95"][0] for report in reports.values() for d in dimensions)])
    for dimension, axis in zip(dimensions, axes, strict=True):
        ccc, error = _points([report["test"][split][dimension] for report in reports.values()])
        axis.errorbar(ccc, rows, xerr=error, fmt="o", capsize=4)
        axis.set_yticks(rows, list(reports))
        axis.set_ylim(-0.6, len(reports) - 0.4)
        axis.set_xlim(lowest - 0.02, 1)  # one scale, so that panels compare
        axis.set_title(dimension)
        axis.set_xlabel("CCC (95 % interval)")
        axis.grid(axis="x", alpha=0.3)
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
    figure, axes = _panels(title, sharey=True)
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


def _points(scores: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """CCCs, and the lengths of their error bars to either side, shape (2, N)."""
    ccc = np.array([score["ccc"] for score in scores])
    low, high = np.array([score["ccc_95"] for score in scores]).T
    return ccc, np.clip([ccc - low, high - ccc], 0, None)


def _panels(title: str, number: int = 3, **options: Any) -> tuple[Any, Any]:
    """Make a figure with panels side by side, by default one a dimension."""
    # Imported here: it takes half a second, and only reports need it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13 if number > 1 else 7, 4.5), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, number, squeeze=False, **options)[0]


def _save(figure: Any, path: str | Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
