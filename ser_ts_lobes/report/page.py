"""`ser-ts report`: one page on what systems predict of test sets."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ser_ts_lobes import DIMENSIONS, UNKNOWN_SPEAKER, __version__
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing
from ser_ts_lobes.report import categories, figures, html, parts, scores, teaching
from ser_ts_lobes.report.html import Cell, ends, number
from ser_ts_lobes.report.sources import TestSet, read_test_sets
from ser_ts_lobes.report.view import View, count, measure

_SECTIONS = (
    scores.scores,
    scores.differences,
    scores.agreement,
    scores.plane,
    parts.by_gender,
    parts.by_duration,
    parts.by_label,
    parts.by_speaker,
    categories.by_category,
    teaching.where_it_helps,
    teaching.learning_curves,
)


def make_report(
    sources: Sequence[str],
    out: str | Path,
    labels: Iterable[str | Path] = (),
    against: str | None = None,
    smallest: int = 20,
) -> None:
    """Write the page, and print the CCCs.

    Parameters
    ----------
    sources, labels
        See `ser_ts_lobes.report.sources.read_test_sets`.
    out
        The HTML to write.
    against
        The system that all others are compared with; None compares all with one another.
    smallest
        The fewest utterances of a group that is shown by itself.

    Raises
    ------
    InputError
        If something can't be read or brought together, or there is no system `against`.
    """
    out = Path(out)
    if not out.parent.is_dir():
        raise InputError(f"The folder {out.parent} does not exist: make it, or name another --out.")
    sets = read_test_sets(sources, labels)
    names = list(dict.fromkeys(name for test_set in sets for name in test_set.systems))
    if against is not None and against not in names:
        raise InputError(f"There is no system {against!r} to compare with; there are {', '.join(names)}.")
    text = _page(sets, View(names, against, smallest))
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    for test_set in sets:
        for name, system in test_set.systems.items():
            print(f"{test_set.title}: {name}, CCC {' / '.join(map(number, measure(test_set, system).value))}")
    print(f"Written: {out}", flush=True)


def _page(sets: list[TestSet], view: View) -> str:
    several = [("Side by side", _side_by_side(sets, view))] if len(sets) > 1 else []
    of_sets = [(test_set.title, _test_set(test_set, view)) for test_set in sets]
    utterances = count(sum(len(test_set.ids) for test_set in sets), "utterance")
    lede = (
        f"{count(len(view.names), 'system')} on {count(len(sets), 'test set')}, {utterances}. "
        "Square brackets are 95 % intervals."
    )
    title = "Emotion from speech: " + "; ".join(test_set.title for test_set in sets)
    return html.page(title, lede, [*several, *of_sets, ("How the numbers were made", _making(sets))])


def _side_by_side(sets: list[TestSet], view: View) -> str:
    found = [
        (test_set, name, measure(test_set, system)) for test_set in sets for name, system in test_set.systems.items()
    ]
    keys = view.keys(view.names)
    panels = []
    for j, dimension in enumerate(DIMENSIONS):
        series = []
        for place, name in keys:
            mine = [(sets.index(test_set), ccc) for test_set, of, ccc in found if of == name]
            values, intervals = ([getattr(ccc, what).T[j] for _, ccc in mine] for what in ("value", "interval"))
            at = np.array([number for number, _ in mine])
            series.append(figures.Series(place, at, np.array(values), np.array(intervals).T))
        titles = [test_set.title for test_set in sets]
        panels.append(figures.lines(dimension, series, ("", "CCC"), titles, joined=False))
    rows: list[html.Row] = []
    for test_set, name, ccc in found:
        low, high = test_set.label_range
        share = 100 * measure(test_set, test_set.systems[name], "rmse").value / (high - low)
        cells = [
            Cell(number(ccc.value[j]), f"{ends(ccc.interval[:, j])} · RMSE {share[j]:.0f} %") for j in range(len(share))
        ]
        rows.append([test_set.title, name, *cells])
    return html.figure(panels, "CCC and its 95 % interval on each test set.", keys) + html.table(
        "CCC with its interval; RMSE as a share of the length of the label scale, for scales differ.",
        ["test set", "system", *DIMENSIONS],
        rows,
    )


def _test_set(test_set: TestSet, view: View) -> str:
    known = len({*test_set.speakers} - {UNKNOWN_SPEAKER})
    low, high = test_set.label_range
    speakers = count(known, "known speaker") if known else "speakers not known"
    words = html.text(f"{count(len(test_set.ids), 'utterance')}, {speakers}, labels from {low:g} to {high:g}.")
    few = (
        "Fewer than 10 speakers are known, too few to stand for others: intervals and p-values are over utterances, "
        "and say nothing of what other speakers would give."
    )
    notes = [*([few] if test_set.groups is None else []), *test_set.notes]
    sections = [section(test_set, view) for section in _SECTIONS]
    return "".join([words, *(html.text(note, "note") for note in notes), *sections])


def _making(sets: list[TestSet]) -> str:
    rows: list[html.Row] = []
    for test_set in sets:
        for name, system in test_set.systems.items():
            seeds = ", ".join("not said" if seed is None else str(seed) for seed in system.seeds)
            rows.append([test_set.title, name, seeds, ", ".join(map(str, system.files))])
    words = (
        "Each number is computed over the whole test set, never averaged over batches; the folds of a corpus are one "
        "test set. An interval is the jackknife's: each speaker (each utterance, where few speakers are known) is "
        "left out in turn, on the scale of Fisher's z for CCC and ρ and of the logarithm for RMSE and variance "
        "ratio, with quantiles of Student's t for as many speakers as weigh in. With several seeds the variance over "
        "seeds, divided by their number, is in. In simulations of 10, 50 and 500 speakers these intervals hold, "
        f"where percentile bootstraps of 10 speakers do not (docs/report.md). Made by ser-ts report {__version__}."
    )
    return html.text(words) + html.table("What was read.", ["test set", "system", "seeds", "from"], rows)
