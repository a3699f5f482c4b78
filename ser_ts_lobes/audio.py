"""Reading audio."""

import torch
import torchaudio.functional
from speechbrain.dataio import audio_io

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.manifests import inspect_audio


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
        When the file is missing, not audio, cut short or empty, or has samples that are NaN or infinite.

    Example
    -------
    >>> import numpy, soundfile
    >>> path = getfixture("tmp_path") / "stereo.wav"
    >>> soundfile.write(path, numpy.zeros((4000, 2)), 8000)
    >>> read_audio(path).shape
    torch.Size([8000])
    """
    header = inspect_audio(path)
    if header.problem:
        raise _unusable(path, header.problem)
    try:
        channels, original_rate = audio_io.load(str(path), dtype=torch.float32)
    except RuntimeError as error:
        raise _unusable(path, "damaged or truncated") from error
    # Compressed formats say in their header how long they were; libsndfile's decoder just ends early.
    if channels.shape[1] < round(header.duration * header.sample_rate):
        raise _unusable(path, "truncated")
    if not channels.isfinite().all():
        raise _unusable(path, "NaN or infinite samples")
    mono = channels.mean(dim=0)
    if original_rate == sample_rate:
        return mono
    return torchaudio.functional.resample(mono, original_rate, sample_rate)


def _unusable(path, problem):
    return InputError(f"The audio file {path} can't be used ({problem}). Restore it, or prepare the corpus again.")
