"""What the prepare scripts of several corpora need: odd names, contradictory labels, lists of what was left out."""

import functools
import hashlib
import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.audio import AudioInfo, inspect_audio
from ser_ts_lobes.data.manifests import TRANSCRIPT_COLUMNS
from ser_ts_lobes.errors import InputError, first_few
from ser_ts_lobes.files import map_files
from ser_ts_lobes.text_files import read_rows, write_csv

logger = logging.getLogger(__name__)


def spelt_otherwise(folder: Path, place: str | Path) -> Path | None:
    """Find a file that differs from the wanted one in upper and lower case, there or in a folder above it.

    Parameters
    ----------
    folder
        Where to look.
    place
        What is wanted and not there, relative to the folder.

    Returns
    -------
    Path or None
        What is there.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "labels").mkdir()
    >>> (folder / "labels" / "A.csv").touch()
    >>> spelt_otherwise(folder, "Labels/a.csv").relative_to(folder).as_posix()
    'labels/A.csv'
    """
    for part in Path(place).parts:
        names = [name for name in (os.listdir(folder) if folder.is_dir() else ()) if name.lower() == part.lower()]
        if not names:
            return None
        folder = folder / (part if part in names else names[0])
    return folder


def inspect_files(paths: list[Any]) -> list[AudioInfo]:
    """Inspect a corpus's audio; see `ser_ts_lobes.data.audio.inspect_audio`.

    Parameters
    ----------
    paths
        The files that the labels name.

    Returns
    -------
    list of AudioInfo
        One a file.

    Raises
    ------
    InputError
        As of `refuse_other_case`.
    """
    found = map_files(inspect_audio, paths)
    refuse_other_case(path for path, info in zip(paths, found, strict=True) if info.problem == "missing")
    return found


def read_transcripts(path: str | Path) -> dict[str, str]:
    """Read what `ser-ts transcribe` wrote.

    Parameters
    ----------
    path
        CSV of `ser_ts_lobes.data.manifests.TRANSCRIPT_COLUMNS`.

    Returns
    -------
    dict of str to str
        Transcripts by id; empty if there is no such file.
    """
    rows = read_rows(path, TRANSCRIPT_COLUMNS, key="ID") if Path(path).is_file() else ()
    return {row["ID"]: row["transcript"] for _, row in rows}


def divide_speakers(speakers: Iterable[str], where: str | Path) -> dict[str, str]:
    """Divide speakers among the splits: a fifth tests, a fifth validates, the others train.

    A digest of the name decides, so that neither order nor machine matters.

    Parameters
    ----------
    speakers
        At least three different names.
    where
        The file that they are from, for the error.

    Returns
    -------
    dict of str to str
        ``train``, ``valid`` or ``test`` by name.

    Raises
    ------
    InputError
        For fewer than three.

    Example
    -------
    >>> divide_speakers(["Ann", "Bob", "Cem"], "labels.csv")
    {'Ann': 'test', 'Cem': 'valid', 'Bob': 'train'}
    """
    order = _by_digest(speakers)
    if len(order) < 3:
        raise InputError(f"{where} has fewer than 3 speakers to train, validate and test; add a column split.")
    fifth = max(1, len(order) // 5)
    return {name: ("test", "valid", "train")[min(place // fifth, 2)] for place, name in enumerate(order)}


def choose_validating(names: Iterable[str], share: float) -> set[str]:
    """Choose what validates, by a digest of the names alone: it stays the same when others are added.

    Parameters
    ----------
    names
        At least two different ones.
    share
        In 0-1; one name at least validates, and one at least does not.

    Returns
    -------
    set of str

    Example
    -------
    >>> choose_validating(["a", "b", "c"], share=0.01)
    {'c'}
    """
    order = _by_digest(names)
    return set(order[: min(max(1, math.ceil(share * len(order))), len(order) - 1)])


def _by_digest(names):
    return sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())


def refuse_other_case(missing: Iterable[str | Path]) -> None:
    """Refuse audio that is there under a name in other upper and lower case, as ``a.WAV`` for ``a.wav``.

    Parameters
    ----------
    missing
        Files that the labels name and that are not there.

    Raises
    ------
    InputError
        That names the first of them, each with its own folder.
    """
    names = functools.cache(lambda folder: {name.lower(): name for name in os.listdir(folder)})
    found = []
    for folder, name in map(os.path.split, missing):
        there = names(folder).get(name.lower(), name) if os.path.isdir(folder) else name
        if there != name:
            found.append(f"{os.path.join(folder, there)} for {name}")
    if found:
        raise InputError(
            f"{len(found)} audio files have names in other upper and lower case than the labels say: "
            f"{first_few(found)}. Rename them."
        )


def warn_contradicted(ids: Sequence[str], labels: ArrayLike, means: ArrayLike, digits: int) -> None:
    """Warn of labels that are not the mean of what their own raters said.

    Parameters
    ----------
    ids
        The utterances.
    labels, means
        (utterances, 3) each; NaN where there are no raters.
    digits
        Decimals that the corpus prints: a label may be off by one unit of the last, whether it was rounded or cut.
    """
    given, rated = np.asarray(labels, dtype=float), np.asarray(means, dtype=float)
    # A float is a little off its decimals, too.
    rows, columns = np.nonzero(np.abs(given - rated) > 1.001 * 10.0**-digits)
    if len(rows):
        named = [
            f"{ids[row]} ({DIMENSIONS[column]} {given[row, column]:g}, its raters' mean is {rated[row, column]:g})"
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        logger.warning(f"{len(named)} labels are not the mean of what their raters said: {first_few(named)}.")


def list_utterances(file: str | Path, columns: Sequence[str], rows: list[Sequence], what: str) -> None:
    """List utterances in a CSV file, and warn of them where there are any.

    Parameters
    ----------
    file
        Is written with its header in any case, so that it never speaks of an earlier preparation.
    columns
        Its header; the first is the utterance id.
    rows
        One an utterance.
    what
        What is said of them in the warning.
    """
    write_csv(file, columns, rows)
    if rows:
        logger.warning(f"{what}: {first_few(row[0] for row in rows)}. All are listed in {file}.")
