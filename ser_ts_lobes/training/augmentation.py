"""Augmentation in training by SpeechBrain's Augmenter: the same in the same step, and labels that follow."""

import contextlib
import copy
import os
import random
from collections.abc import Iterator
from typing import Any

import torch
from speechbrain.augment.augmenter import Augmenter
from speechbrain.dataio.batch import PaddedData

from ser_ts_lobes.errors import InputError

# Where SpeechBrain's loaders of noise and of impulse responses take the seed of their order from.
_LOADERS_SEED = "SB_GLOBAL_SEED"


def augment(
    augmenter: Augmenter, signals: torch.Tensor, lens: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Augment a batch, and tell of which utterance each row of the result is.

    What is drawn follows from the seed and from PyTorch's random state alone, never from what was drawn before:
    SpeechBrain's augmenters also ask Python's, and those that read files go on where they were, which no checkpoint
    holds. So a copy is taken of an augmenter that has not been used.

    Parameters
    ----------
    augmenter
        It stays as it is.
    signals
        Waveforms, (B, N), or frames, (B, T, D); they stay as they are.
    lens
        (B,), relative lengths.
    seed
        Of this batch.

    Returns
    -------
    signals : torch.Tensor
        (R, N') or (R, T', D), where R is B unless the augmenter concatenates.
    lens : torch.Tensor
        (R,), relative lengths.
    rows : torch.Tensor
        (R,), int64 in 0-B: the utterance of each row.

    Raises
    ------
    InputError
        If the augmenter does not know itself of which utterances its rows are (``parallel_augment_fixed_bs``).

    Example
    -------
    >>> from speechbrain.augment.freq_domain import SpectrogramDrop
    >>> augmenter = Augmenter(concat_original=True, augmentations=[SpectrogramDrop(dim=1)])
    >>> frames, lens, rows = augment(augmenter, torch.ones(2, 50, 4), torch.ones(2), seed=1)
    >>> frames.shape, rows
    (torch.Size([4, 50, 4]), tensor([0, 1, 0, 1]))
    """
    augmenter = copy.deepcopy(augmenter)
    for augmentation in augmenter.augmentations.values():
        augmentation.register_forward_pre_hook(_copy_signals)
    # In the precision of the signals: a convolution of waveforms under autocast would round them to 8 bits.
    with _seeded(seed), torch.autocast(signals.device.type, enabled=False):
        augmented, augmented_lens = augmenter(signals, lens)
        rows = augmenter.replicate_labels(torch.arange(len(signals), device=signals.device))
    if len(rows) != len(augmented):
        raise InputError(
            f"The augmenter makes {len(augmented)} rows of {len(signals)} utterances, and labels for {len(rows)}: "
            "leave parallel_augment_fixed_bs and enable_augmentations out."
        )
    return augmented, augmented_lens, rows


def take_rows(batch: Any, rows: torch.Tensor) -> None:
    """Make a batch one of some of its rows, in any number and order: ids, labels, what a teacher says, inputs.

    Parameters
    ----------
    batch
        `speechbrain.dataio.batch.PaddedBatch`, changed in place.
    rows
        (R,), int64.

    Example
    -------
    >>> from speechbrain.dataio.batch import PaddedBatch
    >>> batch = PaddedBatch([{"id": "a", "text": torch.ones(2)}, {"id": "b", "text": torch.zeros(1)}], ["text"])
    >>> take_rows(batch, torch.tensor([1, 0, 1]))
    >>> batch.id, batch.text.lengths
    (['b', 'a', 'b'], tensor([0.5000, 1.0000, 0.5000]))
    """
    for name, values in list(vars(batch).items()):
        if isinstance(values, PaddedData):
            setattr(batch, name, PaddedData(*(tensor[rows.to(tensor.device)] for tensor in values)))
        elif isinstance(values, torch.Tensor):
            setattr(batch, name, values[rows.to(values.device)])
        elif name == "id":
            setattr(batch, name, [values[row] for row in rows.tolist()])


def _copy_signals(module, arguments):
    """Let an augmentation that works in place (SpectrogramDrop) leave the original alone."""
    del module
    return (arguments[0].clone(), *arguments[1:])


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's random numbers and SpeechBrain's loaders for a while."""
    state, before = random.getstate(), os.environ.get(_LOADERS_SEED)
    random.seed(seed)
    os.environ[_LOADERS_SEED] = str(seed)
    try:
        yield
    finally:
        random.setstate(state)
        os.environ.pop(_LOADERS_SEED)
        if before is not None:
            os.environ[_LOADERS_SEED] = before
