"""The global batch of a distributed run."""

import itertools
from collections.abc import Sequence

import torch
import torch.distributed as dist
from speechbrain.dataio.sampler import ReproducibleRandomSampler

from ser_ts_lobes.errors import InputError
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
    if not (_is_distributed() and torch.is_grad_enabled()):
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
    fifty batches are sorted, as they come, before they are cut into batches; then the batches are shuffled.

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
        set_name: str = "training set",
        option: str = "batch_size",
    ) -> None:
        assert shuffle or lengths is None
        if batch_size < 1:
            raise InputError(f"--{option} is {batch_size}: give a whole number from 1 on.")
        if n_items < batch_size:
            raise InputError(
                f"The {set_name} has {n_items} recordings, fewer than one batch of {batch_size}: choose a smaller "
                f"--{option}."
            )
        self._rank, self._n_ranks = (dist.get_rank(), dist.get_world_size()) if _is_distributed() else (0, 1)
        last = 0 if drop_last else n_items % batch_size
        if (last or batch_size) < self._n_ranks:
            raise InputError(
                f"A batch of {last or batch_size} recordings can't be shared out among {self._n_ranks} processes: "
                f"--{option} is of all processes together; choose a larger one."
            )
        items = range(n_items)
        self._order = (
            ReproducibleRandomSampler(items, derive_seed(seed))
            if shuffle
            else torch.utils.data.SequentialSampler(items)
        )
        self._batches = torch.utils.data.BatchSampler(self._order, batch_size, drop_last)
        self._seed, self._epoch, self._lengths = seed, 0, lengths

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._epoch = epoch
        if isinstance(self._order, ReproducibleRandomSampler):
            self._order.set_epoch(epoch)

    def __iter__(self):
        batches = self._batches if self._lengths is None else self._sort(self._lengths)
        for batch in batches:
            yield batch[self._rank :: self._n_ranks]

    def _sort(self, lengths):
        order, size = list(self._order), self._batches.batch_size
        pool = _POOL * size
        for start in range(0, len(order), pool):
            order[start : start + pool] = sorted(order[start : start + pool], key=lengths.__getitem__)
        batches = [order[start : start + size] for start in range(0, len(self) * size, size)]
        generator = torch.Generator().manual_seed(derive_seed(self._seed, self._epoch))
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]

    def __len__(self):
        return len(self._batches)


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


def _is_distributed():
    return dist.is_available() and dist.is_initialized()
