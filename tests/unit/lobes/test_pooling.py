import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.pooling import AttentionPooling, GRUPooling, TransformerPooling, make_pooling


def layer_norm(x, norm):
    scale, shift = norm.weight.detach().double().numpy(), norm.bias.detach().double().numpy()
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + shift


def linear(x, weight, bias):
    return x @ weight.detach().double().numpy().T + bias.detach().double().numpy()


def transformer_by_hand(pooling, frames):
    """Pre-norm layers (Xiong et al., 2020) in float64, frame by frame; the mean over frames."""
    x = linear(frames.double().numpy(), pooling.projection.weight, pooling.projection.bias)
    for layer in pooling.transformer.layers:
        attention = layer.self_attn
        heads, size = attention.num_heads, x.shape[1] // attention.num_heads
        queries, keys, values = np.split(
            linear(layer_norm(x, layer.norm1), attention.in_proj_weight, attention.in_proj_bias), 3, axis=1
        )
        parts = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            weights = softmax(queries[:, part] @ keys[:, part].T / np.sqrt(size), axis=1)
            parts.append(weights @ values[:, part])
        x = x + linear(np.concatenate(parts, axis=1), attention.out_proj.weight, attention.out_proj.bias)
        hidden = linear(layer_norm(x, layer.norm2), layer.linear1.weight, layer.linear1.bias)
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
        x = x + linear(hidden, layer.linear2.weight, layer.linear2.bias)
    return layer_norm(x, pooling.transformer.norm).mean(0)


@pytest.mark.parametrize("train", [False, True])
def test_the_transformer_is_the_mean_over_valid_frames_of_the_formula(train):
    pooling = TransformerPooling(input_size=6, hidden_size=8, num_heads=2, dropout=0.0).train(train)
    frames = torch.randn(3, 7, 6)
    pooled = pooling(frames, torch.tensor([3 / 7, 1.0, 1 / 7])).detach().numpy()
    for row, n_frames in enumerate((3, 7, 1)):
        np.testing.assert_allclose(pooled[row], transformer_by_hand(pooling, frames[row, :n_frames]), atol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "transformer", "attention"])
def test_an_utterance_is_pooled_alike_in_any_batch(kind):
    pooling = make_pooling(kind, input_size=16, hidden_size=32, num_layers=2).eval()
    frames = torch.randn(4, 50, 16)
    lens = torch.tensor([1.0, 0.5, 0.2, 0.02])
    together = pooling(frames, lens)
    for row, n_frames in enumerate((50, 25, 10, 1)):
        alone = pooling(frames[row : row + 1, :n_frames], torch.ones(1))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_the_transformer_has_the_size_that_its_formula_has():
    attention = 3 * 128 * 129 + 128 * 129
    feed_forward = 512 * 129 + 128 * 513
    layer = attention + feed_forward + 2 * 256  # two norms
    pooling = make_pooling("transformer", input_size=768, hidden_size=128, num_layers=2)
    assert sum(p.numel() for p in pooling.parameters()) == 128 * 769 + 2 * layer + 256
    assert pooling.output_size == 128


def test_attention_is_the_weighted_mean_of_the_valid_frames():
    pooling = AttentionPooling(input_size=6)
    frames = 3 * torch.randn(3, 7, 6)
    pooled = pooling(frames, torch.tensor([3 / 7, 1.0, 1 / 7])).detach().numpy()
    for row, n_frames in enumerate((3, 7, 1)):
        valid = frames[row, :n_frames].double().numpy()
        weights = softmax(linear(valid, pooling.score.weight, pooling.score.bias)[:, 0])
        np.testing.assert_allclose(pooled[row], (weights[:, None] * valid).sum(0), atol=1e-5)
    assert sum(p.numel() for p in pooling.parameters()) == pooling.output_size + 1 == 7


def test_padding_gets_no_gradient():
    pooling = TransformerPooling(input_size=4, hidden_size=8, num_heads=2)
    frames = torch.randn(1, 6, 4, requires_grad=True)
    pooling(frames, torch.tensor([0.5])).sum().backward()
    assert frames.grad[0, :3].abs().sum() > 0 and frames.grad[0, 3:].abs().max() == 0


def test_a_pooling_is_chosen_by_name():
    assert isinstance(make_pooling("gru", input_size=4), GRUPooling)
    with pytest.raises(InputError, match="pooling is 'mean'; choose one of gru, transformer"):
        make_pooling("mean", input_size=4)
