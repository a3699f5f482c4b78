"""Reading audio: what comes out, and what is refused."""

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from ser_ts_lobes.audio import read_audio, stream_audio
from ser_ts_lobes.errors import InputError


def tone(sample_rate, frequency=440.0, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * sample_rate)) / sample_rate)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clip.wav"


def test_channels_are_averaged(path):
    left, right = tone(16000), tone(16000, 1000.0)
    soundfile.write(path, np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    audio = read_audio(path)
    assert audio.dtype == torch.float32
    np.testing.assert_allclose(audio, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("original_rate", [8000, 44100, 48000])
def test_resampling_keeps_the_tone(path, original_rate):
    soundfile.write(path, tone(original_rate), original_rate, subtype="FLOAT")
    audio = read_audio(path)
    assert audio.shape == (8000,)
    inner = slice(400, -400)  # the interpolation fades in and out at the ends
    np.testing.assert_allclose(audio[inner], tone(16000)[inner], atol=2e-3)


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3"])
def test_audio_cut_short(tmp_path, format):
    path = tmp_path / f"clip.{format}"
    soundfile.write(path, tone(16000, seconds=1.0), 16000)
    assert len(read_audio(path)) == 16000
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"clip\.{format} can't be used"):
        read_audio(path)


@pytest.mark.parametrize(("samples", "problem"), [([], "empty"), ([0.0, np.nan], "NaN"), ([np.inf, 0.0], "infinite")])
def test_useless_samples(path, samples, problem):
    soundfile.write(path, np.array(samples), 16000, subtype="FLOAT")
    with pytest.raises(InputError, match=rf"clip\.wav .*{problem}"):
        read_audio(path)


def test_no_audio_file(path):
    with pytest.raises(InputError, match=r"clip\.wav .*missing"):
        read_audio(path)
    path.write_text("not audio")
    with pytest.raises(InputError, match=r"clip\.wav .*unreadable"):
        read_audio(path)


@pytest.mark.parametrize("original_rate", [8000, 11025, 16000, 22050, 44100, 47952, 48000])
@pytest.mark.parametrize("n_block_values", [61, 777, 5000])
def test_blocks_join_to_what_the_whole_file_is_converted_to(path, monkeypatch, original_rate, n_block_values):
    audio = np.random.default_rng(0).normal(0, 0.1, 9001)
    soundfile.write(path, audio, original_rate, subtype="FLOAT")
    monkeypatch.setattr("ser_ts_lobes.audio._BLOCK_VALUES", n_block_values)
    blocks = list(stream_audio(path))
    whole = torchaudio.functional.resample(torch.tensor(audio), original_rate, 16000).float()
    assert len(blocks) > 1
    torch.testing.assert_close(torch.cat(blocks), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("original_rate", [44101, 11127])
def test_rates_without_a_small_ratio_keep_duration_and_pitch(path, original_rate):
    soundfile.write(path, tone(original_rate, seconds=2.0), original_rate, subtype="FLOAT")
    audio = read_audio(path)
    assert abs(len(audio) - 32000) <= 1
    inner = slice(400, -400)
    np.testing.assert_allclose(audio[inner], tone(16000, seconds=2.0)[: len(audio)][inner], atol=0.02)


@pytest.mark.parametrize("original_rate", [1, 999, 768001, 2**31 - 1])
def test_rates_that_no_recording_has(path, original_rate):
    soundfile.write(path, tone(16000), original_rate)
    with pytest.raises(InputError, match=rf"clip\.wav .*sampling rate of {original_rate} Hz"):
        read_audio(path)
