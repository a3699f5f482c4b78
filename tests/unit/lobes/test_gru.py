"""The scan on a CPU against PyTorch's own GRU, and its gradients against finite differences."""

import pytest
import torch

from ser_ts_lobes.lobes.gru import last_states
from ser_ts_lobes.lobes.pooling import GRUPooling

LENGTHS = torch.tensor([5, 9, 1, 9, 2])


def make(num_layers=2, size=6, dtype=torch.float32, n_frames=9):
    """Make a GRU and frames, the padding of which is no number."""
    torch.manual_seed(0)
    gru = torch.nn.GRU(4, size, num_layers, batch_first=True, dtype=dtype)
    frames = torch.randn(len(LENGTHS), n_frames, 4, dtype=dtype)
    for row, length in zip(frames, LENGTHS.tolist(), strict=True):
        row[length:] = torch.nan
    return gru, frames


def reference(gru, frames, lengths):
    """Give what PyTorch's GRU says of each row alone."""
    return torch.stack([gru(row[None, :n])[0][0, -1] for row, n in zip(frames, lengths.tolist(), strict=True)])


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_states_and_gradients_are_those_of_pytorch(num_layers):
    gru, frames = make(num_layers)
    results = []
    for function in (last_states, reference):
        of_frames = frames.clone().requires_grad_()
        states = function(gru, of_frames, LENGTHS)
        gru.zero_grad()
        (states.square() + states).sum().backward()
        results.append([states.detach(), of_frames.grad, *(p.grad for p in gru.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    gru, frames = make(size=3, dtype=torch.float64)
    frames = frames.nan_to_num().requires_grad_()
    parameters = list(gru.parameters())

    def states(frames, *_):
        return last_states(gru, frames, LENGTHS)

    assert torch.autograd.gradcheck(states, (frames, *parameters))


def test_frames_that_do_not_learn_get_no_gradient_and_the_weights_do():
    gru, frames = make()
    last_states(gru, frames, LENGTHS).sum().backward()
    assert frames.grad is None and all(p.grad.abs().sum() > 0 for p in gru.parameters())


def test_one_frame_is_enough():
    gru, frames = make(n_frames=1)
    ones = torch.ones(5, dtype=torch.long)
    torch.testing.assert_close(last_states(gru, frames, ones), reference(gru, frames, ones), atol=1e-6, rtol=0)


def test_it_is_in_float32_under_autocast():
    gru, frames = make()
    exact = last_states(gru, frames, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        states = last_states(gru, frames, LENGTHS)
        assert (gru.weight_hh_l0 @ gru.weight_hh_l0.t()).dtype == torch.bfloat16  # as others are
    assert states.dtype == torch.float32 and states.equal(exact)
    states.sum().backward()
    assert gru.weight_hh_l0.grad.dtype == torch.float32


def test_pooling_learns_with_it_on_a_cpu_alone(monkeypatch):
    pooling, used = GRUPooling(4, 6), []
    frames, lens = torch.randn(3, 7, 4), torch.tensor([1.0, 0.5, 0.2])
    learning = pooling(frames, lens)
    monkeypatch.setattr("ser_ts_lobes.lobes.pooling.last_states", lambda *_: used.append(1))
    torch.testing.assert_close(pooling.eval()(frames, lens), learning, atol=1e-6, rtol=0)
    assert not used
    pooling.to("meta").train()(frames.to("meta"), lens.to("meta"))
    assert not used
