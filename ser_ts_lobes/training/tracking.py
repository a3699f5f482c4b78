"""What is logged of an epoch: a line in train_log.txt and, where that is wanted, curves by TensorBoard or W&B."""

import functools
import importlib
from pathlib import Path
from typing import Any

from speechbrain.utils.train_logger import FileTrainLogger, TensorboardLogger, TrainLogger, WandBLogger

from ser_ts_lobes.errors import InputError


def make_train_logger(save_file: str | Path, tracker: str | None, folder: str | Path) -> TrainLogger:
    """Make what logs a training.

    Parameters
    ----------
    save_file
        ``train_log.txt``, from which a run goes on and reports are made.
    tracker
        What else to log epochs to: ``tensorboard``, into the run's folder; ``wandb``, wherever its own environment
        variables say; None for nothing.
    folder
        Of the run.

    Returns
    -------
    speechbrain.utils.train_logger.TrainLogger

    Raises
    ------
    InputError
        If it is not installed.

    Example
    -------
    >>> type(make_train_logger("train_log.txt", None, ".")).__name__
    'FileTrainLogger'
    """
    if tracker is None:
        return FileTrainLogger(save_file)
    try:
        importlib.import_module({"tensorboard": "torch.utils.tensorboard"}.get(tracker, tracker))
    except ImportError as error:
        raise InputError(
            f"tracker is {tracker}, which is not installed: `pip install {tracker}`, or give --tracker null."
        ) from error
    return TrackedLogger(save_file, tracker, folder)


class TrackedLogger(FileTrainLogger):
    """Also gives the epochs to one of SpeechBrain's other loggers; tests are in ``metrics.json`` alone.

    That logger is made with the first epoch: a script that trains nothing leaves no trace of a run.

    Parameters
    ----------
    save_file, tracker, folder
        As of `make_train_logger`.
    """

    def __init__(self, save_file: str | Path, tracker: str, folder: str | Path) -> None:
        super().__init__(save_file)
        self._make = functools.partial(_MAKE[tracker], Path(folder))
        self._tracker: TrainLogger | None = None

    def log_stats(
        self,
        stats_meta: dict[str, Any],
        train_stats: dict[str, Any] | None = None,
        valid_stats: dict[str, Any] | None = None,
        test_stats: dict[str, Any] | None = None,
        verbose: bool = True,
    ) -> None:
        """Log an epoch or a test, on all processes, of which the main one writes."""
        super().log_stats(stats_meta, train_stats, valid_stats, test_stats, verbose)
        if "epoch" not in stats_meta:
            return
        if self._tracker is None:
            self._tracker = self._make()
        if isinstance(self._tracker, TensorboardLogger):
            _set_step(self._tracker, stats_meta["epoch"] - 1, train=train_stats, valid=valid_stats)
        self._tracker.log_stats(stats_meta, train_stats, valid_stats)


def _set_step(tracker, step, **of_sets):
    """Let a logger that counts its own calls, from 0 in each process, go on after an epoch."""
    tracker.global_step["meta"] = step
    for name, stats in of_sets.items():
        tracker.global_step[name] = dict.fromkeys(stats or (), step)


def _tensorboard(folder):
    return TensorboardLogger(str(folder / "tensorboard"))


def _wandb(folder):
    start = importlib.import_module("wandb").init
    return WandBLogger(start, dir=str(folder), name="/".join(folder.absolute().parts[-2:]), resume="auto")


_MAKE = {"tensorboard": _tensorboard, "wandb": _wandb}
