import hashlib
import json
import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speechbrain.dataio.dataset import DynamicItemDataset

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data import manifests
from ser_ts_lobes.data.manifests import (
    COLUMNS,
    UNRATED,
    Utterance,
    find_manifests,
    is_prepared,
    read_manifest,
    read_unrated,
    write_manifests,
)
from ser_ts_lobes.errors import InputError

SCALE = (1.0, 7.0)


def utterance(id="a", spk_id="1", labels=(2.0, 3.5, 7.0), transcript="well", duration=1.5, wav=None):
    return Utterance(id, duration, wav or f"/corpus/Audios/{id}.wav", spk_id, "Male", labels, transcript, "N")


def write(folder, **splits):
    return write_manifests(folder, splits, "/corpus", "inputs", SCALE)


def own_csv(folder, text):
    folder.mkdir(exist_ok=True)
    path = folder / "train.csv"
    path.write_text(text, encoding="utf-8")
    return path


OWN = "ID,duration,wav,spk_id,gender,activation,valence,dominance,transcript,emotion\n"


def test_columns_hold_the_dimensions_in_order():
    assert COLUMNS[5:8] == DIMENSIONS


def test_manifest_is_exactly_this_text(tmp_path):
    write(
        tmp_path,
        train=[
            utterance("a", labels=(1.0, 0.1 + 0.9000001, 6.99), transcript='He said "five" for $5', duration=1 / 3),
            utterance("b", transcript=None),
        ],
    )
    assert (tmp_path / "train.csv").read_bytes().decode() == (
        "ID,duration,wav,spk_id,gender,activation,valence,dominance,transcript,emotion\n"
        'a,0.3333333333333333,$data_root/Audios/a.wav,1,Male,1.0,1.0000001,6.99,"He said ""five"" for $5",N\n'
        "b,1.5,$data_root/Audios/b.wav,1,Male,2.0,3.5,7.0,,N\n"
    )
    text = (tmp_path / "manifests.json").read_text()
    sidecar = json.loads(text)
    assert text == json.dumps(sidecar, indent=2) + "\n"  # people read it, too
    assert sidecar["data_root"] == "/corpus"
    train = sidecar["splits"]["train"]
    assert (train["utterances"], train["speakers"], train["missing_transcripts"]) == (2, 1, ["b"])
    assert train["hours"] == 0.0005
    write(tmp_path, train=[utterance("a", duration=123.45 * 3600), utterance("b", duration=0.45)])
    sidecar = json.loads((tmp_path / "manifests.json").read_text())
    assert sidecar["splits"]["train"]["hours"] == 123.4501


texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["$5", "$data_root", 'a "b", c', "\n x"])
labels = st.floats(1, 7)
utterances = st.builds(
    lambda *fields: fields,
    st.floats(1e-3, 1e5),
    texts,
    texts,
    st.tuples(labels, labels, labels),
    st.none() | texts,
    texts,
)


