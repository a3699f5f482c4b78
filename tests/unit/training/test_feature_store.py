import contextlib
import errno
import fcntl

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import locked, share_lock
from ser_ts_lobes.training.feature_store import (
    IN_USE,
    LOCK,
    find_damaged,
    find_networks,
    find_shards,
    network_folder,
    prune,
    remove_damaged,
    write_shard,
)

MADE_BY = {"encoder": "SpeechEncoder", "source": "hubert", "frozen_layers": "12", "dtype": "float16"}


@pytest.fixture
def folder(tmp_path):
    """Give the folder of a network of which two shards are kept."""
    folder = network_folder(tmp_path, "0123456789abcdef" * 4)
    folder.mkdir()
    write_shard(folder, {"a": torch.ones(2, 3), "b": torch.zeros(1, 3)}, MADE_BY)
    write_shard(folder, {"c": torch.full((2, 3), 7.0)}, MADE_BY)
    return folder


def shards(folder):
    return sorted(folder.glob("shard-*.safetensors"))


def change_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_what_is_written_is_found_and_read(folder):
    shard_of = find_shards(folder)
    assert sorted(shard_of) == ["a", "b", "c"] and shard_of["a"] == shard_of["b"] != shard_of["c"]
    with safe_open(folder / shard_of["c"], "pt") as shard:
        assert shard.get_tensor("c").equal(torch.full((2, 3), 7.0))
        assert shard.metadata() == MADE_BY
    assert sorted(path.name for path in folder.iterdir()) == sorted(set(shard_of.values()))


def test_of_a_network_that_is_not_there_nothing_is_found(tmp_path):
    assert find_shards(tmp_path / "nowhere") == {}


def test_networks_tell_what_is_kept(tmp_path, folder):
    write_shard(folder, {"c": torch.full((2, 3), 7.0), "d": torch.ones(1, 3)}, MADE_BY)  # as a writer without locks
    for name in ("notes", "0123456789abcdeX", "fedcba9876543210"):
        (tmp_path / name).mkdir()
    write_shard(tmp_path / "notes", {"a": torch.ones(1)}, MADE_BY)
    (tmp_path / "0123456789abcdee").touch()
    [network] = find_networks(tmp_path)
    assert network.folder == folder and network.name == "0123456789abcdef"
    assert network.made_by == MADE_BY
    assert network.n_features == 4
    assert network.n_bytes == sum(path.stat().st_size for path in shards(folder))


def test_networks_come_by_name(tmp_path):
    for name in "bca":
        network_folder(tmp_path, name * 64).mkdir()
        write_shard(network_folder(tmp_path, name * 64), {"a": torch.ones(1)}, MADE_BY)
    assert [network.name for network in find_networks(tmp_path)] == [name * 16 for name in "abc"]


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError) as error:
        find_networks(tmp_path / "nowhere")
    assert str(error.value) == f"{tmp_path / 'nowhere'} is no folder: name the feature_folder of the training scripts."


@pytest.mark.parametrize("damage", [change_a_bit, cut, lambda path: path.write_bytes(b"")])
def test_what_is_not_as_it_was_written_is_found(tmp_path, folder, damage):
    assert find_damaged(find_networks(tmp_path)[0]) == []
    damage(shards(folder)[1])
    [network] = find_networks(tmp_path)
    assert find_damaged(network) == shards(folder)[1:]
    assert network.made_by == MADE_BY


def test_of_a_network_with_damaged_shards_alone_the_size_is_known(tmp_path, folder):
    for path in shards(folder):
        cut(path)
    [network] = find_networks(tmp_path)
    assert network.made_by == {} and network.n_features == 0 and network.n_bytes > 0


def test_what_an_earlier_version_kept_is_listed_and_can_be_pruned(tmp_path, folder):
    prune(find_networks(tmp_path)[0])
    save_file({"utt0": torch.ones(1), "utt1": torch.ones(1)}, folder / "shard-0.safetensors")
    (folder / "index.json").write_text("{}")
    remove_damaged(folder)
    [network] = find_networks(tmp_path)
    assert network.made_by == {} and network.n_features == 2
    prune(network)
    assert find_networks(tmp_path) == []


def test_damaged_shards_and_leftovers_are_removed(folder, caplog):
    first, second = shards(folder)
    (folder / f".{first.name}.1.tmp").write_bytes(b"half of it")
    cut(second)
    remove_damaged(folder)
    assert list(folder.iterdir()) == [first]
    assert caplog.messages == [f"{second} is damaged: what was in it is computed again."]


@pytest.mark.parametrize("name", [LOCK, IN_USE])
def test_what_is_in_use_is_not_pruned(tmp_path, folder, name):
    [network] = find_networks(tmp_path)
    with contextlib.closing(share_lock(folder / name)), pytest.raises(InputError) as error:
        prune(network)
    assert str(error.value) == f"{folder} is in use: wait until what reads or fills it is done."
    assert find_networks(tmp_path) == [network]


def test_pruned_is_all_but_the_locks(tmp_path, folder):
    other = network_folder(tmp_path, "f" * 64)
    other.mkdir()
    write_shard(other, {"a": torch.ones(1)}, MADE_BY)
    (folder / ".shard-0.safetensors.1.tmp").write_bytes(b"half of it")
    prune(find_networks(tmp_path)[0])
    assert sorted(path.name for path in folder.iterdir()) == sorted([LOCK, IN_USE])
    assert [network.folder for network in find_networks(tmp_path)] == [other]
    with locked(folder / LOCK) as alone:  # the locks were let go
        assert alone


def test_without_locks_nothing_is_pruned(tmp_path, folder, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    [network] = find_networks(tmp_path)
    with pytest.raises(InputError) as error:
        prune(network)
    assert str(error.value) == (
        f"The file system of {folder} has no locks (no locks), so nobody can say whether it is in use: delete the "
        "folder yourself if it is not."
    )
    assert find_networks(tmp_path) == [network]
