"""Fingerprints: short names for exactly what something was made from.

Whatever is kept on disk for reuse (frozen features, teacher targets, checkpoints) carries the
fingerprint of all that made it, and is refused or rebuilt when that has changed.
"""

import hashlib
import json

from ser_ts_lobes import __version__


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
