"""Checkpoints that are whole or not there."""

import os
import shutil

from speechbrain.utils.checkpoints import METAFNAME
from speechbrain.utils.checkpoints import Checkpointer as SpeechBrainCheckpointer
from speechbrain.utils.distributed import ddp_barrier


class Checkpointer(SpeechBrainCheckpointer):
    """SpeechBrain's checkpointer, whose checkpoints survive a process that is killed while it saves.

    SpeechBrain takes a folder for a checkpoint once its ``CKPT.yaml`` is there, and writes that file first. Here it
    gets its name last; a folder that has remained without it is removed when the next checkpoint is whole.

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

    def save_checkpoint(self, *args, **kwargs):
        """Save, as SpeechBrain does."""
        checkpoint = super().save_checkpoint(*args, **kwargs)
        if checkpoint is not None:  # None on processes that are not the main one
            os.replace(_unfinished(checkpoint.path / METAFNAME), checkpoint.path / METAFNAME)
            for folder in checkpoint.path.parent.glob("CKPT*"):
                if not (folder / METAFNAME).is_file():
                    shutil.rmtree(folder)
        # All processes must see the same checkpoints: each decides for itself which to delete, and then they wait for
        # one another.
        ddp_barrier()
        return checkpoint

    def _save_checkpoint_metafile(self, fpath, *args, **kwargs):
        return super()._save_checkpoint_metafile(_unfinished(fpath), *args, **kwargs)


def _unfinished(path):
    return path.with_name(f"{path.name}.tmp")
