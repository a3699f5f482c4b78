"""The global batch against arithmetic by hand: one process, and two to four of them; how it is shared out."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.training.distributed import GlobalBatches, MixedBatches, gather_batch
from tests import ranks


def on_each_rank(task, *arguments):
    """Run a task on ranks, and alone before that, so that who follows calls (mutmut) sees what the ranks run."""
    task(0)
    return ranks.on_each_rank(task, *arguments)


def rows_of(rank, n_rows):
    """Return rows that name their rank and their place in it, shape (n_rows, 2, 3)."""
    places = torch.arange(n_rows * 6, dtype=torch.float64).view(n_rows, 2, 3)
    return places + 100 * (rank + 1)


def test_one_process_has_the_batch_itself():
    batch = torch.ones(2, 3, requires_grad=True)
    assert gather_batch(batch) is batch


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1), (0, 2), (2, 0), (1, 4, 2, 3)], ids=str)
def test_rows_of_all_ranks_come_in_rank_order(tmp_path, sizes):
    expected = torch.cat([rows_of(rank, n_rows) for rank, n_rows in enumerate(sizes)])
    for gathered in on_each_rank(lambda rank: gather_batch(rows_of(rank, sizes[rank])), tmp_path, len(sizes)):
        torch.testing.assert_close(gathered, expected, rtol=0, atol=0)  # shape and dtype too


@pytest.mark.parametrize("sizes", [(2, 1), (1, 3, 2)], ids=str)
def test_ranks_have_the_gradient_of_the_whole_batch_on_average(tmp_path, sizes):  # averaging is what DDP does
    def task(rank):
        weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
        gather_batch(rows_of(rank, sizes[rank]) * weight).sum().square().backward()
        return weight.grad

    gradients = on_each_rank(task, tmp_path, len(sizes))
    sums = sum(rows_of(rank, n_rows).sum(dim=(0, 1)) for rank, n_rows in enumerate(sizes))
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    expected = 2 * (sums @ weight) * sums  # of (sums . weight)^2
    torch.testing.assert_close(torch.stack(gradients).mean(dim=0), expected)


def test_only_the_own_rows_in_the_global_batch_are_scaled(tmp_path):
    def task(rank):
        batch = rows_of(rank, 2).requires_grad_()
        gathered = gather_batch(batch)
        (gathered.sum() + 10 * batch.sum()).backward()  # and another use of the same rows, in this rank's own loss
        return batch.grad

    for gradient in on_each_rank(task, tmp_path, 3):
        assert gradient.tolist() == torch.full((2, 2, 3), 10.0 + 3).tolist()


def test_validation_waits_for_nobody(tmp_path):
    def task(rank):
        if rank == 1:
            return None
        with torch.no_grad():  # a gather would wait for the other rank for ever
            batch = rows_of(rank, 2)
            return gather_batch(batch) is batch

    assert on_each_rank(task, tmp_path, 2) == [True, None]


def test_a_batch_that_needs_no_gradient_is_gathered_all_the_same(tmp_path):
    def task(rank):
        gathered = gather_batch(torch.full((1, 2), rank))
        return gathered.tolist(), gathered.requires_grad

    assert on_each_rank(task, tmp_path, 2) == [([[0, 0], [1, 1]], False)] * 2


def test_ranks_tell_their_sizes_on_the_device_of_the_batch(monkeypatch):  # NCCL takes no tensor of the CPU
    class Gathers(Exception):
        pass

    def all_gather(gathered, tensor):
        raise Gathers({tensor.device.type for tensor in [*gathered, tensor]})

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    with pytest.raises(Gathers, match="{'meta'}"):
        gather_batch(torch.ones(2, 3, device="meta"))


def batches(n_items=10, batch_size=4, rank=0, n_ranks=1, epoch=1, monkeypatch=None, **options):
    with monkeypatch.context() as patch:
        if n_ranks > 1:
            patch.setattr(dist, "is_initialized", lambda: True)
            patch.setattr(dist, "get_rank", lambda: rank)
            patch.setattr(dist, "get_world_size", lambda: n_ranks)
        sampler = GlobalBatches(n_items, batch_size, **{"shuffle": True, "drop_last": True, "seed": 1986} | options)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(list(sampler))
    return list(sampler)


def test_processes_share_the_batches_that_one_process_would_have(monkeypatch):
    whole = batches(monkeypatch=monkeypatch)
    assert [len(batch) for batch in whole] == [4, 4] and len(set(sum(whole, []))) == 8
    for n_ranks in (2, 3, 4):
        shares = [batches(rank=rank, n_ranks=n_ranks, monkeypatch=monkeypatch) for rank in range(n_ranks)]
        for number, batch in enumerate(whole):
            assert sorted(item for share in shares for item in share[number]) == sorted(batch)
            assert all(share[number] for share in shares)


def test_by_default_all_come_in_their_order():
    assert list(GlobalBatches(5, 2)) == [[0, 1], [2, 3], [4]]
    assert list(GlobalBatches(9, 9, shuffle=True)) == list(GlobalBatches(9, 9, shuffle=True, seed=0))


def test_a_batch_of_one_for_each_process_and_no_rest_is_enough(monkeypatch):
    assert batches(8, 4, n_ranks=4, rank=3, shuffle=False, drop_last=False, monkeypatch=monkeypatch) == [[3], [7]]
    assert batches(4, 4, shuffle=False, monkeypatch=monkeypatch) == [[0, 1, 2, 3]]
    assert batches(2, 1, shuffle=False, monkeypatch=monkeypatch) == [[0], [1]]


def test_each_seed_and_each_epoch_has_an_order_of_its_own(monkeypatch):
    orders = {
        (seed, epoch): str(batches(100, 10, seed=seed, epoch=epoch, monkeypatch=monkeypatch))
        for seed in (1986, 1987)
        for epoch in (1, 2)
    }
    assert len(set(orders.values())) == 4
    assert str(batches(100, 10, monkeypatch=monkeypatch)) == orders[1986, 1]


def test_without_shuffling_all_come_in_their_order(monkeypatch):
    assert batches(shuffle=False, drop_last=False, monkeypatch=monkeypatch) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch_size is 0: give a whole number from 1 on"),
        ({"n_items": 3}, "3 recordings, fewer than one batch of 4: choose a smaller --batch_size"),
        (
            {"n_ranks": 8},
            "A batch of 4 .* among 8 processes: --batch_size is of all .* together; choose a larger",
        ),
        ({"n_items": 9, "n_ranks": 2, "drop_last": False}, "A batch of 1 recordings can't be shared out among 2"),
    ],
)
def test_a_training_set_of_which_some_process_gets_nothing_is_refused(monkeypatch, options, message):
    with pytest.raises(InputError, match=message):
        batches(**options, monkeypatch=monkeypatch)


LENGTHS = [float(value) for value in torch.rand(400, generator=torch.Generator().manual_seed(0))]


def test_items_of_about_the_same_length_share_a_batch():
    batches = GlobalBatches(400, batch_size=8, shuffle=True, seed=1986, lengths=LENGTHS)
    batches.set_epoch(1)
    found = list(batches)
    assert sorted(item for batch in found for item in batch) == list(range(400))
    longest = [max(LENGTHS[item] for item in batch) for batch in found]
    padding = sum(length * len(batch) for length, batch in zip(longest, found, strict=True)) / sum(LENGTHS) - 1
    assert padding < 0.05
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)  # and they come in any order


def test_sorted_batches_are_new_in_each_epoch_and_the_seeds_own():
    def of(seed, epoch):
        batches = GlobalBatches(1000, batch_size=8, shuffle=True, seed=seed, lengths=LENGTHS + LENGTHS + LENGTHS[:200])
        batches.set_epoch(epoch)
        return list(batches)

    assert of(1, 1) == of(1, 1)
    as_sets = [{frozenset(batch) for batch in of(*which)} for which in ((1, 1), (1, 2), (2, 1))]
    assert all(len(one & other) < 20 for one, other in ((as_sets[0], as_sets[1]), (as_sets[0], as_sets[2])))


@pytest.mark.parametrize("drop_last", [True, False])
def test_sorted_batches_leave_out_only_a_last_one_that_is_short(drop_last):
    batches = GlobalBatches(30, batch_size=8, shuffle=True, drop_last=drop_last, seed=1, lengths=LENGTHS[:30])
    found = list(batches)
    assert sorted(map(len, found)) == ([8, 8, 8] if drop_last else [6, 8, 8, 8])
    assert len(found) == len(batches)


def test_ranks_share_out_sorted_batches(tmp_path):
    def task(_):
        return list(GlobalBatches(400, batch_size=8, shuffle=True, seed=1986, lengths=LENGTHS))

    alone = task(0)
    first, second = on_each_rank(task, tmp_path, 2)
    assert [one[::2] for one in alone] == first and [one[1::2] for one in alone] == second


def timed(n_items=400, max_length=4.0, epoch=1, seed=1986, **options):
    """Give the batches of an epoch, of at most so long a time, and check that they know their number."""
    options = {"batch_size": 8, "shuffle": True, "drop_last": True, "lengths": LENGTHS[:n_items]} | options
    batches = GlobalBatches(n_items, seed=seed, max_length=max_length, **options)
    batches.set_epoch(epoch)
    assert len(batches) == len(list(batches))
    return list(batches)


@pytest.mark.parametrize("n_items", [399, 400])
def test_batches_of_a_length_hold_as_many_items_as_go_in(n_items):
    for epoch in (1, 2, 3):
        found = timed(n_items, epoch=epoch)
        padded = [len(batch) * max(LENGTHS[item] for item in batch) for batch in found]
        assert max(padded) <= 4 and np.median(padded) > 3.6
        assert {len(batch) for batch in found} > {4, 6, 8, 12}
        heard = [item for batch in found for item in batch]
        left_out = set(range(n_items)) - set(heard)  # which are one batch
        assert len(heard) == n_items - len(left_out) and len(left_out) * max(LENGTHS[i] for i in left_out) <= 4
        padding = sum(padded) / sum(LENGTHS[item] for item in heard) - 1
        assert padding < 0.1


def test_batches_of_a_length_go_on_over_pools():  # of 50 batches of 2, or each pool would end with a batch cut short
    found = timed(batch_size=2)
    whole = [len(batch) * max(LENGTHS[item] for item in batch) for batch in found]
    assert sum(length < 3 for length in whole) <= 2


def test_batches_of_a_length_are_new_in_each_epoch_and_the_seeds_own():
    assert timed() == timed()
    assert len({str(timed(seed=seed, epoch=epoch)) for seed in (1, 2) for epoch in (1, 2)}) == 4


def test_items_of_one_length_fill_batches_exactly():
    found = timed(12, max_length=8.0, lengths=[2.0] * 12)
    assert sorted(map(len, found)) == [4, 4]  # and the last, which may be of any size, is left out


@pytest.mark.parametrize("max_length", [None, 4.0])
def test_no_length_is_left_out_again_and_again(max_length):
    options = {"batch_size": 8, "shuffle": True, "drop_last": True, "lengths": LENGTHS[:30]}
    batches, heard = GlobalBatches(30, seed=1, max_length=max_length, **options), set()
    for epoch in range(1, 6):
        batches.set_epoch(epoch)
        heard |= {item for batch in batches for item in batch}
    assert len(heard) == 30


def test_ranks_share_out_batches_of_a_length(tmp_path):
    first, second = on_each_rank(lambda _: timed(), tmp_path, 2)
    alone = timed()
    assert [one[::2] for one in alone] == first and [one[1::2] for one in alone] == second
    assert all(first) and all(second)


@pytest.mark.parametrize(
    ("n_ranks", "max_length", "message"),
    [
        (1, 5.9, "max_batch_s is 5.9, .* training set needs room for 2 recordings of up to 3 s: give 6 or more"),
        (4, 11, "max_batch_s is 11, .* needs room for 4 recordings of up to 3 s: give 12 or more"),
        (1, 12, "max_batch_s is 12, and the training set has 4 recordings of up to 3 s, which is less than one batch"),
    ],
)
def test_a_length_that_holds_too_little_or_everything_is_refused(monkeypatch, n_ranks, max_length, message):
    with pytest.raises(InputError, match=message):
        batches(4, n_ranks=n_ranks, max_length=max_length, lengths=[1.0, 3.0, 2.5, 2.0], monkeypatch=monkeypatch)


def mixed(n_rated=20, n_unrated=13, batch_size=4, unrated_batch_size=3, drop_last=True):
    rated = GlobalBatches(n_rated, batch_size, shuffle=True, drop_last=drop_last, seed=1)
    unrated = GlobalBatches(n_unrated, unrated_batch_size, shuffle=True, drop_last=True, seed=2)
    return MixedBatches(rated, unrated, n_rated)


def epochs_of(batches, numbers):
    """Give the batches of some epochs, each as what is of the first set and what of the second."""
    found = []
    for number in numbers:
        batches.set_epoch(number)
        assert len(list(batches)) == len(batches)
        found.append([([i for i in batch if i < 20], [i - 20 for i in batch if i >= 20]) for batch in batches])
    return found


def test_each_batch_has_its_share_of_both_sets_and_an_epoch_is_a_pass_of_the_first():
    for epoch in epochs_of(mixed(), (1, 2, 3)):
        assert [(len(rated), len(unrated)) for rated, unrated in epoch] == [(4, 3)] * 5
        assert sorted(item for rated, _ in epoch for item in rated) == list(range(20))


def test_rated_batches_are_those_that_there_would_be_alone():
    alone = GlobalBatches(20, 4, shuffle=True, drop_last=True, seed=1)
    alone.set_epoch(3)
    [epoch] = epochs_of(mixed(), [3])
    assert [rated for rated, _ in epoch] == list(alone)


def test_unrated_batches_go_on_over_epochs_pass_after_pass():
    heard = [unrated for epoch in epochs_of(mixed(), range(1, 5)) for _, unrated in epoch]
    passes = [heard[start : start + 4] for start in range(0, 20, 4)]  # of 13, four batches of 3
    for number, one in enumerate(passes):
        expected = GlobalBatches(13, 3, shuffle=True, drop_last=True, seed=2)
        expected.set_epoch(number)
        assert one == list(expected)
        assert len({item for batch in one for item in batch}) == 12
    assert len(set(map(str, passes))) == 5


def test_an_epoch_is_the_same_whatever_was_before_it():
    whole = epochs_of(mixed(), range(1, 6))
    batches = mixed()
    assert [epochs_of(batches, [number])[0] for number in (4, 2, 5)] == [whole[3], whole[1], whole[4]]
    batches.set_epoch(3)
    next(iter(batches))  # one that was begun
    assert epochs_of(batches, [3]) == [whole[2]]


def test_ranks_share_out_batches_of_both_sets(tmp_path):
    alone = epochs_of(mixed(), (1, 2))
    of_ranks = on_each_rank(lambda _: epochs_of(mixed(), (1, 2)), tmp_path, 2)
    for rank, epochs in enumerate(of_ranks):
        assert epochs == [[(rated[rank::2], unrated[rank::2]) for rated, unrated in epoch] for epoch in alone]


def test_messages_name_the_set_and_the_option():
    options = {"set_name": "unrated speech", "option": "unrated_batch_size"}
    with pytest.raises(InputError, match="unrated speech has 3 recordings, .* choose a smaller --unrated_batch_size"):
        GlobalBatches(3, 4, **options)
    with pytest.raises(InputError, match="--unrated_batch_size is 0"):
        GlobalBatches(3, 0, **options)
