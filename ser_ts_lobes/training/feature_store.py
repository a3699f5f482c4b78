"""The store of frozen features: a folder for each network, of tensors by the content that they were computed of.

A network's folder holds safetensors shards that say themselves what is in them, so nothing else needs be right, and
that nobody changes: a shard is named by the digest of its bytes, appears whole, and is there until its network is
pruned. So a folder can be filled a bit at a time, by anybody. PyTorch is imported only by who reads tensors.
"""

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.file_digests import FileDigests
from ser_ts_lobes.files import map_files, remove_leftovers, replacing, try_lock
from ser_ts_lobes.fingerprint import fingerprint_file

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

#: In a network's folder. Who has this lock fills it, or prunes it.
LOCK = ".lock"
#: Who reads from a network's folder shares this lock.
IN_USE = ".in_use"
#: Beside the networks' folders, in which leftovers are removed: the digests of their shards, as they were last read.
DIGESTS = "shard_digests.json"

_SHARDS = "shard-*.safetensors"
_NAME_DIGITS = 16
_NETWORK = re.compile(rf"[0-9a-f]{{{_NAME_DIGITS}}}")
_NAMED = re.compile(_SHARDS.replace("*", _NETWORK.pattern))


def network_folder(folder: str | Path, network: str) -> Path:
    """Name the folder of a network's features.

    Parameters
    ----------
    folder
        Where features of all networks are kept.
    network
        Fingerprint of all that makes them.

    Returns
    -------
    pathlib.Path
    """
    return Path(folder) / network[:_NAME_DIGITS]


def write_shard(folder: Path, features: "dict[str, torch.Tensor]", made_by: dict[str, str]) -> None:
    """Write features of a network, whole or not at all.

    Parameters
    ----------
    folder
        Of the network.
    features
        By content.
    made_by
        What people are told of the network; see `Network`.
    """
    from safetensors.torch import save

    content = save(features, made_by)
    with replacing(folder / _shard_name(hashlib.sha256(content).hexdigest())) as temporary:
        temporary.write_bytes(content)


def find_shards(folder: Path) -> dict[str, str]:
    """Find out which shard of a network has the features of which content, from the shards themselves.

    Each is read whole when it is first seen here, and then for as long as its size and times stay as they are
    (`ser_ts_lobes.file_digests.FileDigests`) taken for what it was.

    Parameters
    ----------
    folder
        Of the network; it need not exist.

    Returns
    -------
    dict of str to str
        Names of shards by content; those that are damaged have nothing.
    """
    return {content: path.name for path, contents in _read_contents(folder).items() for content in contents}


def remove_damaged(folder: Path) -> None:
    """Remove damaged shards, and what writers have left that were killed; nobody may be writing there."""
    remove_leftovers(folder)
    for path, contents in _read_contents(folder).items():
        if not contents:
            logger.warning(f"{path} is damaged: what was in it is computed again.")
            path.unlink()


def _read_contents(folder):
    """Read of which contents the shards of a network have the features; of one that is damaged, nothing."""
    paths = sorted(folder.glob(_SHARDS))
    try:
        digests = FileDigests(folder.parent / DIGESTS, tells=False).of(paths)
    except InputError:
        if all(path.exists() for path in paths):
            raise
        return _read_contents(folder)  # another process has just removed one, for it is damaged
    return {
        path: _read_header(path)[0] if _is_named(path, digest) else []
        for path, digest in zip(paths, digests, strict=True)
    }


def _shard_name(digest):
    return _SHARDS.replace("*", digest[:_NAME_DIGITS])


def _is_named(path, digest):
    """Say whether a shard is named by its digest; those of earlier versions were not."""
    return path.name == _shard_name(digest) or not _NAMED.fullmatch(path.name)


def _read_header(path):
    """Read of which contents a shard has the features, and what made them; of a damaged one, nothing."""
    try:
        with safe_open(path, framework="numpy") as shard:
            return list(shard.keys()), shard.metadata() or {}  # earlier versions said nothing
    except (SafetensorError, FileNotFoundError):  # not found: just removed by another process, for it is damaged
        return [], {}


@dataclass(frozen=True)
class Network:
    """What is kept of one network.

    Attributes
    ----------
    folder
        Its name is the first digits of the fingerprint of all that makes the features.
    made_by
        ``encoder``: its class; ``source``: where it was loaded from when a shard was written; ``frozen_layers``;
        ``dtype`` of the features.
    n_features
        Contents that there are features of.
    n_bytes
        On the disk.
    """

    folder: Path
    made_by: dict[str, str]
    n_features: int
    n_bytes: int

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name


def find_networks(folder: str | Path) -> list[Network]:
    """Find the networks of which something is kept.

    Parameters
    ----------
    folder
        Where features of all networks are kept.

    Returns
    -------
    list of Network
        By name.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is no folder: name the feature_folder of the training scripts.")
    networks = (_network(path) for path in sorted(Path(folder).iterdir()) if _NETWORK.fullmatch(path.name))
    return [network for network in networks if network.n_bytes]


def _network(folder):
    shards = sorted(folder.glob(_SHARDS))
    contents: set[str] = set()
    made_by: dict[str, str] = {}
    for path in shards:
        in_shard, made_by_of_shard = _read_header(path)
        contents |= set(in_shard)
        made_by = made_by or made_by_of_shard
    return Network(folder, made_by, len(contents), sum(path.stat().st_size for path in shards))


def find_damaged(network: Network) -> list[Path]:
    """Read all that is kept of a network, and find the shards that are not what was written.

    Parameters
    ----------
    network
        From `find_networks`.

    Returns
    -------
    list of pathlib.Path
    """
    paths = sorted(network.folder.glob(_SHARDS))
    digests = map_files(fingerprint_file, paths)
    return [path for path, digest in zip(paths, digests, strict=True) if path.name != _shard_name(digest)]


def prune(network: Network) -> None:
    """Remove all that is kept of a network; its locks stay, for a lock on a file that was removed keeps nobody out.

    Parameters
    ----------
    network
        From `find_networks`.

    Raises
    ------
    InputError
        If a process is reading or writing there.
    """
    with open(network.folder / LOCK, "a") as writers, open(network.folder / IN_USE, "a") as readers:
        try:
            free = try_lock(writers) and try_lock(readers)
        except OSError as error:
            raise InputError(
                f"The file system of {network.folder} has no locks ({error.strerror}), so nobody can say whether it is "
                "in use: delete the folder yourself if it is not."
            ) from error
        if not free:
            raise InputError(f"{network.folder} is in use: wait until what reads or fills it is done.")
        for path in network.folder.glob(_SHARDS):
            path.unlink()
        remove_leftovers(network.folder)
