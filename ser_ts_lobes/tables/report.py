"""The paper's tables for a recipe: run what is missing, then report what is on disk."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing
from ser_ts_lobes.results.paper import Figure, read_figures
from ser_ts_lobes.results.plots import plot_comparison, plot_sweep
from ser_ts_lobes.results.text_tables import ccc_cell, gap_cell, latex_table, markdown_table
from ser_ts_lobes.tables.plan import known_systems, make_plan, results_folder
from ser_ts_lobes.tables.runner import LocalPool, SlurmPool, raise_failures, run_jobs
from ser_ts_lobes.tables.runs import find_runs, summarise
from ser_ts_lobes.text_files import write_csv

if TYPE_CHECKING:
    from ser_ts_lobes.tables.plan import Job, Sweep
    from ser_ts_lobes.tables.runs import Run

_REFERENCE = "ft"
#: Of fewer, percentile intervals hold in less than 93 of 100 cases (docs/report.md).
_ENOUGH_SPEAKERS = 50
#: The dimension that lives in the words, in which a teacher who reads is ahead.
_GAP = "valence"


def make_tables(
    recipe: str | Path = ".",
    systems: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    folds: Sequence[int] | None = None,
    sweep: "Sweep | None" = None,
    options: Sequence[str] = (),
    against: str | None = None,
    gpus: Sequence[str] = (),
    jobs: int | None = None,
    slurm: dict[str, str] | None = None,
    processes: int = 1,
    dry_run: bool = False,
    report_only: bool = False,
) -> None:
    """Run what a table lacks, and write the table.

    Parameters
    ----------
    recipe
        A folder of ``recipes/``.
    systems
        Stems of hparams files; None for all, or with `report_only` for all on disk.
    seeds
        Seeds of the table's runs; None for the hparams' own, or with `report_only` for all on disk.
    folds
        Folds of the table's runs; None for all.
    sweep
        A setting to vary; the table is then of its values.
    options
        The scripts' options; see `ser_ts_lobes.tables.plan.make_plan`.
    against
        The row that p-values compare with; None for ``ft`` where there is such a row.
    gpus, jobs
        See `ser_ts_lobes.tables.runner.LocalPool`.
    slurm
        Options of a Slurm cluster; see `ser_ts_lobes.tables.runner.SlurmPool`. None runs on this machine.
    processes
        Of each job; with ``torchrun`` if there are several.
    dry_run
        Whether only to print the commands.
    report_only
        Whether to run nothing; without `sweep`, every sweep on disk is then reported too.

    Raises
    ------
    InputError
        If something can't be planned or reported, or, at the end, if jobs have failed.
    """
    if jobs is not None and (jobs < 1 or gpus):
        raise InputError("--jobs takes a number from 1, and no --gpus beside it: a GPU has one job at a time.")
    recipe = Path(recipe).resolve()
    results = recipe / results_folder(recipe, options)
    if report_only:
        runs = find_runs(results, systems, seeds, folds, known_systems(recipe))
        if not runs:
            raise InputError(f"{results} has no finished run of these systems, seeds and folds: run some first.")
        for key in [sweep.key] if sweep else [None, *sorted({run.key for run in runs if run.key})]:
            write_report(results / "table" / (key or ""), runs, recipe, against, key)
        return

    systems = systems or known_systems(recipe)
    if against and not sweep and against not in systems:
        raise InputError(f"--against {against} is none of the systems {', '.join(systems)}.")
    plan = make_plan(recipe, systems, seeds, folds, options, sweep, processes)
    if dry_run:
        print_commands(plan, recipe)
        return
    logs = results / "table" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    if slurm is None:
        pool: LocalPool | SlurmPool = LocalPool(logs, jobs or 1, gpus, processes=processes)
    else:
        pool = SlurmPool(logs, jobs, slurm)
    failures = run_jobs(plan, pool, logs)
    key = sweep.key if sweep else None
    planned_seeds = {job.settings["seed"] for job in plan}
    planned_folds = {job.settings["fold"] for job in plan if "fold" in job.settings} or None
    runs = find_runs(results, systems, planned_seeds, planned_folds)
    write_report(results / "table" / (key or ""), runs, recipe, against, key)
    raise_failures(failures, len(plan))


def print_commands(plan: "list[Job]", recipe: Path) -> None:
    """Print the commands of a plan that have not been run, as one would type them."""
    print(f"cd {shlex.quote(str(recipe))}")
    for job in plan:
        if not job.finished:
            print(shlex.join(["python", *job.command[1:]]))
    print(f"# {sum(job.finished for job in plan)} of {len(plan)} jobs are finished")


def write_report(
    folder: Path, runs: "list[Run]", recipe: Path, against: str | None = None, key: str | None = None
) -> None:
    """Write ``results.csv``, ``table.md``, ``table.tex`` and the figures of a table, and print the table.

    Parameters
    ----------
    folder
        Where to write.
    runs
        From `find_runs`.
    recipe
        The recipe's folder, with the paper's figures.
    against
        See `make_tables`.
    key
        The setting that was varied: the rows are its values. None: the rows are the systems.

    Raises
    ------
    InputError
        If there is no row `against`.
    """
    swept = {run.system for run in runs if run.key == key}
    runs = [run for run in runs if run.system in swept and run.key in (None, key)]
    if not runs:
        return
    rows: dict[str, list[Run]] = {}
    for run in runs if key is None else sorted(runs, key=lambda run: _by_value(run, key)):
        rows.setdefault(run.system if key is None else f"{run.system}, {key} {run.value(key)}", []).append(run)
    summary = summarise(rows, against or _REFERENCE)
    if against is not None and against not in summary:
        raise InputError(f"There is no row {against!r} to compare with; there are {', '.join(summary)}.")
    against = against or (_REFERENCE if _REFERENCE in summary else None)

    folder.mkdir(parents=True, exist_ok=True)
    _write_results(folder / "results.csv", rows)
    paper = _paper_figures(recipe, rows, summary)
    corpus = _name_corpus(recipe, runs)
    markdown, latex = [], []
    for split in dict.fromkeys(split for report in summary.values() for split in report["test"]):
        reports = {row: report for row, report in summary.items() if split in report["test"]}
        header, cells, caption = _table(reports, split, corpus, against, paper.get(split, {}), recipe.name)
        markdown.append(f"{caption}\n\n{markdown_table(header, cells)}\n")
        latex.append(latex_table(header, cells, caption))
        title = f"{corpus}, {split}: CCC with 95 % intervals"
        if key is None:
            plot_comparison(folder / f"ccc_{split}.png", reports, split, title, against)
        else:
            curves: dict[str, dict[str, dict[str, Any]]] = {}
            for row, report in reports.items():
                curves.setdefault(rows[row][0].system, {})[rows[row][0].value(key)] = report
            plot_sweep(folder / f"curve_{split}.png", curves, split, title, key)
    notes = [f"{row}: no finished run of all folds" for row in rows if row not in summary]
    text = "\n".join([*markdown, *(f"- {note}" for note in notes)])
    for name, content in (("table.md", text), ("table.tex", "\n".join(latex))):
        with replacing(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    print(f"\n{text}\nWritten: {folder}", flush=True)


def _name_corpus(recipe, runs):
    """Name what the runs are on: a recipe reads other corpora than its own, such as a demo's, by its folder's name."""
    names = sorted({run.corpus for run in runs if run.corpus})
    return f"{', '.join(names)} (recipe {recipe.name})" if names else f"the {recipe.name} recipe"


def _paper_figures(recipe, rows, summary):
    """Choose the paper's CCCs that belong to the data of all rows: by test set and system."""
    data = []
    for row, report in summary.items():
        for seed in report["seeds"]:
            of_folds = [run for run in rows[row] if run.seed == seed]
            sizes = sum((Counter(run.metrics["counts"]) for run in of_folds), Counter())
            data.append((dict(sizes), of_folds[0].settings.get("release")))
    figures: dict[str, dict[str, Figure]] = {}
    for figure in read_figures(recipe):
        if figure.statistic == "ccc" and all(figure.belongs_to(sizes, release) for sizes, release in data):
            figures.setdefault(figure.split, {})[figure.system] = figure
    return figures


