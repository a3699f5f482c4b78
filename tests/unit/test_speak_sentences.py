"""Sentences spoken in many voices: complete, of many voices, resumed, refused where they would be mixed up."""

import numpy as np
import pytest
import soundfile

from ser_ts_lobes.data.manifests import read_manifest
from ser_ts_lobes.data.transcribed import prepare_transcribed_speech
from ser_ts_lobes.errors import InputError
from tools.speak_sentences import draw_speaker, main, read_sentences, speak_sentences

pytest.importorskip("espeakng_loader")

SENTENCES = ["it was a good day", "nobody liked the film", "we had a lovely time"]


def test_each_line_is_a_sentence_once(tmp_path):
    (tmp_path / "a.txt").write_text("one two\n\n  three \n")
    (tmp_path / "b.txt").write_text("three\nfour\n")
    assert read_sentences([tmp_path / "a.txt", tmp_path / "b.txt"]) == ["one two", "three", "four"]


@pytest.mark.parametrize(
    ("content", "said"), [(b"\n \n", "no sentence"), (b"\xff\xfe\xff", "can't be read"), (None, "can't be read")]
)
def test_what_is_no_text_is_one_sentence(tmp_path, content, said):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_sentences([tmp_path / "a.txt"])


def test_what_is_spoken_is_transcribed_speech(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    main([str(tmp_path / "a.txt"), "--out", str(tmp_path / "speech"), "--copies", "2"])
    assert "3 sentences, 6 clips" in capsys.readouterr().out
    prepare_transcribed_speech(
        [str(tmp_path / "speech")], str(tmp_path / "manifests"), valid_share=0.4, max_duration_s=20
    )
    rows = [
        row
        for name in ("train", "valid")
        for row in read_manifest(tmp_path / "manifests" / f"{name}.csv").utterances.values()
    ]
    assert sorted(row["transcript"] for row in rows) == sorted(2 * SENTENCES)
    samples = [soundfile.read(path)[0] for path in sorted((tmp_path / "speech").glob("000000_*.wav"))]
    assert all(0.5 < len(clip) / 16000 < 6 and 0.001 < np.abs(clip).max() < 1 for clip in samples)
    assert len(samples[0]) != len(samples[1])  # another voice, in another manner


def test_many_voices_speak():
    speakers = [draw_speaker(np.random.default_rng(seed)) for seed in range(60)]
    assert len({speaker.voice for speaker in speakers}) > 40
    assert {speaker.gender for speaker in speakers} == {"Female", "Male"}


def test_what_was_interrupted_goes_on(tmp_path):
    assert speak_sentences(SENTENCES, tmp_path, progressbar=False) == 3
    (tmp_path / "000001_0.txt").unlink()  # killed between the clip and its text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert speak_sentences(SENTENCES, tmp_path, progressbar=False) == 1
    assert {path.name for path in before if path.stat().st_mtime_ns != before[path]} == {"000001_0.wav"}
    assert speak_sentences(SENTENCES, tmp_path, progressbar=False) == 0


def test_other_sentences_do_not_join_a_folder(tmp_path):
    speak_sentences(SENTENCES[:1], tmp_path, progressbar=False)
    with pytest.raises(InputError, match="doesn't say"):
        speak_sentences(SENTENCES[1:], tmp_path, progressbar=False)


@pytest.mark.parametrize("option", ["copies", "n_jobs"])
def test_numbers_out_of_range_are_refused(tmp_path, option):
    with pytest.raises(InputError, match="must be at least 1"):
        speak_sentences(SENTENCES, tmp_path / "speech", **{option: 0})
    assert not (tmp_path / "speech").exists()
