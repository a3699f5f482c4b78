"""Reading audio: what comes out, and what is refused."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st

from ser_ts_lobes.data import audio
from ser_ts_lobes.data.audio import inspect_audio, read_audio, stream_audio
from ser_ts_lobes.errors import InputError
from tests.hostile import at_least


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
    monkeypatch.setattr("ser_ts_lobes.data.audio._BLOCK_VALUES", n_block_values)
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


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full((4800, 2), 0.1), 8000)
    return path


def test_inspect_audio_of_good_files(wav):
    info = inspect_audio(wav)
    assert (info.duration, info.sample_rate, info.channels, info.problem) == (0.6, 8000, 2, None)
    for name, subtype in (("a.flac", "PCM_16"), ("float.wav", "FLOAT"), ("double.wav", "DOUBLE")):
        soundfile.write(wav.with_name(name), np.zeros(4000), 16000, subtype)
        assert inspect_audio(wav.with_name(name)).problem is None


def test_inspect_audio_of_a_piped_wav(wav):
    # ffmpeg can't know the length when it writes into a pipe and promises 4 GiB.
    content = wav.read_bytes()
    assert content[36:40] == b"data"
    wav.write_bytes(content[:40] + b"\xff\xff\xff\xff" + content[44:])
    assert inspect_audio(wav) == inspect_audio(wav.with_name("a.wav"))
    assert (inspect_audio(wav).problem, inspect_audio(wav).duration) == (None, 0.6)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda content: b"", "empty"),
        (lambda content: content[:44], "truncated"),
        (lambda content: content[:1000], "truncated"),
        (lambda content: content[:-2], "truncated"),
        (lambda content: content[:30], "unreadable"),
        (lambda content: b"not audio" * 1000, "unreadable"),
    ],
)
def test_inspect_audio_of_spoilt_files(wav, spoil, problem):
    wav.write_bytes(spoil(wav.read_bytes()))
    assert inspect_audio(wav).problem == problem


def test_inspect_audio_without_file_or_samples(tmp_path):
    assert inspect_audio(tmp_path / "nowhere.wav").problem == "missing"
    assert inspect_audio(tmp_path).problem == "missing"
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    assert inspect_audio(tmp_path / "a.wav").problem == "empty"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_inspect_audio_of_samples_that_are_not_finite(tmp_path, subtype, value):
    samples = np.zeros(16000 * 61)
    samples[-1] = value  # in the second minute
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype)
    assert inspect_audio(tmp_path / "a.wav").problem == "NaN or infinite samples"


def test_inspect_audio_of_a_long_file_stays_small(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000 * 600, dtype=np.float32), 16000, "FLOAT")
    tracemalloc.start()
    assert inspect_audio(tmp_path / "a.wav").problem is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6  # all samples at once are 77 MB


def judged_alike(path):
    """Say whether a file can be read, after a look at whether inspection says the same."""
    problem = inspect_audio(path).problem
    try:
        read = len(read_audio(path)) > 0
    except InputError as error:
        assert problem and f"({problem})" in str(error)
        return False
    assert read and problem is None
    return True


FORMATS = {
    **{f"wav {subtype}": ("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")},
    **{f"wav {subtype}": ("WAV", subtype) for subtype in ("ULAW", "MS_ADPCM", "GSM610")},
    "wavex": ("WAVEX", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "FLOAT"),
    "caf": ("CAF", "ALAC_16"),
    "flac": ("FLAC", "PCM_16"),
    "flac 24": ("FLAC", "PCM_24"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Give the bytes of a second of a tone in each format."""
    path = tmp_path_factory.mktemp("intact") / "clip"
    contents = {}
    for name, (format, subtype) in FORMATS.items():
        soundfile.write(path, tone(16000, seconds=1.0), 16000, subtype, format=format)
        assert judged_alike(path), name
        contents[name] = path.read_bytes()
    return contents


