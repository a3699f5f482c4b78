"""Tables as text, in Markdown and LaTeX, and what stands in their cells."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.results import metrics

if TYPE_CHECKING:
    import numpy as np

    from ser_ts_lobes.results.paper import Figure


def ccc_table(reports: dict[str, dict[str, Any]], split: str) -> str:
    """Format the CCCs of several runs on one test set.

    Parameters
    ----------
    reports
        What ``metrics.json`` holds, by row name.
    split
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


def fit_table(predictions: "np.ndarray", labels: "np.ndarray", paper: "Sequence[Figure]" = ()) -> str:
    """Format the paper's Table 1: how well a teacher fits the set that it was trained on.

    Parameters
    ----------
    predictions, labels
        (N, 3), of the training set.
    paper
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


def ccc_cell(score: dict[str, Any]) -> str:
    """Format a CCC: ± standard deviation if there is one, [95 % interval].

    Parameters
    ----------
    score
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


def gap_cell(score: dict[str, Any]) -> str:
    """Format the share of the gap to the teacher that a row closes, [95 % interval].

    Parameters
    ----------
    score
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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
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


def latex_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    r"""Format a table in LaTeX, for the package booktabs.

    Example
    -------
    >>> print(latex_table(["system", "CCC"], [["hubert_base", "0.5 ± 0.1"]], "95 % intervals"))
    \begin{table}
    \caption{95 \% intervals}
    \begin{tabular}{lr}
    \toprule
    system & CCC \\
    \midrule
    hubert\_base & 0.5 $\pm$ 0.1 \\
    \bottomrule
    \end{tabular}
    \end{table}
    """
    body = [" & ".join(map(_escape, cells)) + r" \\" for cells in (header, *rows)]
    lines = [
        r"\begin{table}",
        rf"\caption{{{_escape(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        body[0],
        r"\midrule",
        *body[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


_LATEX = {"±": r"$\pm$", "−": "$-$", "–": "--", **{character: rf"\{character}" for character in "&%$#_{}"}}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
