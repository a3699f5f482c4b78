"""The emotion model: pooled speech and text, their joint embedding, the three dimensions."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from numpy.typing import ArrayLike

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError

if TYPE_CHECKING:
    from ser_ts_lobes.lobes.pooling import Pooling


class EmotionOutput(NamedTuple):
    """What `EmotionModel` says of a batch.

    Attributes
    ----------
    embedding
        (B, embedding_size): e_at of a teacher, e_a of a student.
    prediction
        (B, 3): activation, valence, dominance, in training-set standard deviations from the mean.
    """

    embedding: torch.Tensor
    prediction: torch.Tensor


class EmotionModel(torch.nn.Module):
    """From frames and tokens to an embedding and the three emotion dimensions (paper, section 3.1).

    The pooled speech u_a and the pooled text u_t, as far as the model has them, are concatenated and
    projected to the embedding, e_at = P_at([u_a; u_t]) (Eq. 1) or e_a = P_a(u_a) (Eq. 2); one linear
    layer maps it to the dimensions. So a teacher, a student and a text-only model are the same class.

    Parameters
    ----------
    speech_pooling
        Pools frames; None for a model that does not hear.
    text_pooling
        Pools tokens; None for a model that does not read.
    embedding_size
        Size of the embedding (paper, section 4.2: 128).

    Example
    -------
    >>> from ser_ts_lobes.lobes.pooling import GRUPooling
    >>> teacher = EmotionModel(speech_pooling=GRUPooling(16), text_pooling=GRUPooling(8))
    >>> lens = torch.ones(4)
    >>> output = teacher(torch.randn(4, 50, 16), lens, torch.randn(4, 9, 8), lens)
    >>> output.embedding.shape, output.prediction.shape
    (torch.Size([4, 128]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        speech_pooling: "Pooling | None" = None,
        text_pooling: "Pooling | None" = None,
        embedding_size: int = 128,
    ) -> None:
        super().__init__()
        self.speech_pooling = speech_pooling
        self.text_pooling = text_pooling
        poolings = [pooling for pooling in (speech_pooling, text_pooling) if pooling is not None]
        if not poolings:
            raise ValueError("An EmotionModel needs a speech_pooling, a text_pooling or both.")
        self.embedding_size = embedding_size
        self.projection = torch.nn.Linear(sum(pooling.output_size for pooling in poolings), embedding_size)
        self.output = torch.nn.Linear(embedding_size, len(DIMENSIONS))

    def forward(
        self,
        frames: torch.Tensor | None = None,
        frame_lens: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        token_lens: torch.Tensor | None = None,
    ) -> EmotionOutput:
        """Embed and predict.

        Parameters
        ----------
        frames
            (B, T, D) from a speech encoder, if the model hears.
        frame_lens
            (B,), relative lengths of `frames`.
        tokens
            (B, U, E) from a text encoder, if the model reads.
        token_lens
            (B,), relative lengths of `tokens`.

        Returns
        -------
        EmotionOutput
        """
        pooled = []
        if self.speech_pooling is not None:
            assert frames is not None and frame_lens is not None
            pooled.append(self.speech_pooling(frames, frame_lens))
        if self.text_pooling is not None:
            assert tokens is not None and token_lens is not None
            pooled.append(self.text_pooling(tokens, token_lens))
        embedding = self.projection(torch.cat(pooled, dim=-1))
        return EmotionOutput(embedding, self.output(embedding))


class LabelScale(torch.nn.Module):
    """Between the corpus's label scale and the standardised one that networks learn.

    Mean and standard deviation are of the training set and live in the checkpoint.

    Attributes
    ----------
    fitted : bool
        Whether `fit` has been called.

    Example
    -------
    >>> scale = LabelScale()
    >>> labels = torch.tensor([[1.0, 2.0, 3.0], [3.0, 6.0, 4.0]])
    >>> scale.fit(labels)
    >>> scale.standardise(labels)
    tensor([[-1., -1., -1.],
            [ 1.,  1.,  1.]])
    >>> scale.restore(scale.standardise(labels)).equal(labels)
    True
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(DIMENSIONS)))
        self.register_buffer("std", torch.ones(len(DIMENSIONS)))
        self.fitted = False

    def fit(self, labels: ArrayLike) -> None:
        """Take mean and (population) standard deviation from the labels of the training set.

        Parameters
        ----------
        labels
            (N, 3), on the corpus's scale.

        Raises
        ------
        InputError
            If a dimension does not vary: there is nothing to learn.
        """
        labels = torch.as_tensor(labels, dtype=torch.float64)
        for dimension, std in zip(DIMENSIONS, labels.std(0, correction=0), strict=True):
            if not std > 0:
                raise InputError(f"All {len(labels)} training labels of {dimension} are the same.")
        self.mean.copy_(labels.mean(0))
        self.std.copy_(labels.std(0, correction=0))
        self.fitted = True

    def standardise(self, labels: torch.Tensor) -> torch.Tensor:
        """Bring labels on the corpus's scale, (B, 3), to what networks learn."""
        return (labels - self.mean) / self.std

    def restore(self, predictions: torch.Tensor) -> torch.Tensor:
        """Bring what networks predict, (B, 3), back to the corpus's scale."""
        return predictions * self.std + self.mean
