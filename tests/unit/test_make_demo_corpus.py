"""The demo corpus: reproducible, honest about its settings, labelled by the lexicon, disjoint in speakers."""

import csv
import json
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from ser_ts_lobes.errors import InputError
from tools import make_demo_corpus as demo

pytest.importorskip("espeakng_loader")
pytest.importorskip("vaderSentiment")

COUNTS = {"n_train": 60, "n_valid": 20, "n_test": 20}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    assert demo.make_demo_corpus(folder, **COUNTS, seed=7)
    return folder


@pytest.fixture(scope="module")
def espeak():
    return demo.ESpeak()


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_same_bytes(tmp_path):
    demo.make_demo_corpus(tmp_path / "one", 16, 6, 6, seed=3)  # every speaker once
    demo.make_demo_corpus(tmp_path / "other", 16, 6, 6, seed=4)
    time.sleep(1.1)  # eSpeak NG, left alone, seeds its noise with the second it is started in
    demo.make_demo_corpus(tmp_path / "two", 16, 6, 6, seed=3)
    one, two, other = (files_of(tmp_path / name) for name in ("one", "two", "other"))
    assert len(one) == 2 * 28 + 4
    assert one == two
    assert one["Audios/DEMO_0001.wav"] != other["Audios/DEMO_0001.wav"]


def test_tree_has_the_shape_of_msp_podcast(corpus):
    rows = read_csv(corpus / "Labels" / "labels_consensus.csv")
    assert list(rows[0]) == "FileName EmoClass EmoAct EmoVal EmoDom SpkrID Gender Split_Set".split()
    assert Counter(row["Split_Set"] for row in rows) == {"Train": 60, "Development": 20, "Test1": 20}
    for row in rows:
        audio = soundfile.info(corpus / "Audios" / row["FileName"])
        assert (audio.samplerate, audio.channels, audio.subtype) == (16000, 1, "PCM_16")
        assert 0.9 < audio.duration < 6
        assert (corpus / "Transcripts" / row["FileName"].replace(".wav", ".txt")).read_text().strip()
        labels = np.array([float(row[name]) for name in ("EmoAct", "EmoVal", "EmoDom")])
        assert (labels >= 1).all() and (labels <= 7).all()
        np.testing.assert_allclose(labels * demo.RATERS, np.rint(labels * demo.RATERS), atol=1e-9)
    assert "synthetic" in (corpus / "README.txt").read_text()


def test_splits_share_no_speaker_and_have_both_genders(corpus):
    rows = read_csv(corpus / "Labels" / "labels_consensus.csv")
    speakers = {
        split: {row["SpkrID"] for row in rows if row["Split_Set"] == split}
        for split in ("Train", "Development", "Test1")
    }
    assert sum(map(len, speakers.values())) == len(set.union(*speakers.values())) >= 24
    for split in speakers:
        assert {row["Gender"] for row in rows if row["Split_Set"] == split} == {"Female", "Male"}


def test_no_word_outside_the_evaluative_roles_is_rated():
    lexicon = demo.read_lexicon()
    own = {token for template in demo.TEMPLATES for token in template.split() if token[0] != "{"}
    others = {word.lower() for words in demo.NEUTRAL_WORDS.values() for word in words}
    assert not (own | others) & set(lexicon)


def label_noise_sd():
    return np.sqrt((demo.RATER_SD**2 + 1 / 12) / demo.RATERS)  # rounding adds 1/12


@pytest.mark.parametrize("vocabulary", demo.VOCABULARIES)
def test_valence_is_the_lexicon_s(espeak, vocabulary):
    utterances = demo.plan({"Train": 600, "Development": 2, "Test1": 2}, 1, espeak, vocabulary)
    rated = {word for words in demo.VOCABULARIES[vocabulary].values() for word in words}
    lexicon = demo.read_lexicon()
    # Independent of `plan`: from the words of the text, and the mean over the linear map of each.
    lexical = [
        np.mean([2.2 + 3.6 * (lexicon.get(word, 0) + 4) / 8 for word in u.said.split() if word in rated])
        for u in utterances
    ]
    assert {word for u in utterances for word in u.said.split()} >= rated
    difference = np.array([u.labels[1] for u in utterances]) - lexical
    assert np.std(difference) == pytest.approx(np.hypot(label_noise_sd(), demo.VALENCE_PER_ACTIVATION), rel=0.1)
    assert abs(np.mean(difference)) < 0.1


def test_plan_draws_what_it_says(espeak):
    utterances = demo.plan({"Train": 1000, "Development": 100, "Test1": 100}, 5, espeak)
    latent = np.array([[u.activation, u.dominance] for u in utterances])
    assert np.corrcoef(latent.T)[0, 1] == pytest.approx(demo.LATENT_CORRELATION, abs=0.08)
    assert np.abs(latent).max() <= demo.LATENT_LIMIT
    labels = np.array([u.labels for u in utterances])
    np.testing.assert_allclose(labels.std(axis=0), np.hypot(1, label_noise_sd()), rtol=0.1)
    assert np.std(labels[:, 0] - 4 - latent[:, 0]) == pytest.approx(label_noise_sd(), rel=0.1)
    assert len({u.said for u in utterances}) == len(utterances)
    words = {
        split: {w for u in utterances if u.speaker.split == split for w in u.said.split()}
        for split in ("Train", "Test1")
    }
    assert words["Test1"] <= words["Train"]


