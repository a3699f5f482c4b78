import csv
import importlib.util
import json
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ser_ts_lobes.data.manifests import TRANSCRIPT_COLUMNS, read_manifest
from ser_ts_lobes.data.ratings import read_ratings
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.text_files import write_csv
from tests.fixtures_msp import (
    LAYOUTS,
    STEREO,
    MspUtterance,
    Rating,
    format_block,
    write_msp_release,
    write_msp_tree,
)
from tests.hostile import at_least

SCRIPT = Path(__file__).parents[2] / "recipes" / "MSP-Podcast" / "msp_podcast_prepare.py"
spec = importlib.util.spec_from_file_location("msp_podcast_prepare", SCRIPT)
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)
prepare_msp_podcast = recipe.prepare_msp_podcast


@pytest.fixture
def corpus(tmp_path):
    return write_msp_tree(tmp_path / "corpus")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "manifests"


def labels_of(corpus):
    return corpus / "Labels" / "labels_consensus.csv"


def edit_labels(corpus, old, new, count=1):
    text = labels_of(corpus).read_text()
    assert old in text
    labels_of(corpus).write_text(text.replace(old, new, count))


def audio_of(corpus, split="Train"):
    with open(labels_of(corpus), newline="") as file:
        return [corpus / "Audios" / row["FileName"] for row in csv.DictReader(file) if row["Split_Set"] == split]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def write_transcripts(path, texts):
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([TRANSCRIPT_COLUMNS, *((id, text, "m", "r") for id, text in texts.items())])
    return path


def test_small_corpus_gives_exactly_these_files(corpus, folder, caplog):
    labels_of(corpus).write_text(
        "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
        "x_1.wav,N,1,2.5,7,3,Male,Train\n"
        "x_2.wav,H,4.25,5.5,6.75,Unknown,Female,Development\n"
        "x_3.wav,A,6,1.2,6.6,4,Female,Test2\n"
    )
    for path in (corpus / "Audios").iterdir():
        path.unlink()
    for id in ("x_1", "x_2", "x_3"):
        soundfile.write(corpus / "Audios" / f"{id}.wav", np.zeros(12000), 16000)
    (corpus / "Transcripts" / "x_1.txt").write_text("It costs $5,\nyou know.\n")
    (corpus / "Transcripts" / "x_2.txt").write_text("")

    paths = prepare_msp_podcast(corpus, folder)

    header = "ID,duration,wav,spk_id,gender,activation,valence,dominance,transcript,emotion\n"
    assert {name: path.read_text() for name, path in paths.items()} == {
        "train": header + 'x_1,0.75,$data_root/Audios/x_1.wav,3,Male,1.0,2.5,7.0,"It costs $5, you know.",N\n',
        "valid": header + "x_2,0.75,$data_root/Audios/x_2.wav,Unknown,Female,4.25,5.5,6.75,,H\n",
        "test2": header + "x_3,0.75,$data_root/Audios/x_3.wav,4,Female,6.0,1.2,6.6,,A\n",
    }
    assert (folder / "excluded.csv").read_text() == "ID,split,reason\n"
    assert (folder / "converted.csv").read_text() == "ID,split,sample_rate,channels\n"
    assert read_manifest(paths["valid"]).missing_transcripts == set()
    assert read_manifest(paths["test2"]).missing_transcripts == {"x_3"}
    assert read_manifest(paths["train"]).label_range == (1.0, 7.0)
    assert warnings(caplog) == []


def test_manifest_rows_are_the_corpus(corpus, folder):
    paths = prepare_msp_podcast(corpus, folder)
    assert {name: len(read_manifest(path).utterances) for name, path in paths.items()} == {
        "train": 8,
        "valid": 4,
        "test1": 4,
    }
    for row in read_manifest(paths["train"]).utterances.values():
        samples, sample_rate = soundfile.read(row["wav"])
        assert row["duration"] == len(samples) / sample_rate


@pytest.mark.parametrize("place", ["Labels/labels_concensus.csv", "label/labels_consensus.csv", "labels_concensus.csv"])
def test_older_layouts(tmp_path, folder, place):
    corpus = write_msp_tree(tmp_path / "old", labels_file=place, audio_folder="Audio")
    train = read_manifest(prepare_msp_podcast(corpus, folder)["train"])
    assert all("/Audio/" in row["wav"] for row in train.utterances.values())


