"""Fingerprints: short names for exactly what something was made from.

Whatever is kept on disk for reuse (frozen features, teacher targets, checkpoints) carries the
fingerprint of all that made it, and is refused or rebuilt when that has changed.
"""

import hashlib
import json

from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import if_main_process

from ser_ts_lobes import __version__
from ser_ts_lobes.errors import InputError


def fingerprint(**parts):
    """Fingerprint of named values and of this package's version.

    Parameters
    ----------
    **parts : str, int, float, bool, None, list or dict
        What something was made from; the names count too.

    Returns
    -------
    str
        64 hexadecimal digits (SHA-256).

    Example
    -------
    >>> fingerprint(manifest="ab12", dtype="float16") == fingerprint(dtype="float16", manifest="ab12")
    True
    >>> fingerprint(dtype="float16") == fingerprint(dtype="float32")
    False
    """
    text = json.dumps({"code": __version__, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint_tensors(tensors):
    """Fingerprint of named tensors: names, shapes, types and every bit of the values.

    Parameters
    ----------
    tensors : dict[str, torch.Tensor]
        For instance a state dict; the order does not count.

    Returns
    -------
    str
        64 hexadecimal digits (SHA-256).

    Example
    -------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> before = fingerprint_tensors(layer.state_dict())
    >>> with torch.no_grad():
    ...     _ = layer.bias.add_(1e-3)
    >>> fingerprint_tensors(layer.state_dict()) == before
    False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


@register_checkpoint_hooks
class MadeFrom:
    """Fingerprints that travel in a checkpoint and are compared when it is loaded.

    Parameters
    ----------
    **fingerprints : str
        By name, e.g. ``train="ab12..."``.

    Raises
    ------
    InputError
        On loading, when one differs.
    """

    def __init__(self, **fingerprints):
        self.fingerprints = fingerprints

    @mark_as_saver
    def _save(self, path):
        if if_main_process():
            with open(path, "w", encoding="utf-8") as file:
                json.dump(self.fingerprints, file)

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        del end_of_epoch
        with open(path, encoding="utf-8") as file:
            saved = json.load(file)
        differing = sorted(k for k in saved | self.fingerprints if saved.get(k) != self.fingerprints.get(k))
        if differing:
            raise InputError(
                f"The checkpoint {path} was made from other data than today's ({', '.join(differing)} changed): "
                "choose another output_folder, or delete this one to train anew."
            )
