"""Using a student, and what hostile or odd recordings lead to."""

import os
import socket
import struct
import subprocess
import sys
import tracemalloc

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch

from ser_ts_lobes.data.audio import stream_audio
from ser_ts_lobes.data.voice_activity import trim_silence
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.student import inference
from ser_ts_lobes.student.inference import EmotionRegressor
from tests.tiny_models import save_tiny_whisper
from tests.tiny_student import save_tiny_student


def tone(seconds, sample_rate=16000, seed=0):
    """Noise that swells, so that no two windows are alike."""
    noise = np.random.default_rng(seed).normal(0, 0.05, round(seconds * sample_rate))
    return noise * np.linspace(0.2, 2, len(noise))


# ------------------------------------------------------------------ loading


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)


def test_a_local_folder_does_not_touch_the_network(student_folder, no_network, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1), 16000)
    EmotionRegressor.from_pretrained(student_folder).predict_file(tmp_path / "a.wav")


def test_a_slip_of_the_pen_is_not_looked_up_on_the_hub(no_network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    for source in ("my-student", "results/studnet", "/nowhere/student", "../student", "a/b/c", "http://host/x", ""):
        with pytest.raises(InputError, match="neither a folder nor a name on the Hugging Face Hub|does not exist"):
            EmotionRegressor.from_pretrained(source)


def test_a_name_on_the_hub_is_fetched_two_files_at_its_revision(student_folder, monkeypatch):
    fetched = []

    def download(repo_id, filename, revision):
        fetched.append((repo_id, filename, revision))
        return f"{student_folder}/{filename}"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert EmotionRegressor.from_pretrained("someone/student", revision="v1").config["system"] == "ft"
    assert fetched == [("someone/student", name, "v1") for name in ("config.json", "model.safetensors")]


def test_a_hub_that_can_not_be_reached_is_one_sentence():
    with pytest.raises(InputError, match="Can't get 'someone/student'"):
        EmotionRegressor.from_pretrained("someone/student")  # HF_HUB_OFFLINE, by conftest.py


def test_the_safe_path_does_not_look_at_hyperparams_or_code(tiny_hubert, tmp_path):
    folder = save_tiny_student(tmp_path / "student", tiny_hubert)
    harm = tmp_path / "harm"
    (tmp_path / "student" / "hyperparams.yaml").write_text(f"a: !apply:os.system ['touch {harm}']\npretrainer:\n")
    (tmp_path / "student" / "custom_interface.py").write_text(f"open({str(harm)!r}, 'w')\n")
    EmotionRegressor.from_pretrained(folder)
    assert not harm.exists()
    with pytest.raises(Exception):  # noqa: B017  (whatever SpeechBrain makes of it)
        EmotionRegressor.from_hparams(folder)
    assert harm.exists()  # the trap works: it is the safe path that does not step into it


# ------------------------------------------------------------------ batches and files


def test_a_clip_does_not_depend_on_its_batch(student):
    long, short = torch.randn(16000), torch.randn(9000)
    batch = torch.nn.utils.rnn.pad_sequence([long, short], batch_first=True)
    together = student.predict_batch(batch, torch.tensor([1.0, 9000 / 16000]))
    assert together.shape == (2, 3)
    torch.testing.assert_close(together[1:], student.predict_batch(short.unsqueeze(0)), rtol=0, atol=1e-4)
    torch.testing.assert_close(student(batch[:1]), together[:1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("wavs", [torch.zeros(16000), torch.zeros(2, 0), torch.full((1, 100), torch.nan)])
def test_what_is_no_batch_is_refused(student, wavs):
    with pytest.raises(InputError, match="aren't a batch"):
        student.predict_batch(wavs)


def test_files_keep_their_order_and_equal_predict_file(student, tmp_path):
    paths = []
    for i, seconds in enumerate((0.9, 0.1, 1.6, 0.4, 1.1)):
        paths.append(tmp_path / f"{i}.wav")
        soundfile.write(paths[-1], tone(seconds, seed=i), 16000)
    predictions = student.predict_files(paths, batch_size=2)
    assert [prediction.path for prediction in predictions] == [str(path) for path in paths]
    for path, prediction in zip(paths, predictions, strict=True):
        np.testing.assert_allclose(prediction.emotion, student.predict_file(path), atol=1e-4)
    assert len({prediction.emotion for prediction in predictions}) == 5
    assert student.predict_files([]) == []


def test_batches_are_of_similar_length(student, tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.wav" for i in range(6)]
    for path, seconds in zip(paths, (0.2, 1.6, 0.3, 1.5, 0.25, 1.4), strict=True):
        soundfile.write(path, tone(seconds), 16000)
    widths = []
    hear = student._hear
    monkeypatch.setattr(
        EmotionRegressor, "_hear", lambda self, wavs, lens: widths.append(wavs.shape) or hear(wavs, lens)
    )
    student.predict_files(paths, batch_size=3)
    assert widths == [(3, 4800), (3, 25600)]


def test_a_bad_file_does_not_stop_the_others(student, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16000)
    (tmp_path / "b.wav").write_text("not audio")
    names = ["a.wav", "b.wav", "missing.wav", "a.wav"]
    good, bad, missing, again = student.predict_files([tmp_path / name for name in names], batch_size=2)
    assert good.error is None and good.emotion is not None
    assert bad.emotion is None and "b.wav can't be used (unreadable)" in bad.error
    assert missing.emotion is None and "missing" in missing.error
    np.testing.assert_allclose(again.emotion, good.emotion, atol=1e-4)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("sample_rate", [16000, 44100])
def test_formats_rates_and_channels_make_little_difference(student, tmp_path, suffix, sample_rate):
    clip = 0.5 * np.sin(2 * np.pi * 300 * np.arange(sample_rate) / sample_rate)
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([clip, clip], axis=1), sample_rate)
    soundfile.write(tmp_path / "reference.wav", clip, sample_rate, subtype="FLOAT")
    found = student.predict_file(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(found, student.predict_file(tmp_path / "reference.wav"), atol=0.1)


def test_a_clip_that_is_too_long_points_to_the_timeline(student, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.flac", np.zeros(61 * 16000), 16000)
    with pytest.raises(InputError, match="longer than 60 s.*predict_timeline"):
        student.predict_file(tmp_path / "long.flac")
    monkeypatch.setattr(student, "max_clip_s", 62)
    student.predict_file(tmp_path / "long.flac")


def test_whisper_hears_no_more_than_its_window(tmp_path):
    folder = save_tiny_student(tmp_path / "student", save_tiny_whisper(tmp_path / "whisper"))
    student = EmotionRegressor.from_pretrained(folder)
    soundfile.write(tmp_path / "a.wav", tone(10.5), 16000)
    soundfile.write(tmp_path / "b.wav", tone(10.0), 16000)
    long, fitting = student.predict_files([tmp_path / "a.wav", tmp_path / "b.wav"])
    assert "longer than 10 s" in long.error
    assert fitting.emotion is not None


# ------------------------------------------------------------------ timelines


@pytest.mark.parametrize(
    ("seconds", "window_s", "hop_s", "starts"),
    [
        (3.0, 1.0, 1.0, [0, 1, 2]),
        (3.0, 1.0, 0.5, [0, 0.5, 1, 1.5, 2]),
        (3.3, 1.0, 1.0, [0, 1, 2, 2.3]),
        (1.0, 1.0, 1.0, [0]),
        (0.4, 1.0, 0.5, [0]),
        (2.0001, 1.0, 1.0, [0, 1, 1.0001]),
    ],
)
def test_windows_cover_the_recording(student, tmp_path, seconds, window_s, hop_s, starts):
    audio = tone(seconds)
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    timeline = student.predict_timeline(tmp_path / "a.wav", window_s, hop_s, batch_size=2)
    np.testing.assert_allclose(timeline.start_s, starts, atol=1e-4)
    np.testing.assert_allclose(timeline.end_s, np.minimum(np.array(starts) + window_s, seconds), atol=1e-4)
    for start, values in zip(starts, timeline.values, strict=True):
        part = torch.tensor(audio[round(start * 16000) :][: round(window_s * 16000)], dtype=torch.float32)
        np.testing.assert_allclose(values, student.predict_batch(part.unsqueeze(0))[0], atol=1e-3)


def test_windows_do_not_depend_on_how_the_file_is_read(student, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(5, 22050), 22050, subtype="FLOAT")
    whole = student.predict_timeline(tmp_path / "a.wav", 1.0, 0.7)
    monkeypatch.setattr("ser_ts_lobes.data.audio._BLOCK_VALUES", 3001)
    blocks = student.predict_timeline(tmp_path / "a.wav", 1.0, 0.7)
    np.testing.assert_array_equal(blocks.start_s, whole.start_s)
    np.testing.assert_allclose(blocks.values, whole.values, atol=1e-4)


@pytest.mark.parametrize(
    ("window_s", "hop_s"), [(1, 0), (1, 2), (61, 1), (0, 0), (1, -1), (1, 1e-9), (float("nan"), 1)]
)
def test_windows_that_can_not_be(student, tmp_path, window_s, hop_s):
    soundfile.write(tmp_path / "a.wav", tone(1), 16000)
    with pytest.raises(InputError, match="can't be used: a window is at most 60 s long"):
        student.predict_timeline(tmp_path / "a.wav", window_s, hop_s)


def test_a_cpu_hears_the_clips_of_a_batch_one_by_one(student, monkeypatch):
    encoder, sizes = student.network.speech_encoder, []
    forward = encoder.frozen_forward
    monkeypatch.setattr(encoder, "frozen_forward", lambda wavs, lens: sizes.append(len(wavs)) or forward(wavs, lens))
    student.predict_batch(0.1 * torch.randn(3, 16000), torch.tensor([1.0, 0.7, 0.5]))
    assert sizes == [1, 1, 1]


# What an hour adds to the memory of a process that has already heard a minute. The network is replaced by one that
# takes no time: it is the reading and the windows whose memory is measured here.
_HOUR = """
import resource, sys
import torch
from ser_ts_lobes.student.inference import EmotionRegressor

folder, minute, hour = sys.argv[1:]
student = EmotionRegressor.from_pretrained(folder)
student.predict_batch = lambda wavs, lens: wavs.abs().mean(1, keepdim=True).expand(-1, 3)
peaks = []
for path in minute, hour:
    timeline = student.predict_timeline(path)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    print(len(timeline.values), timeline.values[-1].max())
print(peaks[1] - peaks[0])
"""


def test_an_hour_takes_no_more_memory_than_a_minute(student_folder, tmp_path):
    minute = np.random.default_rng(0).normal(0, 0.05, 60 * 16000).astype(np.float32)
    for name, minutes in ("minute", 1), ("hour", 60):
        with soundfile.SoundFile(tmp_path / f"{name}.wav", "w", 16000, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(minute)
    arguments = [student_folder, tmp_path / "minute.wav", tmp_path / "hour.wav"]
    output = subprocess.run(
        [sys.executable, "-c", _HOUR, *arguments], check=True, capture_output=True, text=True
    ).stdout
    first, second, growth = output.splitlines()
    assert (first.split()[0], second.split()[0]) == ("57", "3597")
    # An hour is 230 MB as float32.
    assert int(growth) < 40


# ------------------------------------------------------------------ hostile and odd recordings


def wav(n_bytes_claimed, data=b"", channels=1, sample_rate=16000):
    """Write a 16-bit WAV file by hand, whatever its header claims."""
    bytes_a_frame = 2 * channels
    rate = sample_rate * bytes_a_frame & 0xFFFFFFFF
    form = struct.pack("<HHIIHH", 1, channels, sample_rate, rate, bytes_a_frame & 0xFFFF, 16)
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", n_bytes_claimed) + data
    return b"RIFF" + struct.pack("<I", min(36 + n_bytes_claimed, 2**32 - 1)) + b"WAVE" + chunks


def flac(tmp_path, n_samples_claimed=16000, channels=1, frames=True):
    """Encode a second of noise as FLAC and change what its header claims."""
    path = tmp_path / "honest.flac"
    soundfile.write(path, tone(1), 16000)
    content = bytearray(path.read_bytes())
    # STREAMINFO: 20 bits of sampling rate, 3 of channels - 1, 5 of bits - 1, 36 of samples.
    content[18:26] = (16000 << 44 | (channels - 1) << 41 | 15 << 36 | n_samples_claimed).to_bytes(8, "big")
    return bytes(content if frames else content[:42])


HOSTILE = {
    "WAV: 10^9 samples promised, none there": (lambda _: wav(2 * 10**9), "empty|truncated"),
    "WAV: 10^9 samples promised, 1 s there": (lambda _: wav(2 * 10**9, bytes(32000)), "truncated"),
    "WAV: 65,535 channels": (lambda _: wav(2 * 10**9, bytes(32000), channels=65535), "unreadable"),
    "WAV: 2^31 - 1 Hz": (lambda _: wav(32000, bytes(32000), sample_rate=2**31 - 1), "sampling rate of 2147483647 Hz"),
    "WAV: 0 Hz": (lambda _: wav(32000, bytes(32000), sample_rate=0), "unreadable|sampling rate"),
    "WAV: 1 Hz": (lambda _: wav(32000, bytes(32000), sample_rate=1), "sampling rate of 1 Hz"),
    "WAV: header cut short": (lambda _: wav(32000)[:30], "unreadable"),
    "WAV: no samples": (lambda _: wav(0), "empty"),
    "FLAC: 10^9 samples promised, none there": (lambda tmp: flac(tmp, 10**9, frames=False), "truncated|unreadable"),
    "FLAC: 2^36 - 1 samples promised, 1 s there": (lambda tmp: flac(tmp, 2**36 - 1), "truncated"),
    "FLAC: 8 channels promised, 1 there": (lambda tmp: flac(tmp, channels=8), "truncated|unreadable|damaged"),
    "a file of 0 bytes": (lambda _: b"", "empty"),
    "text": (lambda _: b"#!/bin/sh\n", "unreadable"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_before_memory_is_taken(student, tmp_path, name):
    make, problem = HOSTILE[name]
    path = tmp_path / "hostile.wav"
    path.write_bytes(make(tmp_path))
    tracemalloc.start()
    for predict in (student.predict_file, student.predict_timeline):
        with pytest.raises(InputError, match=rf"hostile\.wav can't be used \(.*({problem})"):
            predict(path)
    _, peak = tracemalloc.get_traced_memory()  # of Python and numpy, into whose arrays soundfile reads
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_a_small_file_that_decodes_to_hours_is_read_no_further_than_a_clip(student, tmp_path, monkeypatch):
    """A decompression bomb: 2 hours of silence are 0.8 MB of FLAC, and 460 MB as float32."""
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        for _ in range(120):
            file.write(np.zeros(60 * 16000, np.float32))
    assert path.stat().st_size < 2**20
    read = []
    monkeypatch.setattr(inference, "stream_audio", lambda path: (read.append(b) or b for b in stream_audio(path)))
    with pytest.raises(InputError, match="longer than 60 s"):
        student.predict_file(path)
    assert sum(map(len, read)) < 140 * 16000


@pytest.mark.parametrize(
    ("samples", "problem"),
    [([0.1, np.nan] * 100, "NaN"), ([0.1, -np.inf] * 100, "infinite"), ([0.1, 1e30] * 100, "full scale")],
)
def test_samples_that_are_no_sound_are_refused(student, tmp_path, samples, problem):
    for format, subtype in ("WAV", "FLOAT"), ("WAV", "DOUBLE"):
        soundfile.write(tmp_path / "a.wav", samples, 16000, subtype=subtype, format=format)
        with pytest.raises(InputError, match=rf"a\.wav can't be used \(.*{problem}"):
            student.predict_file(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["folder", "pipe", "headerless.raw", "/dev/zero"])
def test_what_is_no_file_is_refused(student, tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "headerless.raw").write_bytes(bytes(32000))
    with pytest.raises(InputError, match="can't be used"):
        student.predict_file(tmp_path / name)
    [prediction] = student.predict_files([tmp_path / name])
    assert "can't be used" in prediction.error


@pytest.mark.parametrize(
    ("subtype", "format", "sample_rate"),
    [
        ("PCM_U8", "WAV", 16000),
        ("PCM_24", "WAV", 16000),
        ("PCM_32", "WAV", 16000),
        ("DOUBLE", "WAV", 16000),
        ("ULAW", "WAV", 16000),
        ("PCM_24", "FLAC", 16000),
        ("PCM_24", "WAV", 96000),
        ("PCM_16", "WAV", 8000),
        ("PCM_16", "WAV", 44101),
        ("PCM_16", "WAV", 384000),
    ],
)
def test_odd_formats_are_heard_as_plain_ones(student, tmp_path, subtype, format, sample_rate):
    clip = 0.5 * np.sin(2 * np.pi * 300 * np.arange(sample_rate) / sample_rate)
    soundfile.write(tmp_path / "a", clip, sample_rate, subtype=subtype, format=format)
    plain = 0.5 * np.sin(2 * np.pi * 300 * np.arange(16000) / 16000)
    expected = student.predict_batch(torch.tensor(plain, dtype=torch.float32).unsqueeze(0))[0]
    np.testing.assert_allclose(student.predict_file(tmp_path / "a"), expected, atol=0.1)


@pytest.mark.parametrize("n_samples", [1, 100, 16000])
def test_silence_and_single_samples_get_finite_values(student, tmp_path, n_samples):
    soundfile.write(tmp_path / "a.wav", np.zeros(n_samples), 16000)
    assert np.isfinite(student.predict_file(tmp_path / "a.wav")).all()


def test_a_thousand_channels_are_averaged(student, tmp_path):
    clip = np.repeat(tone(0.2)[:, None], 1000, axis=1)
    soundfile.write(tmp_path / "a.wav", clip, 16000)
    soundfile.write(tmp_path / "mono.wav", clip[:, 0], 16000)
    np.testing.assert_allclose(
        student.predict_file(tmp_path / "a.wav"), student.predict_file(tmp_path / "mono.wav"), atol=1e-3
    )


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(student, batch_size):
    for predict in (student.predict_files, student.predict_timeline):
        with pytest.raises(InputError, match=f"^batch_size is {batch_size}: give a whole number from 1 on.$"):
            predict([], batch_size=batch_size)


def test_a_device_that_is_not_there_is_refused_before_a_student_is_looked_for():
    with pytest.raises(InputError, match="^The device 'cuda:99' can't be used"):
        EmotionRegressor.from_pretrained("nowhere", device="cuda:99")


def test_embeddings_have_the_shape_and_the_length_of_speechbrains(student):
    wavs = torch.tensor(np.stack([tone(0.5), tone(0.5, seed=1)]), dtype=torch.float32)
    embeddings = student.encode_batch(wavs, torch.tensor([1.0, 0.6]))
    assert embeddings.shape == (2, 1, student.config["embedding_size"])
    unit = student.encode_batch(wavs, torch.tensor([1.0, 0.6]), normalize=True)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(2, 1))
    torch.testing.assert_close(unit * embeddings.norm(dim=-1, keepdim=True), embeddings)
    network = student.network
    prediction = network.label_scale.restore(network.model.output(embeddings.squeeze(1)))
    torch.testing.assert_close(prediction, student.predict_batch(wavs, torch.tensor([1.0, 0.6])))


def test_windows_are_as_long_as_training_clips(student, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(2), 16000)
    monkeypatch.setattr(student, "window_s", 0.8)
    np.testing.assert_allclose(student.predict_timeline(tmp_path / "a.wav").start_s, np.arange(7) / 5)


@pytest.mark.parametrize("block", [1000, 2**20])
def test_segments_are_heard_as_clips_of_their_own_in_their_order(student, tmp_path, monkeypatch, block):
    monkeypatch.setattr("ser_ts_lobes.data.audio._BLOCK_VALUES", block)
    audio = tone(3)
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    segments = [(2.5, 3.0), (0.0, 1.0), (0.5, 0.75), (0.5, 2.0)]
    timeline = student.predict_segments(tmp_path / "a.wav", segments, batch_size=3)
    assert list(zip(timeline.start_s, timeline.end_s, strict=True)) == segments
    for (start_s, end_s), values in zip(segments, timeline.values, strict=True):
        part = torch.tensor(audio[round(start_s * 16000) : round(end_s * 16000)], dtype=torch.float32)
        np.testing.assert_allclose(values, student.predict_batch(part.unsqueeze(0))[0], atol=1e-3)


@pytest.mark.parametrize("segment", [(1, 1), (1, 0.5), (-1, 1), (0, 61), (float("nan"), 1), (0, float("inf"))])
def test_segments_that_can_not_be(student, tmp_path, segment):
    soundfile.write(tmp_path / "a.wav", tone(2), 16000)
    with pytest.raises(InputError, match="can't be heard: it begins at 0 or later and lasts between 0 and 60 s"):
        student.predict_segments(tmp_path / "a.wav", [segment])


def test_silence_around_words_is_left_out(student, tmp_path, spoken):
    soundfile.write(tmp_path / "padded.wav", np.concatenate([np.zeros(16000), spoken, np.zeros(32000)]), 16000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    padded, silence = tmp_path / "padded.wav", tmp_path / "silence.wav"
    trimmed, whole = student.predict_files([padded, silence], vad=True)
    assert trimmed.duration_s < len(spoken) / 16000 + 0.5 and whole.duration_s == 1
    np.testing.assert_allclose(trimmed.emotion, student.predict_file(padded, vad=True), atol=1e-4)
    np.testing.assert_allclose(whole.emotion, student.predict_file(silence), atol=1e-4)
    timeline = student.predict_timeline(padded, 1.0, 1.0, vad=True)
    second = torch.tensor(spoken[:16000])
    assert np.isnan(timeline.values[[0, -1]]).all() and np.isfinite(timeline.values[1]).all()
    np.testing.assert_allclose(
        timeline.values[1], student.predict_batch(trim_silence(second).unsqueeze(0))[0], atol=1e-3
    )