def test_columns_in_any_order_with_bom_and_crlf(corpus, folder, tmp_path):
    expected = prepare_msp_podcast(corpus, tmp_path / "plain")["train"].read_text()
    with open(labels_of(corpus), newline="") as file:
        rows = list(csv.reader(file))
    with open(labels_of(corpus), "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, lineterminator="\r\n").writerows([*reversed(row), "more"] for row in rows)
    assert prepare_msp_podcast(corpus, folder)["train"].read_text() == expected


@pytest.mark.parametrize(
    ("break_corpus", "message"),
    [
        (lambda corpus: shutil.rmtree(corpus), "corpus folder .*corpus does not exist"),
        (
            lambda corpus: labels_of(corpus).unlink(),
            r"looked for Labels/labels_consensus\.csv, .*labels_concensus",
        ),
        (
            lambda corpus: labels_of(corpus).write_bytes(b"\xff\xfe\x00"),
            r"labels_consensus\.csv, line 1: not text in UTF-8",
        ),
        (lambda corpus: labels_of(corpus).write_text(""), "line 1: no column FileName, EmoClass"),
        (lambda corpus: shutil.rmtree(corpus / "Audios"), "no audio folder; looked for Audios, Audio"),
        (
            lambda corpus: shutil.rmtree(corpus / "Audios") or (corpus / "Audios").mkdir(),
            "None of the 16 utterances .*16 missing",
        ),
        (lambda corpus: edit_labels(corpus, "EmoVal", "Valence"), "line 1: no column EmoVal"),
        (lambda corpus: edit_labels(corpus, "SpkrID", "Speaker"), "line 1: no column SpkrID"),
        (lambda corpus: edit_labels(corpus, "Split_Set", "Split"), "line 1: no column Split_Set"),
        (
            lambda corpus: edit_labels(corpus, "Train", "Dev"),
            "line 2: MSP.*'Dev'; known are Train, Development, Val",
        ),
        (
            lambda corpus: edit_labels(corpus, "_0002.wav", "_0001.wav"),
            "lines 2 and 3: FileName MSP.*0001.wav occurs",
        ),
        (
            lambda corpus: edit_labels(corpus, "_0002.wav", "_0001.wav "),
            "lines 2 and 3: FileName MSP.*0001.wav occurs",
        ),
        (lambda corpus: edit_labels(corpus, "SpkrID", "EmoVal,SpkrID"), "line 1: the column EmoVal is there twice"),
        (lambda corpus: edit_labels(corpus, "MSP-PODCAST_0001_0001.wav", ""), "line 2: FileName is empty"),
        (
            lambda corpus: (corpus / "Transcripts" / "MSP-PODCAST_0001_0001.txt").write_bytes(b"\xe9"),
            r"transcript .*0001_0001\.txt can't be read",
        ),
    ],
)
def test_bad_corpus_says_what_and_where(corpus, folder, break_corpus, message):
    break_corpus(corpus)
    with pytest.raises(InputError, match=message):
        prepare_msp_podcast(corpus, folder)
    assert not (folder / "manifests.json").exists()


def test_links_that_lead_nowhere_are_missing_files(corpus, folder):
    dangling, looping, *_ = audio_of(corpus)
    for path, target in ((dangling, "nowhere.wav"), (looping, looping.name)):
        path.unlink()
        path.symlink_to(target)
    (corpus / "Audios" / "stray.wav").symlink_to("nowhere.wav")
    (corpus / "Audios" / "circle").symlink_to("..")
    prepare_msp_podcast(corpus, folder)
    assert (folder / "excluded.csv").read_text() == (
        f"ID,split,reason\n{dangling.stem},train,missing\n{looping.stem},train,missing\nstray,,no label\n"
    )
    labels_of(corpus).unlink()
    labels_of(corpus).symlink_to("nowhere.csv")
    with pytest.raises(InputError, match=r"labels_consensus\.csv is a link that leads nowhere"):
        prepare_msp_podcast(corpus, folder)


@pytest.mark.parametrize("place", ["Audios", "Transcripts"])
def test_a_file_name_that_is_not_utf_8(corpus, folder, place):
    Path(os.fsdecode(os.fsencode(corpus / place) + b"/\xe9.wav")).write_text("one")
    with pytest.raises(InputError, match=rf"{place} has a file whose name is not UTF-8, b'.xe9\.wav'\. Rename it"):
        prepare_msp_podcast(corpus, folder)


def test_manifest_folder_that_is_a_file(corpus, folder):
    folder.write_text("")
    with pytest.raises(InputError, match="folder .*manifests can't be made"):
        prepare_msp_podcast(corpus, folder)


@pytest.mark.parametrize("name", ["excluded.csv", "converted.csv", "raters.csv", "ratings.csv"])
def test_without_or_with_another_side_file_nothing_is_up_to_date(tmp_path, folder, name):
    write_msp_release(tmp_path / "corpus", "2.0")
    prepare_msp_podcast(tmp_path / "corpus", folder)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    prepare_msp_podcast(tmp_path / "corpus", folder)
    assert (folder / name).read_bytes() == content
    (folder / name).write_bytes(content + b"more")
    prepare_msp_podcast(tmp_path / "corpus", folder)
    assert (folder / name).read_bytes() == content


def test_text_files_without_speakers(tmp_path, folder, caplog):
    corpus = write_text_files(tmp_path / "corpus")
    (corpus / "Speaker_ids.txt").unlink()
    paths = prepare_msp_podcast(corpus, folder)
    rows = [row for path in paths.values() for row in read_manifest(path).utterances.values()]
    assert {(row["spk_id"], row["gender"]) for row in rows} == {("Unknown", "Unknown")}
    named = (
        f"There is no Speaker_ids.txt, and {corpus / 'Labels' / 'labels.txt'} names no speakers: all count as unknown"
    )
    assert warnings(caplog)[0].startswith(named)


def test_labels_that_contradict_their_raters_are_named(tmp_path, folder, caplog):
    corpus = tmp_path / "corpus"
    written = write_msp_release(corpus, "1.11")
    contradicted, nearly = written.utterances[0], written.utterances[1]
    lines = labels_of(corpus).read_text().splitlines(keepends=True)
    for line, utterance, change in ((1, contradicted, 0.01), (2, nearly, 1e-6)):
        valence = utterance.labels[1]
        changed = round(valence + (change if valence < 4 else -change), 6)
        lines[line] = lines[line].replace(f",{valence},", f",{changed},", 1)
    labels_of(corpus).write_text("".join(lines))
    prepare_msp_podcast(corpus, folder)
    [warning] = [message for message in warnings(caplog) if "mean" in message]
    assert warning.startswith("1 labels are not the mean of what their raters said: ")
    assert f"said: {Path(contradicted.file_name).stem} (valence " in warning


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (
            ("Labels", "labels"),
            r"labels/labels_consensus\.csv is there, but its name should be Labels/labels_consensus",
        ),
        (
            ("Transcripts", "transcripts"),
            "transcripts is there, but its name should be Transcripts, in upper and lower",
        ),
        (("Audios", "AUDIOS"), "AUDIOS is there, but its name should be Audios"),
        (("Audios/Audios", "Audios/Audios"), r"Audios has no \*\.wav files, but folders: Audios\. Move their files up"),
        (
            ("Audios/MSP-PODCAST_0001_0001.wav", "Audios/MSP-PODCAST_0001_0001.WAV"),
            r"1 audio files have names in .* than the labels say: \S+Audios\S+_0001\.WAV for \S+_0001\.wav\. Rename",
        ),
    ],
)
def test_other_spellings_are_named(corpus, folder, rename, message):
    old, new = rename
    if old == new:  # a folder that was unpacked into one of its own name
        (corpus / "Audios").rename(corpus / "inner")
        (corpus / "Audios").mkdir()
        old = "inner"
    (corpus / old).rename(corpus / new)
    with pytest.raises(InputError, match=message):
        prepare_msp_podcast(corpus, folder)


