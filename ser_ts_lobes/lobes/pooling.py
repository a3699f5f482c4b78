"""Pooling: from the frames or tokens of an utterance to one vector."""

import torch

from ser_ts_lobes.lobes.encoder import n_valid


class GRUPooling(torch.nn.Module):
    """Output of a GRU at the last valid frame (paper, method section).

    Parameters
    ----------
    input_size : int
        Size of a frame.
    hidden_size : int
        Size of the result (paper: 128).
    num_layers : int
        GRU layers (paper: 2).

    Example
    -------
    >>> pooling = GRUPooling(input_size=16)
    >>> pooling(torch.randn(4, 50, 16), torch.tensor([1.0, 0.9, 0.5, 0.1])).shape
    torch.Size([4, 128])
    """

    def __init__(self, input_size, hidden_size=128, num_layers=2):
        super().__init__()
        self.output_size = hidden_size
        self.gru = torch.nn.GRU(input_size, hidden_size, num_layers, batch_first=True)

    def forward(self, frames, lens):
        """Pool.

        Parameters
        ----------
        frames : torch.Tensor
            (B, T, input_size).
        lens : torch.Tensor
            (B,), relative lengths.

        Returns
        -------
        torch.Tensor
            (B, hidden_size).
        """
        # A GRU does not look ahead, so padding behind the last valid frame is harmless: no need to pack, which
        # makes training on a CPU 1.7 times slower and waits for the lengths on a GPU.
        outputs, _ = self.gru(frames)
        last = n_valid(lens, frames.shape[1]) - 1
        return outputs[torch.arange(len(outputs), device=outputs.device), last]
