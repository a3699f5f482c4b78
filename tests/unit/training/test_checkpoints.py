import errno
import json
import os

import pytest
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.provenance import made_from, refuse_other_settings
from ser_ts_lobes.training import checkpoints
from ser_ts_lobes.training.checkpoints import BatchMeans, Checkpointer, MadeFrom


class Killed(BaseException):
    pass


def killed(module, path):
    path.write_bytes(b"half of it")
    raise Killed


def test_a_save_that_is_cut_short_leaves_the_earlier_checkpoint(tmp_path):
    layer = torch.nn.Linear(1, 1)
    checkpointer = Checkpointer(tmp_path, {"layer": layer, "other": torch.nn.Linear(1, 1)})
    torch.nn.init.constant_(layer.weight, 1.0)
    checkpointer.save_and_keep_only(meta={"valid_loss": 0.5, "epoch": 1}, min_keys=["valid_loss"])
    torch.nn.init.constant_(layer.weight, 2.0)
    checkpointer.custom_save_hooks["other"] = killed
    with pytest.raises(Killed):
        checkpointer.save_and_keep_only(meta={"valid_loss": 0.4, "epoch": 2}, min_keys=["valid_loss"])

    again = Checkpointer(tmp_path, {"layer": layer, "other": torch.nn.Linear(1, 1)})
    assert again.recover_if_possible().meta["epoch"] == 1 and layer.weight.item() == 1.0
    assert again.recover_if_possible(min_key="valid_loss").meta["epoch"] == 1
    assert len(list(tmp_path.iterdir())) == 2
    again.save_and_keep_only(meta={"valid_loss": 0.3, "epoch": 2}, min_keys=["valid_loss"])
    assert again.recover_if_possible().meta["epoch"] == 2
    assert len(list(tmp_path.iterdir())) == 1  # the best and the last; what was cut short is gone


def test_a_checkpoint_that_can_not_be_written_is_named(tmp_path):
    def fail(layer, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError) as error:
        Checkpointer(tmp_path, {"a": torch.nn.Linear(1, 1)}, custom_save_hooks={"a": fail}).save_checkpoint()
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path))


def test_what_was_cut_short_makes_room_for_the_next(tmp_path):
    (tmp_path / "CKPT+half").mkdir()
    seen = []
    hook = {"layer": lambda layer, path: seen.append(sorted(folder.name for folder in tmp_path.iterdir()))}
    Checkpointer(tmp_path, {"layer": torch.nn.Linear(1, 1)}, custom_save_hooks=hook).save_checkpoint(name="whole")
    assert seen == [["CKPT+whole"]]


@pytest.mark.parametrize("seconds", [[9e8, 5e8, 5e8, 1e8], [5e8, 5e8, 5e8, 5e8], [1e8, 9e8, 2e9, 3e8]])
def test_the_last_checkpoint_is_the_newest_whatever_the_clock_says(tmp_path, monkeypatch, seconds):
    checkpointer = Checkpointer(tmp_path, {"layer": torch.nn.Linear(1, 1)})
    for epoch, now in enumerate(seconds, 1):
        monkeypatch.setattr(checkpoints.time, "time", lambda now=now: now)
        checkpointer.save_and_keep_only(meta={"valid_loss": epoch, "epoch": epoch}, min_keys=["valid_loss"])
        assert Checkpointer(tmp_path).find_checkpoint().meta["epoch"] == epoch
    assert {saved.meta["epoch"] for saved in checkpointer.list_checkpoints()} == {1, len(seconds)}
    assert checkpointer.find_checkpoint().meta["unixtime"] == pytest.approx(max(seconds), abs=0.01)


def test_processes_meet_when_the_checkpoint_is_whole(tmp_path, monkeypatch):
    # Otherwise they may see different checkpoints, and wait for one another for good when they delete some.
    seen = []
    monkeypatch.setattr(checkpoints, "ddp_barrier", lambda: seen.append(list(tmp_path.glob("*/CKPT.yaml"))))
    saved = Checkpointer(tmp_path, {"layer": torch.nn.Linear(1, 1)}).save_checkpoint()
    assert seen == [[saved.path / "CKPT.yaml"]]


def save(folder, settings, **fingerprints):
    checkpointer = Checkpointer(folder, {"layer": torch.nn.Linear(1, 1)})
    checkpointer.add_made_from(settings, **fingerprints)
    return checkpointer.save_checkpoint(meta={"epoch": 1}, name=f"at_{len(list(folder.glob('*')))}")


def load(folder, settings, **fingerprints):
    checkpointer = Checkpointer(folder, {"layer": torch.nn.Linear(1, 1)})
    checkpointer.add_made_from(settings, **fingerprints)
    return checkpointer.recover_if_possible()


SETTINGS = {"lr": 0.1, "number_of_epochs": 1, "epoch_counter.limit": 1}
DATA = {"train": "ab12", "valid": "cd34"}