def test_what_is_odd_about_release_2_is_told(tmp_path, folder, caplog):
    written = write_msp_release(tmp_path / "corpus", "2.0")
    assert written.without_audio == "MSP-PODCAST_1909_1017.wav"
    prepare_msp_podcast(tmp_path / "corpus", folder)
    assert "MSP-PODCAST_1909_1017,train,missing\n" in (folder / "excluded.csv").read_text()
    [warning] = [message for message in warnings(caplog) if message.startswith("Speakers in both")]
    assert warning == ("Speakers in both train and test (2): 8001 (1 and 1 utterances), 8002 (1 and 1 utterances).")


def test_two_files_of_one_id(corpus, folder):
    soundfile.write(corpus / "Audios" / "MSP-PODCAST_0001_0001.flac", np.zeros(8000), 16000)
    edit_labels(corpus, "_0002.wav", "_0001.flac")
    with pytest.raises(InputError, match="The id MSP-PODCAST_0001_0001 occurs twice"):
        prepare_msp_podcast(corpus, folder)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("low", "has EmoVal 'low', which is not a number"),
        ("", "has EmoVal '', which is not a number"),
        ("0.9", "has EmoVal 0.9, which is not within 1 to 7"),
        ("7.1", "has EmoVal 7.1, which is not within 1 to 7"),
        ("nan", "has EmoVal 'nan', which is not a number"),
        ("inf", "has EmoVal 'inf', which is not a number"),
        ("0_5", "has EmoVal '0_5', which is not a number"),
        ("٣", "has EmoVal '٣', which is not a number"),
        ("9" * 5000, r"has EmoVal '9{12}\.\.\.9{13}', which is not a number"),
    ],
)
def test_bad_label_says_where(corpus, folder, value, message):
    line = labels_of(corpus).read_text().splitlines()[2]
    fields = line.split(",")
    fields[3] = value
    edit_labels(corpus, line, ",".join(fields))
    with pytest.raises(InputError, match=rf"labels_consensus\.csv, line 3: MSP-PODCAST_0001_0002\.wav {message}"):
        prepare_msp_podcast(corpus, folder)


def test_unusable_audio_is_left_out_and_listed(corpus, folder, caplog):
    missing, empty, truncated, unreadable, nan, also_missing, *_ = paths = audio_of(corpus)
    missing.unlink()
    also_missing.unlink()
    soundfile.write(empty, np.zeros(0), 16000)
    truncated.write_bytes(truncated.read_bytes()[:5000])
    unreadable.write_bytes(b"no audio")
    soundfile.write(nan, np.full(8000, np.nan), 16000, "FLOAT")

    train = read_manifest(prepare_msp_podcast(corpus, folder)["train"])

    assert set(train.utterances) == {path.stem for path in paths[6:]}
    reasons = ["missing", "empty", "truncated", "unreadable", "NaN or infinite samples", "missing"]
    assert (folder / "excluded.csv").read_text().splitlines() == [
        "ID,split,reason",
        *(f"{path.stem},train,{reason}" for path, reason in zip(paths, reasons, strict=False)),
    ]
    assert warnings(caplog) == [
        "Left out 6 of 16 utterances (2 missing, 1 empty, 1 truncated, 1 unreadable, "
        f"1 NaN or infinite samples): {missing.stem}, {empty.stem}, {truncated.stem} and 3 more. "
        f"All are listed in {folder / 'excluded.csv'}."
    ]


def test_other_sample_rates_and_stereo_are_kept_and_listed(corpus, folder, caplog):
    slow, stereo, *_ = audio_of(corpus)
    soundfile.write(slow, np.zeros(4000), 8000)
    soundfile.write(stereo, np.zeros((16000, 2)), 16000)
    train = read_manifest(prepare_msp_podcast(corpus, folder)["train"])
    assert (train.utterances[slow.stem]["duration"], train.utterances[stereo.stem]["duration"]) == (0.5, 1.0)
    assert (folder / "converted.csv").read_text() == (
        f"ID,split,sample_rate,channels\n{slow.stem},train,8000,1\n{stereo.stem},train,16000,2\n"
    )
    assert warnings(caplog)[0].startswith(
        f"2 utterances are not 16 kHz mono and are converted when loaded: {slow.stem}"
    )


def test_recognised_transcripts_fill_only_the_gaps(corpus, folder, tmp_path, caplog):
    manual, recognised, silent, neither, *_ = (path.stem for path in audio_of(corpus))
    for id in (recognised, silent, neither):
        (corpus / "Transcripts" / f"{id}.txt").unlink()
    (corpus / "Transcripts" / f"{manual}.txt").write_text("by hand", encoding="utf-8-sig")
    texts = {manual: "by machine", recognised: "it was $5", silent: "", "stray": "who?"}
    write_transcripts(folder / "transcripts.csv", texts)

    train = read_manifest(prepare_msp_podcast(corpus, folder)["train"])
    transcripts = {id: row["transcript"] for id, row in train.utterances.items()}
    assert (transcripts[manual], transcripts[recognised], transcripts[silent]) == ("by hand", "it was $5", "")
    assert train.missing_transcripts == {neither}
    assert warnings(caplog) == [f"{folder / 'transcripts.csv'}: 1 ids are not in the corpus: stray."]

    elsewhere = write_transcripts(tmp_path / "elsewhere.csv", {neither: "found"})
    train = read_manifest(prepare_msp_podcast(corpus, folder, elsewhere)["train"])
    assert train.utterances[neither]["transcript"] == "found"
    assert train.missing_transcripts == {recognised, silent}


def test_bad_transcripts_file(corpus, folder, tmp_path):
    with pytest.raises(InputError, match="nowhere.csv do not exist"):
        prepare_msp_podcast(corpus, folder, tmp_path / "nowhere.csv")
    (tmp_path / "texts.csv").write_text("ID,text\n")
    with pytest.raises(InputError, match=r"texts\.csv, line 1: no column transcript, model, revision"):
        prepare_msp_podcast(corpus, folder, tmp_path / "texts.csv")


