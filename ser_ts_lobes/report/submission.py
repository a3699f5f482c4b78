"""The file that leaderboards of MSP-Podcast's Test3 take: predictions of utterances whose labels nobody has.

The form is that of the organisers' example of Odyssey 2024 (``eval_dim_ser_test3.py`` in
github.com/msplabresearch/MSP-Podcast_Challenge): ``FileName,EmoAct,EmoVal,EmoDom``, the names of the files with
``.wav``, values from 1 to 7.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError, first_few
from ser_ts_lobes.files import walk_files
from ser_ts_lobes.report.strangers import read_predictions, utterance_id
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.text_files import parse_number, read_lines, read_rows, write_csv

COLUMNS = ("FileName", "EmoAct", "EmoVal", "EmoDom")
SCALE = (1.0, 7.0)


def submit(
    source: str | Path, out: str | Path, split: str = "test3", files: str | Path | None = None, check: bool = False
) -> None:
    """Write a submission, and check it; or only check one.

    Parameters
    ----------
    source
        A finished run, or a CSV (`ser_ts_lobes.report.strangers.read_predictions`); with `check`, a submission.
    out
        The CSV to write; not with `check`.
    split
        The set to take of a run, or of a CSV that names splits.
    files
        What has to be predicted: a folder with recordings, or a text file or CSV whose lines begin with their names.
        None checks the form alone.
    check
        Whether only to check `source`.

    Raises
    ------
    InputError
        If something can't be read, or a submission wouldn't be taken.
    """
    expected = None if files is None else read_names(files)
    if check:
        n = check_submission(source, expected)
        print(f"{source}: {n:,} utterances, in the form of a submission" + _said_of(expected))
        return
    ids, prediction = _read(Path(source), split)
    clipped = np.clip(prediction, *SCALE)
    beyond = int((clipped != prediction).any(axis=1).sum())
    rows = [[f"{id}.wav", *(f"{value:.6f}" for value in row)] for id, row in zip(ids, clipped, strict=True)]
    write_csv(out, COLUMNS, sorted(rows))
    n = check_submission(out, expected)
    notes = f"; {beyond:,} were beyond the scale and are at its end" if beyond else ""
    print(f"Written: {out}, {n:,} utterances{notes}" + _said_of(expected))


def check_submission(path: str | Path, expected: Iterable[str] | None = None) -> int:
    """Refuse a submission that would not be taken.

    Parameters
    ----------
    path
        The CSV.
    expected
        Ids of the utterances that have to be in it, and no others; None takes any.

    Returns
    -------
    int
        How many utterances it has.

    Raises
    ------
    InputError
        What is wrong, with its line.
    """
    header = next((line for _, line in read_lines(path)), "").strip()
    if header != ",".join(COLUMNS):
        raise InputError(
            f"{path}, line 1: the columns are {header[:200] or 'missing'}; they have to be {','.join(COLUMNS)}."
        )
    ids = set()
    low, high = SCALE
    for line, row in read_rows(path, COLUMNS, key="FileName"):
        name = row["FileName"]
        if not name.endswith(".wav") or "/" in name:
            raise InputError(f"{path}, line {line}: the FileName is {name[:60]!r}; name the file alone, such as a.wav.")
        for column in COLUMNS[1:]:
            value = parse_number(row[column])
            if value is None or not low <= value <= high:
                said = f"the {column} of {name} is {row[column]!r}, not a number from {low:g} to {high:g}"
                raise InputError(f"{path}, line {line}: {said}.")
        ids.add(utterance_id(name))
    if not ids:
        raise InputError(f"{path} has no utterances.")
    if expected is not None:
        wanted = set(expected)
        for names, problem in ((wanted - ids, "lacks"), (ids - wanted, "has, and should not,")):
            if names:
                few = first_few(sorted(names))
                raise InputError(f"{path} {problem} {len(names):,} utterances: {few}. Predict just those of the set.")
    return len(ids)


def read_names(files: str | Path) -> set[str]:
    """Read which utterances there are.

    Parameters
    ----------
    files
        A folder with recordings (``.wav``) anywhere below it; or a text file or CSV whose lines begin with their names,
        with or without a header ``FileName``.

    Returns
    -------
    set[str]
        Their ids.

    Raises
    ------
    InputError
        If there are none.
    """
    if Path(files).is_dir():
        names = {utterance_id(name) for name, _ in walk_files(files) if name.lower().endswith(".wav")}
    else:
        firsts = (line.strip().split(",")[0].strip().strip('"') for _, line in read_lines(files))
        names = {utterance_id(first) for first in firsts if first and first.lower() not in ("filename", "id")}
    if not names:
        raise InputError(
            f"{files} names no recording: give the folder with those of the set, or a list of their names."
        )
    return names


def _read(source: Path, split: str) -> tuple[list[str], np.ndarray]:
    if source.is_dir():
        said = RunFolder(source)
        said.report()
        of_split = said.predictions(split)
        if not of_split.ids:
            raise InputError(f"{source} has predicted no {split}: name another --split, or test there first.")
        return [utterance_id(id) for id in of_split.ids], of_split.prediction
    rows = [row for row in read_predictions(source) if row.split in ("", split)]
    if not rows:
        raise InputError(f"{source} has no predictions of {split}: name another --split.")
    return [row.id for row in rows], np.array([row.prediction for row in rows]).reshape(-1, len(DIMENSIONS))


def _said_of(expected: set[str] | None) -> str:
    if expected is None:
        return ". Whether all are there was not checked: name them by --files."
    return ", all that there have to be."
