"""What `ser-ts features` does: say what a folder of frozen features holds, read it through, remove a network's."""

import shutil
from pathlib import Path

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results.text_tables import markdown_table
from ser_ts_lobes.training.feature_store import Network, find_damaged, find_networks, prune

_COLUMNS = ("network", "encoder", "source", "frozen layers", "type", "utterances", "GB")


def list_features(folder: str | Path) -> None:
    """Print of which networks a folder holds features, of how many utterances, and how large they are.

    Parameters
    ----------
    folder
        The ``feature_folder`` of the training scripts.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    networks = find_networks(folder)
    rows = [
        [
            network.name,
            *(network.made_by.get(key, "unknown") for key in ("encoder", "source", "frozen_layers", "dtype")),
            str(network.n_features),
            _gigabytes(network.n_bytes),
        ]
        for network in networks
    ]
    if rows:
        print(markdown_table(_COLUMNS, rows), end="\n\n")
    total = _gigabytes(sum(network.n_bytes for network in networks))
    free = _gigabytes(shutil.disk_usage(folder).free)
    print(f"{total} GB of {len(networks)} networks in {folder}, {free} GB are free.")


def verify_features(folder: str | Path) -> None:
    """Read all features of a folder, and refuse what is not as it was written.

    Parameters
    ----------
    folder
        The ``feature_folder`` of the training scripts.

    Raises
    ------
    InputError
        If there is no such folder, or files are damaged.
    """
    networks = find_networks(folder)
    damaged = [path for network in networks for path in find_damaged(network)]
    if damaged:
        raise InputError(
            f"Damaged files in {folder}: {', '.join(map(str, damaged))}. Delete them: the next run computes what was "
            "in them."
        )
    print(f"{_gigabytes(sum(network.n_bytes for network in networks))} GB in {folder} are as they were written.")


def prune_features(folder: str | Path, name: str) -> None:
    """Remove the features of one network.

    Parameters
    ----------
    folder
        The ``feature_folder`` of the training scripts.
    name
        Of the network, as `list_features` prints it.

    Raises
    ------
    InputError
        If there is no such folder or no such network, or it is in use.
    """
    network = _find(folder, name)
    prune(network)
    print(f"Removed {_gigabytes(network.n_bytes)} GB of {network.name}.")


def _find(folder, name) -> Network:
    networks = {network.name: network for network in find_networks(folder)}
    if name not in networks:
        raise InputError(
            f"{folder} holds nothing of a network {name}: `ser-ts features {folder}` lists those it holds."
        )
    return networks[name]


def _gigabytes(n_bytes):
    return f"{n_bytes / 1e9:.2f}"
