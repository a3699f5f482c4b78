"""How systems were taught: where a teacher helps, and how they learnt."""

import numpy as np

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.report import condition, figures, html
from ser_ts_lobes.report.html import Cell, ends, number
from ser_ts_lobes.report.sources import TestSet
from ser_ts_lobes.report.view import View, groups_of
from ser_ts_lobes.results.intervals import holm, mean_interval

#: What gains are over where nobody says: the student without a teacher.
_REFERENCE = "ft"


def where_it_helps(test_set: TestSet, view: View) -> str:
    """Show the gain over a reference by the teacher's residual; what lacks, where there are runs but not those."""
    if not any(of_seed for system in test_set.systems.values() for of_seed in system.runs):
        return ""
    heading, reference = "<h3>Where teaching helps</h3>", view.against or _REFERENCE
    found = condition.find_condition(test_set)
    if found is None:
        lacks = "no run here has left teacher's targets of this test set: name the teacher's, too"
        return heading + html.text(f"It can't be told: {lacks}.", "note")
    taught = [name for name in test_set.systems if name not in (found.teacher, reference)]
    if reference not in test_set.systems or not taught:
        lacks = f"it takes {reference} and a row to compare it with: name both, or another system by --against"
        return heading + html.text(f"It can't be told: {lacks}.", "note")
    gains = {name: condition.gain(test_set, test_set.systems[name], test_set.systems[reference]) for name in taught}
    return heading + _figure(test_set, view, found, gains, reference) + _table(test_set, found, gains, reference)


def learning_curves(test_set: TestSet, view: View) -> str:
    """Show the CCC on the validation set of all trainings; nothing where there is no log."""
    curves = [
        (place, curve)
        for place, name in view.keys(test_set.systems)
        for of_seed in test_set.systems[name].runs
        for run in of_seed
        if (curve := run.learning_curve())
    ]
    if not curves:
        return ""
    panels = []
    for j, dimension in enumerate(DIMENSIONS):
        series = [
            figures.Series(place, np.array([*curve]), np.array([values[j] for values in curve.values()]))
            for place, curve in curves
        ]
        panels.append(figures.lines(dimension, series, ("epoch", "CCC, validation")))
    keys = [(place, view.names[place]) for place in dict.fromkeys(place for place, _ in curves)]
    caption = "CCC on the validation set after each epoch; a line a training (seed, fold)."
    return "<h3>Learning curves</h3>" + html.figure(panels, caption, keys)


def _figure(
    test_set: TestSet, view: View, found: condition.Condition, gains: dict[str, np.ndarray], reference: str
) -> str:
    bins = [(name, rows) for name, rows in found.bins() if rows.sum() >= view.smallest]
    keys, panels = view.keys(gains), []
    for j, dimension in enumerate(DIMENSIONS):
        series = []
        for place, name in keys:
            of_bins = [(gains[name][rows][:, [j]], groups_of(test_set, rows)) for _, rows in bins]
            means = np.array([values.mean() for values, _ in of_bins])
            intervals = np.array([mean_interval(values, groups)[:, 0] for values, groups in of_bins])
            series.append(figures.Series(place, np.arange(len(bins)), means, intervals.T))
        labels = ("teacher's residual / σ", f"error of {reference} − that of a row")
        panels.append(figures.lines(dimension, series, labels, [name for name, _ in bins], zero=True))
    return html.figure(
        panels,
        f"Gain in squared error over {reference} by the largest of the teacher's three residuals ({found.teacher}, in "
        f"standard deviations of its training residuals); the rule leaves out what is beyond {found.threshold:g}. "
        "Above 0 a row errs less.",
        keys,
    )


def _table(test_set: TestSet, found: condition.Condition, gains: dict[str, np.ndarray], reference: str) -> str:
    compared = {name: condition.compare_sides(found, gain, test_set) for name, gain in gains.items()}
    corrected = holm([of.p_value if of else np.full(len(DIMENSIONS), np.nan) for of in compared.values()])
    rows: list[html.Row] = []
    for j, dimension in enumerate(DIMENSIONS):
        for (name, of_sides), p in zip(compared.items(), corrected, strict=True):
            sides = (gains[name][found.kept, j], gains[name][~found.kept, j])
            cells = [Cell(number(float(side.mean()), sign=True) if side.size else "–") for side in sides]
            if of_sides is None:
                cells.append(Cell("–"))
            else:
                interval = ends(of_sides.interval[:, j], sign=True)
                cells.append(Cell(number(of_sides.difference[j], sign=True), f"{interval} · {html.p_value(p[j])}"))
            rows.append([dimension, name, *cells])
    kept = int(found.kept.sum())
    return html.table(
        f"Mean gain in squared error over {reference}, where the rule would keep ({kept:,}) and where it would leave "
        f"out ({len(found.kept) - kept:,}), and the difference; p corrected by Holm; of these networks. The residual "
        "is made with the label, which is in the error, too: a system that agrees with the teacher gains where the "
        "label does. So this tells whether a row follows the teacher, and what the rule is worth, not that one could "
        "know it without labels. A row that no teacher taught is the control.",
        ["", "system", "gain, kept", "gain, left out", "difference"],
        rows,
    )