def test_nothing_is_done_twice_but_changes_are_noticed(corpus, folder, caplog):
    caplog.set_level("INFO")

    def modified():
        return os.stat(folder / "manifests.json").st_mtime_ns

    paths = prepare_msp_podcast(corpus, folder)
    first = modified()
    assert prepare_msp_podcast(corpus, folder) == paths
    assert modified() == first
    assert caplog.messages[-1] == f"{folder} is up to date: nothing has changed since it was prepared."

    for change in (
        lambda: audio_of(corpus)[0].unlink(),
        lambda: edit_labels(corpus, "Female", "Male"),
        lambda: (corpus / "Transcripts" / "MSP-PODCAST_0001_0002.txt").unlink(),
        lambda: write_transcripts(folder / "transcripts.csv", {"MSP-PODCAST_0001_0002": "well"}),
        lambda: shutil.move(paths["valid"], folder / "moved.csv"),
    ):
        before = modified()
        change()
        prepare_msp_podcast(corpus, folder)
        assert modified() != before


@pytest.fixture(params=LAYOUTS)
def release(request, tmp_path):
    return request.param, tmp_path / request.param, write_msp_release(tmp_path / request.param, request.param)


def write_text_files(corpus):
    """Write a corpus whose labels, splits and speakers are in text files alone."""
    write_msp_release(corpus, "1.6")
    for form in ("csv", "json"):
        (corpus / f"Labels/labels_concensus.{form}").unlink()
    return corpus


def as_row(utterance):
    """Make the row that a manifest should have of a written utterance."""
    return {
        "spk_id": utterance.spk_id,
        "gender": utterance.gender,
        "activation, valence, dominance": utterance.labels,
        "transcript": utterance.transcript or "",
        "emotion": utterance.emotion,
    }


def test_every_release_is_read_as_it_was_written(release, folder):
    number, corpus, written = release
    paths = prepare_msp_podcast(corpus, folder)
    names = [recipe.SPLITS[split] for split in LAYOUTS[number].splits]
    assert list(paths) == names
    for split, name in zip(LAYOUTS[number].splits, names, strict=True):
        manifest = read_manifest(paths[name])
        expected = [u for u in written.utterances if u.split == split and u.file_name != written.without_audio]
        assert list(manifest.utterances) == [Path(u.file_name).stem for u in expected]
        assert manifest.labelled == (split != "Test3")
        for utterance, row in zip(expected, manifest.utterances.values(), strict=True):
            labels = tuple(row[name] for name in ("activation", "valence", "dominance"))
            row["activation, valence, dominance"] = labels if manifest.labelled else None
            assert {key: row[key] for key in as_row(utterance)} == as_row(utterance)
            assert row["duration"] == soundfile.info(row["wav"]).duration
        untold = {Path(u.file_name).stem for u in expected if u.transcript is None}
        assert manifest.missing_transcripts == untold

    with open(folder / "excluded.csv", newline="") as file:
        excluded = [(row["ID"] + ".wav", row["split"], row["reason"]) for row in csv.DictReader(file)]
    assert excluded == [
        (written.without_audio, "train", "missing"),
        (written.without_split, "", "no split"),
        (written.without_label, "", "no label"),
    ]
    with open(folder / "converted.csv", newline="") as file:
        converted = [tuple(row.values()) for row in csv.DictReader(file)]
    assert converted == ([(Path(STEREO).stem, "train", "44100", "2")] if number == "1.8" else [])


def test_raters_are_counted_and_averaged(release, folder):
    _, corpus, written = release
    prepare_msp_podcast(corpus, folder)
    with open(folder / "raters.csv", newline="") as file:
        rows = {row["ID"] + ".wav": row for row in csv.DictReader(file)}
    labelled = [utterance for utterance in written.utterances if utterance.labels]
    assert set(rows) == {utterance.file_name for utterance in labelled} | {written.without_split}
    for utterance in labelled:
        row = rows[utterance.file_name]
        assert int(row["raters"]) == len(utterance.ratings)
        for j, name in enumerate(("activation", "valence", "dominance")):
            values = [rating.labels[j] for rating in utterance.ratings]
            assert float(row[f"{name}_mean"]) == pytest.approx(statistics.mean(values))
            assert float(row[f"{name}_sd"]) == pytest.approx(statistics.stdev(values))


def test_each_raters_answers_are_kept(release, folder):
    _, corpus, written = release
    prepare_msp_podcast(corpus, folder)
    labelled = {Path(u.file_name).stem: u for u in written.utterances if u.labels}
    assert read_ratings(folder, labelled) == {
        id: tuple(zip(*(rating.labels for rating in utterance.ratings), strict=True))
        for id, utterance in labelled.items()
    }


@pytest.mark.parametrize("form", ["csv", "json"])
def test_the_detailed_labels_give_the_raters_of_labels_txt(tmp_path, folder, caplog, form):
    corpus = tmp_path / "corpus"
    write_msp_release(corpus, "1.11")
    prepare_msp_podcast(corpus, folder)
    expected = [(folder / name).read_text() for name in ("raters.csv", "ratings.csv")]
    raters = [
        (name, f"WORKER{number}", dict(zip(recipe.LABEL_COLUMNS, labels, strict=True)))
        for name, ratings in recipe.read_raters(corpus / "Labels" / "labels.txt")
        for number, labels in enumerate(ratings)
    ]
    (corpus / "Labels" / "labels.txt").unlink()
    if form == "csv":
        rows = [(name, worker, *row.values()) for name, worker, row in raters]
        rows.append((raters[0][0], "WORKER_NOBODY", "", 4, 4))
        write_csv(corpus / "Labels" / "labels_detailed.csv", ("FileName", "Worker", *recipe.LABEL_COLUMNS), rows)
    else:
        content = {}
        for name, worker, row in raters:
            content.setdefault(name, {})[worker] = row
        content[raters[0][0]]["WORKER_NOBODY"] = {"EmoAct": "8"}
        (corpus / "Labels" / "labels_detailed.json").write_text(json.dumps(content))
    prepare_msp_podcast(corpus, folder)
    assert [(folder / name).read_text() for name in ("raters.csv", "ratings.csv")] == expected
    [warning] = [message for message in warnings(caplog) if "answers of raters" in message]
    assert warning.startswith("Left out 1 answers of raters: ") and "EmoAct" in warning


