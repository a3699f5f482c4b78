"""Utterances side by side: how a batch goes through the frozen part of an encoder.

An encoder is a function of tensors, and knows nothing of threads. Whoever has a batch to encode asks here.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from ser_ts_lobes.lobes.encoder import n_valid

if TYPE_CHECKING:
    from ser_ts_lobes.lobes.encoder import Encoder

# Held while PyTorch's number of threads is read or set: a thread's own number is also what threads that come later get.
_SETTING_THREADS = threading.Lock()


def compute_frozen(encoder: "Encoder", inputs: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what `Encoder.frozen_forward` does, in the fastest way; kept features are handed on as they are.

    On a CPU the waveforms of a batch go one by one, side by side: its caches hold the activations of one but not of
    many, and alone it has no padding. Eight of mixed length take HuBERT base less than half the time. Token sequences
    are short; they are faster together. So is all under autocast, whose matrix products need less of the caches (and
    which other threads would not be under).

    Parameters
    ----------
    encoder
        The encoder, not wrapped for distributed training.
    inputs
        (B, N) waveforms or token ids, or (B, T, D) from `Encoder.frozen_forward`.
    lens
        (B,), relative lengths of `inputs`.

    Returns
    -------
    hidden : torch.Tensor
        (B, T, D), zero beyond the valid positions; where nothing but tokens is frozen, the ids.
    hidden_lens : torch.Tensor
        (B,), relative lengths of `hidden`.

    Example
    -------
    >>> from ser_ts_lobes.lobes.speech import load_speech_encoder
    >>> encoder = load_speech_encoder(getfixture("tiny_hubert"))
    >>> hidden, lens = compute_frozen(encoder, torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> hidden.shape
    torch.Size([2, 49, 32])
    """
    if inputs.dim() == 3:
        return inputs, lens
    if not _goes_one_by_one(encoder, inputs):
        return encoder.frozen_forward(inputs, lens)
    wavs = [wav[None, :n] for wav, n in zip(inputs, n_valid(lens, inputs.shape[1]).tolist(), strict=True)]
    rows = _map_side_by_side(lambda wav: encoder.frozen_forward(wav, lens.new_ones(1))[0][0], wavs)
    n_frames = torch.tensor([len(row) for row in rows], device=inputs.device)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), n_frames / n_frames.max()


def _goes_one_by_one(encoder, inputs):
    on_cpu = inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return inputs.is_floating_point() and (encoder.always_on_cpu or on_cpu)


def _map_side_by_side(function, jobs):
    """Call a function for each job, on as many cores as PyTorch uses, which are shared out among the calls.

    Cores that hear a waveform each do not wait for each other at every operation, as cores that share one do.
    """
    with _SETTING_THREADS:
        n_threads = torch.get_num_threads()
    n_workers = min(len(jobs), n_threads)
    if n_workers < 2:
        return [function(job) for job in jobs]
    with ThreadPoolExecutor(n_workers, initializer=_set_own_threads, initargs=(n_threads // n_workers,)) as pool:
        return list(pool.map(function, jobs))


def _set_own_threads(number):
    """Set how many threads PyTorch uses for what the calling thread, a new one, does; and for no other."""
    with _SETTING_THREADS:
        of_new_threads = torch.get_num_threads()  # asked first: a thread takes that number when PyTorch first looks
        torch.set_num_threads(number)  # now also that of new threads
        restoring = threading.Thread(target=torch.set_num_threads, args=(of_new_threads,))
        restoring.start()
        restoring.join()
