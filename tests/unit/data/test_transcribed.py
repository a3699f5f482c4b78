import logging

import numpy as np
import pytest
import soundfile

from ser_ts_lobes.data.manifests import COLUMNS, read_manifest
from ser_ts_lobes.data.transcribed import prepare_transcribed_speech
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.text_files import write_csv

OPTIONS = {"valid_share": 0.2, "max_duration_s": 2.0}
WORDS = ["good day", "a bad day", "it was lovely", "not so good", "the very day", "so awful"]


@pytest.fixture
def folder(tmp_path):
    for index, words in enumerate(WORDS):
        audio, text = tmp_path / "speech" / "audio", tmp_path / "speech" / "text" / str(index % 2)
        for place in (audio, text):
            place.mkdir(parents=True, exist_ok=True)
        soundfile.write(audio / f"{index}.{'wav' if index % 2 else 'FLAC'}", np.ones(16000), 16000)
        (text / f"{index}.txt").write_text(f" {words}\n")
    return tmp_path / "speech"


def prepared(folder):
    return {name: read_manifest(folder / f"{name}.csv") for name in ("train", "valid")}


def transcripts(manifest):
    return {row["transcript"] for row in manifest.utterances.values()}


def test_audio_with_a_transcript_of_the_same_name_is_found(folder, tmp_path):
    soundfile.write(folder / "silent_words.wav", np.ones(16000), 16000)  # which nobody transcribed
    prepare_transcribed_speech([folder], tmp_path / "manifests", **OPTIONS)
    manifests = prepared(tmp_path / "manifests")
    assert {name: len(manifest.utterances) for name, manifest in manifests.items()} == {"train": 4, "valid": 2}
    assert transcripts(manifests["train"]) | transcripts(manifests["valid"]) == set(WORDS)
    assert not manifests["train"].labelled
    row = next(iter(manifests["train"].utterances.values()))
    assert soundfile.info(row["wav"]).duration == row["duration"] == 1.0


def test_useless_utterances_are_left_out_and_counted(folder, tmp_path, caplog):
    soundfile.write(folder / "long.wav", np.ones(2 * 16000 + 1), 16000)
    (folder / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(folder / "nothing.wav", np.ones(16000), 16000)
    for name in ("long", "broken"):
        (folder / f"{name}.txt").write_text("a day")
    soundfile.write(folder / "sighs.wav", np.ones(16000), 16000)
    (folder / "nothing.txt").write_text(" \n")
    (folder / "sighs.txt").write_text("... -- !\n")
    with caplog.at_level(logging.WARNING):
        prepare_transcribed_speech([folder], tmp_path / "manifests", **OPTIONS)
    assert sum(len(manifest.utterances) for manifest in prepared(tmp_path / "manifests").values()) == len(WORDS)
    assert "4 of 10 utterances" in caplog.text and "longer than 2 s" in caplog.text


def test_no_sentence_is_in_both_parts(folder, tmp_path):
    for index, words in enumerate(WORDS):
        soundfile.write(folder / f"again{index}.wav", np.ones(16000), 16000)
        (folder / f"again{index}.txt").write_text(words.upper())
    prepare_transcribed_speech([folder], tmp_path / "manifests", **OPTIONS)
    manifests = prepared(tmp_path / "manifests")
    train, valid = ({text.lower() for text in transcripts(manifests[name])} for name in ("train", "valid"))
    assert len(valid) == 2 and not train & valid and train | valid == set(WORDS)
    assert len(manifests["valid"].utterances) == 4


def test_who_validates_does_so_when_others_are_added(folder, tmp_path):
    prepare_transcribed_speech([folder], tmp_path / "before", **OPTIONS)
    for index in range(6):
        soundfile.write(folder / f"new{index}.wav", np.ones(16000), 16000)
        (folder / f"new{index}.txt").write_text(f"day {index}")
    prepare_transcribed_speech([folder], tmp_path / "after", **OPTIONS)
    before, after = (transcripts(prepared(tmp_path / name)["valid"]) for name in ("before", "after"))
    assert len(before) == 2 and len(after) == 3
    assert before <= after or after & set(WORDS) <= before


def test_manifests_and_folders_are_one_corpus(folder, tmp_path):
    wav = folder / "audio" / "1.wav"
    rows = [("a", 1, wav, "1", "Male", 1, 2, 3, "we had it", "N"), ("b", 1, wav, "1", "Male", 1, 2, 3, "", "N")]
    write_csv(tmp_path / "own.csv", COLUMNS, rows)
    prepare_transcribed_speech([folder, tmp_path / "own.csv"], tmp_path / "manifests", **OPTIONS)
    manifests = prepared(tmp_path / "manifests")
    assert transcripts(manifests["train"]) | transcripts(manifests["valid"]) == {*WORDS, "we had it"}
    assert "a" in manifests["train"].utterances | manifests["valid"].utterances
    assert not manifests["train"].labelled  # ratings are nobody's business here
    with pytest.raises(InputError, match=r"has an utterance .*, and so has an earlier source"):
        prepare_transcribed_speech([folder, folder], tmp_path / "manifests", **OPTIONS)


def test_what_gives_no_corpus_is_one_sentence(folder, tmp_path):
    for sources, sentence in (
        ([tmp_path / "nowhere"], "nowhere does not exist: name folders of transcribed speech"),
        ([folder / "text"], "0 audio files and no transcript of any"),
    ):
        with pytest.raises(InputError, match=sentence):
            prepare_transcribed_speech(sources, tmp_path / "manifests", **OPTIONS)
    with pytest.raises(InputError, match="0 sentences of at most 0.5 s were found"):
        prepare_transcribed_speech([folder], tmp_path / "manifests", valid_share=0.2, max_duration_s=0.5)
    (folder / "0.txt").write_text("another")
    with pytest.raises(InputError, match="two transcripts of 0"):
        prepare_transcribed_speech([folder], tmp_path / "manifests", **OPTIONS)


def test_manifests_can_be_left_as_they_are(tmp_path):
    prepare_transcribed_speech([tmp_path / "nowhere"], tmp_path / "manifests", **OPTIONS, skip_prep=True)
    assert not (tmp_path / "manifests").exists()