def test_a_checkpoint_of_the_same_settings_and_data_is_loaded(tmp_path):
    assert save(tmp_path, SETTINGS, **DATA).meta["epoch"] == 1
    assert load(tmp_path, SETTINGS, **DATA).meta["epoch"] == 1
    assert load(tmp_path, SETTINGS | {"number_of_epochs": 9, "epoch_counter.limit": 9}, **DATA)


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"lr": 0.2}, DATA, r"made_from.ckpt: the model there was trained with lr 0.1, not 0.2: give the old value to"),
        ({"seed": 1}, DATA, r"trained with seed \(not set\), not 1"),
        (
            {},
            DATA | {"train": "ef56"},
            r"^The checkpoint .*made_from.ckpt was made from other .* \(train changed\): choose",
        ),
        ({}, DATA | {"teacher": "t"}, r"\(teacher changed\): choose another output_folder"),
        ({}, {"train": "ef56"}, r"\(train, valid changed\)"),
    ],
)
def test_a_checkpoint_of_others_is_refused(tmp_path, settings, data, message):
    save(tmp_path, SETTINGS, **DATA)
    with pytest.raises(InputError, match=message):
        load(tmp_path, SETTINGS | settings, **data)


def test_a_checkpoint_of_an_earlier_version_still_knows_its_data(tmp_path):
    path = save(tmp_path, {}, **DATA).path / "made_from.ckpt"
    path.write_text(json.dumps(DATA))
    assert load(tmp_path, {}, **DATA)
    with pytest.raises(InputError, match=r"\(valid changed\)"):
        load(tmp_path, {}, train="ab12", valid="ef56")


def test_the_newest_whole_checkpoint_says_what_a_run_was_made_from(tmp_path):
    assert made_from(tmp_path / "nowhere") is None
    refuse_other_settings(tmp_path / "nowhere", SETTINGS)
    old, new = (save(tmp_path, SETTINGS | {"lr": lr}, **DATA).path for lr in (0.2, 0.1))
    for path, seconds in ((old, 2), (new, 1)):
        os.utime(path / "CKPT.yaml", (seconds, seconds))
    assert made_from(tmp_path) == {"settings": SETTINGS | {"lr": 0.2}, "data": DATA}
    (old / "CKPT.yaml").rename(old / "CKPT.yaml.tmp")
    assert made_from(str(tmp_path)) == {"settings": SETTINGS, "data": DATA}
    refuse_other_settings(tmp_path, SETTINGS | {"number_of_epochs": 2})
    with pytest.raises(
        InputError, match=f"^{tmp_path}: the model there was trained with lr 0.1, not 0.3: .*train anew.$"
    ):
        refuse_other_settings(tmp_path, {**SETTINGS, "lr": 0.3})
    (new / "made_from.ckpt").unlink()
    assert made_from(tmp_path) == {}
    with pytest.raises(InputError, match=r"trained with .*lr \(not set\), not 0.1"):
        refuse_other_settings(tmp_path, SETTINGS)


def test_of_two_checkpoints_of_the_same_moment_the_later_name_counts(tmp_path):
    for lr in (0.1, 0.2, 0.3):
        os.utime(save(tmp_path, {"lr": lr}).path / "CKPT.yaml", (1, 1))
    assert made_from(tmp_path)["settings"] == {"lr": 0.3}


def test_a_folder_that_is_no_checkpoint_is_left_alone(tmp_path):
    for name in ("CKPT+half", "notes"):
        (tmp_path / name).mkdir()
    saved = Checkpointer(tmp_path, {"layer": torch.nn.Linear(1, 1)}).save_checkpoint({"epoch": 3}, name="whole")
    assert saved.meta["epoch"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CKPT+whole", "notes"]


def test_means_in_the_middle_of_an_epoch_are_of_all_its_batches(tmp_path):
    means = BatchMeans()
    means.add(loss=torch.tensor(0.1, requires_grad=True), kept=torch.tensor(True))
    means.add(loss=torch.tensor(0.2), kept=torch.tensor(False))
    means.add(loss=1)  # kept may be missing
    assert not means._sums["loss"].requires_grad
    means._save(tmp_path / "means.ckpt")
    again = BatchMeans()
    again.add(loss=5.0, other=1.0)
    again._recover(tmp_path / "means.ckpt", False)
    for resumed in (again, means):
        resumed.add(loss=torch.tensor(1.5), kept=1)
    taken = again.take()
    assert taken == means.take() and set(taken) == {"loss", "kept"}
    assert taken["loss"] == pytest.approx(2.8 / 4) and taken["kept"] == pytest.approx(2 / 3)
    assert again.take() == {}
    again.add(loss=3.0)
    assert again.take() == {"loss": 3.0}


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "if_main_process", lambda: False)
    BatchMeans()._save(tmp_path / "means.ckpt")
    MadeFrom({})._save(tmp_path / "made_from.ckpt")
    assert not list(tmp_path.iterdir())
