"""What a run leaves for people to read: predictions, metrics, tables, plots."""

import importlib.metadata
import json
import platform
from pathlib import Path

import numpy as np

import ser_ts_lobes
from ser_ts_lobes import DIMENSIONS, metrics
from ser_ts_lobes.files import replacing
from ser_ts_lobes.manifests import write_csv
from ser_ts_lobes.residuals import keep_mask

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
    outputs : dict[str, ser_ts_lobes.brains.Outputs]
        Test sets by name.
    manifests : dict[str, ser_ts_lobes.manifests.Manifest]
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


def write_metrics(path, outputs, manifests, **run):
    """Write CCC (with its 95 % bootstrap interval), Pearson's rho and RMSE of each labelled test set and dimension.

    Intervals resample speakers, since utterances of one speaker are not independent; a test set with fewer
    than 10 known speakers resamples utterances, and says so (``"resampled"``).

    Parameters
    ----------
    path : str or pathlib.Path
        The JSON file to write.
    outputs : dict[str, ser_ts_lobes.brains.Outputs]
        Test sets by name.
    manifests : dict[str, ser_ts_lobes.manifests.Manifest]
        All manifests of the run.
    **run
        What else to record of the run: system, seed, ...
    """
    report = {
        **run,
        "counts": {name: len(manifest.utterances) for name, manifest in manifests.items()},
        "manifests": {name: manifest.fingerprint for name, manifest in manifests.items()},
        "test": {},
        "versions": {"ser_ts_lobes": ser_ts_lobes.__version__, "python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in _PACKAGES},
    }
    for split, output in outputs.items():
        if not manifests[split].labelled:
            continue
        speakers = [manifests[split].utterances[utterance]["spk_id"] for utterance in output.ids]
        clustered = len(set(speakers) - {metrics.UNKNOWN_SPEAKER}) >= _MIN_SPEAKERS
        intervals = metrics.bootstrap_ci(output.prediction, output.label, speakers if clustered else None)
        scores = metrics.evaluate(output.prediction, output.label)
        for j, dimension in enumerate(DIMENSIONS):
            scores[dimension]["ccc_95"] = intervals[:, j].tolist()
        report["test"][split] = {
            "utterances": len(output.ids),
            "resampled": "speakers" if clustered else "utterances",
            **scores,
        }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


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
    lines = [
        f"| {split} | " + " | ".join(DIMENSIONS) + " |",
        "| --- |" + " --- |" * len(DIMENSIONS),
    ]
    for name, report in reports.items():
        cells = []
        for dimension in DIMENSIONS:
            score = report["test"][split][dimension]
            low, high = score["ccc_95"]
            cells.append(f"{score['ccc']:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report_teacher(folder, targets, threshold=2.0):
    """Write a teacher's targets, the paper's Table 1 and the plots; print the table.

    Parameters
    ----------
    folder : str or pathlib.Path
        The teacher's run.
    targets : dict[str, ser_ts_lobes.targets.TeacherTargets]
        By split, ``train`` among them.
    threshold : float
        Of the band in the plot, in standard deviations (paper: 2); students choose their own.
    """
    folder = Path(folder)
    (folder / "targets").mkdir(exist_ok=True)
    for split, target in targets.items():
        target.save(folder / "targets" / f"{split}.safetensors")
    train = targets["train"]
    keep = keep_mask(train.residual, threshold)
    table = fit_table(train.prediction, train.label)
    with replacing(folder / "table1.md") as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    plot_residuals(folder / "residuals.png", train.prediction, train.residual, keep, threshold)
    for split, target in targets.items():
        title = f"Teacher on {split}, {len(target.ids)} utterances"
        plot_predictions(folder / f"predictions_{split}.png", target.prediction, target.label, title)
    print(f"\nTable 1 for this corpus: the teacher on its {len(train.ids)} training utterances\n\n{table}\n")
    print(f"{1 - keep.mean():.1%} of them have a residual beyond {threshold:g} σ in some dimension.")
    print(f"Targets and plots: {folder}")


def fit_table(predictions, labels):
    """Format the paper's Table 1: how well a teacher fits the set that it was trained on.

    Parameters
    ----------
    predictions, labels : numpy.ndarray
        (N, 3), of the training set.

    Returns
    -------
    str
        A Markdown table of CCC and Pearson's rho a dimension.
    """
    scores = metrics.evaluate(predictions, labels)
    lines = ["| training set | " + " | ".join(DIMENSIONS) + " |", "| --- |" + " --- |" * len(DIMENSIONS)]
    for title, key in (("CCC", "ccc"), ("Pearson's ρ", "pearson")):
        lines.append(f"| {title} | " + " | ".join(f"{scores[d][key]:.3f}" for d in DIMENSIONS) + " |")
    return "\n".join(lines)


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


def plot_comparison(path, reports, split, title):
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
    """
    figure, axes = _panels(title, sharey=True)
    rows = np.arange(len(reports))[::-1]
    lowest = min(report["test"][split][d]["ccc_95"][0] for report in reports.values() for d in DIMENSIONS)
    for dimension, axis in zip(DIMENSIONS, axes, strict=True):
        scores = [report["test"][split][dimension] for report in reports.values()]
        ccc = np.array([score["ccc"] for score in scores])
        low, high = np.array([score["ccc_95"] for score in scores]).T
        axis.errorbar(ccc, rows, xerr=np.clip([ccc - low, high - ccc], 0, None), fmt="o", capsize=4)
        axis.set_yticks(rows, list(reports))
        axis.set_ylim(-0.6, len(reports) - 0.4)
        axis.set_xlim(min(0, lowest) - 0.02, 1)  # one scale, so that panels compare
        axis.set_title(dimension)
        axis.set_xlabel("CCC (95 % interval)")
        axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def _panels(title, **options):
    """Make a figure with one panel a dimension."""
    # Imported here: it takes half a second, and only reports need it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(1, len(DIMENSIONS), **options)


def _save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
