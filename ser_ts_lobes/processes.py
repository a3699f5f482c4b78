"""The processes that `torchrun` starts for one program: how they share work out, and put together what came of it.

Each process does its share of many items and then waits for the others, so all of them must come to the same calls in
the same order, also one whose share is empty. Without `torchrun` there is one process, whose share is everything.
"""

import atexit
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from speechbrain.utils.distributed import ddp_init_group

Item = TypeVar("Item")
Result = TypeVar("Result")

_NOTHING: Any = object()


def join(run_opts: Mapping[str, Any]) -> None:
    """Join the other processes that `torchrun` has started, if it has.

    Parameters
    ----------
    run_opts
        SpeechBrain's run options: ``distributed_backend``.
    """
    if not is_distributed():
        ddp_init_group(run_opts)
    if is_distributed():
        # Or else the threads of gloo may still be at work when the program ends, and abort it.
        atexit.register(dist.destroy_process_group)


def is_distributed() -> bool:
    """Say whether there are others that this process has joined."""
    return dist.is_available() and dist.is_initialized()


def place() -> tuple[int, int]:
    """Give this process's rank, from 0, and the number of processes.

    Example
    -------
    >>> place()
    (0, 1)
    """
    return (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)


def my_share(items: Sequence[Item]) -> Sequence[Item]:
    """Give the items that this process is to work on: every n-th of n processes.

    So all have about as much to do with items that are sorted by length. Where there are fewer items than processes,
    the last ones get none.

    Parameters
    ----------
    items
        The same on all processes, in the same order.

    Returns
    -------
    sequence
        In their order.

    Example
    -------
    >>> my_share(["a", "b", "c"])  # one process
    ['a', 'b', 'c']
    """
    rank, n_processes = place()
    return items[rank::n_processes]


def gather(own: Item) -> list[Item]:
    """Give what each process has, in the order of their ranks, to all of them.

    Parameters
    ----------
    own
        This process's; it is pickled.

    Returns
    -------
    list

    Example
    -------
    >>> gather("mine")  # one process
    ['mine']
    """
    _, n_processes = place()
    if n_processes == 1:
        return [own]
    gathered: list[Any] = [None] * n_processes
    dist.all_gather_object(gathered, own)
    return gathered


def gather_in_turn(results: Iterable[Result]) -> list[Result]:
    """Put together what the processes have made of their shares, in the order that one process would have it.

    Parameters
    ----------
    results
        One of each item of `my_share`, in the same order. (Tensors are slow to pickle one by one; take arrays.)

    Returns
    -------
    list
        The same on all processes.

    Example
    -------
    >>> gather_in_turn([4, 9])  # one process
    [4, 9]
    """
    turns = itertools.zip_longest(*gather(list(results)), fillvalue=_NOTHING)
    return [result for turn in turns for result in turn if result is not _NOTHING]


def share_out(function: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item]) -> list[Result]:
    """Do something with each of many items, all processes together.

    Parameters
    ----------
    function
        Takes the items of a share, and gives a result of each.
    items
        The same on all processes, in the same order.

    Returns
    -------
    list
        The results in the order of the items, the same on all processes.

    Example
    -------
    >>> share_out(lambda share: [len(item) for item in share], ["a", "bc"])
    [1, 2]
    """
    return gather_in_turn(function(my_share(items)))
