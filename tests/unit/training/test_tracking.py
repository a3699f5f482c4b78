import sys
from types import SimpleNamespace

import pytest
from speechbrain.utils.train_logger import FileTrainLogger

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.training.tracking import make_train_logger


class Writer:
    """What stands for TensorBoard's SummaryWriter."""

    written: list = []

    def __init__(self, folder):
        self.folder = folder

    def add_scalar(self, *row):
        self.written.append((self.folder, *row))


def log_epochs(logger, *epochs):
    for epoch in epochs:
        logger.log_stats({"epoch": epoch, "lr": 0.1 / epoch}, {"loss": 1.0 / epoch}, {"loss": 2.0 / epoch})
    logger.log_stats({"epoch loaded": 1, "test set": "test1"}, test_stats={"ccc": "0.5 [0.4, 0.6]"}, verbose=False)


def test_without_a_tracker_there_is_speechbrains_logger_alone(tmp_path):
    assert type(make_train_logger(tmp_path / "train_log.txt", None, tmp_path)) is FileTrainLogger


def test_epochs_are_drawn_where_they_belong_after_an_interruption_too(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(Writer, "written", [])
    log = tmp_path / "train_log.txt"
    log_epochs(make_train_logger(log, "tensorboard", tmp_path), 1, 2)
    log_epochs(make_train_logger(log, "tensorboard", tmp_path), 3)
    folder = str(tmp_path / "tensorboard")
    expected = [
        (folder, *row)
        for epoch in (1, 2, 3)
        for row in (
            ("epoch", epoch, epoch),
            ("lr", 0.1 / epoch, epoch),
            ("loss/train", 1.0 / epoch, epoch),
            ("loss/valid", 2.0 / epoch, epoch),
        )
    ]
    assert Writer.written == expected
    plain = tmp_path / "plain.txt"
    log_epochs(make_train_logger(plain, None, tmp_path), 1, 2)
    log_epochs(make_train_logger(plain, None, tmp_path), 3)
    assert log.read_text() == plain.read_text()


def test_tensorboard_itself_is_given_the_epochs(tmp_path):
    pytest.importorskip("tensorboard")
    log_epochs(make_train_logger(tmp_path / "train_log.txt", "tensorboard", tmp_path), 1, 2)
    assert any((tmp_path / "tensorboard").iterdir())


def test_wandb_is_given_the_epochs_of_its_run(tmp_path, monkeypatch):
    started, rows = [], []

    def start(**options):
        started.append(options)
        return SimpleNamespace(log=lambda values, step: rows.append((step, values)))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=start))
    folder = tmp_path / "cts" / "1986"
    logger = make_train_logger(tmp_path / "train_log.txt", "wandb", folder)
    assert started == []  # nothing is trained yet
    log_epochs(logger, 4, 5)
    assert started == [{"dir": str(folder), "name": "cts/1986", "resume": "auto"}]
    assert [step for step, _ in rows] == [4, 5]
    assert rows[1][1] == {"epoch": 5, "lr": 0.1 / 5, "train": {"loss": 0.2}, "valid": {"loss": 0.4}}


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_what_is_not_installed_is_one_sentence(tmp_path, tracker, monkeypatch):
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(tracker, tracker), None)
    with pytest.raises(InputError) as error:
        make_train_logger(tmp_path / "train_log.txt", tracker, tmp_path)
    assert str(error.value) == (
        f"tracker is {tracker}, which is not installed: `pip install {tracker}`, or give --tracker null."
    )
