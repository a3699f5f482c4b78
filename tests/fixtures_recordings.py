"""Recordings of one's own, as recipes/Template takes them: synthetic audio and invented text."""

import csv

from tests.fixtures_msp import write_msp_tree

_LABELS = {"activation": "EmoAct", "valence": "EmoVal", "dominance": "EmoDom"}


def write_recordings(folder, count=40, raters=0, **columns):
    """Write a folder of recordings with ``recordings.csv``, four a speaker.

    Parameters
    ----------
    folder : pathlib.Path
        Made when it does not exist.
    count : int
        Of the recordings.
    raters : int
        Of each recording, whose answers differ by one from rater to rater; none: there is no ``ratings.csv``.
    **columns : callable
        Further columns of the table: each gives the cell of a recording by its place.

    Returns
    -------
    pathlib.Path
        The table.
    """
    write_msp_tree(folder, {"Train": count})
    rows = []
    with open(folder / "Labels" / "labels_consensus.csv", newline="") as file:
        for place, row in enumerate(csv.DictReader(file)):
            text = (folder / "Transcripts" / row["FileName"].replace(".wav", ".txt")).read_text().strip()
            cells = {"file": f"Audios/{row['FileName']}", "speaker": row["SpkrID"], "transcript": text}
            cells |= {ours: row[theirs] for ours, theirs in _LABELS.items()}
            rows.append(cells | {name: cell(place) for name, cell in columns.items()})
    _write_table(folder / "recordings.csv", rows)
    if raters:
        answers = [
            {"file": row["file"]} | {name: min(7, max(1, round(float(row[name])) + rater % 3 - 1)) for name in _LABELS}
            for row in rows
            for rater in range(raters)
        ]
        _write_table(folder / "ratings.csv", answers)
    return folder / "recordings.csv"


def _write_table(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
