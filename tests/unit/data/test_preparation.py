"""What prepare scripts share."""

import numpy as np
import pytest
import soundfile

from ser_ts_lobes.data.preparation import (
    choose_validating,
    divide_speakers,
    inspect_files,
    list_utterances,
    read_transcripts,
    refuse_other_case,
    spelt_otherwise,
    warn_contradicted,
)
from ser_ts_lobes.errors import InputError


def test_a_file_in_other_upper_and_lower_case_is_found(tmp_path):
    for place in ("Labels/a.csv", "labels/a.csv", "AUDIOS/b.WAV"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    assert spelt_otherwise(tmp_path, "Audios/b.wav") == tmp_path / "AUDIOS" / "b.WAV"
    assert spelt_otherwise(tmp_path, "Labels/A.csv") == tmp_path / "Labels" / "a.csv"  # as it is wanted, where it is
    assert spelt_otherwise(tmp_path, "labels/A.csv") == tmp_path / "labels" / "a.csv"
    for nowhere in ("labels/b.csv", "labels/a.csv/b.csv", "nowhere/a.csv"):
        assert spelt_otherwise(tmp_path, nowhere) is None


def test_audio_in_other_upper_and_lower_case_is_refused(tmp_path):
    for name in ("1/a.WAV", "2/B.wav", "2/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    refuse_other_case([tmp_path / "2" / "c.wav", tmp_path / "2" / "d.wav", tmp_path / "nowhere" / "a.wav"])
    with pytest.raises(InputError) as error:
        refuse_other_case(tmp_path / name for name in ("1/a.wav", "1/d.wav", "2/b.wav", "2/c.wav", "nowhere/e.wav"))
    assert str(error.value) == (
        f"2 audio files have names in other upper and lower case than the labels say: {tmp_path}/1/a.WAV for a.wav, "
        f"{tmp_path}/2/B.wav for b.wav. Rename them."
    )


def test_files_are_inspected_in_their_order(tmp_path):
    for name, n_samples in [("a.wav", 800), ("b.wav", 1600)]:
        soundfile.write(tmp_path / name, np.zeros(n_samples), 16000)
    (tmp_path / "c.wav").write_text("no audio")
    found = inspect_files([tmp_path / name for name in ("b.wav", "missing.wav", "c.wav", "a.wav")])
    assert [info.duration for info in found] == [0.1, 0, 0, 0.05]
    assert [info.problem for info in found] == [None, "missing", "unreadable", None]
    # What is there and can't be used has its right name.
    with pytest.raises(InputError, match=r"^1 audio files have .*/b\.wav for B\.wav\. Rename"):
        inspect_files([tmp_path / "c.wav", tmp_path / "B.wav"])


def test_transcripts_are_read_by_id(tmp_path):
    path = tmp_path / "transcripts.csv"
    assert read_transcripts(path) == {}
    path.write_text("ID,transcript,model,revision\nb,,m,r\n a,Well well,m,r\n")
    assert read_transcripts(path) == read_transcripts(str(path)) == {"b": "", "a": "Well well"}
    path.write_text("ID,transcript,model,revision\na,one,m,r\na,two,m,r\n")
    with pytest.raises(InputError, match=r"transcripts\.csv, lines 2 and 3: ID a occurs twice"):
        read_transcripts(path)
    path.write_text("ID,transcript\na,one\n")
    with pytest.raises(InputError, match=r"transcripts\.csv, line 1: no column model, revision"):
        read_transcripts(path)


def test_labels_that_contradict_their_raters_are_named(caplog):
    labels = np.array([[1.0, 2.5, 3.33], [4.0, 4.0, 4.0]])
    warn_contradicted(["a", "b"], labels, labels + 0.01, digits=2)  # off by one in the last digit
    warn_contradicted(["a", "b"], labels, [[1, 2.5, 3.33], [np.nan] * 3], digits=2)
    assert caplog.messages == []
    warn_contradicted(["a", "b"], labels, labels + [[0, -0.1, 0], [0, 0, 0.011]], digits=2)
    assert caplog.messages == [
        "2 labels are not the mean of what their raters said: a (valence 2.5, its raters' mean is 2.4), "
        "b (dominance 4, its raters' mean is 4.011)."
    ]


def test_listed_utterances_are_a_warning_if_there_are_any(tmp_path, caplog):
    path = tmp_path / "excluded.csv"
    list_utterances(path, ("ID", "reason"), [("a", "silent"), ("b", "cut")], "2 utterances are left out")
    assert path.read_text() == "ID,reason\na,silent\nb,cut\n"
    assert caplog.messages == [f"2 utterances are left out: a, b. All are listed in {path}."]
    caplog.clear()
    list_utterances(path, ("ID", "reason"), [], "none")
    assert path.read_text() == "ID,reason\n" and caplog.messages == []


def test_a_speaker_has_the_same_part_everywhere():
    names = [f"speaker {number}" for number in range(5)]
    assert divide_speakers(names, "labels.csv") == {
        "speaker 0": "train",
        "speaker 1": "valid",
        "speaker 2": "test",
        "speaker 3": "train",
        "speaker 4": "train",
    }
    with pytest.raises(InputError) as error:
        divide_speakers(names[:2] * 2, "labels.csv")
    assert str(error.value) == ("labels.csv has fewer than 3 speakers to train, validate and test; add a column split.")


@pytest.mark.parametrize(("n_speakers", "n_held_out"), [(3, 1), (8, 1), (10, 2), (24, 4), (25, 5)])
def test_a_fifth_of_the_speakers_tests_and_a_fifth_validates(n_speakers, n_held_out):
    parts = list(divide_speakers(map(str, range(n_speakers)), "labels.csv").values())
    assert parts.count("test") == parts.count("valid") == n_held_out
    assert parts.count("train") == n_speakers - 2 * n_held_out


def test_who_validates_stays_when_others_are_added():
    few, many = [f"{index}.wav" for index in range(20)], [f"{index}.wav" for index in range(200)]
    before, after = choose_validating(few, 0.1), choose_validating(many, 0.1)
    assert len(before) == 2 and len(after) == 20
    assert after & set(few) <= before or before <= after
    assert choose_validating([*reversed(few), *few], 0.1) == before  # neither order nor repetition matters
    assert len(choose_validating(few, 0.0)) == 1 and len(choose_validating(few, 1.0)) == 19
