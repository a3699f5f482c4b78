"""Low-rank adapters (LoRA; Hu et al., ICLR 2022): a few weights that learn, in place of whole layers.

A layer's weight W becomes W + B A, and only the two thin matrices learn. What makes W + B A stands in place of the
weight itself, not of the layer: WavLM's attention reads the weights of its projections and never calls them, so that
adapters which wrap a projection (those of `peft` do) would learn nothing there, and nobody would be told.
"""

import math
from collections.abc import Iterator

import torch
from torch.nn.utils import parametrize

# What they are called in HuBERT, wav2vec 2.0, WavLM and Whisper.
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class LowRank(torch.nn.Module):
    """Adds a matrix of low rank to a weight; at first that is zero.

    Parameters
    ----------
    weight
        (M, N).
    rank
        Of what is added, from 1 on.

    Example
    -------
    >>> weight = torch.randn(3, 4)
    >>> adapter = LowRank(weight, rank=2)
    >>> adapter(weight).equal(weight), sum(p.numel() for p in adapter.parameters())
    (True, 14)
    """

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.b = torch.nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        torch.nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as a linear layer's own weight

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Add B A to a weight, (M, N) -> (M, N)."""
        return weight + self.b @ self.a


def add_adapters(layers: torch.nn.ModuleList, rank: int) -> None:
    """Give the attention projections of transformer layers adapters, which alone learn.

    Parameters
    ----------
    layers
        Of a HuBERT, wav2vec 2.0, WavLM or Whisper.
    rank
        Of each adapter, from 1 on.
    """
    layers.requires_grad_(False)
    for projection in _projections(layers):
        parametrize.register_parametrization(projection, "weight", LowRank(projection.weight, rank))


def merge_adapters(layers: torch.nn.ModuleList) -> None:
    """Make plain weights of weights and adapters, if there are any: what the layers compute stays the same."""
    for projection in _projections(layers):
        if parametrize.is_parametrized(projection):
            parametrize.remove_parametrizations(projection, "weight", leave_parametrized=True)


def _projections(layers: torch.nn.ModuleList) -> Iterator[torch.nn.Linear]:
    for name, module in layers.named_modules():
        if name.rpartition(".")[2] in _PROJECTIONS:
            assert isinstance(module, torch.nn.Linear)
            yield module
