"""Audio files: what they hold, and whether it can be used.

`inspect_audio` and `read_audio` judge by the same code: what the one finds nothing wrong with, the other reads.
PyTorch is imported only where samples are wanted, because preparing a corpus should not wait seconds for it.
"""

import math
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from ser_ts_lobes.errors import InputError

if TYPE_CHECKING:
    import torch

#: What is taken for a recording's sampling rate, in Hz; outside, a header is damaged or made up.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000

# Programs that write WAV into a pipe can't know its length and promise about 2 or 4 GiB instead.
UNKNOWN_WAV_SIZE = 0x7FFF0000
# What libsndfile logs when a chunk promises another number of bytes than the file holds.
WAV_SIZE_MISMATCH = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)

# Of these the header and the size of the file tell everything: integers can't be NaN or too large, and each takes its
# bytes. Anything else must be decoded to the end, at about 2,000 times real time for FLAC: decoding only its end takes
# a twentieth of that, but doesn't notice damage in its midst, which stops a reader all the same.
_PLAIN_FORMATS, _PLAIN_SUBTYPES = ("WAV", "WAVEX"), ("PCM_U8", "PCM_16", "PCM_24", "PCM_32")

#: Of the files that are taken for audio in a folder of anything.
AUDIO_SUFFIXES = (".flac", ".mp3", ".ogg", ".opus", ".wav")

# The header that nearly all WAV files have: "RIFF", its size, "WAVE", "fmt ", its size, format, channels, Hz, bytes a
# second, bytes a frame, bits, "data", its size.
_COMMON_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")

# Unscaled 16-bit integers in a float file come so far; anything above would overflow in a network.
_MAX_SAMPLE = 2.0**15
_BLOCK_VALUES = 2**20  # samples times channels that are read at once: 4 MiB of float32


@dataclass(slots=True)
class AudioInfo:
    """What `inspect_audio` found: seconds, Hz, channels, and what makes the file useless, or None."""

    duration: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    problem: str | None = None


class UnusableAudio(InputError):
    """An audio file that can't be used; ``problem`` says in a few words why."""

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(f"The audio file {path} can't be used ({problem}): give an intact recording.")
        self.problem = problem


def inspect_audio(path: str | Path) -> AudioInfo:
    """Find out what an audio file holds and whether `read_audio` can read it.

    Samples are decoded only where the header can't tell, which is everywhere but in WAV files of integers.

    Parameters
    ----------
    path
        Any format that libsndfile reads.

    Returns
    -------
    AudioInfo
        ``problem`` is None, or ``"missing"``, ``"unreadable"`` (not audio, or cut within its header), ``"truncated"``
        (it holds less than its header promises), ``"empty"`` (no samples), ``"damaged"``, ``"NaN or infinite
        samples"``, samples far above full scale, or a sampling rate that no recording has.

    Example
    -------
    >>> import numpy, soundfile
    >>> path = getfixture("tmp_path") / "half_a_second.wav"
    >>> soundfile.write(path, numpy.zeros(8000), 16000)
    >>> inspect_audio(path)
    AudioInfo(duration=0.5, sample_rate=16000, channels=1, problem=None)
    >>> inspect_audio(path.with_name("other.wav")).problem
    'missing'
    """
    info, plain = _read_header(path)
    if info.problem is None and not plain:
        try:
            for _ in _read_blocks(path, info):
                pass
        except UnusableAudio as error:
            return replace(info, problem=error.problem)
    return info


def read_header(path: str | Path) -> AudioInfo:
    """Do what `inspect_audio` does by the header alone, at once also for a long recording.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    AudioInfo
        Where ``problem`` is None, reading may still find one.
    """
    return _read_header(path)[0]


def read_audio(path: str | Path, sample_rate: int = 16000) -> "torch.Tensor":
    """Read an audio file as one channel at one sampling rate.

    Channels are averaged; another sampling rate is converted by windowed-sinc interpolation.

    Parameters
    ----------
    path
        Any format that libsndfile reads (WAV, FLAC, Ogg, MP3, ...).
    sample_rate
        Of the result, in Hz.

    Returns
    -------
    torch.Tensor
        (samples,), float32, finite; full scale is -1 to 1.

    Raises
    ------
    InputError
        When the file is missing, not audio, cut short or empty, has samples that are NaN, infinite or absurdly
        large, or a sampling rate that no recording has.

    Example
    -------
    >>> import numpy, soundfile
    >>> path = getfixture("tmp_path") / "stereo.wav"
    >>> soundfile.write(path, numpy.zeros((4000, 2)), 8000)
    >>> read_audio(path).shape
    torch.Size([8000])
    """
    import torch

    return torch.cat(list(stream_audio(path, sample_rate)))


def stream_audio(path: str | Path, sample_rate: int = 16000) -> "Iterator[torch.Tensor]":
    """Read an audio file block by block, in memory that depends neither on its length nor on what its header says.

    Parameters, errors and the joined blocks are those of `read_audio`; what is wrong further on in the file is
    only found there.

    Yields
    ------
    torch.Tensor
        (samples,), float32: the next part of the recording, some seconds or less.

    Example
    -------
    >>> import numpy, soundfile
    >>> path = getfixture("tmp_path") / "long.flac"
    >>> soundfile.write(path, numpy.zeros(10**6), 48000)
    >>> [len(block) for block in stream_audio(path, 48000)]
    [1000000]
    """
    import torch

    header = read_header(path)
    if header.problem:
        raise UnusableAudio(path, header.problem)
    blocks = map(torch.from_numpy, _read_blocks(path, header))
    # Exact for the rates that are in use; for one like 44,101 Hz the nearest ratio whose filter isn't huge.
    ratio = Fraction(header.sample_rate, sample_rate).limit_denominator(1000)
    yield from blocks if ratio == 1 else _resample(blocks, ratio)