def test_a_tenth_of_the_transcripts_is_misheard_and_listed(corpus):
    listed = {row["ID"]: row for row in read_csv(corpus / "corrupted_transcripts.csv")}
    assert len(listed) == 6 + 2 + 2
    for name, row in listed.items():
        assert (corpus / "Transcripts" / f"{name}.txt").read_text().strip() == row["transcript"]
        assert abs(len(row["said"].split()) - len(row["transcript"].split())) == 1
        assert set(row["transcript"].split()) - set(row["said"].split())


@pytest.mark.parametrize(
    ("vocabulary", "alike"),
    [("small", ("noticed", "hated")), ("large", ("delightful", "frightful")), ("large", ("described", "destroyed"))],
)
def test_misheard_words_sound_alike_and_mean_something_else(espeak, vocabulary, alike):
    neighbours = demo.confusions(espeak, lexicon := demo.read_lexicon(), demo.VOCABULARIES[vocabulary])
    assert neighbours[alike[0]][0] == alike[1]
    for word, others in neighbours.items():
        assert len(others) == demo.MISHEARD_NEIGHBOURS
        for other in others:
            assert lexicon[other] * lexicon.get(word, 0) < 0 or word not in lexicon


def test_phonemes_are_those_of_the_word(espeak):
    assert espeak.phonemes("hated") == ["h", "eɪ", "ɾ", "ᵻ", "d"]
    assert espeak.phonemes("great") == espeak.phonemes("grate")


def test_voice_obeys_its_parameters(espeak):
    def say(**changes):
        plain = {"rate": 180, "pitch": 50, "pitch_range": 50}
        return espeak.speak("we noticed the ordinary window", "en-us+m3", **plain | changes)

    def pitch_hz(samples):
        spectrum = np.abs(np.fft.rfft(samples, 2 * len(samples))) ** 2
        lags = slice(espeak.sample_rate // 300, espeak.sample_rate // 60)
        return espeak.sample_rate / (lags.start + np.fft.irfft(spectrum)[lags].argmax())

    base = say()
    assert len(say(rate=270)) < 0.8 * len(base)
    assert pitch_hz(say(pitch=80)) > 1.1 * pitch_hz(base)


@pytest.mark.parametrize("snr_db", [20.0, 30.0])
def test_room_noise_has_the_speaker_s_snr(espeak, snr_db):
    utterance = demo.plan({"Train": 2, "Development": 2, "Test1": 2}, 1, espeak)[0]

    def at(snr):
        speaker = replace(utterance.speaker, snr_db=snr)
        said, how = utterance.said, (utterance.activation, utterance.dominance)
        return demo.speak(said, speaker, *how, demo.ESpeak(), np.random.default_rng(0))

    silent = at(np.inf)
    noise = at(snr_db) - silent
    assert 10 * np.log10(np.mean(silent**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.01)


def test_kept_when_the_settings_are_the_same(corpus, capsys):
    before = files_of(corpus)
    assert not demo.make_demo_corpus(corpus, **COUNTS, seed=7)
    demo.main([str(corpus), "--train", "60", "--valid", "20", "--test", "20", "--seed", "7"])
    assert "kept" in capsys.readouterr().out
    assert files_of(corpus) == before


def test_other_settings_are_refused(corpus):
    with pytest.raises(InputError, match=r"corpus was made with other settings \(seed 7 instead of 8\); delete"):
        demo.make_demo_corpus(corpus, **COUNTS, seed=8)


@pytest.mark.parametrize("content", [None, "not json", "[]", "[1]"])
def test_a_folder_of_something_else_is_refused(tmp_path, content):
    folder = tmp_path / "mine"
    folder.mkdir()
    if content is not None:
        (folder / "demo.json").write_text(content)
    with pytest.raises(InputError, match="mine exists and holds no readable demo.json"):
        demo.make_demo_corpus(folder)


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(InputError, match="The vocabulary is 'tiny'; choose small or large"):
        demo.make_demo_corpus(tmp_path / "x", vocabulary="tiny")
    with pytest.raises(InputError, match="--valid is 1"):
        demo.make_demo_corpus(tmp_path / "x", 10, 1, 10)
    with pytest.raises(SystemExit, match="error: --seed is -1"):
        demo.main([str(tmp_path / "x"), "--seed", "-1"])


@pytest.mark.parametrize("library", ["espeakng_loader", "vaderSentiment"])
def test_missing_library_is_named(tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"{library} is not installed.*pip install -e \.\[demo\]"):
        demo.make_demo_corpus(tmp_path / "x")


def test_nothing_is_left_when_a_run_dies(tmp_path, monkeypatch):
    def disk_full(*_arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(demo.soundfile, "write", disk_full)
    with pytest.raises(OSError, match="No space"):
        demo.make_demo_corpus(tmp_path / "x", 2, 2, 2)
    assert list(tmp_path.iterdir()) == []


def test_settings_are_recorded(corpus):
    settings = json.loads((corpus / "demo.json").read_text())
    assert {"train": 60, "valid": 20, "test": 20, "seed": 7}.items() <= settings.items()
