import csv
import importlib.util
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ser_ts_lobes.data.manifests import read_manifest
from ser_ts_lobes.data.ratings import read_ratings
from ser_ts_lobes.errors import InputError
from tests.fixtures_iemocap import HEADER, OUTSIDE, SMALL, block, full_release, write_iemocap_tree

SCRIPT = Path(__file__).parents[2] / "recipes" / "IEMOCAP" / "iemocap_prepare.py"
spec = importlib.util.spec_from_file_location("iemocap_prepare", SCRIPT)
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)
prepare_iemocap = recipe.prepare_iemocap


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Give a tree that no test changes."""
    return write_iemocap_tree(tmp_path_factory.mktemp("small"))


@pytest.fixture
def corpus(small, tmp_path):
    return shutil.copytree(small, tmp_path / "corpus")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "manifests"


def labels_of(corpus, dialogue):
    return corpus / f"Session{dialogue[4]}" / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"


def transcripts_of(corpus, dialogue):
    return corpus / f"Session{dialogue[4]}" / "dialog" / "transcriptions" / f"{dialogue}.txt"


def audio_of(corpus, id):
    dialogue = id.rpartition("_")[0]
    return corpus / f"Session{dialogue[4]}" / "sentences" / "wav" / dialogue / f"{id}.wav"


def edit(path, pattern, replacement):
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)


def set_labels(corpus, id, printed):
    edit(labels_of(corpus, id.rpartition("_")[0]), rf"(\t{id}\t\w+\t)\[.*\]", rf"\1[{printed}]")


def held_out(paths):
    return read_manifest(paths["test"]).utterances


def rater_rows(folder):
    with open(folder / "raters.csv", newline="") as file:
        return {row["ID"]: row for row in csv.DictReader(file)}


def warnings(caplog):
    """Give the warnings but the one that no small tree is the full release."""
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return [message for message in messages if not message.startswith("This is not the full release")]


def test_small_release_gives_exactly_these_files(tmp_path, folder, caplog):
    corpus = tmp_path / "corpus"
    for session in (1, 2, 3, 4, 5):
        dialogue = f"Ses0{session}F_impro01"
        id = f"{dialogue}_M000"
        for path in (labels_of(corpus, dialogue), transcripts_of(corpus, dialogue), audio_of(corpus, id)):
            path.parent.mkdir(parents=True)
        labels_of(corpus, dialogue).write_text(
            "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
            f"[6.2901 - 7.0401]\t{id}\tang\t[1.5000, 4.0000, {session}.0000]\n"
            "C-E2:\tAnger;\t()\n"
            "C-E3:\tFrustration; Anger;\t(loud; very (so))\n"
            "C-E4:\t;\t()\n"
            "C-M1:\tSadness;\t()\n"
            "A-E3:\tval 2; act 4; dom  ;\t()\n"
            f"A-E4:\tval 1; act 4; dom  {session};\t(threatening, belligerent)\n"
            "A-M1:\tval 3; act 5; dom  5;\t()\n\n"
        )
        transcripts_of(corpus, dialogue).write_text(f"{id} [006.2901-007.0401]: It costs $5,  you know.\nM: Yeah.\n")
        soundfile.write(audio_of(corpus, id), np.zeros(12000), 16000)

    folds = prepare_iemocap(corpus, folder)

    def rows(*sessions):
        header = "ID,duration,wav,spk_id,gender,activation,valence,dominance,transcript,emotion\n"
        return header + "".join(
            f"Ses0{n}F_impro01_M000,0.75,$data_root/Session{n}/sentences/wav/Ses0{n}F_impro01/Ses0{n}F_impro01_M000.wav,"
            f'Ses0{n}M,Male,4.0,1.5,{n}.0,"It costs $5, you know.",ang\n'
            for n in sessions
        )

    assert {fold: {name: path.read_text() for name, path in paths.items()} for fold, paths in folds.items()} == {
        1: {"train": rows(3, 4, 5), "valid": rows(2), "test": rows(1)},
        2: {"train": rows(1, 4, 5), "valid": rows(3), "test": rows(2)},
        3: {"train": rows(1, 2, 5), "valid": rows(4), "test": rows(3)},
        4: {"train": rows(1, 2, 3), "valid": rows(5), "test": rows(4)},
        5: {"train": rows(2, 3, 4), "valid": rows(1), "test": rows(5)},
    }
    assert folds[3]["test"] == folder / "fold3" / "test.csv"
    assert (folder / "raters.csv").read_text().splitlines()[:2] == [
        "ID,raters,activation_mean,activation_sd,valence_mean,valence_sd,dominance_mean,dominance_sd,"
        "self_activation,self_valence,self_dominance,categories,self_categories",
        f"Ses01F_impro01_M000,2,4.0,0.0,1.5,{0.5**0.5},1.0,,5.0,3.0,5.0,Anger;Frustration/Anger;,Sadness",
    ]
    assert (folder / "ratings.csv").read_text().splitlines()[:2] == [
        "ID,activation,valence,dominance",
        "Ses01F_impro01_M000,4 4,2 1,1",  # of the external raters alone
    ]
    assert read_ratings(folder / "fold3", ["Ses02F_impro01_M000"]) == {"Ses02F_impro01_M000": ((4, 4), (2, 1), (2,))}
    assert (folder / "excluded.csv").read_text() == "ID,session,reason\n"
    assert (folder / "converted.csv").read_text() == "ID,session,sample_rate,channels\n"
    assert warnings(caplog) == []


def test_manifests_are_the_corpus(corpus, folder, caplog):
    folds = prepare_iemocap(corpus, folder)
    seen = {}
    for fold, paths in folds.items():
        splits = {name: read_manifest(path).utterances for name, path in paths.items()}
        assert {name: len(rows) for name, rows in splits.items()} == {"train": 24, "valid": 8, "test": 8}
        speakers = {name: {row["spk_id"] for row in rows.values()} for name, rows in splits.items()}
        assert speakers["test"] == {f"Ses0{fold}F", f"Ses0{fold}M"}
        assert len(set.union(*speakers.values())) == sum(map(len, speakers.values()))  # nobody is in two
        seen |= splits["test"]
    assert len(seen) == 40
    for id, row in seen.items():
        samples, sample_rate = soundfile.read(row["wav"])
        assert Path(row["wav"]) == audio_of(corpus, id)
        assert row["duration"] == len(samples) / sample_rate
        assert f"{id} [" in (text := transcripts_of(corpus, id.rpartition("_")[0]).read_text())
        assert f": {row['transcript']}\n" in text
    # macOS files and turns without a number are in the tree, and nothing is said of them as of others.
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("id", "spk_id", "gender"),
    [
        ("Ses01F_impro01_M001", "Ses01M", "Male"),
        ("Ses01M_script03_1_F000", "Ses01F", "Female"),
        ("Ses03M_impro05a_F001", "Ses03F", "Female"),
        ("Ses05M_script01_1b_M000", "Ses05M", "Male"),
    ],
)
def test_speaker_is_the_last_token_not_the_dialogue(small, folder, id, spk_id, gender):
    row = held_out(prepare_iemocap(small, folder)[int(id[4])])[id]
    assert (row["spk_id"], row["gender"]) == (spk_id, gender)


def test_turns_without_a_number_are_left_out_by_name(corpus, folder, caplog):
    with open(labels_of(corpus, "Ses02F_impro02"), "a") as file:
        file.write(block("Ses02F_impro02_FXX1", "neu", (3, 3, 3), {"E3": (3, 3, 3)}, {"E2": ["Neutral state"]}))
    folds = prepare_iemocap(corpus, folder)
    assert "FXX" not in "".join(folds[2][name].read_text() for name in folds[2])
    assert "FXX" not in (folder / "raters.csv").read_text()
    assert caplog.messages[0] == (
        "Left out 11 turns that are not numbered: Ses01F_impro01_MXX0, Ses01M_script03_1_MXX0, Ses02F_impro02_FXX1 "
        "and 8 more."
    )


def test_full_release_is_accepted(tmp_path, folder, caplog):
    folds = prepare_iemocap(write_iemocap_tree(tmp_path / "corpus", full_release(), one_sound=True), folder)
    lengths = {fold: len(held_out(paths)) for fold, paths in folds.items()}
    assert lengths == {1: 1819, 2: 1811, 3: 2136, 4: 2103, 5: 2170}
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("7 labels lie outside the scale of 1 to 5 and are kept as they are")
    assert all(id in warning for id in OUTSIDE)
    labels = {id: row for paths in folds.values() for id, row in held_out(paths).items()}
    assert labels["Ses03M_impro07_M021"]["valence"] == 5.5
    assert labels["Ses02M_script02_2_F046"]["dominance"] == 0.5


def test_partial_release_says_what_differs(small, folder, caplog):
    prepare_iemocap(small, folder)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "This is not the full release: 40 utterances instead of 10039, 8 in Session1 instead of 1819, 8 in Session2 "
        "instead of 1811, 8 in Session3 instead of 2136, 8 in Session4 instead of 2103, 8 in Session5 instead of 2170, "
        "20 by male speakers instead of 5239, 20 by female speakers instead of 4800, 10 dialogues instead of 151. "
        "Unpack it again, unless you left something out on purpose; results are not comparable with others'."
    ]


@pytest.mark.parametrize(
    ("clip_labels", "kept", "label_range", "done"),
    [
        (False, (5.5, 0.5), (0.5, 5.5), "are kept as they are (clip_labels clips them)"),
        (True, (5.0, 1.0), (1.0, 5.0), "were clipped"),
    ],
)
def test_labels_outside_the_scale(corpus, folder, caplog, clip_labels, kept, label_range, done):
    set_labels(corpus, "Ses03M_impro05a_M001", "5.5000, 3.0000, 0.5000")
    paths = prepare_iemocap(corpus, folder, clip_labels=clip_labels)[3]
    row = held_out(paths)["Ses03M_impro05a_M001"]
    assert (row["activation"], row["valence"], row["dominance"]) == (3.0, *kept)
    assert read_manifest(paths["test"]).label_range == label_range
    contradicted, outside = warnings(caplog)
    assert contradicted.startswith("2 labels are not the mean of what their raters said: Ses03M_impro05a_M001 (valence")
    assert outside == (
        f"2 labels lie outside the scale of 1 to 5 and {done}: "
        "Ses03M_impro05a_M001 (valence 5.5), Ses03M_impro05a_M001 (dominance 0.5)."
    )


@pytest.mark.parametrize("clip_labels", [False, True])
@pytest.mark.parametrize("valence", ["5.6000", "0.4000", "25.0000"])
def test_labels_that_no_release_has(corpus, folder, clip_labels, valence):
    set_labels(corpus, "Ses03M_impro05a_M001", f"{valence}, 3.0000, 3.0000")
    message = rf"Ses03M_impro05a.txt, line \d+: Ses03M_impro05a_M001 has valence {float(valence):g}, .* 0.5 to 5.5"
    with pytest.raises(InputError, match=message):
        prepare_iemocap(corpus, folder, clip_labels=clip_labels)


def test_rater_statistics(small, folder):
    prepare_iemocap(small, folder)
    labels = {
        id: row for fold in range(1, 6) for id, row in read_manifest(folder / f"fold{fold}/test.csv").utterances.items()
    }
    rows = rater_rows(folder)
    assert rows.keys() == labels.keys()
    for id, row in rows.items():
        text = labels_of(small, id.rpartition("_")[0]).read_text()
        lines = text[text.index(f"\t{id}\t") :].split("\n\n")[0]
        for dimension, short in (("activation", "act"), ("valence", "val"), ("dominance", "dom")):
            external = list(map(float, re.findall(rf"^A-E.*{short} +(\d)", lines, re.MULTILINE)))
            assert float(row[f"{dimension}_mean"]) == labels[id][dimension] == statistics.fmean(external)
            sd = row[f"{dimension}_sd"]
            assert sd == "" if len(external) < 2 else float(sd) == pytest.approx(statistics.stdev(external))
            own = re.search(rf"^A-[FM].*{short} +(\d)", lines, re.MULTILINE)[1]
            assert row[f"self_{dimension}"] == f"{own}.0"
    assert sum(row["dominance_sd"] == "" for row in rows.values()) == 20  # every dialogue's second turns
    assert {row["categories"].count(";") for row in rows.values()} == {2}


def test_attributes_without_any_dominance_field():
    match = recipe.ATTRIBUTE_LINE.fullmatch("A-E3:\tval 3; act 2;\t()")
    assert recipe.rater_attributes(match) == ("E3", (2.0, 3.0, None))


def test_transcripts_that_are_empty_or_missing(corpus, folder, caplog):
    path = transcripts_of(corpus, "Ses04F_impro04")
    edit(path, r"^(Ses04F_impro04_F000 \[.*\]:).*", r"\1 ")
    edit(path, r"^Ses04F_impro04_M001 .*\n", "")
    edit(path, r"\Z", "Ses04F_impro04_M099 [001.0000-002.0000]: nobody rated this\n")
    manifest = read_manifest(prepare_iemocap(corpus, folder)[4]["test"])
    assert manifest.utterances["Ses04F_impro04_F000"]["transcript"] == ""
    assert manifest.missing_transcripts == {"Ses04F_impro04_M001"}
    assert warnings(caplog) == [
        "1 labelled utterances have no line in dialog/transcriptions, which systems that read can't do without: "
        "Ses04F_impro04_M001.",
        "1 transcribed turns have no labels: Ses04F_impro04_M099.",
    ]


def test_unusable_audio_is_left_out_and_listed(corpus, folder, caplog):
    audio_of(corpus, "Ses02F_impro02_M000").unlink()
    audio_of(corpus, "Ses05F_impro05_F001").write_bytes(b"no audio")
    folds = prepare_iemocap(corpus, folder)
    assert "Ses02F_impro02_M000" not in held_out(folds[2])
    assert "Ses05F_impro05_F001" not in read_manifest(folds[1]["train"]).utterances
    listed = "ID,session,reason\nSes02F_impro02_M000,2,missing\nSes05F_impro05_F001,5,unreadable\n"
    assert (folder / "excluded.csv").read_text() == listed
    assert warnings(caplog) == [
        "Left out 2 utterances whose audio can't be used (1 missing, 1 unreadable): Ses02F_impro02_M000, "
        f"Ses05F_impro05_F001. All are listed in {folder / 'excluded.csv'}."
    ]


def test_links_that_lead_nowhere_are_missing_files(corpus, folder):
    dangling, looping = (audio_of(corpus, f"Ses02F_impro02_M00{turn}") for turn in (0, 1))
    for path, target in ((dangling, "nowhere.wav"), (looping, looping.name)):
        path.unlink()
        path.symlink_to(target)
    (dangling.parent / "circle").symlink_to("..")
    prepare_iemocap(corpus, folder)
    assert (folder / "excluded.csv").read_text() == (
        f"ID,session,reason\n{dangling.stem},2,missing\n{looping.stem},2,missing\n"
    )
    labels = labels_of(corpus, "Ses02F_impro02")
    labels.unlink()
    labels.symlink_to("nowhere.txt")
    with pytest.raises(InputError, match=r"Ses02F_impro02\.txt does not exist"):
        prepare_iemocap(corpus, folder)


def test_a_file_name_that_is_not_utf_8(corpus, folder):
    place = audio_of(corpus, "Ses02F_impro02_M000").parent
    Path(os.fsdecode(os.fsencode(place) + b"/\xe9.wav")).write_text("one")
    with pytest.raises(InputError, match=r"Ses02F_impro02 has a file whose name is not UTF-8, b'.xe9\.wav'"):
        prepare_iemocap(corpus, folder)


def test_manifest_folder_that_is_a_file(corpus, folder):
    folder.write_text("")
    with pytest.raises(InputError, match="folder .*manifests can't be made"):
        prepare_iemocap(corpus, folder)


@pytest.mark.parametrize("line", ["A-E3:\tval 2; act many; dom 3;\t()", "C-E2: Ang", "B-E9:\tnew in this release"])
def test_an_unforeseen_line_of_a_rater_is_named_and_left_out(corpus, folder, caplog, line):
    path = labels_of(corpus, "Ses02F_impro02")
    edit(path, "^A-E3:.*", line)
    expected = {fold: paths["test"].read_text() for fold, paths in prepare_iemocap(corpus, folder).items()}
    assert all(len(text.splitlines()) == 9 for text in expected.values())
    [warning] = warnings(caplog)
    assert warning.startswith("1 lines of raters are not what the release has there and are missing in raters.csv: ")
    assert re.search(rf"{path}, line \d+: {re.escape(repr(line))}\.$", warning)
    assert rater_rows(folder)["Ses02F_impro02_F000"]["raters"] == "1"


def test_labels_that_contradict_their_raters_are_named(corpus, folder, caplog):
    rows = {}
    for line in labels_of(corpus, "Ses02F_impro02").read_text().splitlines():
        if line.startswith("["):
            id, valence, rest = re.search(r"\t(\w+)\t\w+\t\[([\d.]+)(.*)\]", line).groups()
            rows[id] = (float(valence), rest)
    (one, (valence, rest)), (other, (other_valence, other_rest)) = list(rows.items())[:2]
    set_labels(corpus, one, f"{valence + 0.001:.4f}{rest}")
    set_labels(corpus, other, f"{other_valence + 0.0001:.4f}{other_rest}")  # as if it had been rounded up
    prepare_iemocap(corpus, folder)
    assert warnings(caplog) == [
        f"1 labels are not the mean of what their raters said: {one} (valence {valence + 0.001:g}, its raters' mean is "
        f"{valence:g})."
    ]


@pytest.mark.parametrize("name", ["excluded.csv", "converted.csv", "raters.csv", "ratings.csv"])
def test_without_a_side_file_nothing_is_up_to_date(small, folder, name):
    prepare_iemocap(small, folder)
    (folder / name).unlink()
    prepare_iemocap(small, folder)
    assert (folder / name).exists()


def test_audio_in_other_upper_and_lower_case_is_named(corpus, folder):
    for path in list(session(corpus, 2).rglob("*.wav")):
        path.rename(path.with_suffix(".WAV"))
    with pytest.raises(InputError, match=r"8 audio files have names in .*: \S+Ses02F_\S+\.WAV for Ses02F_\S+\.wav,"):
        prepare_iemocap(corpus, folder)


def test_other_sample_rates_and_stereo_are_kept_and_listed(corpus, folder, caplog):
    soundfile.write(audio_of(corpus, "Ses02F_impro02_M000"), np.zeros((4000, 2)), 8000)
    row = held_out(prepare_iemocap(corpus, folder)[2])["Ses02F_impro02_M000"]
    assert row["duration"] == 0.5
    assert (folder / "converted.csv").read_text() == "ID,session,sample_rate,channels\nSes02F_impro02_M000,2,8000,2\n"
    assert warnings(caplog)[0].startswith("1 utterances are not 16 kHz mono and are converted when loaded: Ses02F")


def test_audio_without_labels_is_named(corpus, folder, caplog):
    soundfile.write(audio_of(corpus, "Ses02F_impro02_M077"), np.zeros(8000), 16000)
    prepare_iemocap(corpus, folder)
    assert warnings(caplog) == ["1 audio files have no labels: Ses02F_impro02_M077."]


def session(corpus, number):
    return corpus / f"Session{number}"


@pytest.mark.parametrize(
    ("break_corpus", "message"),
    [
        (lambda corpus: shutil.rmtree(corpus), "corpus folder .*corpus does not exist"),
        (lambda corpus: [shutil.rmtree(session(corpus, n)) for n in (2, 4)], "has no Session2, Session4; five folds"),
        (lambda corpus: shutil.rmtree(session(corpus, 2) / "dialog/EmoEvaluation"), "Session2/.*EmoEvaluation has no"),
        (lambda corpus: shutil.rmtree(session(corpus, 2) / "dialog/transcriptions"), "transcriptions has no"),
        (lambda corpus: shutil.rmtree(session(corpus, 2) / "sentences/wav"), "Session2/sentences/wav does not exist"),
        (
            lambda corpus: [path.unlink() for path in session(corpus, 2).rglob("*.wav")],
            r"None of the audio of Session2 can be used \(8 missing\)",
        ),
        (
            lambda corpus: shutil.copy(
                labels_of(corpus, "Ses01F_impro01"), session(corpus, 2) / "dialog/EmoEvaluation/Ses01F_impro01.txt"
            ),
            "Session2/dialog/EmoEvaluation/Ses01F_impro01.txt is not of Session2",
        ),
        (
            lambda corpus: edit(labels_of(corpus, "Ses01F_impro01"), "Ses01F_impro01_F001", "Ses01F_impro02_F001"),
            r"Ses01F_impro01.txt, line \d+: 'Ses01F_impro02_F001' is not an utterance of Ses01F_impro01",
        ),
        (
            lambda corpus: edit(labels_of(corpus, "Ses01F_impro01"), "Ses01F_impro01_F001", "Ses01F_impro01_F000"),
            r"Ses01F_impro01.txt, line 12: Ses01F_impro01_F000 is labelled for the second time",
        ),
        (
            lambda corpus: edit(labels_of(corpus, "Ses01F_impro01"), "^A-E4", "A-E3"),
            r"Ses01F_impro01.txt, line \d+: E3 rates the utterance for the second time",
        ),
        (
            lambda corpus: edit(
                transcripts_of(corpus, "Ses01F_impro01"), r"\Z", "Ses01F_impro01_F000 [1.0-2.0]: something else\n"
            ),
            r"Ses01F_impro01.txt, line 7: another transcript of Ses01F_impro01_F000",
        ),
    ],
)
def test_bad_corpus_says_what_and_where(corpus, folder, break_corpus, message):
    break_corpus(corpus)
    with pytest.raises(InputError, match=message):
        prepare_iemocap(corpus, folder)
    assert not list(folder.glob("fold*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[6.2901 - 8.2357]\tSes01F_impro01_F001\tang\t[1.5000, 4.0000]", r"is not '\[start - end\] id emotion \[val"),
        ("[6.2901 - 8.2357]\tSes01F_impro01_F001\tang\t[1.5000, 4.0000, 4.5", r"is not '\[start - end\] id emotion"),
        ("[6.2901 - 8.2357]\tSes01F_impro01_F001\tang\t[nan, 4.0000, 4.5]", r"is not '\[start - end\] id emotion"),
        ("[6.2901 - 8.2357]\tSes06F_impro01_F001\tang\t[1.5, 4.0000, 4.5]", r"is not '\[start - end\] id emotion"),
        ("[6.2901 - 8.2357]\tSes01F_impro01_X001\tang\t[1.5, 4.0000, 4.5]", r"is not '\[start - end\] id emotion"),
        ("01F_impro01_F001\tang\t[1.5, 4.0000, 4.5]", "is not an utterance's first line or a rater's line"),
    ],
)
def test_damaged_line_says_where(tmp_path, line, message):
    path = tmp_path / "Ses01F_impro01.txt"
    path.write_text(f"{HEADER}\n\n{block('Ses01F_impro01_F000', 'ang', (4, 2, 3), {}, {})}{line}\n")
    with pytest.raises(InputError, match=rf"Ses01F_impro01\.txt, line 4: .*{message}"):
        recipe.read_evaluations(path)


RATERS = st.sampled_from(["E1", "E2", "E3", "E4", "E5", "E6", "F1", "M1"])
NUMBERS = st.none() | st.integers(0, 6)
LABELS = st.integers(5000, 55000).map(lambda label: label / 10000)
CATEGORY = st.from_regex(r"[A-Z][a-z]+( [a-z]+)?", fullmatch=True, alphabet=st.characters(codec="ascii"))
COMMENT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))


@given(
    evaluations=st.dictionaries(
        st.from_regex(r"[FM](XX)?[0-9]{1,3}", fullmatch=True),
        st.tuples(
            st.sampled_from(["ang", "hap", "xxx"]),
            st.tuples(LABELS, LABELS, LABELS),
            st.dictionaries(RATERS, st.tuples(NUMBERS, NUMBERS, NUMBERS)),
            st.dictionaries(RATERS, st.lists(CATEGORY, max_size=3).map(tuple)),
            COMMENT,
        ),
        min_size=1,
        max_size=4,
    ),
    dialogue=st.sampled_from(sorted(SMALL)),
)
def test_what_is_written_is_what_is_read(tmp_path_factory, evaluations, dialogue):
    path = tmp_path_factory.getbasetemp() / f"{dialogue}.txt"
    blocks = [block(f"{dialogue}_{turn}", *evaluation) for turn, evaluation in evaluations.items()]
    path.write_bytes("\n".join([HEADER, "", *blocks]).encode())
    assert [
        (e.id, (e.emotion, e.labels, e.ratings, e.categories), e.spk_id, e.dialogue)
        for e in recipe.read_evaluations(path)
    ] == [
        (f"{dialogue}_{turn}", evaluation[:4], f"{dialogue[:5]}{turn[0]}", dialogue)
        for turn, evaluation in evaluations.items()
    ]


FUZZED = [
    block(
        f"Ses01F_impro01_{turn}",
        "fru",
        (3.5, 2.0, 4.5),
        {"E3": (3, 2, 5), "E4": (4, 2, 4), f"{turn[0]}1": (1, 2, 3)},
        {"E2": ["Anger", "Frustration"], "E3": ["Neutral state"], f"{turn[0]}1": []},
        comment="blasé; or (so) not: [6.2901 - 8.2357]",
    )
    for turn in ("F000", "M000", "M001")
]
WHOLE = "\n".join([HEADER, "", *FUZZED])
HARMLESS = {
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "BOM": lambda text: text.encode("utf-8-sig"),
    "tabs for spaces": lambda text: text.replace(" ", "\t").replace("Neutral\tstate", "Neutral state").encode(),
    "spaces for tabs": lambda text: text.expandtabs().encode(),
    "blanks at the ends": lambda text: text.replace("\n", " \t\n").encode(),
}


@pytest.fixture
def fuzzed(tmp_path):
    (tmp_path / "Ses01F_impro01.txt").write_text(WHOLE, encoding="utf-8")
    return recipe.read_evaluations(tmp_path / "Ses01F_impro01.txt")


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_harmless_changes_of_a_label_file(tmp_path, fuzzed, change):
    path = tmp_path / "Ses01F_impro01.txt"
    path.write_bytes(change(WHOLE))
    assert recipe.read_evaluations(path) == fuzzed


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037"])
def test_label_file_in_another_encoding(tmp_path, encoding):
    path = tmp_path / "Ses01F_impro01.txt"
    path.write_bytes(WHOLE.encode(encoding))
    with pytest.raises(InputError, match=rf"{path}, line \d+: "):
        recipe.read_evaluations(path)


def cut_file(text, at):
    return text[:at]


def cut_line(text, at):
    return text[:at] + text[text.index("\n", at) :]


def lose_line(text, at):
    return text[: text.rfind("\n", 0, at) + 1] + text[text.index("\n", at) + 1 :]


@pytest.mark.parametrize("damage", [cut_file, cut_line, lose_line])
def test_damaged_label_file_is_an_error_with_its_line_or_right(tmp_path, fuzzed, damage):
    path = tmp_path / "Ses01F_impro01.txt"
    refused = 0
    for at in range(len(WHOLE)):
        path.write_text(damage(WHOLE, at), encoding="utf-8")
        try:
            evaluations = recipe.read_evaluations(path)
        except InputError as error:
            assert re.match(rf"{path}, line \d+: ", str(error))
            refused += 1
            continue
        assert len(evaluations) == len(fuzzed) or damage is cut_file
        for evaluation, whole in zip(evaluations, fuzzed, strict=False):
            assert (evaluation.id, evaluation.emotion, evaluation.labels) == (whole.id, whole.emotion, whole.labels)
            # What a rater said may be gone, as a rater may leave it out, but never become something else.
            for rater, rating in evaluation.ratings.items():
                assert all(number in (None, said) for number, said in zip(rating, whole.ratings[rater], strict=True))
            for rater, categories in evaluation.categories.items():
                assert categories == whole.categories[rater][: len(categories)]
    assert 0 < refused < len(WHOLE)


def test_nothing_is_done_twice_but_changes_are_noticed(corpus, folder, caplog):
    def modified():
        return {path: os.stat(path).st_mtime_ns for path in folder.glob("fold*/manifests.json")}

    folds = prepare_iemocap(corpus, folder)
    first = modified()
    assert prepare_iemocap(corpus, folder) == folds
    assert modified() == first
    assert caplog.messages[-1] == f"{folder} is up to date: nothing has changed since it was prepared."

    for change in (
        lambda: audio_of(corpus, "Ses02F_impro02_M000").unlink(),
        lambda: set_labels(corpus, "Ses02F_impro02_F000", "1.0000, 2.0000, 3.0000"),
        lambda: edit(transcripts_of(corpus, "Ses02F_impro02"), r"\]: .*", "]: other words"),
        lambda: (folder / "raters.csv").unlink(),
        lambda: folds[4]["valid"].unlink(),
    ):
        before = modified()
        change()
        prepare_iemocap(corpus, folder)
        assert all(time != before[path] for path, time in modified().items())
    before = modified()
    prepare_iemocap(corpus, folder, clip_labels=True)
    assert modified() != before


def test_a_fold_never_passes_for_another(corpus, folder):
    folds = prepare_iemocap(corpus, folder)
    expected = folds[2]["test"].read_text()
    shutil.rmtree(folder / "fold2")
    shutil.copytree(folder / "fold1", folder / "fold2")
    assert folds[2]["test"].read_text() != expected
    prepare_iemocap(corpus, folder)
    assert folds[2]["test"].read_text() == expected


def test_skip_prep_takes_what_is_there(corpus, folder):
    assert prepare_iemocap(corpus, folder, skip_prep=True) == {}
    folds = prepare_iemocap(corpus, folder)
    shutil.rmtree(corpus)
    assert prepare_iemocap(corpus, folder, skip_prep=True) == folds
    shutil.rmtree(folder / "fold1")
    assert list(prepare_iemocap(corpus, folder, skip_prep=True)) == [2, 3, 4, 5]


def test_command_line(corpus, folder):
    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
        command = [sys.executable, SCRIPT, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    set_labels(corpus, "Ses03M_impro05a_M001", "5.5000, 3.0000, 3.0000")
    result = run(corpus, folder, "--clip-labels")
    assert result.returncode == 0
    assert "and were clipped: Ses03M_impro05a_M001 (valence 5.5).\n" in result.stderr
    assert "Fold 5:\ntrain: 24 utterances, 6 known speakers, " in result.stderr
    shutil.rmtree(session(corpus, 3))
    result = run(corpus, folder)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {corpus} has no Session3; five folds need all five sessions.")
    assert "Traceback" not in result.stderr