def test_damaged_detailed_labels_are_one_sentence(tmp_path, folder):
    corpus = tmp_path / "corpus"
    write_msp_release(corpus, "1.11")
    (corpus / "Labels" / "labels.txt").unlink()
    (corpus / "Labels" / "labels_detailed.json").write_text("[]")
    with pytest.raises(InputError, match=r"labels_detailed.json: not a JSON object that has for each file name"):
        prepare_msp_podcast(corpus, folder)


def test_all_forms_of_the_labels_give_the_same_manifests(release, folder, tmp_path, caplog):
    number, corpus, _ = release
    labels = corpus / LAYOUTS[number].labels
    expected = {name: path.read_text() for name, path in prepare_msp_podcast(corpus, folder).items()}
    for form, next_best in (("csv", f"{labels.name}.json"), ("json", "labels.txt")):
        labels.with_suffix(f".{form}").unlink()
        assert recipe.find_files(corpus).labels == labels.with_name(next_best)
        paths = prepare_msp_podcast(corpus, tmp_path / f"without_{form}")
        assert {name: path.read_text() for name, path in paths.items()} == expected
    known = ("Left out 3", "Speakers in both train and test (2)")  # the latter in release 2.0
    assert all(message.startswith(known) or "kHz" in message for message in warnings(caplog))


def test_oldest_files_give_exactly_these(tmp_path, folder, caplog):
    corpus = tmp_path / "old"
    (corpus / "Labels").mkdir(parents=True)
    (corpus / "Audio").mkdir()
    for id in ("x_1", "x_2", "x_3", "x_4"):
        soundfile.write(corpus / "Audio" / f"{id}.wav", np.zeros(12000), 16000)
    (corpus / "Labels" / "labels.txt").write_text(
        "x_1.wav; N; A:4.5; V:3; D:2.25;\n"
        "WORKER1; Neutral; Neutral,Other-so; so; A:4; V:3; D:2;\n"
        "WORKER2; Happy; A:5; V:3; D:2.5;\n"
        "\n"
        "x_2.wav; H; A:7; V:6; D:5;\n"
        "WORKER1; Happy; Happy; A:7; V:6; D:5;\n"
        "\n\n"
        "x_3.wav; X; A:1; V:1; D:1;\n"
    )
    (corpus / "Partitions.txt").write_text("\nTrain; x_1.wav\n;\nTest; x_3.wav\nValidation; x_2.wav\n  \n")
    (corpus / "Speaker_ids.txt").write_text(
        "Speaker_1; Male  \nSpeaker_20; Female \n*******\nx_1.wav;20\nx_2.wav;Unknown\nx_3.wav;1\n"
    )

    paths = prepare_msp_podcast(corpus, folder)

    header = "ID,duration,wav,spk_id,gender,activation,valence,dominance,transcript,emotion\n"
    assert {name: path.read_text() for name, path in paths.items()} == {
        "train": header + "x_1,0.75,$data_root/Audio/x_1.wav,20,Female,4.5,3.0,2.25,,N\n",
        "valid": header + "x_2,0.75,$data_root/Audio/x_2.wav,Unknown,Unknown,7.0,6.0,5.0,,H\n",
        "test": header + "x_3,0.75,$data_root/Audio/x_3.wav,1,Male,1.0,1.0,1.0,,X\n",
    }
    assert (folder / "raters.csv").read_text() == (
        "ID,raters,activation_mean,activation_sd,valence_mean,valence_sd,dominance_mean,dominance_sd\n"
        "x_1,2,4.5,0.7071067811865476,3.0,0.0,2.25,0.3535533905932738\n"
        "x_2,1,7.0,,6.0,,5.0,\n"
        "x_3,0,,,,,,\n"
    )
    assert (folder / "ratings.csv").read_text() == (
        "ID,activation,valence,dominance\nx_1,4 5,3 3,2 2.5\nx_2,7,6,5\nx_3,,,\n"
    )
    assert warnings(caplog) == [
        f"Left out 1 of 4 utterances (1 no label): x_4. All are listed in {folder / 'excluded.csv'}."
    ]


def test_raters_of_an_earlier_preparation_go(tmp_path, folder):
    write_msp_release(tmp_path / "corpus", "2.0")
    prepare_msp_podcast(tmp_path / "corpus", folder)
    (tmp_path / "corpus" / "labels.txt").unlink()
    prepare_msp_podcast(tmp_path / "corpus", folder)
    assert not (folder / "raters.csv").exists() and not (folder / "ratings.csv").exists()


@pytest.mark.parametrize(
    "file", ["Partitions.txt", "Speaker_ids.txt", "Labels/labels.txt", "Labels/labels_consensus.csv"]
)
def test_a_change_of_any_label_file_is_noticed(tmp_path, folder, caplog, file):
    caplog.set_level("INFO")
    write_msp_release(tmp_path / "corpus", "1.11")
    prepare_msp_podcast(tmp_path / "corpus", folder)
    with open(tmp_path / "corpus" / file, "a") as changed:
        changed.write("\n")
    prepare_msp_podcast(tmp_path / "corpus", folder)
    assert "is up to date" not in caplog.text


def test_force_aligned_words_do_not_count(tmp_path, folder, caplog):
    caplog.set_level("INFO")
    corpus = tmp_path / "corpus"
    write_msp_release(corpus, "1.11")
    prepare_msp_podcast(corpus, folder)
    (corpus / "ForceAligned" / "labels_consensus.csv").write_text("nonsense")
    prepare_msp_podcast(corpus, folder)
    assert "is up to date" in caplog.messages[-1]


def test_labels_without_audio_and_audio_without_labels_are_counted_and_named(tmp_path, folder, caplog):
    write_msp_release(tmp_path / "corpus", "1.12")
    (tmp_path / "corpus" / "Audios" / "._x.wav").write_text("what macOS leaves beside a file")
    prepare_msp_podcast(tmp_path / "corpus", folder)
    assert warnings(caplog) == [
        "Left out 3 of 41 utterances (1 missing, 1 no split, 1 no label): MSP-PODCAST_0001_0003, "
        f"MSP-PODCAST_9999_0001, MSP-PODCAST_9999_0002. All are listed in {folder / 'excluded.csv'}."
    ]