def _read_header(path):
    """Return the `AudioInfo`, and whether nothing can be wrong with the samples any more."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # the latter for a name that no file can have
        return AudioInfo(problem="missing"), False
    if not stat.S_ISREG(status.st_mode):
        return AudioInfo(problem="missing"), False
    if status.st_size == 0:
        return AudioInfo(problem="empty"), False
    if common := _read_common_header(path, status.st_size):
        return common, True
    try:
        with soundfile.SoundFile(os.fsencode(path)) as audio:
            info = AudioInfo(audio.frames / audio.samplerate, audio.samplerate, audio.channels, _problem(audio))
            return info, audio.format in _PLAIN_FORMATS and audio.subtype in _PLAIN_SUBTYPES
    except (soundfile.LibsndfileError, TypeError):  # soundfile wants to be told what is in *.raw
        return AudioInfo(problem="unreadable"), False


def _read_common_header(path, size):
    """Read the header of a WAV file if it is the common one and all is well; libsndfile takes ten times as long.

    Returns None for anything else, which is libsndfile's to judge.
    """
    if os.fspath(path).lower().endswith(".raw"):  # soundfile goes by this suffix, whatever is in the file
        return None
    try:
        with open(path, "rb", buffering=0) as file:
            header = _COMMON_HEADER.unpack(file.read(_COMMON_HEADER.size))
    except (OSError, struct.error):
        return None
    _, _, _, _, _, _, channels, sample_rate, _, frame_size, bits, _, data_size = header
    expected = (
        *(b"RIFF", size - 8, b"WAVE", b"fmt ", 16, 1, channels, sample_rate),
        *(sample_rate * frame_size, channels * bits // 8, bits, b"data", size - _COMMON_HEADER.size),
    )
    if header != expected or bits not in (8, 16, 24, 32) or not 1 <= channels <= 1024:
        return None
    if data_size < frame_size or data_size % frame_size or not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        return None
    return AudioInfo(data_size // frame_size / sample_rate, sample_rate, channels)


def _problem(audio):
    """Say what the header of an open `soundfile.SoundFile` says is wrong, or None."""
    mismatch = WAV_SIZE_MISMATCH.search(audio.extra_info)
    if mismatch and int(mismatch[2]) < int(mismatch[1]) < UNKNOWN_WAV_SIZE:
        return "truncated"
    if audio.frames == 0:
        return "empty"
    if not MIN_SAMPLE_RATE <= audio.samplerate <= MAX_SAMPLE_RATE:
        return f"a sampling rate of {audio.samplerate} Hz"
    return None


def _read_blocks(path, header):
    """Yield the mean of the channels, (samples,) of float32, at the file's sampling rate."""
    n_frames = 0
    try:
        with soundfile.SoundFile(os.fsencode(path)) as audio:
            block_frames = max(1, _BLOCK_VALUES // audio.channels)
            while len(channels := audio.read(block_frames, dtype="float32", always_2d=True)):
                n_frames += len(channels)
                loudest = np.abs(channels).max()  # NaN where one is
                if not np.isfinite(loudest):
                    raise UnusableAudio(path, "NaN or infinite samples")
                if loudest > _MAX_SAMPLE:
                    raise UnusableAudio(path, f"samples above {_MAX_SAMPLE:g} times full scale")
                yield channels.mean(axis=1)
    except soundfile.LibsndfileError as error:
        raise UnusableAudio(path, "damaged or truncated") from error
    # Compressed formats say in their header how long they were; libsndfile's decoder just ends early.
    if n_frames < round(header.duration * header.sample_rate):
        raise UnusableAudio(path, "truncated")


def _resample(blocks, ratio):
    """Convert blocks as their whole would be converted.

    `ratio.numerator` samples become `ratio.denominator`. Each call sees as many samples on either side of the part
    that it converts as the filter is wide. (soxr has a stream of its own, but not torchaudio's filter, which clips
    that fit into one block are converted with: a long recording must not sound otherwise than its parts.)
    """
    import torch
    import torchaudio

    resample = torchaudio.transforms.Resample(ratio.numerator, ratio.denominator)
    unit = ratio.numerator
    context = unit * math.ceil(resample.width / unit)
    held, before = torch.empty(0), 0  # samples that are still needed; how many of them have been converted
    for block in blocks:
        held = torch.cat([held, block])
        ready = (len(held) - before - context) // unit * unit
        if ready > 0:
            yield _converted(resample(held[: before + ready + context]), before, before + ready, ratio)
            kept = min(context, before + ready)
            held, before = held[before + ready - kept :], kept
    yield _converted(resample(held), before, None, ratio)


def _converted(samples, start, stop, ratio):
    """Cut from converted samples what came from the samples `start` to `stop`, multiples of `ratio.numerator`."""
    start, stop = (None if end is None else end // ratio.numerator * ratio.denominator for end in (start, stop))
    return samples[start:stop]
