"""The global batch of a distributed run."""

import torch
import torch.distributed as dist


def gather_batch(tensor):
    """Concatenate a batch over all ranks, so that a loss sees the global batch.

    Each rank must compute the same loss from the result. The gradient that comes back to a rank's own rows
    is then multiplied by the number of ranks, because `DistributedDataParallel` divides the sum over ranks
    by it: parameters receive the gradient that one process would compute on the whole batch.

    Nothing is gathered without an initialised process group, or without gradients: validation may run on
    one rank only, and its metrics are computed once over the whole set.

    Parameters
    ----------
    tensor : torch.Tensor
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
    if not (dist.is_available() and dist.is_initialized() and torch.is_grad_enabled()):
        return tensor
    world_size = dist.get_world_size()
    size = torch.tensor([len(tensor)], device=tensor.device)
    sizes = [torch.empty_like(size) for _ in range(world_size)]
    dist.all_gather(sizes, size)
    sizes = [int(size) for size in sizes]

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
