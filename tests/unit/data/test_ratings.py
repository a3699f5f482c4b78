"""Raters' answers on disk, and soft labels against counts made by hand."""

import re

import numpy as np
import pytest

from ser_ts_lobes.data.manifests import write_manifests
from ser_ts_lobes.data.ratings import read_ratings, soft_labels, write_ratings
from ser_ts_lobes.errors import InputError
from tests.unit.data.test_manifests import utterance

POINTS = [1, 2, 3, 4, 5, 6, 7]


def random_ratings(n, draw):
    random = np.random.default_rng(0)
    return [tuple(tuple(draw(random, random.integers(1, 9)).tolist()) for _ in range(3)) for _ in range(n)]


def test_soft_labels_of_whole_points_are_shares_of_raters():
    ratings = random_ratings(50, lambda random, n: random.integers(1, 8, n))
    edges = np.arange(0.5, 8)
    expected = [[np.histogram(numbers, edges)[0] / len(numbers) for numbers in said] for said in ratings]
    np.testing.assert_allclose(soft_labels(ratings, POINTS), expected, rtol=1e-6)


def test_soft_labels_between_points_keep_the_raters_mean():
    ratings = random_ratings(50, lambda random, n: random.uniform(1, 7, n))
    labels = soft_labels(ratings, POINTS).astype(np.float64)
    np.testing.assert_allclose(labels.sum(axis=2), 1, atol=1e-6)
    np.testing.assert_allclose(labels @ POINTS, [[np.mean(numbers) for numbers in said] for said in ratings], atol=1e-5)
    assert (labels >= 0).all() and ((labels > 0).sum(axis=2) <= [[2 * len(x) for x in said] for said in ratings]).all()


def test_points_need_not_be_even_and_what_is_beyond_them_is_their_end():
    [labels] = soft_labels([((20.0,), (-5.0, 400.0), (100.0,))], [0, 10, 50, 100])
    np.testing.assert_allclose(labels, [[0, 0.75, 0.25, 0], [0.5, 0, 0, 0.5], [0, 0, 0, 1]], rtol=1e-6)


def test_whom_nobody_rated_has_no_soft_label():
    labels = soft_labels([(), ((3.0,), (), (4.0,))], POINTS)
    assert labels.shape == (2, 3, 7) and labels.dtype == np.float32
    assert np.isnan(labels).all(axis=2).tolist() == [[True] * 3, [False, True, False]]


@pytest.fixture
def folder(tmp_path):
    """Give a prepared folder whose two utterances somebody rated."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    file = write_ratings(folder, [("a", ([1 / 3, 7], [5.0], [])), ("b", ([2], [2], [2])), ("nobody", ([], [], []))])
    prepare(folder, [file])
    return folder


def prepare(folder, side_files):
    splits = {"train": [utterance("a"), utterance("nobody")], "valid": [utterance("b")]}
    write_manifests(folder, splits, "/corpus", "inputs", (1, 7), side_files)


def test_ratings_are_read_as_they_were_written(folder):
    assert (folder / "ratings.csv").read_text().splitlines()[1] == "a,0.3333333333333333 7,5,"
    assert read_ratings(folder, ["a", "nobody"]) == {"a": ((1 / 3, 7.0), (5.0,), ())}


def test_a_fold_finds_its_ratings_above(folder):
    prepare(folder / "fold1", [folder / "ratings.csv"])
    assert read_ratings(folder / "fold1", ["b"]) == {"b": ((2.0,), (2.0,), (2.0,))}


def test_missing_ratings_name_the_file_and_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"has no ratings.csv.*prepare script.*--soft_label_weight=0"):
        read_ratings(tmp_path, ["a"])


def test_ratings_of_an_earlier_preparation_are_not_read(folder):
    prepare(folder, [])
    with pytest.raises(InputError, match=r"has no ratings.csv"):
        read_ratings(folder, ["a"])


@pytest.mark.parametrize("content", ["ID,activation,valence,dominance\na,1,1,1\n", None])
def test_ratings_that_were_edited_or_removed_are_refused(folder, content):
    if content is None:
        (folder / "ratings.csv").unlink()
    else:
        (folder / "ratings.csv").write_text(content)
    with pytest.raises(InputError, match=r"ratings.csv was edited or removed after preparation. Prepare"):
        read_ratings(folder, ["a"])


@pytest.mark.parametrize(
    ("row", "ids", "problem"),
    [
        ("a,1 b,1,1", ["a"], "line 2: the ratings of a are not all numbers"),
        ("a,1 nan,1,1", ["a"], "line 2: the ratings of a are not all numbers"),
        ("a,1,1,1", ["c", "d"], "has no raters of c, d. Run the recipe's prepare script"),
        ("a,,,", ["a"], "has no raters of a. Run the recipe's prepare script"),
    ],
)
def test_ratings_that_cant_be_used_are_one_sentence(tmp_path, row, ids, problem):
    (tmp_path / "ratings.csv").write_text(f"ID,activation,valence,dominance\n{row}\n")
    with pytest.raises(InputError, match=re.escape(problem)):
        read_ratings(tmp_path, ids)
