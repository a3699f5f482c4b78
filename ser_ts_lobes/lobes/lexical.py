"""What a listener is taught words with: heads that say its pieces and its sentence, and are left behind afterwards."""

from typing import NamedTuple

import torch

from ser_ts_lobes.lobes.encoder import valid_mask
from ser_ts_lobes.lobes.listener import ListenerOutput


class Heard(NamedTuple):
    """What has been heard of a batch.

    Attributes
    ----------
    log_probs
        (B, T, n_pieces): of each piece (`ser_ts_lobes.lobes.pieces.Pieces`) at each frame, in float32 or better.
    sentence
        (B, sentence_size), of unit length: where the text encoder would put the sentence.
    lens
        (B,), relative lengths of `log_probs`.
    scale
        Scalar above 0, which learns: what cosines are multiplied with where sentences are told apart.
    """

    log_probs: torch.Tensor
    sentence: torch.Tensor
    lens: torch.Tensor
    scale: torch.Tensor


class LexicalHeads(torch.nn.Module):
    """From what a listener gives to pieces of words and to a sentence embedding.

    The pieces are told from the frames before the last layer, one by one, for `torch.nn.CTCLoss`; the sentence from
    those after it, each of `n_heads` a weighted mean over time.

    Parameters
    ----------
    hidden_size
        Size of the listener's frames.
    n_pieces
        Pieces, the blank among them.
    sentence_size
        Size of the text encoder's vectors.
    n_heads
        Weighted means.

    Example
    -------
    >>> from ser_ts_lobes.lobes.listener import Listener
    >>> listener = Listener(input_size=8, hidden_size=16, num_layers=2, num_heads=2)
    >>> heard = LexicalHeads(16, n_pieces=30, sentence_size=24)(listener(torch.randn(2, 49, 8), torch.ones(2)))
    >>> heard.log_probs.shape, heard.sentence.shape
    (torch.Size([2, 13, 30]), torch.Size([2, 24]))
    """

    def __init__(self, hidden_size: int, n_pieces: int, sentence_size: int, n_heads: int = 6) -> None:
        super().__init__()
        self.pieces = torch.nn.Linear(hidden_size, n_pieces)
        self.scores = torch.nn.Linear(hidden_size, n_heads)
        self.sentence = torch.nn.Linear(n_heads * hidden_size, sentence_size)
        self.log_scale = torch.nn.Parameter(torch.tensor(20.0).log())

    def forward(self, output: ListenerOutput) -> Heard:
        """Tell pieces and sentence.

        Parameters
        ----------
        output
            Of `ser_ts_lobes.lobes.listener.Listener`.

        Returns
        -------
        Heard
        """
        log_probs = self.pieces(output.inner).float().log_softmax(dim=-1)
        frames = output.frames.float()
        valid = valid_mask(output.lens, frames.shape[1]).unsqueeze(-1)
        weights = self.scores(frames).float().masked_fill(~valid, -torch.inf).softmax(dim=1)
        means = torch.einsum("bth,btd->bhd", weights, frames).flatten(1)
        sentence = torch.nn.functional.normalize(self.sentence(means).float(), dim=-1)
        return Heard(log_probs, sentence, output.lens, self.log_scale.exp())


def greedy_pieces(heard: Heard, blank: int = 0) -> list[list[int]]:
    """Read off the most likely pieces: repetitions are one, blanks none.

    Parameters
    ----------
    heard
        Of a batch.
    blank
        The id that stands for no piece.

    Returns
    -------
    list of list of int
        Ids of each utterance.

    Example
    -------
    >>> best = torch.tensor([[3, 3, 0, 3, 2, 0, 1, 1]])
    >>> log_probs = torch.nn.functional.one_hot(best, 4).float()
    >>> lens = torch.tensor([0.75])  # the last two frames are padding
    >>> greedy_pieces(Heard(log_probs, torch.zeros(1, 2), lens, torch.tensor(1.0)))
    [[3, 3, 2]]
    """
    best = heard.log_probs.argmax(dim=-1)
    n_frames = valid_mask(heard.lens, best.shape[1]).sum(dim=1).tolist()
    runs = [row[:n].unique_consecutive().tolist() for row, n in zip(best.cpu(), n_frames, strict=True)]
    return [[id for id in run if id != blank] for run in runs]