@at_least(1000)
@given(name=st.sampled_from(sorted(FORMATS)), data=st.data())
def test_what_is_accepted_can_be_read_and_nothing_else(tmp_path_factory, intact, name, data):
    content = bytearray(intact[name])
    # Most of what a file says of itself is at its head.
    places = st.integers(0, 120) | st.integers(0, len(content) - 1)
    for place, byte in data.draw(st.dictionaries(places, st.integers(0, 255), max_size=3)).items():
        content[place] = byte
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[:end] + data.draw(st.sampled_from([b"", b"\0", b"RIFF" * 10])))
    judged_alike(path)


@at_least(1000)
@given(name=st.sampled_from(["wav PCM_U8", "wav PCM_16", "wav PCM_24", "wav PCM_32"]), data=st.data())
def test_the_common_header_is_read_as_libsndfile_reads_it(tmp_path_factory, intact, name, data):
    content = bytearray(intact[name])
    words = st.dictionaries(st.integers(0, 21), st.integers(0, 255) | st.integers(0, 65535), max_size=3)
    for place, word in data.draw(words).items():
        content[2 * place : 2 * place + 2] = word.to_bytes(2, "little")
    n_bytes = data.draw(st.just(len(content)) | st.integers(0, 60) | st.integers(len(content) - 20, len(content)))
    content = content[:n_bytes]
    if data.draw(st.booleans()):  # sizes that agree with one another
        content[4:8] = max(0, n_bytes - 8).to_bytes(4, "little")
        content[40:44] = max(0, n_bytes - 44).to_bytes(4, "little")
    path = tmp_path_factory.getbasetemp() / data.draw(st.sampled_from(["common.wav", "common.WAV", "common", "x.RAW"]))
    path.write_bytes(content)
    read = inspect_audio(path)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(audio, "_read_common_header", lambda *_: None)
        assert inspect_audio(path) == read


@pytest.mark.parametrize("name", ["wav PCM_U8", "wav PCM_16", "wav PCM_24", "wav PCM_32"])
def test_files_of_the_common_header_are_not_opened_by_libsndfile(tmp_path, intact, name, monkeypatch):
    path = tmp_path / "clip.wav"
    path.write_bytes(intact[name])
    monkeypatch.setattr(audio.soundfile, "SoundFile", None)
    assert inspect_audio(path) == audio.AudioInfo(1.0, 16000, 1)


@pytest.mark.parametrize("name", FORMATS)
def test_cut_files_are_judged_alike(tmp_path, intact, name):
    path = tmp_path / "cut"
    for share in np.linspace(0, 0.99, 12):
        path.write_bytes(intact[name][: int(share * len(intact[name]))])
        judged_alike(path)


@pytest.mark.parametrize("name", ["flac", "mp3", "ogg", "wav PCM_16", "wav FLOAT"])
def test_a_file_that_was_cut_is_never_prepared(tmp_path, intact, name):
    path = tmp_path / "cut"
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(intact[name][: int(share * len(intact[name]))])
        assert inspect_audio(path).problem and not judged_alike(path)


def test_damage_in_the_midst_of_a_flac_is_found(tmp_path, intact):
    content = bytearray(intact["flac"])
    content[len(content) // 2] ^= 255
    (tmp_path / "a.flac").write_bytes(content)
    assert inspect_audio(tmp_path / "a.flac").problem == "damaged or truncated"


@pytest.mark.parametrize("sample_rate", [1, 999, 768001])
def test_a_made_up_rate_is_found_by_inspection(path, sample_rate):
    soundfile.write(path, tone(16000), sample_rate)
    assert inspect_audio(path).problem == f"a sampling rate of {sample_rate} Hz"


@pytest.mark.parametrize(("loudest", "usable"), [(2.0**15, True), (2.0**15 + 1, False), (1e30, False)])
def test_samples_far_above_full_scale(path, loudest, usable):
    soundfile.write(path, np.array([0.0, loudest, 0.5] * 1000), 16000, "FLOAT")
    assert judged_alike(path) == usable


def test_looking_at_files_does_not_wait_for_torch():
    code = "import sys, ser_ts_lobes.data.audio, ser_ts_lobes.data.manifests; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
