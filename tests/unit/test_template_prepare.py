import csv
import importlib.util

import pytest

from ser_ts_lobes.data.manifests import TRANSCRIPT_COLUMNS, read_manifest
from ser_ts_lobes.data.ratings import read_ratings
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.text_files import write_csv
from tests.fixtures_recordings import write_recordings
from tests.integration.programs import ROOT, run

SCRIPT = ROOT / "recipes" / "Template" / "template_prepare.py"
spec = importlib.util.spec_from_file_location("template_prepare", SCRIPT)
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)


@pytest.fixture
def table(tmp_path):
    return write_recordings(tmp_path / "recordings")


def prepare(table, **options):
    written = recipe.prepare_template(table.parent, table.parent.parent / "manifests", **options)
    return {name: read_manifest(path) for name, path in written.items()}


def rows_of(table):
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def rewrite(table, rows):
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def speakers_of(manifests):
    return {name: {row["spk_id"] for row in manifest.utterances.values()} for name, manifest in manifests.items()}


def test_the_manifests_say_what_the_table_says(table):
    manifests = prepare(table)
    assert list(manifests) == ["train", "valid", "test"]
    utterances = {id: row for manifest in manifests.values() for id, row in manifest.utterances.items()}
    assert len(utterances) == 40
    for row in rows_of(table):
        utterance = utterances[row["file"]]
        for name in ("activation", "valence", "dominance"):
            assert utterance[name] == float(row[name])
        assert (utterance["spk_id"], utterance["transcript"]) == (row["speaker"], row["transcript"])
        assert utterance["wav"] == str(table.parent / row["file"]) and utterance["duration"] > 0.3
        assert utterance["emotion"] == row.get("emotion", "")
    assert manifests["train"].label_range == (1, 7)


def test_classes_are_taken_up(tmp_path):
    table = write_recordings(tmp_path / "recordings", emotion=lambda place: ("angry", "sad")[place % 2])
    test_the_manifests_say_what_the_table_says(table)


def write_raters(table, *rows):
    (table.parent / "ratings.csv").write_text("\n".join(["file,rater,activation,valence,dominance", *rows]) + "\n")


def test_each_raters_answers_are_taken_up(table):
    first, second, *_ = (row["file"] for row in rows_of(table))
    folder = table.parent.parent / "manifests"
    prepare(table)
    with pytest.raises(InputError, match="has no ratings.csv"):
        read_ratings(folder, [first])
    write_raters(table, f"{first},Ann,1,2.5,3", f"{second},Ann,7,7,7", f"{first},Ben,2,,4")
    prepare(table)
    assert read_ratings(folder, [first]) == {first: ((1, 2), (2.5,), (3, 4))}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{},Ann,1,2,8", r"line 2: dominance of .* is '8'; give a number from 1 to 7"),
        ("{},Ann,high,2,7", r"line 2: activation of .* is 'high'; give a number from 1 to 7"),
        ("x{},Ann,1,2,7", r"line 2: x.* is no file of recordings.csv; correct the name"),
    ],
)
def test_answers_that_cant_be_used_are_one_sentence(table, row, problem):
    write_raters(table, row.format(rows_of(table)[0]["file"]))
    with pytest.raises(InputError, match=problem):
        prepare(table)


def test_speakers_are_divided_alike_in_any_order(table):
    divided = speakers_of(prepare(table))
    assert {name: len(speakers) for name, speakers in divided.items()} == {"train": 6, "valid": 2, "test": 2}
    assert len(set.union(*divided.values())) == 10
    rewrite(table, rows_of(table)[::-1])
    assert speakers_of(prepare(table)) == divided


