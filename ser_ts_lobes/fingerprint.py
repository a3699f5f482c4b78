"""Fingerprints: short names for exactly what something was made from.

Whatever is kept on disk for reuse (frozen features, teacher targets, checkpoints) carries the
fingerprint of all that made it, and is refused or rebuilt when that has changed.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_ts_lobes import __version__
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import walk_files

if TYPE_CHECKING:
    import torch


def fingerprint(**parts: str | int | float | bool | None | list | dict[str, Any]) -> str:
    """Fingerprint of named values and of this package's version.

    Parameters
    ----------
    **parts
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


def fingerprint_tensors(tensors: "dict[str, torch.Tensor]") -> str:
    """Fingerprint of named tensors: names, shapes, types and every bit of the values.

    Parameters
    ----------
    tensors
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
    import torch  # here, for most of what is fingerprinted is no tensor

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if tensor.dtype == torch.bfloat16:  # which numpy has no type for
            tensor = tensor.view(torch.int16)
        digest.update(tensor.reshape(-1).numpy().tobytes())
    return digest.hexdigest()


def fingerprint_files(paths: Iterable[str | Path], **options) -> str:
    """Digest the inputs of a preparation, so that a change of any of them is noticed.

    A file counts with its content: label files are small, and a copy with another date must not matter. A
    folder, whose audio is too much to read, counts with the relative name, size and modification time of each
    file under it.

    Parameters
    ----------
    paths
        Files and folders that exist.
    **options
        Anything else that the result depends on, fit for JSON.

    Returns
    -------
    str
        SHA-256 in hexadecimal.

    Raises
    ------
    InputError
        When a path does not exist.

    Example
    -------
    >>> from pathlib import Path
    >>> labels = Path(getfixture("tmp_path")) / "labels.csv"
    >>> _ = labels.write_text("FileName")
    >>> fingerprint_files([labels], data_folder="/data") == fingerprint_files([labels], data_folder="/data")
    True
    >>> fingerprint_files([labels], data_folder="/data") == fingerprint_files([labels], data_folder="/other")
    False
    """
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    described: Iterable[str]
    inputs = [Path(path) for path in paths]
    if sum(path.is_dir() for path in inputs) > 1:
        # Side by side: of a folder with 100,000 files half a second is Python's, which threads would have to share.
        with ProcessPoolExecutor(min(len(inputs), os.cpu_count() or 1)) as pool:
            described = list(pool.map(_describe, inputs))
    else:
        described = map(_describe, inputs)
    for text in described:
        digest.update(text.encode())
    return digest.hexdigest()


def _describe(path: Path) -> str:
    """Write down what a path holds, as JSON."""
    if path.is_dir():
        content: str | list[str] = sorted(
            f"{name}/({status.st_size}, {status.st_mtime_ns})" if status else f"{name}/None"
            for name, status in walk_files(path)
        )
    elif path.is_file():
        content = fingerprint_file(path)
    else:
        raise InputError(f"{path} does not exist.")
    return json.dumps([path.name, content])


def fingerprint_file(path: str | Path) -> str:
    """Fingerprint the bytes of a file, as `sha256sum` does."""
    digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
