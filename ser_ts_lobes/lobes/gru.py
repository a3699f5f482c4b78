"""A GRU that learns on a CPU without padding.

PyTorch's own computes the padding of a batch, too, and the gradient of a layer's recurrent weights frame by frame. Here
frames are packed, and in the scan over time stands only what has to wait for the frame before; all else is a product or
a map over all frames at once.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence


@torch.compiler.disable  # which would unroll the scan
def last_states(gru: torch.nn.GRU, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Give the output of a GRU at each row's last valid frame; to learn from, on a CPU.

    Parameters
    ----------
    gru
        Of one direction, without dropout, ``batch_first``.
    frames
        (B, T, D).
    lengths
        (B,), int64, in 1-T.

    Returns
    -------
    torch.Tensor
        (B, H), float32 or the parameters' dtype, also under autocast.

    Example
    -------
    >>> gru = torch.nn.GRU(16, 8, num_layers=2, batch_first=True)
    >>> frames, lengths = torch.randn(2, 5, 16), torch.tensor([3, 5])
    >>> torch.allclose(last_states(gru, frames, lengths)[0], gru(frames)[0][0, 2], atol=1e-6)
    True
    """
    packed = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
    sizes, outputs = packed.batch_sizes, packed.data
    for parameters in gru.all_weights:
        outputs = _Layer.apply(outputs, *parameters, sizes.tolist())
    starts = sizes.cumsum(0) - sizes  # of each point in time
    assert packed.unsorted_indices is not None
    return outputs[starts[lengths - 1] + packed.unsorted_indices]


class _Layer(torch.autograd.Function):
    """A layer of a GRU over packed frames, as `torch.nn.GRU` has it.

    r, z = s(W_x x + b_x + W_h h + b_h), m = W_m h + b_m, n = tanh(W_n x + b_n + r m), h' = (1 - z) n + z h
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, frames: torch.Tensor, *rest: Any) -> torch.Tensor:
        w_x, w_h, b_x, b_h, sizes = rest
        n_gates = 2 * (size := w_h.shape[1])
        gates = torch.addmm(b_x[:n_gates] + b_h[:n_gates], frames, w_x[:n_gates].t())
        new = torch.addmm(b_x[n_gates:], frames, w_x[n_gates:].t())
        recalled, hidden = torch.empty_like(new), torch.empty_like(new)
        to_gates, to_new = w_h[:n_gates].t(), w_h[n_gates:].t()
        state = hidden.new_zeros(sizes[0], size)
        for rz, r, z, m, n, h in _in_time(sizes, gates, gates[:, :size], gates[:, size:], recalled, new, hidden):
            state = state[: len(h)]
            rz.addmm_(state, to_gates).sigmoid_()
            torch.addmm(b_h[n_gates:], state, to_new, out=m)
            n.addcmul_(r, m).tanh_()
            state = torch.lerp(n, state, z, out=h)
        ctx.sizes = sizes
        ctx.save_for_backward(frames, w_x, w_h, gates, recalled, new, hidden)
        return hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]  # its decorators'
        frames, w_x, w_h, gates, recalled, new, hidden = ctx.saved_tensors
        sizes, size = ctx.sizes, hidden.shape[1]
        r, z = gates[:, :size], gates[:, size:]
        states = hidden.split(sizes)
        before = torch.cat([torch.zeros_like(states[0]), *(h[:n] for h, n in zip(states, sizes[1:], strict=False))])

        # How r, z and m, before they are squashed, move h'; then, times its gradient, their gradients.
        pre = hidden.new_empty(len(hidden), 3, size)
        of_new = (1 - z) * (1 - new.square())
        torch.mul(of_new, r, out=pre[:, 2])
        torch.mul(pre[:, 2] * recalled, 1 - r, out=pre[:, 0])
        torch.mul((before - new) * z, 1 - z, out=pre[:, 1])
        flat = pre.view(-1, 3 * size)
        d_hidden = gradient.clone()
        steps = list(_in_time(sizes, d_hidden, d_hidden.unsqueeze(1), pre, flat, z))
        for (d, wide, p, f, z_now), (d_before, *_) in zip(steps[:0:-1], steps[-2::-1], strict=True):
            p.mul_(wide)
            d_before[: len(d)].addcmul_(d, z_now).addmm_(f, w_h)
        steps[0][2].mul_(steps[0][1])

        d_gates, d_new = flat[:, : 2 * size], of_new.mul_(d_hidden)
        d_frames = None
        if ctx.needs_input_grad[0]:
            d_frames = torch.addmm(d_gates @ w_x[: 2 * size], d_new, w_x[2 * size :])
        d_b_h = flat.sum(0)
        return (
            d_frames,
            torch.cat([d_gates.t() @ frames, d_new.t() @ frames]),
            flat.t() @ before,
            torch.cat([d_b_h[: 2 * size], d_new.sum(0)]),
            d_b_h,
            None,
        )


def _in_time(sizes: Sequence[int], *packed: torch.Tensor) -> Iterable[tuple[torch.Tensor, ...]]:
    """Give what is packed at each point in time."""
    return zip(*(tensor.split(sizes) for tensor in packed), strict=True)
