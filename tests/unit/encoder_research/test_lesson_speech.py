"""The speech that the small encoder learns from."""

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertModel

from ser_ts_lobes.errors import InputError
from tools.encoder_research import lesson_speech as tool
from tools.encoder_research.train_mini_hubert import CONFIG


@pytest.fixture(scope="module")
def speaker():
    return tool.Speaker()


def test_batches_hold_the_promised_speech(speaker):
    batches = [speaker.batch(np.random.default_rng([1, index])) for index in range(3)]
    for wavs in batches:
        assert wavs.dtype == torch.float32 and wavs.isfinite().all() and wavs.abs().max() <= 1
        assert wavs.numel() / 16000 == pytest.approx(tool.BATCH_S, rel=0.07)
        level_db = 20 * wavs.square().mean(dim=1).sqrt().log10()
        assert (level_db > -43).all() and (level_db < -11).all()
        assert level_db.std() > 3


def test_texts_follow_the_seed_and_vary(speaker):
    texts = [speaker.text(np.random.default_rng(seed), 8) for seed in range(50)]
    assert texts[7] == speaker.text(np.random.default_rng(7), 8)
    assert len({word.strip(",.?!") for text in texts for word in text.split()}) > 150


def test_recordings_are_heard_on_in_their_folder(tmp_path):
    for folder, hz in (("low", 500), ("high", 3000)):
        (tmp_path / folder).mkdir()
        for name, seconds, sample_rate in (("a.wav", 0.7, 8000), ("b.wav", 0.9, 44100), ("empty.wav", 0, 16000)):
            tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * sample_rate)) / sample_rate)
            soundfile.write(tmp_path / folder / name, tone, sample_rate)
    speaker = tool.Speaker([tmp_path])
    assert [file.name for file in speaker.recordings] == ["a.wav", "b.wav"] * 2
    heard = {}
    for seed in range(20):
        samples = speaker.recorded(np.random.default_rng(seed), length_s=1)
        loudest_hz = np.abs(np.fft.rfft(samples)).argmax() * 16000 / len(samples)
        heard[len(samples) / 16000, round(loudest_hz, -2)] = True
    assert set(heard) == {(1.6, 500), (0.9, 500), (1.6, 3000), (0.9, 3000)}


def test_a_folder_without_recordings_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no speech")
    with pytest.raises(InputError, match="holds no .wav, .ogg or .flac files; name a folder"):
        tool.Speaker([tmp_path])


@pytest.mark.parametrize("seed", range(12))
def test_voices_are_acted_and_recorded_at_the_right_rate(seed):
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 22050)
    acted, positions = tool.act(tone, 22050, np.random.default_rng(seed))
    assert positions.shape == acted.shape and (np.diff(positions) > 0).all()
    assert np.mean(acted**2) == pytest.approx(1, rel=1e-6)
    assert 0.4 < len(acted) / 32000 < 2.5
    recorded = tool.record(acted, np.random.default_rng(seed))
    assert recorded.shape == acted.shape and recorded.dtype == np.float32
    np.testing.assert_array_equal(recorded, tool.record(acted, np.random.default_rng(seed)))


