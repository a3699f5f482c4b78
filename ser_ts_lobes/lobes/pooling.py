"""Pooling: from the frames or tokens of an utterance to one vector."""

from collections.abc import Callable
from typing import Protocol

import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.encoder import n_valid, valid_mask
from ser_ts_lobes.lobes.gru import last_states
from ser_ts_lobes.options import POOLINGS


class Pooling(Protocol):
    """What `EmotionModel` needs of a pooling: a module that gives one vector of `output_size` for an utterance."""

    output_size: int

    def __call__(self, frames: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """Pool frames (B, T, D) with relative lengths (B,) to (B, output_size)."""


def make_pooling(kind: str, **sizes: int) -> Pooling:
    """Make the pooling that a recipe's ``pooling`` key names.

    Parameters
    ----------
    kind
        ``gru``, ``transformer`` or ``attention``.
    **sizes
        ``input_size``, ``hidden_size`` and ``num_layers``; of attention only the first counts.

    Returns
    -------
    Pooling
        A torch.nn.Module.

    Raises
    ------
    InputError
        If there is no pooling of that name.

    Example
    -------
    >>> make_pooling("transformer", input_size=16, hidden_size=32).output_size
    32
    """
    classes: tuple[Callable[..., Pooling], ...] = (GRUPooling, TransformerPooling, AttentionPooling)
    kinds = dict(zip(POOLINGS, classes, strict=True))
    if kind not in kinds:
        raise InputError(f"pooling is {kind!r}; choose one of {', '.join(kinds)}.")
    return AttentionPooling(sizes["input_size"]) if kind == "attention" else kinds[kind](**sizes)


class GRUPooling(torch.nn.Module):
    """Output of a GRU at the last valid frame (paper, section 3.1).

    Parameters
    ----------
    input_size
        Size of a frame.
    hidden_size
        Size of the result (paper, section 4.2: 128).
    num_layers
        GRU layers (paper, section 4.2: 2).

    Example
    -------
    >>> pooling = GRUPooling(input_size=16)
    >>> pooling(torch.randn(4, 50, 16), torch.tensor([1.0, 0.9, 0.5, 0.1])).shape
    torch.Size([4, 128])
    """

    def __init__(self, input_size: int, hidden_size: int = 128, num_layers: int = 2) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.gru = torch.nn.GRU(input_size, hidden_size, num_layers, batch_first=True)

    def forward(self, frames: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """Pool.

        Parameters
        ----------
        frames
            (B, T, input_size).
        lens
            (B,), relative lengths.

        Returns
        -------
        torch.Tensor
            (B, hidden_size).
        """
        lengths = n_valid(lens, frames.shape[1])
        if self.training and frames.device.type == "cpu":
            return last_states(self.gru, frames, lengths)
        # A GRU does not look ahead, so padding behind the last valid frame is harmless: no need to pack, which waits
        # for the lengths on a GPU.
        outputs, _ = self.gru(frames)
        return outputs[torch.arange(outputs.shape[0], device=outputs.device), lengths - 1]


class TransformerPooling(torch.nn.Module):
    """Mean of a transformer's outputs over the valid frames; comparable to the GRU (paper, section 4.2).

    Its sizes are not published. Here frames are projected to `hidden_size` and pass pre-norm layers whose feed-forward
    part is four times as wide. Positions are not added: the encoders' frames carry their own.

    Parameters
    ----------
    input_size
        Size of a frame.
    hidden_size
        Size of the result (ours: 128, as the GRU's).
    num_layers
        Transformer layers (ours: 2, as the GRU's).
    num_heads
        Attention heads (ours).
    dropout
        Dropout within the layers, in 0-1 (ours).

    Example
    -------
    >>> pooling = TransformerPooling(input_size=16)
    >>> pooling(torch.randn(4, 50, 16), torch.tensor([1.0, 0.9, 0.5, 0.1])).shape
    torch.Size([4, 128])
    """

    def __init__(
        self, input_size: int, hidden_size: int = 128, num_layers: int = 2, num_heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.projection = torch.nn.Linear(input_size, hidden_size)
        layer = torch.nn.TransformerEncoderLayer(
            hidden_size, num_heads, 4 * hidden_size, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = torch.nn.TransformerEncoder(
            layer, num_layers, torch.nn.LayerNorm(hidden_size), enable_nested_tensor=False
        )

    def forward(self, frames: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """Pool, as `GRUPooling.forward` does: (B, T, input_size) and relative lengths (B,) to (B, hidden_size)."""
        valid = valid_mask(lens, frames.shape[1])
        outputs = self.transformer(self.projection(frames), src_key_padding_mask=~valid)
        return (outputs * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True)


class AttentionPooling(torch.nn.Module):
    """Weighted mean of the valid frames; the weights are a softmax over a learnt score of each frame.

    It is SpeechBrain's (`speechbrain.nnet.pooling.AttentionPooling`, after Safari, India and Hernando, Interspeech
    2020), but padding has no weight.

    Parameters
    ----------
    input_size
        Size of a frame and of the result.

    Example
    -------
    >>> pooling = AttentionPooling(input_size=16)
    >>> pooling(torch.randn(4, 50, 16), torch.tensor([1.0, 0.9, 0.5, 0.1])).shape
    torch.Size([4, 16])
    """

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.output_size = input_size
        self.score = torch.nn.Linear(input_size, 1)

    def forward(self, frames: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """Pool, as `GRUPooling.forward` does: (B, T, input_size) and relative lengths (B,) to (B, input_size)."""
        valid = valid_mask(lens, frames.shape[1]).unsqueeze(-1)
        weights = self.score(frames).masked_fill(~valid, -torch.inf).softmax(dim=1)
        return (weights * frames).sum(dim=1)
