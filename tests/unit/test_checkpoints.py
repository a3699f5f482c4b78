import pytest
import torch

from ser_ts_lobes import checkpoints
from ser_ts_lobes.checkpoints import Checkpointer


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


def test_processes_meet_when_the_checkpoint_is_whole(tmp_path, monkeypatch):
    # Otherwise they may see different checkpoints, and wait for one another for good when they delete some.
    seen = []
    monkeypatch.setattr(checkpoints, "ddp_barrier", lambda: seen.append(list(tmp_path.glob("*/CKPT.yaml"))))
    saved = Checkpointer(tmp_path, {"layer": torch.nn.Linear(1, 1)}).save_checkpoint()
    assert seen == [[saved.path / "CKPT.yaml"]]
