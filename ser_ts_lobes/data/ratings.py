"""What each rater said of each utterance, and the soft labels that follow: the raters' distribution over the scale.

A prepare script writes ``ratings.csv`` beside its manifests where the corpus has its raters' answers: a line an
utterance, whose cells hold what each rater said, separated by blanks.
"""

import functools
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.manifests import find_side_file
from ser_ts_lobes.errors import InputError, first_few
from ser_ts_lobes.text_files import parse_number, read_rows, write_csv

RATINGS_FILE = "ratings.csv"

# Of an utterance: what its raters said, a sequence of numbers a dimension.
Ratings = tuple[tuple[float, ...], ...]


def write_ratings(folder: str | Path, ratings: Iterable[tuple[str, Iterable[Iterable[float]]]]) -> Path:
    """Write what each rater said of each utterance.

    Parameters
    ----------
    folder
        Where the manifests go.
    ratings
        Ids, and of each a sequence of numbers a dimension, in the order of `ser_ts_lobes.DIMENSIONS`, on the corpus's
        scale; as many as there are raters, who may have left a dimension out.

    Returns
    -------
    Path
        ``ratings.csv``, one of the side files of `ser_ts_lobes.data.manifests.write_manifests`.
    """
    path = Path(folder) / RATINGS_FILE
    write_csv(path, ("ID", *DIMENSIONS), ((id, *map(_cell, said)) for id, said in ratings))
    return path


def _cell(numbers):
    return " ".join(map(_text, numbers))


@functools.cache  # of millions of answers most are the same few
def _text(number):
    return repr(float(number)).removesuffix(".0")


def read_ratings(folder: str | Path, ids: Collection[str]) -> dict[str, Ratings]:
    """Read what the raters said of some utterances.

    Parameters
    ----------
    folder
        Of the manifests.
    ids
        The utterances.

    Returns
    -------
    dict
        By id, of those that somebody rated.

    Raises
    ------
    InputError
        If there is no such file, it was edited after preparation or holds something else than numbers, or none of the
        utterances is in it.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = write_ratings(folder, [("a", [(4.0, 5.5), (1.0, 2.0), ()]), ("b", [(7.0,), (6.0,), (6.0,)])])
    >>> read_ratings(folder, ["a"])
    {'a': ((4.0, 5.5), (1.0, 2.0), ())}
    """
    path = find_side_file(folder, RATINGS_FILE)
    if path is None:
        raise InputError(
            f"{folder} has no {RATINGS_FILE}, with what each rater said, which soft_label_weight needs: add the "
            "raters' answers to the corpus, as its recipe's prepare script says, and run that again, or give "
            "--soft_label_weight=0."
        )
    wanted = set(ids)
    ratings: dict[str, Ratings] = {}
    for line, row in read_rows(path, ("ID", *DIMENSIONS), key="ID"):
        if row["ID"] in wanted:
            said: Any = tuple(tuple(map(parse_number, row[name].split())) for name in DIMENSIONS)
            if any(None in numbers for numbers in said):
                raise InputError(f"{path}, line {line}: the ratings of {row['ID']} are not all numbers.")
            if any(said):
                ratings[row["ID"]] = said
    if not ratings:
        raise InputError(f"{path} has no raters of {first_few(ids)}. Run the recipe's prepare script again.")
    return ratings


def soft_labels(ratings: Sequence[Ratings], points: Sequence[float]) -> np.ndarray:
    """Return the distribution of each utterance's raters over the points of the scale.

    A rating between two points counts for both, the more the nearer it is, so that it stays the mean of its
    distribution; one beyond an end counts for the end.

    Parameters
    ----------
    ratings
        Of N utterances; an empty tuple where nobody rated.
    points
        K of the corpus's scale, increasing.

    Returns
    -------
    numpy.ndarray
        float32, (N, 3, K): shares that add up to 1; NaN in the dimensions that nobody rated.

    Example
    -------
    >>> soft_labels([((1.0, 2.0), (2.5,), ())], points=[1, 2, 3]).tolist()
    [[[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [nan, nan, nan]]]
    """
    shape = len(ratings), len(DIMENSIONS), len(points)
    cells = [said[j] if said else () for said in ratings for j in range(len(DIMENSIONS))]
    owners = np.repeat(np.arange(len(cells)), [len(numbers) for numbers in cells])
    # Where each rating is, in points: 1.25 is a quarter of the way from the second to the third.
    places = np.interp(np.array([number for numbers in cells for number in numbers]), points, np.arange(len(points)))
    below = np.minimum(places.astype(int), len(points) - 2)
    counts = np.zeros((len(cells), len(points)))
    for point, share in ((below, below + 1 - places), (below + 1, places - below)):
        np.add.at(counts, (owners, point), share)
    with np.errstate(invalid="ignore"):
        shares: np.ndarray = (counts / counts.sum(axis=1, keepdims=True)).reshape(shape).astype(np.float32)
    return shares