def test_a_column_of_splits_is_kept(tmp_path):
    splits = ["train", "valid", "test1", "test2"]
    table = write_recordings(tmp_path / "recordings", split=lambda place: splits[place // 4 % 4])
    manifests = prepare(table)
    assert list(manifests) == splits
    split_of = {id: name for name, manifest in manifests.items() for id in manifest.utterances}
    assert split_of == {row["file"]: row["split"] for row in rows_of(table)}


def test_the_recognisers_words_fill_what_nobody_transcribed(tmp_path):
    table = write_recordings(tmp_path / "recordings", transcript=lambda place: "" if place < 3 else "by hand")
    missing = set.union(*({*manifest.missing_transcripts} for manifest in prepare(table).values()))
    files = [row["file"] for row in rows_of(table)]
    assert missing == set(files[:3])
    said = [(files[0], "heard", "m", "r"), (files[5], "misheard", "m", "r"), (files[1], "", "m", "r")]
    write_csv(tmp_path / "manifests" / "transcripts.csv", TRANSCRIPT_COLUMNS, said)
    manifests = prepare(table)
    words = {id: row["transcript"] for manifest in manifests.values() for id, row in manifest.utterances.items()}
    assert [words[file] for file in files[:6]] == ["heard", "", "", "by hand", "by hand", "by hand"]
    missing = set.union(*({*manifest.missing_transcripts} for manifest in manifests.values()))
    assert missing == {files[2]}  # of the second somebody has heard that nothing was said


def test_it_is_prepared_again_when_the_table_or_the_scale_has_changed(table):
    prepare(table)
    train = table.parent.parent / "manifests" / "train.csv"
    written = train.stat().st_mtime_ns
    prepare(table)
    assert train.stat().st_mtime_ns == written
    assert prepare(table, label_range=(0, 10))["train"].label_range == (0, 10)
    rewrite(table, [row | {"valence": "3.25"} for row in rows_of(table)])
    assert {row["valence"] for row in prepare(table)["train"].utterances.values()} == {3.25}
    table.unlink()
    assert set(prepare(table, skip_prep=True)) == {"train", "valid", "test"}


def test_recordings_that_cannot_be_used_are_left_out_by_name(table, caplog):
    files = [row["file"] for row in rows_of(table)]
    (table.parent / files[4]).write_bytes(b"no audio")
    (table.parent / files[9]).unlink()
    kept = {id for manifest in prepare(table).values() for id in manifest.utterances}
    assert kept == set(files) - {files[4], files[9]}
    assert f"Left out 2 recordings that can't be used: {files[4]}, {files[9]}" in caplog.text
    with open(table.parent.parent / "manifests" / "excluded.csv") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["unreadable", "missing"]


def say(place, **cells):
    def change(rows):
        rows[place] |= cells
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (say(2, valence="high"), r"recordings.csv, line 4: valence of Audios/\S+ is 'high'; give a number"),
        (say(2, dominance="nan"), "line 4: dominance of .* is 'nan'"),
        (say(2, activation="8"), r"Audios/\S+: activation 8.0 is not within 1 to 7"),
        (say(2, speaker=" "), r"line 4: Audios/\S+ has no speaker; name one, or add a column split"),
        (lambda rows: rows[:8], "fewer than 3 speakers .*add a column split"),
        (lambda rows: [*rows, rows[0]], r"lines 2 and 42: file Audios/\S+ occurs twice"),
        (lambda rows: [row | {"split": "dev"} for row in rows], "'dev' is not the name of a split; use train, valid"),
        (lambda rows: [{"file": row["file"]} for row in rows], "line 1: no column speaker, activation, valence"),
        (say(2, file="../elsewhere.wav"), r"\.\./elsewhere.wav, is not under"),
    ],
)
def test_what_is_wrong_is_one_sentence(table, change, message):
    (table.parent.parent / "elsewhere.wav").write_bytes((table.parent / rows_of(table)[0]["file"]).read_bytes())
    rewrite(table, change(rows_of(table)))
    with pytest.raises(InputError, match=message):
        prepare(table)


def test_an_empty_table_and_none_are_said(table):
    table.write_text(table.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="recordings.csv has no recordings"):
        prepare(table)
    table.unlink()
    with pytest.raises(InputError, match="recordings.csv does not exist"):
        prepare(table)


def test_the_command_says_what_it_wrote(table):
    output = run(SCRIPT, table.parent, table.parent.parent / "m", "--label-range", 0, 7)
    assert "train: 24 utterances" in output
    output = run(SCRIPT, table.parent, table.parent.parent / "m", "--label-range", 1, 2, succeeds=False)
    assert "error: " in output and "is not within 1 to 2" in output and "Traceback" not in output