@given(st.lists(utterances, min_size=1, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("written")
    written = [
        Utterance(f"id $1 {i}", duration, f"/corpus/$5 {i}.wav", *rest) for i, (duration, *rest) in enumerate(written)
    ]
    manifest = read_manifest(write(folder, test1=written)["test1"])

    assert list(manifest.utterances) == [w.id for w in written]
    for w in written:
        row = manifest.utterances[w.id]
        assert (row["duration"], row["wav"]) == (w.duration, w.wav)
        assert row["spk_id"] == (" ".join(w.spk_id.split()) or "Unknown")
        assert (row["gender"], row["emotion"]) == (" ".join(w.gender.split()), " ".join(w.emotion.split()))
        assert row["transcript"] == " ".join((w.transcript or "").split())
    np.testing.assert_array_equal(manifest.labels(), [w.labels for w in written])
    assert manifest.missing_transcripts == {w.id for w in written if w.transcript is None}
    assert (manifest.name, manifest.label_range, manifest.data_root) == ("test1", SCALE, "/corpus")


def test_rows_fit_a_speechbrain_dataset(tmp_path):
    path = write(tmp_path, train=[utterance("a"), utterance("b", labels=(4.0, 5.0, 6.0))])["train"]
    dataset = DynamicItemDataset(read_manifest(path).utterances, output_keys=["id", "wav", *DIMENSIONS])
    assert dataset[1] == {
        "id": "b",
        "wav": "/corpus/Audios/b.wav",
        "activation": 4.0,
        "valence": 5.0,
        "dominance": 6.0,
    }
    assert read_manifest(path).labels().dtype == np.float64


def test_splits_come_in_order_and_stale_ones_go(tmp_path):
    splits = {name: [utterance(name)] for name in ("test10", "test2", "valid", "test", "train")}
    order = ["train", "valid", "test", "test2", "test10"]
    assert list(write(tmp_path, **splits)) == order
    (tmp_path / "excluded.csv").write_text("ID\n")
    assert list(find_manifests(tmp_path)) == order

    own_csv(tmp_path, OWN).rename(tmp_path / "test7.csv")
    del splits["test10"], splits["test2"]
    write(tmp_path, **splits)
    assert list(find_manifests(tmp_path)) == ["train", "valid", "test", "test7"]  # a user's own file stays


def test_the_test_set_comes_before_test_set_1(tmp_path):
    splits = {name: [utterance(name)] for name in ("test1", "test", "train")}
    assert list(write(tmp_path, **splits)) == list(find_manifests(tmp_path)) == ["train", "test", "test1"]


def test_no_manifests_names_the_prepare_script(tmp_path):
    with pytest.raises(InputError, match="python <corpus>_prepare.py DATA_FOLDER"):
        find_manifests(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": [utterance("a")], "test": [utterance("a")]}, r"a occurs twice \(in train and in test\)"),
        (
            {"train": [utterance(labels=(1.0, float("nan"), 2.0))]},
            "train, a: valence nan is not within 1 to 7",
        ),
        ({"train": [utterance(labels=(1.0, 2.0, 7.01))]}, "dominance 7.01 is not within 1 to 7"),
        ({"train": [utterance(duration=0.0)]}, "duration of 0.0 s is not positive"),
        ({"train": [utterance(duration=float("inf"))]}, "duration of inf s is not positive"),
        ({"train": [utterance(wav="/corpus2/a.wav")]}, "/corpus2/a.wav, is not under /corpus"),
        ({"train": [utterance(" a")]}, "the id ' a'"),
        ({"train": []}, "train has no utterances"),
        ({"valid": [utterance(labels=None)]}, "valid, a: only a test set can be without labels"),
        ({"test3": [utterance("a", labels=None), utterance("b")]}, "test3, b: .* only as a whole"),
        ({"test3": [utterance("a"), utterance("b", labels=None)]}, "test3, b: .* only as a whole"),
        ({"dev": [utterance()]}, "'dev' is not the name of a split"),
    ],
)
def test_bad_corpus_is_refused(tmp_path, splits, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path, **splits)
    assert not (tmp_path / "manifests.json").exists()


def test_shared_speakers_are_a_warning_unless_unknown(tmp_path, caplog):
    train = [utterance("a", "7"), utterance("b", "7"), utterance("c", "Unknown"), utterance("d", "")]
    write(
        tmp_path,
        train=train,
        test1=[utterance("e", "7"), utterance("f", "Unknown"), utterance("h", "")],
        test2=[utterance("g", "7"), utterance("i", "8")],
    )
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["Speakers in both train and test (1): 7 (2 and 2 utterances)."]


def test_ten_shared_speakers_are_named(tmp_path, caplog):
    both = [[utterance(f"{split}{speaker}", f"{speaker:02}") for speaker in range(11)] for split in ("train", "valid")]
    write(tmp_path, train=both[0], valid=both[1])
    [message] = caplog.messages
    assert "(11): 00 (1 and 1 utterances), " in message and ", 09 (1 and 1 utterances) and 1 more." in message


def test_unlabelled_test_set_is_read_but_has_no_labels(tmp_path):
    paths = write(tmp_path, train=[utterance("a")], test3=[utterance("b", labels=None), utterance("c", labels=None)])
    assert (tmp_path / "test3.csv").read_text().splitlines()[1] == "b,1.5,$data_root/Audios/b.wav,1,Male,,,,well,N"
    manifest = read_manifest(paths["test3"])
    assert not manifest.labelled
    assert all(math.isnan(row[name]) for row in manifest.utterances.values() for name in DIMENSIONS)
    with pytest.raises(InputError, match=r"test3\.csv has no labels: .* predicted, but not scored"):
        manifest.labels()
    assert read_manifest(paths["train"]).labelled


def test_unknown_speakers_are_called_unknown(tmp_path):
    speakers = {"a": "", "b": "unknown", "c": "Unknown ", "e": "NaN", "f": "null", "d": "7"}
    path = write(tmp_path, train=[utterance(id, spk_id) for id, spk_id in speakers.items()])["train"]
    assert [row["spk_id"] for row in read_manifest(path).utterances.values()] == ["Unknown"] * 5 + ["7"]
    assert json.loads((tmp_path / "manifests.json").read_text())["splits"]["train"]["speakers"] == 1
    # A person's own file says it in as many ways.
    rows = [f"{id},1,/x/a.wav,{speaker},F,1,2,3,well,N\n" for id, speaker in speakers.items()]
    own = read_manifest(own_csv(tmp_path / "own", OWN + "".join(rows)))
    assert [row["spk_id"] for row in own.utterances.values()] == ["Unknown"] * 5 + ["7"]


def test_edited_manifest_is_refused_until_the_sidecar_goes(tmp_path):
    path = write(tmp_path, train=[utterance(transcript="")])["train"]
    assert not read_manifest(path).missing_transcripts
    path.write_text(path.read_text().replace("3.5", "4.5"))
    with pytest.raises(InputError, match=r"edited after preparation.*delete .*manifests\.json"):
        read_manifest(path)
    assert not is_prepared(tmp_path, "inputs")

    (tmp_path / "manifests.json").unlink()
    with pytest.raises(InputError, match="no data_root was given"):
        read_manifest(path)
    manifest = read_manifest(path, data_root="/elsewhere")
    assert manifest.utterances["a"]["wav"] == "/elsewhere/Audios/a.wav"
    assert manifest.utterances["a"]["valence"] == 4.5
    assert (manifest.missing_transcripts, manifest.label_range) == ({"a"}, None)


def test_own_csv_needs_no_data_root_for_plain_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = own_csv(tmp_path, OWN + "a,1,/x/a.wav,1,F,1,2,3,for $data_root,N\nb,1,b.wav,1,F,1,2,3,,N\n")
    manifest = read_manifest(path)
    assert [row["wav"] for row in manifest.utterances.values()] == ["/x/a.wav", str(tmp_path / "b.wav")]
    assert manifest.utterances["a"]["transcript"] == "for $data_root"
    assert manifest.missing_transcripts == {"b"}


ROW = "a,1,/x/a.wav,1,F,1,2,3,well,N\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,duration\na,1\n", "train.csv, line 1: no column wav, spk_id, gender, activation"),
        ("", "train.csv, line 1: no column ID.*; it must have ID, duration, wav, .*, emotion, separated by commas"),
        (OWN.replace("ID", "ID,wav,wav,ID") + ROW, "train.csv, line 1: the column ID, wav is there twice; keep one"),
        (OWN, "has no utterances"),
        (OWN + ROW + "\n" + ROW, "train.csv, lines 2 and 4: ID a occurs twice"),
        (
            OWN + ROW + "b,1,/x/b.wav,1,F,1,high,3,,N\n",
            "train.csv, line 3: the valence of b is 'high', not a number",
        ),
        (OWN + "b,,/x/b.wav,1,F,1,2,3,,N\n", "line 2: the duration of b is '', not a number"),
        (OWN + "b,0,/x/b.wav,1,F,1,2,3,,N\n", "line 2: the duration of b is 0 s, which is not positive"),
        (OWN + "b,-1.5,/x/b.wav,1,F,1,2,3,,N\n", "line 2: the duration of b is -1.5 s, which is not positive"),
        (OWN + "b,1_0,/x/b.wav,1,F,1,2,3,,N\n", "line 2: the duration of b is '1_0', not a number"),
        (OWN + f"b,{'9' * 5000},/x/b.wav,1,F,1,2,3,,N\n", r"the duration of b is '9{12}\.\.\.9{13}', not a number"),
        (OWN + ROW + ROW.replace("a,", "a ,", 1), "train.csv, lines 2 and 3: ID a occurs twice"),
        (OWN.replace("gender", "wav ") + ROW, "train.csv, line 1: no column gender"),
        (OWN.replace("ID", "ID,wav") + ROW, "train.csv, line 1: the column wav is there twice; keep one"),
        (OWN.replace("ID", "ID, duration ") + ROW, "train.csv, line 1: the column duration is there twice"),
        (OWN + "b,1,/x/b.wav,1,F,1,2,nan,,N\n", "line 2: the dominance of b is 'nan', not a number"),
        (OWN + "b,1,/x/b.wav\n", "line 2: not the 10 values of the header"),
        (OWN + "b,1,/x/b.wav,1,F,1,2,3,no, I say,N\n", "line 2: not the 10 values of the header"),
        (OWN + ROW + "b,1,/x/b.wav,1,F,,,,,N\n", "line 3: b has no labels, unlike the rows above"),
        (OWN + "b,1,/x/b.wav,1,F,,,,,N\n" + ROW, "line 3: a has labels, unlike the rows above"),
        (OWN + "b,1,/x/b.wav,1,F,1,2,,,N\n", "line 2: the dominance of b is '', not a number"),
        (OWN + 'b,1,/x/b.wav,1,F,1,2,3,"no', "line 2: not CSV"),
    ],
)
def test_bad_own_csv_says_where(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_manifest(own_csv(tmp_path, text))


def test_missing_or_undecodable_manifest(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_manifest(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_bytes(OWN.encode() + "é".encode("latin-1"))
    with pytest.raises(InputError, match=r"train\.csv, line 2: not text in UTF-8"):
        read_manifest(tmp_path / "train.csv")


def test_damaged_sidecar_is_refused_and_prepared_again(tmp_path):
    path = write(tmp_path, train=[utterance()])["train"]
    (tmp_path / "manifests.json").write_text("{")
    with pytest.raises(InputError, match=r"manifests\.json is damaged"):
        read_manifest(path)
    assert not is_prepared(tmp_path, "inputs")
    write(tmp_path, train=[utterance()])
    assert is_prepared(tmp_path, "inputs")


SOUND = {"inputs_fingerprint": "inputs", "code_version": manifests.__version__, "data_root": "/", "label_range": [1, 7]}
ENTRY = {"file": "train.csv", "sha256": "", "missing_transcripts": []}


@pytest.mark.parametrize(
    "content",
    [
        [],
        "text",
        None,
        {},
        SOUND,
        SOUND | {"splits": []},
        SOUND | {"splits": {"train": []}},
        SOUND | {"splits": {"train": {"file": "train.csv"}}},
        SOUND | {"splits": {"train": ENTRY | {"file": "../precious.csv"}}},
        SOUND | {"splits": {"train": ENTRY | {"missing_transcripts": [1]}}},
        SOUND | {"splits": {"dev": ENTRY | {"file": "dev.csv"}}},
        SOUND | {"splits": {"train": ENTRY}, "label_range": [1]},
        SOUND | {"splits": {"train": ENTRY}, "label_range": ["1", "7"]},
        SOUND | {"splits": {"train": ENTRY}, "data_root": 5},
        SOUND | {"splits": {"train": ENTRY}, "side_files": []},
    ],
)
def test_sidecar_of_another_shape_is_refused_and_prepared_again(tmp_path, content):
    folder = tmp_path / "manifests"
    path = write(folder, train=[utterance()])["train"]
    (tmp_path / "precious.csv").write_text("mine")
    (folder / "manifests.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"manifests\.json is damaged \(not what"):
        read_manifest(path)
    assert not is_prepared(folder, "inputs")
    write(folder, train=[utterance()])
    assert is_prepared(folder, "inputs")
    assert (tmp_path / "precious.csv").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, r"\(nested too deeply\)"),
        ('{"splits": ' + "9" * 5000 + "}", r"\(a number has too many digits\)"),
        ("{}\n{", r"manifests\.json is damaged \(.*manifests\.json, line 2"),
    ],
)
def test_json_that_cannot_be_used_is_one_sentence(tmp_path, text, message):
    path = write(tmp_path, train=[utterance()])["train"]
    (tmp_path / "manifests.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(path)


def test_manifest_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"file.* can't be made"):
            write(folder, train=[utterance()])
        assert not is_prepared(folder, "inputs")
        with pytest.raises(InputError, match="has no manifests"):
            find_manifests(folder)


def test_require_transcripts_names_the_command(tmp_path):
    path = write(tmp_path, train=[utterance("a"), utterance("b", transcript=None), utterance("c", transcript="")])
    with pytest.raises(InputError) as error:
        read_manifest(path["train"]).require_transcripts()
    assert str(error.value) == (
        "train.csv: 1 of 3 utterances have no transcript (first: b). Complete the corpus's own transcripts or, "
        f"where its recipe takes a recogniser's, run `ser-ts transcribe {tmp_path}`; then this command again."
    )
    read_manifest(write(tmp_path, train=[utterance("c", transcript="")])["train"]).require_transcripts()


def test_is_prepared_only_for_these_inputs_and_this_code(tmp_path, monkeypatch):
    assert not is_prepared(tmp_path / "nowhere", "inputs")
    write(tmp_path, train=[utterance("a")], test=[utterance("b")])
    assert is_prepared(tmp_path, "inputs")
    assert not is_prepared(tmp_path, "other inputs")
    with monkeypatch.context() as changed:
        changed.setattr(manifests, "__version__", "99")
        assert not is_prepared(tmp_path, "inputs")
    (tmp_path / "test.csv").unlink()
    assert not is_prepared(tmp_path, "inputs")


def test_interrupted_writing_leaves_no_prepared_folder(tmp_path, monkeypatch):
    write(tmp_path, train=[utterance("a")], valid=[utterance("b")])
    replace = os.replace

    def fail_at_valid(source, target):
        if Path(target).name == "valid.csv":
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_valid)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, train=[utterance("c")], valid=[utterance("d")])
    assert not is_prepared(tmp_path, "inputs")
    assert (tmp_path / "valid.csv").read_text().splitlines()[1].startswith("b,")


