"""What a run leaves for people to read: predictions, metrics, tables, plots."""

import importlib.metadata
import json
import platform
from pathlib import Path

import numpy as np

import ser_ts_lobes
from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.files import replacing
from ser_ts_lobes.results import metrics
from ser_ts_lobes.text_files import write_csv
from ser_ts_lobes.training.residuals import keep_mask

# Fewer clusters than this make percentile intervals of a cluster bootstrap far too narrow.
_MIN_SPEAKERS = 10
_PACKAGES = ("speechbrain", "torch", "transformers", "numpy")


def write_predictions(path, outputs, manifests):
    """Write the predictions of all test sets, on the corpus's scale.

    Parameters
    ----------
    path : str or pathlib.Path
        The CSV to write: ``ID, split, spk_id``, the three predictions, the three labels (``label_...``, empty
        in an unlabelled set).
    outputs : dict[str, ser_ts_lobes.training.brains.Outputs]
        Test sets by name.
    manifests : dict[str, ser_ts_lobes.data.manifests.Manifest]
        Manifests by the same names.
    """
    rows = []
    for split, output in outputs.items():
        utterances = manifests[split].utterances
        for row, (prediction, label) in enumerate(zip(output.prediction, output.label, strict=True)):
            utterance = output.ids[row]
            values = ["" if np.isnan(value) else f"{value:.6f}" for value in (*prediction, *label)]
            rows.append([utterance, split, utterances[utterance]["spk_id"], *values])
    labels = [f"label_{dimension}" for dimension in DIMENSIONS]
    write_csv(path, ["ID", "split", "spk_id", *DIMENSIONS, *labels], sorted(rows))


