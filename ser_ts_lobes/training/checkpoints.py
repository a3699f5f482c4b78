"""Checkpoints that are whole or not there, and know what they were made from."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.checkpoints import (
    METAFNAME,
    ckpt_recency,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.checkpoints import Checkpointer as SpeechBrainCheckpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import name_failed_write
from ser_ts_lobes.provenance import MADE_FROM, refuse_difference

_MIN_STEP_S = 1e-3  # between two checkpoints, where the clock tells no order


class Checkpointer(SpeechBrainCheckpointer):
    """SpeechBrain's checkpointer, whose checkpoints survive a process that is killed while it saves.

    SpeechBrain takes a folder for a checkpoint once its ``CKPT.yaml`` is there, and writes that file first. Here it
    gets its name last; a folder that has remained without it is removed before the next checkpoint needs its room. And
    it takes the one of the latest time for the newest. Here each is later than those before it, also if the clock was
    set back.

    Example
    -------
    >>> import torch
    >>> layer = torch.nn.Linear(1, 1)
    >>> checkpointer = Checkpointer(getfixture("tmp_path"), {"layer": layer})
    >>> checkpointer.save_checkpoint().path.name[:4]
    'CKPT'
    >>> checkpointer.recover_if_possible() is not None
    True
    """

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Save, as SpeechBrain does.

        Raises
        ------
        OSError
            If the disk is full.
        """
        folder = Path(self.checkpoints_dir)
        if if_main_process():
            for cut_short in [path for path in folder.glob("CKPT*") if not (path / METAFNAME).is_file()]:
                shutil.rmtree(cut_short)
        try:
            checkpoint = super().save_checkpoint(*args, **kwargs)
        except Exception as error:
            name_failed_write(error, folder)
            raise
        if checkpoint is not None:  # None on processes that are not the main one
            os.replace(_unfinished(checkpoint.path / METAFNAME), checkpoint.path / METAFNAME)
        # All processes must see the same checkpoints: each decides for itself which to delete, and then they wait for
        # one another.
        ddp_barrier()
        return checkpoint

    def add_made_from(self, settings: dict[str, Any], **fingerprints: str) -> None:
        """Let checkpoints say what they were made from, and refuse those that were made from something else.

        Parameters
        ----------
        settings
            From `ser_ts_lobes.experiment.model_settings`.
        **fingerprints
            Of data, by name.
        """
        self.add_recoverable(MADE_FROM, MadeFrom(settings, **fingerprints))

    def _save_checkpoint_metafile(self, fpath, meta_to_include=None, *args, **kwargs):
        earlier = [ckpt_recency(checkpoint) + _MIN_STEP_S for checkpoint in self.list_checkpoints()]
        meta = {"unixtime": max([time.time(), *earlier]), **(meta_to_include or {})}
        return super()._save_checkpoint_metafile(_unfinished(fpath), meta, *args, **kwargs)


def _unfinished(path):
    return path.with_name(f"{path.name}.tmp")


@register_checkpoint_hooks
class MadeFrom:
    """What a model is made from; it travels in a checkpoint and is compared when that is loaded.

    Parameters
    ----------
    settings
        From `ser_ts_lobes.experiment.model_settings`; those of `ser_ts_lobes.provenance.MAY_GROW` are not
        compared.
    **fingerprints
        Of data, by name, e.g. ``train="ab12..."``.

    Raises
    ------
    InputError
        On loading, when one differs.
    """

    def __init__(self, settings: dict[str, Any], **fingerprints: str) -> None:
        self.settings, self.fingerprints = settings, fingerprints

    @mark_as_saver
    def _save(self, path):
        if if_main_process():
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"settings": self.settings, "data": self.fingerprints}, file, indent=1)

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        del end_of_epoch
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        refuse_difference(path, saved.get("settings", {}), self.settings)
        then, now = saved.get("data", saved), self.fingerprints  # an earlier version held the data's alone
        differing = sorted(name for name in then | now if then.get(name) != now.get(name))
        if differing:
            raise InputError(
                f"The checkpoint {path} was made from other data than today's ({', '.join(differing)} changed): "
                "choose another output_folder, or delete this one to train anew."
            )


@register_checkpoint_hooks
class BatchMeans:
    """Means of what is logged over the training batches of an epoch.

    A checkpoint in the middle of an epoch holds them, so that the epoch's means are of all its batches.

    Example
    -------
    >>> means = BatchMeans()
    >>> means.add(loss=torch.tensor(1.0), kept=1)
    >>> means.add(loss=torch.tensor(3.0), kept=0)
    >>> means.take()
    {'loss': 2.0, 'kept': 0.5}
    >>> means.take()
    {}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def add(self, **values: Any) -> None:
        """Add the values of a batch, numbers or scalar tensors; these stay on their device."""
        for name, value in values.items():
            value = torch.as_tensor(value).detach().double()
            self._sums[name] = self._sums.get(name, 0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Return the means by name, and forget them."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    @mark_as_saver
    def _save(self, path):
        if if_main_process():
            sums = {name: float(total) for name, total in self._sums.items()}
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"sums": sums, "counts": self._counts}, file)

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        del end_of_epoch
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        self._sums, self._counts = saved["sums"], saved["counts"]