def _table(reports, split, corpus, against, paper, recipe):
    """Lay out one test set: header, cells and caption."""
    paper = {row: figure for row, figure in paper.items() if row in reports}
    header = [split, "seeds", *DIMENSIONS]
    has_gap = any("gap_closed" in report["test"][split][_GAP] for report in reports.values())
    header += [f"p against {against}"] if against else []
    header += [f"{_GAP} gap closed"] if has_gap else []
    header += ["the paper's", "hours"] if paper else ["hours"]
    cells = []
    for row, report in reports.items():
        scores = [report["test"][split][dimension] for dimension in DIMENSIONS]
        line = [row, str(len(report["seeds"])), *map(ccc_cell, scores)]
        if against:
            line.append(_triple(f"{score['p']:.3f}" for score in scores) if "p" in scores[0] else "–")
        if has_gap:
            line.append(gap_cell(report["test"][split][_GAP]))
        if paper:
            line.append(_triple(f"{value:.3f}" for value in paper[row].values) if row in paper else "")
        cells.append([*line, "–" if report["hours"] is None else f"{report['hours']:.2f}"])
    return header, cells, _caption(next(iter(reports.values())), split, corpus, against, has_gap, paper, recipe)


def _triple(values):
    return " / ".join(values)


def _caption(report, split, corpus, against, has_gap, paper, recipe):
    """Say how a table's numbers were formed."""
    folds = report["folds"]
    scored = report["test"][split]
    sentences = [
        f"CCC on {split} of {corpus}, {scored['utterances']} utterances: mean over seeds ± standard "
        f"deviation (n − 1) where there are several, [95 % bootstrap interval of that mean over {scored['resampled']}, "
        "drawn alike for all seeds and systems]."
    ]
    if 0 < scored["speakers"] < _ENOUGH_SPEAKERS:
        sentences.append(
            f"With {scored['speakers']} speakers such intervals are too narrow and p-values too small; those of ser-ts "
            "report hold."
        )
    if folds != [None]:
        names = ", ".join(map(str, folds))
        sentences.append(f"Folds: the mean of the CCCs of folds {names}, each drawn from by itself.")
    if against:
        sentences.append(
            f"p: two-sided paired bootstrap of the difference from {against}, activation / valence / dominance, not "
            "corrected for the number of comparisons, of these trainings: the variance over seeds is not in it."
        )
    if has_gap:
        sentences.append(
            f"{_GAP.capitalize()} gap closed: the share of the way from {against} to the teacher, same resamples."
        )
    if paper:
        figure = next(iter(paper.values()))
        sentences.append(
            f"The paper's: its Table {figure.table}, {f'{recipe} {figure.release}'.strip()}, {split} "
            f"({figure.sizes[split]} utterances)."
        )
    sentences.append(
        "Hours: wall clock of the training of one seed, with the features of frozen networks if it was the first to "
        "need them."
    )
    return " ".join(sentences)


def _write_results(path, rows):
    """Write one line a row, seed, fold, test set and dimension."""
    columns = ("row", "system", "seed", "fold", "test_set", "dimension", "utterances", "ccc", "ccc_low", "ccc_high")
    lines = [
        [row, run.system, run.seed, run.fold, split, dimension, scores["utterances"]]
        + [scores[dimension]["ccc"], *scores[dimension]["ccc_95"]]
        + [scores[dimension]["pearson"], scores[dimension]["rmse"], scores["resampled"]]
        + [run.run_folder.training_hours, run.folder]
        for row, runs in rows.items()
        for run in runs
        for split, scores in run.metrics["test"].items()
        for dimension in DIMENSIONS
    ]
    write_csv(path, [*columns, "pearson", "rmse", "resampled", "hours", "folder"], lines)


def _by_value(run, key):
    """Sort numbers first, by size, then words; none, which sets no limit, last."""
    value = run.value(key)
    try:
        return (0, float(value), "")
    except ValueError:
        return (1 + (value == "none"), 0.0, value)