def write_metrics(path, outputs, manifests, reads, **run):
    """Write CCC (with its 95 % bootstrap interval), Pearson's rho and RMSE of each labelled test set and dimension.

    Intervals resample speakers or utterances (``"resampled"``), as `resampling_groups` decides.

    Parameters
    ----------
    path : str or pathlib.Path
        The JSON file to write.
    outputs : dict[str, ser_ts_lobes.training.brains.Outputs]
        Test sets by name.
    manifests : dict[str, ser_ts_lobes.data.manifests.Manifest]
        All manifests of the run.
    reads : bool
        Whether the system reads the transcripts, so that these have made its numbers too.
    **run
        What else to record of the run: system, seed, ...
    """
    fingerprints = {}
    for manifest in manifests.values():
        fingerprints |= manifest.fingerprints(reads)
    report = {
        **run,
        "counts": {name: len(manifest.utterances) for name, manifest in manifests.items()},
        "manifests": fingerprints,
        "test": {},
        "versions": {"ser_ts_lobes": ser_ts_lobes.__version__, "python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in _PACKAGES},
    }
    for split, output in outputs.items():
        if not manifests[split].labelled:
            continue
        # In the order of predictions.csv, so that intervals made from there are the same.
        order = np.argsort(output.ids)
        speakers = [manifests[split].utterances[output.ids[row]]["spk_id"] for row in order]
        groups = resampling_groups(speakers)
        intervals = metrics.bootstrap_ci(output.prediction[order], output.label[order], groups)
        scores = metrics.evaluate(output.prediction, output.label)
        for j, dimension in enumerate(DIMENSIONS):
            scores[dimension]["ccc_95"] = intervals[:, j].tolist()
        report["test"][split] = {
            "utterances": len(output.ids),
            "resampled": "utterances" if groups is None else "speakers",
            **scores,
        }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


def resampling_groups(speakers):
    """Decide what a bootstrap over a test set draws.

    Speakers, since utterances of one speaker are not independent; utterances, if there are fewer than 10 known
    speakers.

    Parameters
    ----------
    speakers : sequence of str
        One id an utterance.

    Returns
    -------
    sequence of str or None
        ``groups`` of `ser_ts_lobes.results.metrics.bootstrap_ci`.
    """
    known = set(speakers) - {metrics.UNKNOWN_SPEAKER}
    return speakers if len(known) >= _MIN_SPEAKERS else None


def ccc_table(reports, split):
    """Format the CCCs of several runs on one test set.

    Parameters
    ----------
    reports : dict[str, dict]
        What ``metrics.json`` holds, by row name.
    split : str
        Name of the test set.

    Returns
    -------
    str
        A Markdown table: CCC [95 % interval] a dimension.
    """
    rows = [
        [name, *(ccc_cell(report["test"][split][dimension]) for dimension in DIMENSIONS)]
        for name, report in reports.items()
    ]
    return markdown_table([split, *DIMENSIONS], rows)


def ccc_cell(score):
    """Format a CCC: ± standard deviation if there is one, [95 % interval].

    Parameters
    ----------
    score : dict
        ``ccc``, ``ccc_95`` and perhaps ``ccc_std``, as in ``metrics.json`` and `ser_ts_lobes.tables.runs.summarise`.

    Returns
    -------
    str

    Example
    -------
    >>> ccc_cell({"ccc": 0.612, "ccc_95": [0.58, 0.64], "ccc_std": 0.0123})
    '0.612 ± 0.012 [0.580, 0.640]'
    """
    deviation = f" ± {score['ccc_std']:.3f}" if "ccc_std" in score else ""
    low, high = score["ccc_95"]
    return f"{score['ccc']:.3f}{deviation} [{low:.3f}, {high:.3f}]"


def gap_cell(score):
    """Format the share of the gap to the teacher that a row closes, [95 % interval].

    Parameters
    ----------
    score : dict
        As of `ser_ts_lobes.tables.runs.summarise`.

    Returns
    -------
    str
        A dash where there is no gap, or none that is sure.

    Example
    -------
    >>> gap_cell({"gap_closed": 0.36, "gap_closed_95": [0.2, 0.5]}), gap_cell({})
    ('36 % [20, 50]', '–')
    """
    if "gap_closed" not in score:
        return "–"
    low, high = score["gap_closed_95"]
    return f"{100 * score['gap_closed']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def markdown_table(header, rows):
    """Format a table in Markdown.

    Example
    -------
    >>> print(markdown_table(["system", "CCC"], [["ft", "0.5"]]))
    | system | CCC |
    | --- | --- |
    | ft | 0.5 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def report_teacher(folder, targets, threshold=2.0, paper=()):
    """Write a teacher's targets, the paper's Table 1 and the plots; print the table.

    Parameters
    ----------
    folder : str or pathlib.Path
        The teacher's run.
    targets : dict[str, ser_ts_lobes.training.targets.TeacherTargets]
        By split, ``train`` among them.
    threshold : float
        Of the band in the plot, in standard deviations (paper, section 4.2: 2); students choose their own.
    paper : sequence of ser_ts_lobes.results.paper.Figure
        See `fit_table`.
    """
    folder = Path(folder)
    train = targets["train"]
    keep = keep_mask(train.residual, threshold)
    table = fit_table(train.prediction, train.label, paper)
    with replacing(folder / "table1.md") as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    plot_residuals(folder / "residuals.png", train.prediction, train.residual, keep, threshold)
    for split, target in targets.items():
        title = f"Teacher on {split}, {len(target.ids)} utterances"
        plot_predictions(folder / f"predictions_{split}.png", target.prediction, target.label, title)
    # Last, so that targets never stand beside tables and plots of an earlier teacher.
    (folder / "targets").mkdir(exist_ok=True)
    for split, target in targets.items():
        target.save(folder / "targets" / f"{split}.safetensors")
    print(f"\nTable 1 for this corpus: the teacher on its {len(train.ids)} training utterances\n\n{table}\n")
    print(f"{1 - keep.mean():.1%} of them have a residual beyond {threshold:g} σ in some dimension.")
    print(f"Targets and plots: {folder}")


def fit_table(predictions, labels, paper=()):
    """Format the paper's Table 1: how well a teacher fits the set that it was trained on.

    Parameters
    ----------
    predictions, labels : numpy.ndarray
        (N, 3), of the training set.
    paper : sequence of ser_ts_lobes.results.paper.Figure
        The paper's figures of this system and release; those of the training set stand below ours.

    Returns
    -------
    str
        A Markdown table of CCC and Pearson's rho a dimension.
    """
    scores = metrics.evaluate(predictions, labels)
    titles = {"ccc": "CCC", "pearson": "Pearson's ρ"}
    rows = [
        [title, *(f"{scores[dimension][key]:.3f}" for dimension in DIMENSIONS)] for key, title in titles.items()
    ] + [
        [f"{titles[figure.statistic]}, the paper's Table {figure.table}", *(f"{value:.3f}" for value in figure.values)]
        for figure in paper
        if figure.split == "train"
    ]
    return markdown_table(["training set", *DIMENSIONS], rows)


def plot_residuals(path, prediction, residual, keep, threshold):
    """Plot a teacher's residuals against its predictions, with the band that students are taught in.

    Parameters
    ----------
    path : str or pathlib.Path
        The PNG to write.
    prediction, residual : numpy.ndarray
        (N, 3), of the training set, on the corpus's scale.
    keep : numpy.ndarray
        (N,) bool: utterances inside the band in every dimension.
    threshold : float
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


def plot_predictions(path, prediction, label, title):
    """Plot predictions against labels.

    Parameters
    ----------
    path : str or pathlib.Path
        The PNG to write.
    prediction, label : numpy.ndarray
        (N, 3), on the corpus's scale.
    title : str
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


def plot_comparison(path, reports, split, title, dimensions=DIMENSIONS):
    """Plot the CCCs of several runs on one test set, with their 95 % intervals.

    Parameters
    ----------
    path : str or pathlib.Path
        The PNG to write.
    reports : dict[str, dict]
        What ``metrics.json`` holds, by row name.
    split : str
        Name of the test set.
    title : str
        Of the figure.
    dimensions : sequence of str
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


def plot_sweep(path, curves, split, title, key):
    """Plot CCCs with their 95 % intervals over the values of a setting, one curve a system.

    Parameters
    ----------
    path : str or pathlib.Path
        The PNG to write.
    curves : dict[str, dict[str, dict]]
        By system and value, what ``metrics.json`` holds.
    split : str
        Name of the test set.
    title : str
        Of the figure.
    key : str
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


def _points(scores):
    """CCCs, and the lengths of their error bars to either side, shape (2, N)."""
    ccc = np.array([score["ccc"] for score in scores])
    low, high = np.array([score["ccc_95"] for score in scores]).T
    return ccc, np.clip([ccc - low, high - ccc], 0, None)


def _panels(title, number=3, **options):
    """Make a figure with panels side by side, by default one a dimension."""
    # Imported here: it takes half a second, and only reports need it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13 if number > 1 else 7, 4.5), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, number, squeeze=False, **options)[0]


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
