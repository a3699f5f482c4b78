"""What a student says when a recording is changed in ways that leave the emotion as it was.

After the tests of Derington et al. (2025, *Testing correctness, fairness, and robustness of speech emotion recognition
models*, arXiv:2312.06270): whoever hears the clip in another room, through a telephone or with a pause behind it hears
the same emotion, and so should a student.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
import soundfile
import torch
import torchaudio

from ser_ts_lobes.lobes.speech import SAMPLE_RATE

#: Of a clip, (N,) at 16 kHz in -1..1, and a source of random numbers: the changed clip, (M,).
Change = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


def with_silence(before_s: float, behind_s: float) -> Change:
    """Make a change that adds digital silence.

    Parameters
    ----------
    before_s, behind_s
        Seconds of it.

    Returns
    -------
    callable

    Example
    -------
    >>> with_silence(0, 2)(torch.ones(16000), None).shape
    torch.Size([48000])
    """
    padding = round(before_s * SAMPLE_RATE), round(behind_s * SAMPLE_RATE)
    return lambda clip, _: torch.nn.functional.pad(clip, padding)


def with_gain(decibels: float) -> Change:
    """Make a change of level; what is then above full scale is clipped, as a recorder does.

    Parameters
    ----------
    decibels
        How much louder.

    Returns
    -------
    callable

    Example
    -------
    >>> with_gain(20)(torch.tensor([0.01, 0.5]), None)
    tensor([0.1000, 1.0000])
    """
    return lambda clip, _: (clip * 10 ** (decibels / 20)).clamp(-1, 1)


def with_noise(snr_db: float) -> Change:
    """Make a change that adds white noise.

    Parameters
    ----------
    snr_db
        How much louder the clip is, in decibels of mean power.

    Returns
    -------
    callable
    """

    def change(clip: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        noise = torch.from_numpy(random.standard_normal(len(clip))).float()
        return clip + noise * clip.square().mean().sqrt() * 10 ** (-snr_db / 20)

    return change


def as_mp3(clip: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Compress a clip as MP3, at the bit rate that libsndfile chooses, and read it again."""
    del random
    file = io.BytesIO()
    soundfile.write(file, clip.numpy(), SAMPLE_RATE, format="MP3")
    file.seek(0)
    return torch.from_numpy(soundfile.read(file, dtype="float32")[0])


def by_telephone(clip: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Leave of a clip what a sampling rate of 8 kHz holds."""
    del random
    narrow = torchaudio.functional.resample(clip, SAMPLE_RATE, 8000)
    wide: torch.Tensor = torchaudio.functional.resample(narrow, 8000, SAMPLE_RATE)
    return wide[: len(clip)]


#: What `ser-ts evaluate --robustness` tries, by name.
CHANGES: Mapping[str, Change] = {
    "2 s of silence behind": with_silence(0, 2),
    "2 s of silence before": with_silence(2, 0),
    "20 dB softer": with_gain(-20),
    "6 dB louder, clipped": with_gain(6),
    "white noise, 20 dB below": with_noise(20),
    "MP3": as_mp3,
    "8 kHz": by_telephone,
}