def test_own_csv_with_byte_order_mark(tmp_path):
    assert list(read_manifest(own_csv(tmp_path, "\ufeff" + OWN + ROW)).utterances) == ["a"]


def test_a_lost_side_file_is_noticed_in_a_folder_in_new_folders(tmp_path):
    folder, side_file = tmp_path / "new" / "manifests", tmp_path / "excluded.csv"
    side_file.write_text("ID\n")
    write_manifests(folder, {"train": [utterance()]}, "/corpus", "inputs", SCALE, side_files=[side_file])
    assert is_prepared(folder, "inputs")
    side_file.unlink()
    assert not is_prepared(folder, "inputs")


def test_a_prepared_folder_that_has_moved_is_still_prepared(tmp_path):
    (folder := tmp_path / "manifests").mkdir()
    (folder / "excluded.csv").write_text("ID\n")
    splits = {"train": [utterance()]}
    write_manifests(folder, splits, "/corpus", "inputs", SCALE, side_files=[folder / "excluded.csv"])
    moved = folder.rename(tmp_path / "moved")
    assert is_prepared(moved, "inputs")
    (moved / "excluded.csv").write_text("ID\na\n")
    assert not is_prepared(moved, "inputs")


def test_a_manifest_has_the_fingerprint_of_its_file(tmp_path):
    path = write(tmp_path, train=[utterance()])["train"]
    assert read_manifest(path).fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_was_written_is_logged(tmp_path, caplog):
    hour = {"duration": 3600.0}
    with caplog.at_level(logging.INFO):
        write(
            tmp_path,
            train=[utterance("a", **hour), utterance("b", "2"), utterance("c", "", transcript=None)],
            test3=[utterance("d", labels=None)],
        )
    assert caplog.messages[0] == "Speakers in both train and test (1): 1 (1 and 1 utterances)."
    assert caplog.messages[1:] == [
        "train: 3 utterances, 2 known speakers, 1.00 h, 1 without a transcript.",
        "test3: 1 utterances, 1 known speakers, 0.00 h, 0 without a transcript, all without labels.",
    ]


