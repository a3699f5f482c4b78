"""How well systems do on parts of a test set."""

import numpy as np

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.report import breakdown, figures, html
from ser_ts_lobes.report.breakdown import Group
from ser_ts_lobes.report.html import Cell, ends, number
from ser_ts_lobes.report.sources import System, TestSet
from ser_ts_lobes.report.view import View, count, estimate_cell, measure
from ser_ts_lobes.results import metrics

_SHOWN = {"bias": "bias", "rmse": "RMSE"}


def by_gender(test_set: TestSet, view: View) -> str:
    """Show a group a gender; nothing where it isn't known."""
    groups = breakdown.large(breakdown.by_gender(test_set), view.smallest)
    if not groups:
        return ""
    return "<h3>By gender</h3>" + _table(test_set, view, groups, "bias", "CCC, and below it the bias.")


def by_duration(test_set: TestSet, view: View) -> str:
    """Show the error of short and of long utterances; nothing where durations aren't known."""
    groups = breakdown.large(breakdown.by_duration(test_set), view.smallest)
    if not groups:
        return ""
    keys = view.keys(test_set.systems)
    found = {
        name: [measure(test_set, system, "rmse", group.rows) for group in groups]
        for name, system in test_set.systems.items()
    }
    panels = []
    for j, dimension in enumerate(DIMENSIONS):
        series = [
            figures.Series(
                place,
                np.arange(len(groups)),
                np.array([of.value[j] for of in found[name]]),
                np.array([of.interval[:, j] for of in found[name]]).T,
            )
            for place, name in keys
        ]
        panels.append(figures.lines(dimension, series, ("duration", "RMSE"), [group.name for group in groups]))
    return (
        "<h3>By duration</h3>"
        + html.figure(panels, "Error by duration, with 95 % intervals.", keys)
        + _table(test_set, view, groups, "rmse", "CCC, and below it the RMSE.")
    )


def by_label(test_set: TestSet, view: View) -> str:
    """Show the errors where labels are low, middling and high."""
    rows: list[html.Row] = []
    for j, dimension in enumerate(DIMENSIONS):
        for group in breakdown.large(breakdown.by_region(test_set, j), view.smallest):
            for name, system in test_set.systems.items():
                bias, error = (measure(test_set, system, of, group.rows) for of in ("bias", "rmse"))
                region = f"{dimension} {group.name}: {count(group.size, 'utterance')}"
                rows.append([region, name, estimate_cell(bias, j, 2, sign=True), estimate_cell(error, j, 2)])
    return "<h3>By label</h3>" + html.table(
        "Thirds of the label scale. There is no CCC here: within a third labels hardly differ, and a correlation says "
        f"little. Regions of fewer than {view.smallest} utterances are left out.",
        ["region", "system", "bias", "RMSE"],
        rows,
    )


def by_speaker(test_set: TestSet, view: View) -> str:
    """Show how unequally speakers are served; nothing where fewer than two say enough."""
    all_speakers = breakdown.by_speaker(test_set)
    groups = breakdown.large(all_speakers, view.smallest)
    if len(groups) < 2:
        return ""
    keys = view.keys(test_set.systems)
    errors = {name: _errors(test_set, system, groups) for name, system in test_set.systems.items()}
    share = np.arange(len(groups) + 1) / len(groups) * 100
    panels: list[str] = []
    rows: list[html.Row] = []
    for j, dimension in enumerate(DIMENSIONS):
        series = []
        for place, name in keys:
            of_speakers = np.sort(errors[name][:, j])
            series.append(figures.Series(place, np.insert(of_speakers, 0, of_speakers[0]), share))
        panels.append(figures.lines(dimension, series, ("RMSE of a speaker", "% of speakers"), steps=True))
        for _, name in keys:
            of_speakers = errors[name][:, j]
            ends_of = [
                Cell(number(of_speakers[at], 2), f"{groups[at].name}, {count(groups[at].size, 'utterance')}")
                for at in (int(of_speakers.argmin()), int(of_speakers.argmax()))
            ]
            rows.append([dimension, name, ends_of[0], Cell(number(float(np.median(of_speakers)), 2)), ends_of[1]])
    return (
        "<h3>By speaker</h3>"
        + html.figure(panels, "How many speakers have an error of at most so much. Steep is fair.", keys)
        + html.table(
            f"RMSE within a speaker. {len(groups)} speakers are shown, of {min(group.size for group in groups):,} "
            f"utterances and more; {len(all_speakers) - len(groups)} with fewer than {view.smallest} are not.",
            ["", "system", "best speaker", "median", "worst speaker"],
            rows,
        )
    )


def _errors(test_set: TestSet, system: System, groups: list[Group]) -> np.ndarray:
    """Return the RMSE of each group, a mean over seeds, (groups, 3)."""
    of_groups = [
        [metrics.rmse(seed[group.rows], test_set.label[group.rows]) for seed in system.prediction] for group in groups
    ]
    errors: np.ndarray = np.mean(of_groups, axis=1)
    return errors


def _table(test_set: TestSet, view: View, groups: list[Group], below: str, caption: str) -> str:
    """Lay out the CCC of each group and system, and below it another measure."""
    rows: list[html.Row] = []
    for group in groups:
        size = f"{count(group.size, 'utterance')}, {count(group.speakers(test_set), 'known speaker')}"
        for name, system in test_set.systems.items():
            ccc, other = (measure(test_set, system, of, group.rows) for of in ("ccc", below))
            cells = [
                Cell(
                    f"{number(ccc.value[j])} {ends(ccc.interval[:, j], 2)}",
                    f"{_SHOWN[below]} {number(other.value[j], 2, sign=below == 'bias')}",
                )
                for j in range(len(DIMENSIONS))
            ]
            rows.append([f"{group.name}: {size}", name, *cells])
    smallest = min(group.size for group in groups)
    return html.table(
        f"{caption} Groups of fewer than {view.smallest} utterances are left out; the smallest here has {smallest:,}.",
        ["group", "system", *DIMENSIONS],
        rows,
    )
