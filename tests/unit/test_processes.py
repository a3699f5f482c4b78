"""Sharing work out among processes: two to four real ones, also with nothing to do."""

import os

import numpy as np
import pytest

from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.processes import gather, gather_in_turn, my_share, share_out
from tests.ranks import on_each_rank


@pytest.mark.parametrize("n_items", [0, 1, 4, 7])
def test_processes_do_of_many_items_a_share_each_and_know_all_results(tmp_path, n_items):
    items, done = [f"item{i}" for i in range(n_items)], tmp_path / "done"

    def do(share):
        with open(done, "a") as file:
            file.writelines(f"{item} {os.getpid()}\n" for item in share)
        return [item.upper() for item in share]

    found = on_each_rank(lambda _: share_out(do, items), tmp_path, 3)
    assert found == [[item.upper() for item in items]] * 3
    done_by = dict(line.split() for line in done.read_text().splitlines())
    assert sorted(done_by) == sorted(items) and len(done.read_text().splitlines()) == n_items
    shares = [sorted(item for item in items if done_by[item] == who) for who in set(done_by.values())]
    assert sorted(shares) == sorted(items[rank::3] for rank in range(3) if items[rank::3])


def test_results_that_are_not_of_all_items_are_told_apart_by_their_turn(tmp_path):  # as in debug mode
    found = on_each_rank(lambda rank: gather_in_turn([(rank, i) for i in range(3 - 2 * rank)]), tmp_path, 2)
    assert found == [[(0, 0), (1, 0), (0, 1), (0, 2)]] * 2


def test_each_process_gives_what_it_has(tmp_path):
    found = on_each_rank(lambda rank: [rows.tolist() for rows in gather(np.full((rank, 2), rank))], tmp_path, 3)
    assert found == [[[], [[1, 1]], [[2, 2], [2, 2]]]] * 3


def test_one_process_does_everything():
    items = ["a", "b"]
    assert my_share(items) == items and gather(items) == [items] and share_out(iter, items) == items


def test_a_process_that_cannot_go_on_leaves_the_others_a_sentence(tmp_path):
    def task(rank):
        gather("all are here")
        with plain_errors():
            if rank == 1:
                raise InputError("clip.wav can't be read.")
            gather("and wait")

    assert on_each_rank(task, tmp_path, 2) == [
        "error: another process of this run has ended: see what it said.",
        "error: clip.wav can't be read.",
    ]


def test_other_failures_keep_their_traceback():
    with pytest.raises(RuntimeError, match="sizes differ"), plain_errors():
        raise RuntimeError("sizes differ")