def test_only_a_secret_test3_is_kept_without_labels(tmp_path, folder):
    corpus = tmp_path / "corpus"
    written = write_msp_release(corpus, "1.11")
    secret = [utterance.file_name for utterance in written.utterances if utterance.split == "Test3"]
    with open(labels_of(corpus), "a") as file:  # as if some labels of Test3 had come out
        file.write(f"{secret[0]},N,1,2,3,Unknown,Unknown,Test3\n")
    with open(corpus / "Partitions.txt", "a") as file:
        file.write("Test2; unlabelled.wav\n")
    soundfile.write(corpus / "Audios" / "unlabelled.wav", np.zeros(800), 16000)
    manifest = read_manifest(prepare_msp_podcast(corpus, folder)["test3"])
    np.testing.assert_array_equal(manifest.labels(), [[1, 2, 3]])
    excluded = (folder / "excluded.csv").read_text()
    assert f"{Path(secret[1]).stem},test3,no label\n" in excluded
    assert "unlabelled,test2,no label\n" in excluded


def test_sizes_are_checked_when_a_release_is_named(tmp_path, folder, monkeypatch):
    corpus = tmp_path / "corpus"
    write_msp_release(corpus, "1.11")
    prepare_msp_podcast(corpus, folder)
    with pytest.raises(InputError) as error:  # although nothing has changed; YAML makes 1.11 a number
        prepare_msp_podcast(corpus, folder, release=1.11)
    assert str(error.value) == (
        "This is not MSP-Podcast 1.11: train has 9 utterances instead of 84,030 (-84,021); valid has 9 utterances "
        "instead of 19,815 (-19,806); test1 has 9 utterances instead of 30,647 (-30,638); test2 has 9 utterances "
        "instead of 14,815 (-14,806); test3 has 3 utterances instead of 2,347 (-2,344); all splits has 39 utterances "
        "instead of 151,654 (-151,615). Check that the corpus was unpacked completely, or name no release to use it "
        "as it is."
    )
    monkeypatch.setitem(recipe.RELEASES, "1.12", {"test3": 3, "all splits": 38})
    with pytest.raises(InputError, match=r"1\.12: all splits has 39 utterances instead of 38 \(\+1\)\. "):
        prepare_msp_podcast(corpus, folder, release="1.12")
    monkeypatch.setitem(recipe.RELEASES, "1.11", {"train": 9, "valid": 9, "test1": 9, "test2": 9, "test3": 3})
    assert len(prepare_msp_podcast(corpus, folder, release="1.11")) == 5
    with pytest.raises(InputError, match=r"release '1\.7' is not known; give 1\.6, 1\.8, 1\.11"):
        prepare_msp_podcast(corpus, folder, release="1.7")


def test_published_sizes_add_up():
    totals = {release: sum(sizes.values()) for release, sizes in recipe.RELEASES.items() if release != "1.12"}
    assert totals == {"1.6": 50362, "1.8": 73042, "1.11": 151654, "2.0": 267905}


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize("speaker", ["Unknown", "Unknown ", "nan", "null"])
def test_unknown_speakers_are_no_speaker(tmp_path, folder, caplog, speaker, form):
    caplog.set_level("INFO")
    corpus = write_msp_tree(tmp_path / "corpus")
    text = re.sub(r",\d,(Male|Female),", f",{speaker},Unknown,", labels_of(corpus).read_text())
    labels_of(corpus).write_text(text)
    if form == "json":
        with open(labels_of(corpus), newline="") as file:
            content = json.dumps({row.pop("FileName"): row for row in csv.DictReader(file)})
        labels_of(corpus).unlink()
        content = content.replace('"nan"', "NaN").replace('"null"', "null")
        labels_of(corpus).with_suffix(".json").write_text(content)
    paths = prepare_msp_podcast(corpus, folder)
    assert {row["spk_id"] for row in read_manifest(paths["train"]).utterances.values()} == {"Unknown"}
    assert "train: 8 utterances, 0 known speakers" in caplog.text
    assert warnings(caplog) == []


def test_speakers_of_more_than_one_split_are_reported(corpus, folder, caplog):
    text = labels_of(corpus).read_text()
    labels_of(corpus).write_text(text.replace(",3,Female,Development", ",1,Female,Development"))
    prepare_msp_podcast(corpus, folder)
    assert warnings(caplog) == ["Speakers in both train and valid (1): 1 (4 and 4 utterances)."]


def test_split_set_na_is_filled_by_the_partitions_alone(corpus, folder):
    edit_labels(corpus, "Train", "NA", 2)
    with open(corpus / "Partitions.txt", "w") as file:
        file.write(f"Test2; {audio_of(corpus, 'NA')[1].name}\n")
    paths = prepare_msp_podcast(corpus, folder)
    assert list(read_manifest(paths["test2"]).utterances) == [audio_of(corpus, "NA")[1].stem]
    assert f"{audio_of(corpus, 'NA')[0].stem},,no split\n" in (folder / "excluded.csv").read_text()


