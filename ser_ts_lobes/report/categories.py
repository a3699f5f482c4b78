"""What predictions say of the corpus's classes: each is that of the nearest labelled region."""

import numpy as np

from ser_ts_lobes.report import figures, html
from ser_ts_lobes.report.html import Cell, number
from ser_ts_lobes.report.sources import TestSet
from ser_ts_lobes.report.view import View, groups_of
from ser_ts_lobes.results.intervals import mean_interval

#: What stands in corpora for "raters did not agree" and for "another emotion".
_NO_CLASS = {"x", "o", "xxx", "oth", "unknown"}
_FOLDS = 10
_THE_LABELS = "the labels themselves"


def by_category(test_set: TestSet, view: View) -> str:
    """Show the confusion of classes, of the labels and of each system; nothing where fewer than two are known."""
    known = test_set.known("emotion")
    if known is None:
        return ""
    names = [
        name
        for name in sorted({*known} - {None})
        if name.lower() not in _NO_CLASS and (known == name).sum() >= view.smallest
    ]
    if len(names) < 2:
        return ""
    rows = np.isin(known.astype(str), names)
    true = np.array([names.index(name) for name in known[rows]])
    label, groups = test_set.label[rows], groups_of(test_set, rows)
    fold = (np.arange(len(label)) if groups is None else np.unique(groups, return_inverse=True)[1]) % _FOLDS
    guessed = {_THE_LABELS: nearest(label, label, true, fold)[None]} | {
        name: np.array([nearest(seed[rows], label, true, fold) for seed in system.prediction])
        for name, system in test_set.systems.items()
    }
    confusions = {name: np.mean([confusion(true, seed) for seed in seeds], axis=0) for name, seeds in guessed.items()}
    panels = [figures.confusion(name, of, names) for name, of in confusions.items()]
    table: list[html.Row] = []
    for name, seeds in guessed.items():
        recall = np.diag(confusions[name])
        hits = (seeds == true).mean(axis=0)
        # A mean over classes of means over their utterances: a mean over utterances with weights.
        weighted = hits * len(true) / len(names) / np.bincount(true)[true]
        interval = html.ends(mean_interval(weighted[:, None], groups)[:, 0])
        table.append([name, Cell(number(recall.mean()), interval), *(Cell(number(value, 2)) for value in recall)])
    sizes = ", ".join(f"{name} {size:,}" for name, size in zip(names, np.bincount(true), strict=True))
    return (
        "<h3>By category</h3>"
        + html.figure(
            panels,
            "A prediction is of the class whose mean label (activation, valence, dominance, each in standard "
            "deviations of the labels) is nearest. Rows: the class that raters chose; columns: the nearest one; "
            "shares of the row.",
        )
        + html.table(
            f"Recall of each class ({sizes}) and their mean, with its interval. {_THE_LABELS.capitalize()} show how "
            "far three dimensions can tell these classes apart. Classes that a system has learnt "
            "(`emotion_weight`) are not looked at here: their scores are in its metrics.json.",
            ["", "mean recall", *names],
            table,
        )
    )


def nearest(points: np.ndarray, label: np.ndarray, true: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return the class whose mean label is nearest to each point, in standard deviations of the labels.

    Means are of the other folds' utterances: a mean lies near those that it is made of, which would flatter.

    Parameters
    ----------
    points, label
        (N, D).
    true
        Each utterance's class, (N,), from 0.
    fold
        (N,).

    Returns
    -------
    numpy.ndarray
        (N,).

    Example
    -------
    >>> label = np.array([[1.0], [2.0], [6.0], [7.0]])
    >>> nearest(np.array([[3.9], [4.6], [4.6], [3.9]]), label, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])).tolist()
    [0, 1, 1, 1]
    """
    scale = label.std(axis=0)
    found = np.empty(len(points), dtype=int)
    for left_out in np.unique(fold):
        mine = fold == left_out
        centres = np.full((true.max() + 1, label.shape[1]), np.inf)
        for place in np.unique(true[~mine]):
            centres[place] = label[~mine & (true == place)].mean(axis=0)
        distance = (((points[mine, None] - centres) / np.where(scale > 0, scale, 1)) ** 2).sum(axis=2)
        found[mine] = distance.argmin(axis=1)
    return found


def confusion(true: np.ndarray, guessed: np.ndarray) -> np.ndarray:
    """Return the share of each class (row) that was taken for each (column).

    Example
    -------
    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1])).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    n = int(true.max()) + 1
    counts = np.bincount(true * n + guessed, minlength=n * n).reshape(n, n)
    shares: np.ndarray = counts / counts.sum(axis=1, keepdims=True)
    return shares
