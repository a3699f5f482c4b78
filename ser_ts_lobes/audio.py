"""Reading audio."""

import math
from fractions import Fraction

import soundfile
import torch
import torchaudio

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.manifests import AudioInfo, inspect_audio

#: What is taken for a recording's sampling rate, in Hz; outside, a header is damaged or made up.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000

# Unscaled 16-bit integers in a float file come so far; anything above would overflow in a network.
_MAX_SAMPLE = 2.0**15
_BLOCK_VALUES = 2**20  # samples times channels that are read at once: 4 MiB of float32


def read_audio(path, sample_rate=16000):
    """Read an audio file as one channel at one sampling rate.

    Channels are averaged; another sampling rate is converted by windowed-sinc interpolation.

    Parameters
    ----------
    path : str or pathlib.Path
        Any format that libsndfile reads (WAV, FLAC, Ogg, MP3, ...).
    sample_rate : int
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
    return torch.cat(list(stream_audio(path, sample_rate)))


def stream_audio(path, sample_rate=16000):
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
    header = read_header(path)
    if header.problem:
        raise _unusable(path, header.problem)
    if not MIN_SAMPLE_RATE <= header.sample_rate <= MAX_SAMPLE_RATE:
        raise _unusable(path, f"a sampling rate of {header.sample_rate} Hz")
    blocks = _read_blocks(path, header)
    # Exact for the rates that are in use; for one like 44,101 Hz the nearest ratio whose filter isn't huge.
    ratio = Fraction(header.sample_rate, sample_rate).limit_denominator(1000)
    yield from blocks if ratio == 1 else _resample(blocks, ratio)


def read_header(path):
    """Do what `ser_ts_lobes.manifests.inspect_audio` does, for a file of any name.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    ser_ts_lobes.manifests.AudioInfo
        A file without a header has the ``problem`` ``"unreadable"``.
    """
    try:
        return inspect_audio(path)
    except TypeError:  # soundfile wants to be told what is in *.raw
        return AudioInfo(problem="unreadable")


def _read_blocks(path, header):
    """Yield the mean of the channels, (samples,), at the file's sampling rate."""
    n_frames = 0
    try:
        with soundfile.SoundFile(path) as audio:
            block_frames = max(1, _BLOCK_VALUES // audio.channels)
            while len(block := audio.read(block_frames, dtype="float32", always_2d=True)):
                n_frames += len(block)
                channels = torch.from_numpy(block)
                loudest = channels.abs().max()  # NaN where one is
                if not loudest.isfinite():
                    raise _unusable(path, "NaN or infinite samples")
                if loudest > _MAX_SAMPLE:
                    raise _unusable(path, f"samples above {_MAX_SAMPLE:g} times full scale")
                yield channels.mean(dim=1)
    except soundfile.LibsndfileError as error:
        raise _unusable(path, "damaged or truncated") from error
    # Compressed formats say in their header how long they were; libsndfile's decoder just ends early.
    if n_frames < round(header.duration * header.sample_rate):
        raise _unusable(path, "truncated")


def _resample(blocks, ratio):
    """Convert blocks as their whole would be converted.

    `ratio.numerator` samples become `ratio.denominator`. Each call sees as many samples on either side of the part
    that it converts as the filter is wide.
    """
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


def _unusable(path, problem):
    return InputError(f"The audio file {path} can't be used ({problem}): give an intact recording.")