def test_speakers_without_gender_or_line_are_named(tmp_path, folder, caplog):
    corpus = write_text_files(tmp_path / "corpus")
    path = corpus / "Speaker_ids.txt"
    path.write_text(path.read_text().replace("Speaker_2; Male  \n", "").replace("MSP-PODCAST_0001_0001.wav;1\n", ""))
    paths = prepare_msp_podcast(corpus, folder)
    assert warnings(caplog)[:2] == [
        f"{path} has no gender of 1 speakers: 2.",
        f"{path} names no speaker of 1 utterances, which count as unknown: MSP-PODCAST_0001_0001.wav.",
    ]
    row = read_manifest(paths["valid"]).utterances["MSP-PODCAST_0002_0001"]
    assert (row["spk_id"], row["gender"]) == ("2", "Unknown")
    assert read_manifest(paths["train"]).utterances["MSP-PODCAST_0001_0001"]["spk_id"] == "Unknown"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "Partitions.txt",
            "Train;",
            "Dev;",
            r"Partitions\.txt, line 2: expected 'SPLIT; name\.wav' .* it is 'Dev; MSP",
        ),
        ("Partitions.txt", "0001_0001.wav", "0001_0001.wa", r"Partitions\.txt, line 2: expected .* it is 'Train; MSP"),
        ("Partitions.txt", "Train; MSP", "Train MSP", r"Partitions\.txt, line 2: expected"),
        ("Partitions.txt", "0001_0002.wav", "0001_0001.wav", r"Partitions\.txt, line 3: MSP.*0001\.wav occurs twice"),
        ("Partitions.txt", "Test; ", "Test1; ", r"line 22 is in Test, but no release has Test beside Test1.*line 21"),
        (
            "Speaker_ids.txt",
            "Speaker_1; Female",
            "Speaker_1",
            r"Speaker_ids\.txt, line 1: expected 'Speaker_NUMBER; gender'",
        ),
        (
            "Speaker_ids.txt",
            "0001_0001.wav;1",
            "0001_0001.wav;",
            r"Speaker_ids\.txt, line 6: expected 'name\.wav;number or",
        ),
        ("Speaker_ids.txt", "0001_0001.wav;1", "0001_0001.wav;one", r"Speaker_ids\.txt, line 6: expected"),
        ("Speaker_ids.txt", "0001_0002.wav;", "0001_0001.wav;", r"line 7: MSP-PODCAST_0001_0001\.wav occurs twice"),
        ("Speaker_ids.txt", "*" * 40, "", r"line 6: expected 'Speaker_NUMBER; gender' or a line of asterisks"),
        ("Labels/labels.txt", ";\n", "\n", r"labels\.txt, line 1: expected '\.\.\.; A:number"),
        ("Labels/labels.txt", ";\n", "; more\n", r"labels\.txt, line 1: expected '\.\.\.; A:number"),
        ("Labels/labels.txt", "; D:", "; X:", r"labels\.txt, line 1: expected '\.\.\.; A:number; V:number; D:number;'"),
        (
            "Labels/labels.txt",
            "_0001.wav; ",
            "_0001; ",
            r"labels\.txt, line 1: expected the first line of an utterance",
        ),
        ("Labels/labels.txt", "\n\n", "\n", r"labels\.txt, line \d+: expected a rater and an emotion; a blank line"),
        ("Labels/labels.txt", "\nWORKER", "\n;WORKER", r"labels\.txt, line 2: expected a rater and an emotion"),
        ("Labels/labels.txt", "WORKER", "\nWORKER", r"labels\.txt, line 3: expected the first line of an utterance"),
        (
            "Labels/labels.txt",
            "_0002.wav; ",
            "_0001.wav; ",
            r"labels\.txt, lines 1 and \d+: MSP.*0001\.wav occurs twice",
        ),
        (
            "Labels/labels.txt",
            "; A:",
            "; A:1",
            r"labels\.txt, line 1: MSP.*0001\.wav has EmoAct 1\d.* not within 1 to 7",
        ),
    ],
)
def test_bad_text_files_say_what_and_where(tmp_path, folder, file, old, new, message):
    corpus = write_text_files(tmp_path / "corpus")
    text = (corpus / file).read_text()
    assert old in text
    (corpus / file).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        prepare_msp_podcast(corpus, folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:-20], r"json, line \d+: not JSON"),
        (lambda text: text.replace("0001_0002.wav", "0001_0001.wav"), r"json: MSP.*0001\.wav occurs twice"),
        (lambda text: text.replace("0001_0002.wav", "0001_0001.wav "), r"json: MSP.*0001\.wav occurs twice"),
        (
            lambda text: re.sub(r'("EmoVal": )[\d.]+', r"\1null", text),
            r"line 2: .*has EmoVal '', which is not",
        ),
        (lambda text: re.sub(r'("EmoVal": )[\d.]+', r"\1NaN", text), r"line 2: .*has EmoVal 'NaN', which is not"),
        (
            lambda text: re.sub(r'("EmoVal": )[\d.]+', r"\g<1>" + "9" * 5000, text, count=1),
            r"line 2: .*0001\.wav has EmoVal '9{12}\.\.\.9{13}', which is not a number",
        ),
        (lambda text: "[" * 200_000, "json: not JSON that can be used .nested too deeply"),
        (lambda text: text.replace("EmoVal", "Valence", 1), r"json, line 2: MSP.*0001\.wav has no EmoVal"),
        (lambda text: f"[{text}]", "json, line 1: not a JSON object"),
        (lambda text: '{"a.wav": 1}', r"json, line 1: a\.wav has no columns, but '1'"),
        (lambda text: "{}", "json has no labels"),
    ],
)
def test_bad_json_says_what_and_where(tmp_path, folder, edit, message):
    corpus = tmp_path / "corpus"
    write_msp_release(corpus, "1.11")
    labels_of(corpus).unlink()
    path = corpus / "Labels" / "labels_consensus.json"
    path.write_text(edit(path.read_text()))
    with pytest.raises(InputError, match=message):
        prepare_msp_podcast(corpus, folder)


def test_speakers_cut_above_the_utterances(tmp_path, folder):
    corpus = write_text_files(tmp_path / "corpus")
    (corpus / "Speaker_ids.txt").write_text("Speaker_1; Male\n")
    with pytest.raises(InputError, match=r"Speaker_ids\.txt, line 1: the end, without a line of asterisks"):
        prepare_msp_podcast(corpus, folder)


def test_files_that_disagree_on_the_split(tmp_path, folder):
    corpus = tmp_path / "corpus"
    write_msp_release(corpus, "1.11")
    edit_labels(corpus, "Train", "Test1")
    with pytest.raises(InputError, match=r"csv, line 2: .*has the Split_Set Test1, .*partition file has it in train"):
        prepare_msp_podcast(corpus, folder)


def test_a_test_set_that_lost_its_digit(corpus, folder):
    edit_labels(corpus, "Test1", "Test")
    with pytest.raises(InputError, match=r"line 14: MSP\S+ is in Test, but no release has Test beside Test1.*line 15"):
        prepare_msp_podcast(corpus, folder)


