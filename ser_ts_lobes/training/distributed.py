"""The global batch of a distributed run."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from speechbrain.dataio.sampler import ReproducibleRandomSampler

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.processes import is_distributed, place
from ser_ts_lobes.seeds import derive_seed

# Batches whose items are sorted together: enough for little padding, few enough for ever new batches.
_POOL = 50


def gather_batch(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate a batch over all ranks, so that a loss sees the global batch.

    Each rank must compute the same loss from the result. The gradient that comes back to a rank's own rows
    is then multiplied by the number of ranks, because `DistributedDataParallel` divides the sum over ranks
    by it: parameters receive the gradient that one process would compute on the whole batch.

    Nothing is gathered without an initialised process group, or without gradients: validation may run on
    one rank only, and its metrics are computed once over the whole set.

    Parameters
    ----------
    tensor
        This rank's rows, shape (B, ...). B may differ between ranks and may be 0; the other sizes and the
        dtype may not differ.

    Returns
    -------
    torch.Tensor
        Rows of all ranks in rank order, shape (sum of B, ...); only this rank's rows carry a gradient.

    Example
    -------
    >>> gather_batch(torch.ones(2, 3)).shape  # one process: the batch itself
    torch.Size([2, 3])
    """
    if not (is_distributed() and torch.is_grad_enabled()):
        return tensor
    world_size = dist.get_world_size()
    size = torch.tensor([len(tensor)], device=tensor.device)
    all_sizes = [torch.empty_like(size) for _ in range(world_size)]
    dist.all_gather(all_sizes, size)
    sizes = [int(size) for size in all_sizes]

    # Gloo gathers equal sizes only, hence the padding.
    padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor.detach()
    gathered = [torch.empty_like(padded) for _ in range(world_size)]
    dist.all_gather(gathered, padded)

    rows = [part[:size] for part, size in zip(gathered, sizes, strict=True)]
    own = tensor.view_as(tensor)  # a node of its own: the hook must not scale other uses of the tensor
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * world_size)
    rows[dist.get_rank()] = own
    return torch.cat(rows)


