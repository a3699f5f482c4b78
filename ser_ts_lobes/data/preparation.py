"""What the prepare scripts of several corpora need: odd names, contradictory labels, lists of what was left out."""

import functools
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError, first_few
from ser_ts_lobes.text_files import write_csv

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


def refuse_other_case(missing: Iterable[str | Path]) -> None:
    """Refuse audio that is there under a name in other upper and lower case, as ``a.WAV`` for ``a.wav``.

    Parameters
    ----------
    missing
        Files that the labels name and that are not there.
    """
    names = functools.cache(lambda folder: {name.lower(): name for name in os.listdir(folder)})
    found = []
    for folder, name in map(os.path.split, missing):
        there = names(folder).get(name.lower(), name) if os.path.isdir(folder) else name
        if there != name:
            found.append(f"{there} for {name}")
    if found:
        raise InputError(
            f"{len(found)} audio files in {folder} have names in other upper and lower case than the labels say: "
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