def test_utterances_follow_the_seed(speaker):
    said, again, other = (speaker.utterances(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert said.wavs.shape == again.wavs.shape and said.wavs.abs().max() <= 1 and said.wavs.isfinite().all()
    assert (said.words == again.words).float().mean() > 0.9  # but for what eSpeak NG carries along
    assert not torch.equal(said.words[0, :50], other.words[0, :50])
    n_frames = count_student_frames(said.wavs.shape[1])
    assert said.sounds.shape == said.words.shape == (len(said.wavs), n_frames)
    assert (said.words >= 0).float().mean() > 0.5 and (said.sounds >= 0).float().mean() > 0.7


def count_student_frames(n_samples):
    student = HubertModel(CONFIG)
    with torch.no_grad():
        return student.feature_extractor(torch.randn(1, n_samples)).shape[2]


def test_words_and_sounds_are_heard_when_they_are_said(monkeypatch):
    """Two words around a pause: where the voice is silent, neither is heard."""
    speaker, glide = tool.Speaker(), 1.25

    def act(dry, sample_rate, rng):
        positions = np.arange(0, len(dry) - 1, glide * sample_rate / 16000)
        return np.interp(positions, np.arange(len(dry)), dry), positions

    monkeypatch.setattr(tool, "act", act)
    monkeypatch.setattr(tool, "record", lambda voice, rng: voice)
    monkeypatch.setattr(speaker, "text", lambda rng, n_words: "sister, wonderful.")
    clip, sounds, words = speaker.utterance(np.random.default_rng(0), 48000)
    power = np.square(clip[160 : 160 + 320 * len(words)].reshape(-1, 320)).mean(axis=1)
    heard = [speaker.words[word] if word >= 0 else "" for word in words]
    assert list(dict.fromkeys(heard)) == ["", "sister", "wonderful"]
    loud = power > 1e-3 * power.max()
    assert loud[np.array(heard) == ""].mean() < 0.1 < 0.8 < loud[np.array(heard) != ""].mean()
    spelt = [speaker.sounds[sound] for sound, word in zip(sounds, heard, strict=True) if word == "sister"]
    assert list(dict.fromkeys(spelt))[:4] == ["s", "I", "t#", "3"] or list(dict.fromkeys(spelt))[0] == "s"


def test_nothing_of_a_text_is_cut(monkeypatch):
    speaker, voices = tool.Speaker(), []

    def act(dry, sample_rate, rng):
        voices.append(np.ones(round(len(dry) * 16000 / sample_rate)))
        return voices[-1], np.arange(len(voices[-1])) * sample_rate / 16000

    monkeypatch.setattr(tool, "act", act)
    monkeypatch.setattr(tool, "record", lambda voice, rng: voice)
    for seed in range(20):
        clip, *_ = speaker.utterance(np.random.default_rng(seed), 24000)
        assert clip.shape == (24000,) and clip.sum() == len(voices[-1])


def test_speech_is_the_same_a_few_batches_ahead():
    seeds = [(7, index) for index in range(5)]
    heard = list(tool.speak_ahead((), [(seed, index % 2 == 1) for index, seed in enumerate(seeds)], 3))
    assert [said is None for _, said in heard] == [True, False, True, False, True]
    rng, speaker = np.random.default_rng(seeds[3]), tool.Speaker()
    assert heard[3][0].shape == speaker.batch(rng, tool.BESIDE_WORDS_S).shape
    assert heard[3][1].wavs.shape == speaker.utterances(rng).wavs.shape


@pytest.mark.parametrize("broken", ["speaking", "asked"])
def test_no_batch_is_lost_in_a_crash(broken, tmp_path, monkeypatch):
    """Whether it comes to light where speech is waited for, or where more is asked for."""
    submit, asked = ProcessPoolExecutor.submit, []
    drawn = [np.random.default_rng((7, index)).random() for index in range(6)]

    class Reader:
        def __init__(self, recordings):
            pass

        def batch(self, rng):
            number = drawn.index(rng.random())
            if broken == "speaking" and number == 1 and not (tmp_path / "crashed").exists():
                (tmp_path / "crashed").touch()
                os._exit(1)
            return torch.tensor([number])

    def refuse_once(pool, *arguments):
        asked.append(arguments)
        if broken == "asked" and len(asked) == 4:
            raise BrokenProcessPool
        return submit(pool, *arguments)

    monkeypatch.setattr(tool, "Speaker", Reader)
    monkeypatch.setattr(ProcessPoolExecutor, "submit", refuse_once)
    heard = [wavs.item() for wavs, _ in tool.speak_ahead((), [((7, index), False) for index in range(6)], 3)]
    assert heard == list(range(6)) and len(asked) > 6


def test_an_endless_crash_ends_the_run(monkeypatch):
    monkeypatch.setattr(tool, "Speaker", lambda recordings: os._exit(1))
    with pytest.raises(BrokenProcessPool):
        next(tool.speak_ahead((), [((7, 0), False)]))