def test_two_labels_are_not_taken_for_three(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write(tmp_path, train=[utterance(labels=(2.0, 3.0))])
    assert os.listdir(tmp_path) == []


def test_a_split_that_is_gone_may_have_been_deleted_by_hand(tmp_path):
    write(tmp_path, train=[utterance("a")], valid=[utterance("b")])["valid"].unlink()
    assert list(write(tmp_path, train=[utterance("a")])) == ["train"]
    assert is_prepared(tmp_path, "inputs")


def test_a_system_that_only_hears_does_not_see_transcripts(tmp_path):
    def fingerprints(reads, data_root="/corpus", **changes):
        path = write(tmp_path / "manifests", train=[utterance("a"), utterance("b", **changes)])["train"]
        return read_manifest(path, data_root).fingerprints(reads)

    hears, reads = fingerprints(False), fingerprints(True)
    assert hears.keys() == {"train"} and reads.keys() == {"train", "train_transcripts"}
    assert reads["train"] == hears["train"] != reads["train_transcripts"]
    assert fingerprints(True, data_root="/moved") == reads
    reworded = fingerprints(True, transcript="better")
    assert reworded["train"] == reads["train"] and reworded["train_transcripts"] != reads["train_transcripts"]
    changes = {"wav": "/corpus/b.wav"}, {"duration": 2.0}, {"spk_id": "2"}, {"labels": (2.0, 3.5, 6.0)}
    others = [fingerprints(True, **change) for change in changes]
    assert len({other["train"] for other in [reads, *others]}) == 5
    assert {other["train_transcripts"] for other in others} == {reads["train_transcripts"]}


def test_a_relative_data_root_is_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_manifests("manifests", {"train": [utterance(wav="corpus/a.wav")]}, "corpus", "inputs", SCALE)["train"]
    assert read_manifest(path).utterances["a"]["wav"] == str(tmp_path / "corpus" / "a.wav")
    manifest = read_manifest(path, "moved")
    assert manifest.utterances["a"]["wav"] == str(tmp_path / "moved" / "a.wav")
    assert manifest.data_root == str(tmp_path / "moved")


def test_a_sidecar_of_before_names_no_side_files(tmp_path):
    path = write(tmp_path, train=[utterance()])["train"]
    sidecar = json.loads((tmp_path / "manifests.json").read_text())
    del sidecar["side_files"], sidecar["sha256"]
    (tmp_path / "manifests.json").write_text(json.dumps(sidecar))
    assert is_prepared(tmp_path, "inputs") and read_manifest(path).data_root == "/corpus"


def test_unrated_speech_has_no_labels_whatever_its_file_says(tmp_path):
    write(tmp_path / "corpus", train=[utterance("a"), utterance("b")], valid=[utterance("c")])
    rated = read_manifest(tmp_path / "corpus" / "train.csv")
    unrated = read_unrated(rated.path)
    assert unrated.name == UNRATED == "unrated" and not unrated.labelled and rated.labelled
    assert unrated.fingerprint == rated.fingerprint
    assert {id: row["transcript"] for id, row in unrated.utterances.items()} == {"a": "well", "b": "well"}


def test_unrated_speech_that_validates_or_tests_is_refused(tmp_path):
    write(tmp_path / "corpus", train=[utterance("a")], valid=[utterance("c")], test1=[utterance("d")])
    splits = [read_manifest(path) for path in find_manifests(tmp_path / "corpus").values()]
    own = OWN + "x,1.5,/other/a.wav,1,Male,,,,well,\ny,1.5,{},1,Male,,,,well,\n"
    assert len(read_unrated(own_csv(tmp_path / "own", own.format("/other/d.wav")), splits).utterances) == 2
    for held_out in ("/corpus/Audios/c.wav", "/corpus/./Audios/../Audios/d.wav"):
        path = own_csv(tmp_path / "own", own.format(held_out))
        with pytest.raises(InputError, match=r"train.csv: 1 of 2 recordings are of the sets .* \(first: y\)"):
            read_unrated(path, splits)


def test_unrated_speech_that_is_rated_is_left_out(tmp_path, caplog):
    write(tmp_path / "corpus", train=[utterance("a"), utterance("b")], valid=[utterance("c")])
    splits = [read_manifest(path) for path in find_manifests(tmp_path / "corpus").values()]
    own = OWN + "x,1.5,{},1,Male,,,,well,\ny,1.5,/corpus/Audios/../Audios/b.wav,1,Male,,,,,\n"
    path = own_csv(tmp_path / "own", own.format("/other/a.wav"))
    with caplog.at_level(logging.INFO):
        unrated = read_unrated(path, splits)
    assert list(unrated.utterances) == ["x"] and unrated.missing_transcripts == frozenset()
    assert "1 of 2 recordings are rated, and left out" in caplog.text
    assert read_unrated(path).missing_transcripts == {"y"}
    path = own_csv(tmp_path / "own", own.format("/corpus/Audios/a.wav"))
    with pytest.raises(InputError, match="all 2 recordings are of the training set, which is rated: name others"):
        read_unrated(path, splits)
