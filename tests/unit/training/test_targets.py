"""Teacher targets survive the disk, and are refused when they don't fit."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.training.targets import TeacherTargets, save_targets

ARRAYS = ("embedding", "prediction", "label", "residual", "spread", "text", "sentence")


@pytest.fixture
def targets():
    """Return targets of three utterances."""
    rng = np.random.default_rng(0)
    return TeacherTargets(
        ids=["MSP-1", "MSP-2", "Ses01F_ü"],
        embedding=rng.normal(size=(3, 8)).astype(np.float32),
        prediction=rng.normal(size=(3, 3)),
        label=rng.normal(size=(3, 3)),
        residual=rng.normal(size=(3, 3)),
        made_from={"manifest": "m1", "teacher": "t1", "spread": "s1"},
        spread=rng.uniform(size=(3, 3)),
        text=rng.normal(size=(3, 5)).astype(np.float32),
        sentence=rng.normal(size=(3, 7)).astype(np.float32),
    )


def test_load_returns_what_was_saved(targets, tmp_path):
    path = tmp_path / "targets.safetensors"
    targets.embedding = np.asfortranarray(targets.embedding)  # the file's order is C
    targets.save(path)
    loaded = TeacherTargets.load(path)
    assert loaded.ids == targets.ids
    assert loaded.made_from == targets.made_from
    for name in ARRAYS:
        array = getattr(loaded, name)
        np.testing.assert_array_equal(array, getattr(targets, name), strict=True)
    assert [file.name for file in tmp_path.iterdir()] == ["targets.safetensors"]


def test_the_targets_of_all_splits_are_in_the_teachers_run(targets, tmp_path, capsys):
    save_targets(tmp_path, {"train": targets, "test1": targets})
    paths = RunFolder(tmp_path).targets_paths()
    assert paths == [tmp_path / "targets" / f"{split}.safetensors" for split in ("test1", "train")]
    assert all(TeacherTargets.load(path).ids == targets.ids for path in paths)
    assert capsys.readouterr().out == f"Targets and plots: {tmp_path}\n"


def test_unrated_utterances_have_neither_label_nor_residual(targets, tmp_path):
    path = tmp_path / "targets.safetensors"
    targets.label = targets.residual = None
    targets.save(path)
    loaded = TeacherTargets.load(path)
    assert loaded.label is None and loaded.residual is None
    np.testing.assert_array_equal(loaded.spread, targets.spread, strict=True)
    targets.label = targets.prediction
    with pytest.raises(InputError, match="there is no residual; nothing was written"):
        targets.save(path)
    targets.label, targets.embedding = None, None
    with pytest.raises(InputError, match="there is no embedding"):
        targets.save(path)


def test_targets_of_before_spreads_were_told_load(targets, tmp_path):
    targets.spread = None
    targets.save(tmp_path / "targets.safetensors")
    assert TeacherTargets.load(tmp_path / "targets.safetensors").spread is None


def test_each_embedding_that_can_be_taught_is_there_or_missed_when_it_is_asked_for(targets, tmp_path):
    for kind, array in {"joint": targets.embedding, "text": targets.text, "sentence": targets.sentence}.items():
        assert targets.taught(kind) is array
    targets.text = targets.sentence = None  # as of an earlier version
    path = tmp_path / "targets.safetensors"
    targets.save(path)
    loaded = TeacherTargets.load(path)
    np.testing.assert_array_equal(loaded.taught("joint"), targets.embedding)
    for kind in ("text", "sentence"):
        with pytest.raises(
            InputError, match=f"^{path}: there is no {kind} embedding; .*: make the teacher targets again"
        ):
            loaded.taught(kind)


def test_each_manifest_of_unrated_speech_has_targets_until_the_teacher_is_another(targets, tmp_path):
    def save(split, manifest="m1", teacher="t1"):
        made_from = {"manifest": manifest, "teacher": teacher}
        save_targets(
            tmp_path, {"train": replace(targets, made_from=made_from), split: replace(targets, made_from=made_from)}
        )
        return [path.stem for path in RunFolder(tmp_path).targets_paths()]

    assert save("unrated", "m" * 64) == ["train", "unrated-" + 16 * "m"]
    assert save("unrated", "n" * 64) == ["train", "unrated-" + 16 * "m", "unrated-" + 16 * "n"]
    assert save("valid") == ["train", "unrated-" + 16 * "m", "unrated-" + 16 * "n", "valid"]
    assert save("valid", teacher="t2") == ["train", "valid"]


def test_arrays_are_written_in_the_precision_of_the_contract(targets, tmp_path):
    path = tmp_path / "targets.safetensors"
    targets.embedding, targets.label = targets.embedding.astype(np.float64), targets.label.astype(np.float32)
    targets.save(path)
    loaded = TeacherTargets.load(path)
    assert (loaded.embedding.dtype, loaded.label.dtype) == (np.float32, np.float64)


def test_rows_follow_the_order_asked_for(targets):
    assert targets.rows(["Ses01F_ü", "MSP-1", "Ses01F_ü"]).tolist() == [2, 0, 2]
    assert targets.rows([]).dtype == np.int64
    with pytest.raises(InputError, match="utterance 'MSP-9' has no teacher target: make the teacher targets"):
        targets.rows(["MSP-1", "MSP-9", "MSP-8"])


def test_check_says_what_differs(targets, tmp_path):
    targets.save(tmp_path / "targets.safetensors")
    targets = TeacherTargets.load(tmp_path / "targets.safetensors")
    targets.check("m1")
    targets.check("m1", "t1")
    with pytest.raises(
        InputError,
        match=r"targets.safetensors: made from another manifest \(m1, not m2\): make the teacher targets again",
    ):
        targets.check("m2", "t1")
    with pytest.raises(InputError, match=r"made from another teacher \(t1, not t2\): make the teacher targets again"):
        targets.check("m1", "t2")
    with pytest.raises(InputError, match="another manifest .* and another teacher"):
        targets.check("m2", "t2")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match="none.safetensors: there are no teacher targets: make them"):
        TeacherTargets.load(tmp_path / "none.safetensors")


def test_damaged_files_are_refused(targets, tmp_path):
    path = tmp_path / "targets.safetensors"
    targets.save(path)
    whole = path.read_bytes()
    with safe_open(path, framework="numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in ARRAYS}, file.metadata()
    assert metadata.keys() == {"ids", "made_from", "arrays", "sha256"}
    for sealed in ("arrays", "sha256"):  # as an earlier version wrote it
        del metadata[sealed]
    save_file(tensors, path, metadata)
    assert TeacherTargets.load(path).ids == targets.ids
    fewer_ids = metadata | {"ids": json.dumps(targets.ids[:2])}
    no_label = {name: array for name, array in tensors.items() if name != "label"}

    for damage in (
        lambda: path.write_bytes(whole[:-5]),
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"not safetensors at all"),
        lambda: save_file(tensors, path),
        lambda: save_file(tensors, path, metadata | {"ids": "[oops"}),
        lambda: save_file(tensors, path, fewer_ids),
        lambda: save_file(no_label, path, metadata),
        lambda: save_file(tensors, path, metadata | {"made_from": '["m1"]'}),
        lambda: save_file(tensors, path, metadata | {"ids": '["a", "b", 3]'}),
        lambda: save_file(tensors, path, metadata | {"note": ""}),
    ):
        damage()
        with pytest.raises(InputError, match="is damaged: .*Delete it and make"):
            TeacherTargets.load(path)

    save_file(tensors | {"label": np.zeros((3, 3), np.float32)}, path, metadata)
    with pytest.raises(InputError, match="label is float32, not float64"):
        TeacherTargets.load(path)


@pytest.mark.parametrize("name", ARRAYS)
def test_values_that_are_not_finite_are_never_written(targets, tmp_path, name):
    path = tmp_path / "targets.safetensors"
    targets.save(path)
    before = path.read_bytes()
    getattr(targets, name)[1, 2] = np.nan
    with pytest.raises(InputError, match=f"the {name} of utterance 'MSP-2' isn't finite"):
        targets.save(path)
    assert path.read_bytes() == before


def test_shapes_and_ids_must_fit(targets, tmp_path):
    targets.ids[1] = "MSP-1"
    with pytest.raises(InputError, match="'MSP-1' occurs twice"):
        targets.save(tmp_path / "targets.safetensors")
    targets.ids[1] = "MSP-2"
    targets.residual = targets.residual[:2]
    with pytest.raises(InputError, match=r"residual has shape \(2, 3\) for 3 utterances"):
        targets.save(tmp_path / "targets.safetensors")
    targets.residual = targets.label[:, :2]
    with pytest.raises(InputError, match=r"residual has shape \(3, 2\) for 3 utterances"):
        targets.save(tmp_path / "targets.safetensors")


def test_a_new_file_takes_the_place_of_the_old_one_at_once(targets, tmp_path):
    path = tmp_path / "targets.safetensors"
    targets.save(path)
    before = path.read_bytes()
    targets.label += 1
    with path.open("rb") as reader:  # a student that is still reading must not see half of each
        targets.save(path)
        assert reader.read() == before
    assert path.read_bytes() != before


def test_a_write_that_fails_leaves_nothing_behind(targets, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        targets.save(tmp_path / "folder")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_value_that_has_changed_on_the_disk_is_noticed(targets, tmp_path):
    path = tmp_path / "targets.safetensors"
    targets.save(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged: it is not as it was written. Delete it and make"):
        TeacherTargets.load(path)


def test_a_write_that_fails_leaves_the_older_file(targets, tmp_path, monkeypatch):
    path = tmp_path / "targets.safetensors"
    targets.save(path)
    before = path.read_bytes()

    def fail(path, content):
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        targets.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