class GlobalBatches(torch.utils.data.Sampler):
    """Batches of a training set, of which each process gets its share: ``batch_size`` is that of all together.

    So a run has the same batches on any number of processes. Their order is the seed's own, anew in each epoch.

    With ``lengths``, items of about the same length share a batch, so that little is padded: as many items as fill
    fifty batches are sorted, as they come, before they are cut into batches; then the batches are shuffled. With
    ``max_length``, too, a batch has as many of them as that allows, and not ``batch_size``. (SpeechBrain's
    ``DynamicBatchSampler`` gives each process batches of its own.)

    Parameters
    ----------
    n_items
        Size of the training set.
    batch_size
        Of the global batch.
    shuffle
        Whether the order is random.
    drop_last
        Whether a smaller last batch is left out.
    seed
        Of the run.
    lengths
        Of the items, in any unit; needs `shuffle`.
    max_length
        Of all items of a global batch together, padding included; needs `lengths` and `drop_last`: the last batch, of
        whatever size, is left out.
    set_name, option
        What the items are called, and the key of the batch size, in what users are told.

    Raises
    ------
    InputError
        If there is not one whole batch, or some process would get nothing of a batch.

    Example
    -------
    >>> batches = GlobalBatches(10, batch_size=4, shuffle=True, drop_last=True, seed=1986)
    >>> batches.set_epoch(1)
    >>> [len(batch) for batch in batches]
    [4, 4]
    """

    def __init__(
        self,
        n_items: int,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        lengths: Sequence[float] | None = None,
        max_length: float | None = None,
        set_name: str = "training set",
        option: str = "batch_size",
    ) -> None:
        assert shuffle or lengths is None
        assert max_length is None or (lengths is not None and drop_last)
        if batch_size < 1:
            raise InputError(f"--{option} is {batch_size}: give a whole number from 1 on.")
        self._rank, self._n_ranks = place()
        items = range(n_items)
        self._order = (
            ReproducibleRandomSampler(items, derive_seed(seed))
            if shuffle
            else torch.utils.data.SequentialSampler(items)
        )
        self._size, self._drop_last, self._seed = batch_size, drop_last, seed
        self._lengths, self._max_length = lengths, max_length
        self._check_size(n_items, set_name, option)
        if max_length is not None:
            self._check_length(max_length, lengths, set_name)
        self.set_epoch(0)

    def _check_size(self, n_items, set_name, option):
        if n_items < self._size:
            raise InputError(
                f"The {set_name} has {n_items} recordings, fewer than one batch of {self._size}: choose a smaller "
                f"--{option}."
            )
        last = 0 if self._drop_last else n_items % self._size
        if (last or self._size) < self._n_ranks:
            raise InputError(
                f"A batch of {last or self._size} recordings can't be shared out among {self._n_ranks} processes: "
                f"--{option} is of all processes together; choose a larger one."
            )

    def _check_length(self, max_length, lengths, set_name):
        longest, least = max(lengths), max(2, self._n_ranks)  # one alone has no CCC
        if max_length < least * longest:
            raise InputError(
                f"max_batch_s is {max_length}, and a batch of the {set_name} needs room for {least} recordings of up "
                f"to {longest:g} s: give {math.ceil(least * longest)} or more."
            )
        if max_length >= len(lengths) * longest:
            raise InputError(
                f"max_batch_s is {max_length}, and the {set_name} has {len(lengths)} recordings of up to {longest:g} "
                "s, which is less than one batch: choose a smaller one."
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the batches of an epoch."""
        if isinstance(self._order, ReproducibleRandomSampler):
            self._order.set_epoch(epoch)
        order = list(self._order)
        if self._lengths is None:
            self._batches = list(torch.utils.data.BatchSampler(order, self._size, self._drop_last))
            return
        if self._drop_last and self._max_length is None:  # before they are sorted, or it would be the longest ones
            order = order[: len(order) // self._size * self._size]
        order = _sort(order, self._lengths, _POOL * self._size, first_down=epoch % 2 == 1)
        if self._max_length is None:
            batches = list(torch.utils.data.BatchSampler(order, self._size, drop_last=False))
        else:
            *batches, _ = _cut(order, self._lengths, self._max_length)
        generator = torch.Generator().manual_seed(derive_seed(self._seed, epoch))
        self._batches = [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]

    def __iter__(self):
        for batch in self._batches:
            yield batch[self._rank :: self._n_ranks]

    def __len__(self):
        return len(self._batches)


def _sort(order, lengths, pool, first_down):
    """Sort pools of items, up and down in turns: a pool ends with items as long as those that the next begins with.

    Where there are few pools, what comes last, and may be left out, is short in one epoch and long in the next.
    """
    items = []
    for number, start in enumerate(range(0, len(order), pool)):
        items += sorted(order[start : start + pool], key=lengths.__getitem__, reverse=(number + first_down) % 2 == 1)
    return items


def _cut(order, lengths, max_length):
    """Cut items into batches that are, padded, no longer than that; only the last has room for more."""
    batch: list[int] = []
    longest = 0.0
    for item in order:
        longest = max(longest, lengths[item])
        if longest * (len(batch) + 1) > max_length:
            yield batch
            batch, longest = [], lengths[item]
        batch.append(item)
    yield batch


class MixedBatches(torch.utils.data.Sampler):
    """Batches of two sets: each of the first, with the next of the second behind it.

    An epoch is one pass of the first set. The second goes on where it was in the epoch before, pass after pass, each in
    an order of its own; where that is follows from the epoch's number alone, so that a run that was interrupted goes on
    as one that was not.

    Parameters
    ----------
    first, second
        Batches of each set, of which a process gets its share; the second's have one size.
    n_first
        Size of the first set; numbers of the second's items follow those of the first's.

    Example
    -------
    >>> rated, unrated = GlobalBatches(4, batch_size=2), GlobalBatches(3, batch_size=1)
    >>> batches = MixedBatches(rated, unrated, n_first=4)
    >>> batches.set_epoch(1)
    >>> list(batches)
    [[0, 1, 4], [2, 3, 5]]
    >>> batches.set_epoch(2)
    >>> list(batches)
    [[0, 1, 6], [2, 3, 4]]
    """

    def __init__(self, first: GlobalBatches, second: GlobalBatches, n_first: int) -> None:
        self._first, self._second, self._n_first = first, second, n_first
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Choose the batches of an epoch, counted from 1."""
        self._epoch = epoch
        self._first.set_epoch(epoch)

    def __iter__(self):
        for batch, more in zip(self._first, self._go_on(), strict=False):  # the second has no end
            yield [*batch, *(self._n_first + item for item in more)]

    def _go_on(self):
        """Give batches of the second set from where the epoch before left it."""
        passes, done = divmod((self._epoch - 1) * len(self._first), len(self._second))
        for number in itertools.count(passes):
            self._second.set_epoch(number)
            yield from itertools.islice(self._second, done, None)
            done = 0

    def __len__(self):
        return len(self._first)
