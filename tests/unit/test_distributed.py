"""The batches of a training set, shared out among processes."""

import pytest
import torch.distributed as dist

from ser_ts_lobes.distributed import GlobalBatches
from ser_ts_lobes.errors import InputError


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
        ({"n_items": 3}, "3 recordings, fewer than one batch of 4: choose a smaller --batch_size"),
        ({"n_ranks": 8}, "A batch of 4 recordings can't be shared out among 8 processes"),
        ({"n_items": 9, "n_ranks": 2, "drop_last": False}, "A batch of 1 recordings can't be shared out among 2"),
    ],
)
def test_a_training_set_of_which_some_process_gets_nothing_is_refused(monkeypatch, options, message):
    with pytest.raises(InputError, match=message):
        batches(**options, monkeypatch=monkeypatch)
