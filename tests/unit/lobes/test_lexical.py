import torch

from ser_ts_lobes.lobes.lexical import Heard, LexicalHeads, greedy_pieces
from ser_ts_lobes.lobes.listener import ListenerOutput


def heads():
    return LexicalHeads(hidden_size=8, n_pieces=5, sentence_size=6, n_heads=2)


@torch.no_grad()
def test_a_sentence_is_of_weighted_means_over_the_valid_frames():
    network, frames = heads(), torch.randn(2, 7, 8)
    heard = network(ListenerOutput(torch.randn(2, 7, 8), frames, torch.tensor([1.0, 3 / 7])))
    for row, n_frames in enumerate((7, 3)):
        part = frames[row, :n_frames].double()
        scores = part @ network.scores.weight.double().T + network.scores.bias.double()
        weights = scores.exp() / scores.exp().sum(0)
        means = torch.cat([(weights[:, head, None] * part).sum(0) for head in range(2)])
        sentence = network.sentence.weight.double() @ means + network.sentence.bias.double()
        torch.testing.assert_close(heard.sentence[row].double(), sentence / sentence.norm(), atol=1e-6, rtol=0)


@torch.no_grad()
def test_pieces_are_told_from_the_frames_before_the_last_layer():
    network, inner = heads(), torch.randn(2, 7, 8)
    heard = network(ListenerOutput(inner, torch.randn(2, 7, 8), torch.ones(2)))
    expected = torch.nn.functional.log_softmax(network.pieces(inner), dim=-1)
    torch.testing.assert_close(heard.log_probs, expected)


def test_losses_are_in_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        heard = heads()(ListenerOutput(torch.randn(2, 7, 8), torch.randn(2, 7, 8), torch.ones(2)))
    assert heard.log_probs.dtype == heard.sentence.dtype == heard.scale.dtype == torch.float32


def test_repeated_pieces_are_one_and_blanks_none():
    best = torch.tensor([[1, 1, 0, 1, 2, 2, 0, 3], [4, 0, 0, 0, 2, 2, 2, 2]])
    log_probs = torch.nn.functional.one_hot(best, 5).float()
    heard = Heard(log_probs, torch.zeros(2, 6), torch.tensor([1.0, 0.5]), torch.tensor(1.0))
    assert greedy_pieces(heard) == [[1, 1, 2, 3], [4]]
