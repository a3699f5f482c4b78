"""How well systems do on a test set, how they differ, and what their predictions look like."""

from itertools import combinations

import numpy as np

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.report import figures, html
from ser_ts_lobes.report.html import Cell, ends, number
from ser_ts_lobes.report.sources import TestSet
from ser_ts_lobes.report.view import View, estimate_cell, measure
from ser_ts_lobes.results.intervals import MEASURES, Comparison, Estimate, compare, holm

_VALENCE_ACTIVATION = [DIMENSIONS.index("valence"), DIMENSIONS.index("activation")]


def scores(test_set: TestSet, view: View) -> str:
    """Show all measures of all systems."""
    systems = test_set.systems
    found = {(name, of): measure(test_set, system, of) for name, system in systems.items() for of in MEASURES}
    panels = [
        figures.forest(
            dimension,
            list(systems),
            np.array([found[name, "ccc"].value[j] for name in systems]),
            np.array([found[name, "ccc"].interval[:, j] for name in systems]).T,
            "CCC",
            [place for place, _ in view.keys(systems)],
        )
        for j, dimension in enumerate(DIMENSIONS)
    ]
    rows: list[html.Row] = [
        [
            dimension,
            name,
            Cell(str(len(system.seeds))),
            estimate_cell(found[name, "ccc"], j),
            Cell(_deviation(found[name, "ccc"], j)),
            estimate_cell(found[name, "pearson"], j),
            estimate_cell(found[name, "rmse"], j),
            estimate_cell(found[name, "bias"], j, sign=True),
            estimate_cell(found[name, "variance_ratio"], j, digits=2),
        ]
        for j, dimension in enumerate(DIMENSIONS)
        for name, system in systems.items()
    ]
    others = "speakers" if test_set.groups else "utterances"
    header = ["", "system", "seeds", "CCC", "± seeds", "Pearson's ρ", "RMSE", "bias", "variance ratio"]
    return (
        "<h3>Scores</h3>"
        + html.figure(panels, f"CCC and its 95 % interval, for other {others} and, with several seeds, other seeds.")
        + html.table(
            "Means over seeds; ± is the standard deviation of the CCC over seeds. Bias is mean prediction − mean "
            "label, the variance ratio that of predictions to labels: both make the CCC less than Pearson's ρ.",
            header,
            rows,
        )
    )


def differences(test_set: TestSet, view: View) -> str:
    """Show how the systems' CCCs differ, with paired tests."""
    pairs = _pairs(list(test_set.systems), view.against)
    if not pairs:
        return ""
    found = []
    for a, b in pairs:
        of_a, of_b = (test_set.systems[name].prediction for name in (a, b))
        found.append(compare(of_a, of_b, test_set.label, test_set.groups))
    corrected = holm([of_pair.p_value for of_pair in found])
    panels = [
        figures.forest(
            dimension,
            [f"{a} − {b}" for a, b in pairs],
            np.array([of_pair.difference[j] for of_pair in found]),
            np.array([of_pair.interval[:, j] for of_pair in found]).T,
            "difference of CCCs",
        )
        for j, dimension in enumerate(DIMENSIONS)
    ]
    rows: list[html.Row] = [
        [f"{a} − {b}", _holds_for(test_set, (a, b), of_pair), *difference_cells(of_pair, p)]
        for (a, b), of_pair, p in zip(pairs, found, corrected, strict=True)
    ]
    return (
        "<h3>Differences</h3>"
        + html.figure(
            panels, "Differences of CCCs and their paired 95 % intervals. One that leaves out 0 is sure by itself."
        )
        + html.table(
            f"Paired tests on the same utterances. p-values are corrected for all {corrected.size} tests of this "
            "table (Holm); intervals are not. Where it says “these networks”, a system has one seed: p holds for the "
            "networks that were tested, and says nothing of what training again would give.",
            ["systems", "holds for", *DIMENSIONS],
            rows,
        )
    )


def difference_cells(found: Comparison, p_values: np.ndarray) -> list[Cell]:
    """Write a comparison: a cell a dimension."""
    return [
        Cell(number(value, sign=True), f"{ends(interval, sign=True)} · {html.p_value(p)}")
        for value, interval, p in zip(found.difference, found.interval.T, p_values, strict=True)
    ]


def agreement(test_set: TestSet, view: View) -> str:
    """Show predictions against labels."""
    panels = []
    for place, name in view.keys(test_set.systems):
        prediction = test_set.systems[name].prediction.mean(axis=0)
        for j, dimension in enumerate(DIMENSIONS):
            title, columns = f"{name}: {dimension}", (prediction[:, j], test_set.label[:, j])
            panels.append(figures.agreement(title, *columns, test_set.label_range, place))
    return "<h3>Predictions against labels</h3>" + html.figure(
        panels,
        "Shade: how many utterances. Dashed: perfect agreement. Line: the mean prediction of utterances of about that "
        "label; flatter than the dashes means drawn to the middle. Predictions are the mean over seeds.",
    )


def plane(test_set: TestSet, view: View) -> str:
    """Show the valence-activation plane."""
    panels = [
        figures.plane(
            name,
            test_set.systems[name].prediction.mean(axis=0)[:, _VALENCE_ACTIVATION],
            test_set.label[:, _VALENCE_ACTIVATION],
            test_set.label_range,
            place,
        )
        for place, name in view.keys(test_set.systems)
    ]
    return "<h3>The valence-activation plane</h3>" + html.figure(
        panels,
        "Grey: where the labels are. Each arrow goes from the mean label of a region to the mean prediction of the "
        "same utterances: a system that hears no valence draws all arrows to a vertical line.",
    )


def _pairs(names: list[str], against: str | None) -> list[tuple[str, str]]:
    if against is None:
        return [(b, a) for a, b in combinations(names, 2)]
    return [(name, against) for name in names if name != against] if against in names else []


def _deviation(found: Estimate, j: int) -> str:
    return "–" if found.std is None else f"± {found.std[j]:.3f}"


def _holds_for(test_set: TestSet, pair: tuple[str, str], found: Comparison) -> str:
    """Say what a comparison holds for."""
    if found.counts_seeds:
        return "other seeds, too"
    several = [name for name in pair if len(test_set.systems[name].seeds) > 1]
    return "these networks" + (f" (the mean of {' and '.join(several)}'s seeds)" if several else "")