# Texts that raters may type: anything on one line that does not end a field.
typed = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n;")).map(str.strip).filter(bool)
numbers = st.floats(1, 7)
ratings = st.builds(
    Rating,
    st.from_regex(r"WORKER\d{8}", fullmatch=True),
    typed,
    st.sampled_from([None, ""]) | typed,
    st.tuples(*[numbers] * 3),
)


@given(st.lists(st.tuples(typed, st.tuples(*[numbers] * 3), st.lists(ratings, max_size=4)), min_size=1, max_size=4))
def test_raters_lines_are_read_as_they_were_written(tmp_path_factory, blocks):
    utterances = [
        MspUtterance(f"x {index}.wav", None, labels, emotion, "", "", None, ratings)
        for index, (emotion, labels, ratings) in enumerate(blocks)
    ]
    path = tmp_path_factory.mktemp("ratings") / "labels.txt"
    path.write_text("\n".join(map(format_block, utterances)), encoding="utf-8", newline="")
    for utterance, block in zip(utterances, recipe.read_blocks(path), strict=True):
        assert (block.file_name, block.emotion) == (utterance.file_name, utterance.emotion)
        assert tuple(map(float, block.labels)) == utterance.labels
        assert block.ratings == [rating.labels for rating in utterance.ratings]
    for line, rating in zip(format_block(utterances[0]).split("\n")[1:], utterances[0].ratings, strict=False):
        texts, labels = recipe.parse_label_line(line, "labels.txt, line 2")
        assert texts == [text for text in (rating.worker, rating.primary, rating.secondary) if text is not None]
        assert tuple(map(float, labels)) == rating.labels


def cut_file(content, position):
    return content[:position]


def cut_line(content, position):
    end = content.find(b"\n", position)
    return content[:position] + content[end:] if end >= 0 else content[:position]


def another_encoding(content, position):
    return content[:position] + "é".encode("latin-1") + content[position:]


DAMAGES = {
    "cut file": cut_file,
    "cut line": cut_line,
    "latin-1": another_encoding,
    "utf-16": lambda content, _: content.decode().encode("utf-16"),
    "utf-16 without mark": lambda content, _: content.decode().encode("utf-16-le"),
    "crlf": lambda content, _: content.replace(b"\n", b"\r\n"),
    "byte order mark": lambda content, _: b"\xef\xbb\xbf" + content,
    "tabs": lambda content, _: content.replace(b" ", b"\t"),
    "no first column": lambda content, _: re.sub(rb"(?m)^[^,\n]*,", b"", content),
    "no last column": lambda content, _: re.sub(rb"(?m),[^,\n]*$", b"", content),
}
HARMLESS = ("crlf", "byte order mark", "tabs")


def read_corpus(corpus):
    files = recipe.find_files(corpus)
    return {entry.file_name: entry for entry in recipe.read_entries(files)}, {
        block.file_name: block.ratings for block in recipe.read_blocks(files.ratings)
    }


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """Two corpora: one whose labels are a CSV, one of text files alone."""
    folder = tmp_path_factory.mktemp("fuzzed")
    write_msp_release(folder / "1.11", "1.11")
    return {"1.11": folder / "1.11", "1.6": write_text_files(folder / "1.6")}


@pytest.mark.parametrize(
    ("number", "name"),
    [
        ("1.11", "Labels/labels_consensus.csv"),
        ("1.11", "Labels/labels_consensus.json"),
        ("1.11", "Labels/labels.txt"),
        ("1.11", "Partitions.txt"),
        ("1.6", "Labels/labels.txt"),
        ("1.6", "Partitions.txt"),
        ("1.6", "Speaker_ids.txt"),
    ],
)
@settings(at_least(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.sampled_from(list(DAMAGES)), where=st.floats(0, 1))
def test_damaged_label_files_give_an_error_or_the_right_result(fuzzed, caplog, number, name, damage, where):
    corpus, path = fuzzed[number], fuzzed[number] / name
    csv_path = corpus / "Labels/labels_consensus.csv"
    aside = csv_path.with_suffix(".aside")
    if path.suffix == ".json":
        csv_path.rename(aside)
    sound = path.read_bytes()
    entries, raters = read_corpus(corpus)
    caplog.clear()
    try:
        path.write_bytes(DAMAGES[damage](sound, int(where * len(sound))))
        damaged_entries, damaged_raters = read_corpus(corpus)
    except InputError as error:
        assert damage not in HARMLESS
        assert path.name in str(error)
        assert re.search(r"line \d", str(error)) or not path.read_text().strip()
        return
    finally:
        path.write_bytes(sound)
        if aside.exists():
            aside.rename(csv_path)
    if damage in HARMLESS:
        assert (damaged_entries, damaged_raters) == (entries, raters)
    if any("cut short" in message or "no gender" in message for message in caplog.messages):
        return  # warned of
    # What a cut took away is missing, and then reported as such; what is left is as it was, but for a gender cut short.
    for name, entry in damaged_entries.items():
        assert entry.labels in (None, entries[name].labels)
        assert entry.split in (None, entries[name].split)
        assert entry.spk_id in ("Unknown", entries[name].spk_id)
        assert entry.emotion in ("", entries[name].emotion)
    for name, ratings in damaged_raters.items():
        assert ratings == raters[name][: len(ratings)]


def test_skip_prep_takes_what_is_there(corpus, folder):
    with pytest.raises(InputError, match="has no manifests"):
        prepare_msp_podcast(corpus, folder, skip_prep=True)
    paths = prepare_msp_podcast(corpus, folder)
    shutil.rmtree(corpus)
    assert prepare_msp_podcast(corpus, folder, skip_prep=True) == paths


def test_command_line(corpus, folder):
    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
        command = [sys.executable, SCRIPT, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    result = run(corpus, folder)
    assert result.returncode == 0
    assert result.stderr.startswith("train: 8 utterances, 2 known speakers, ")
    labels_of(corpus).unlink()
    result = run(corpus, folder)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {corpus} has no label file")
    assert "Traceback" not in result.stderr
