import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from ser_ts_lobes.cli import main
from ser_ts_lobes.training.feature_store import network_folder, write_shard

HUBERT, BERT = "a" * 16, "b" * 16


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder with features of two networks."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=7.4e9))
    made_by = {"encoder": "SpeechEncoder", "source": "hubert", "frozen_layers": "12", "dtype": "float16"}
    for name, n_frames, about in [(HUBERT, 10**7, {}), (BERT, 3, {"encoder": "TextEncoder", "source": "bert"})]:
        network_folder(tmp_path, name).mkdir()
        shard = {"first": torch.zeros(n_frames, 1, dtype=torch.float16), "second": torch.zeros(1, 1)}
        write_shard(network_folder(tmp_path, name), shard, made_by | about)
    return tmp_path


def test_networks_are_listed(folder, capsys):
    assert main(["features", str(folder)]) == 0
    header, _, *rows, empty, total = capsys.readouterr().out.splitlines()
    assert header == "| network | encoder | source | frozen layers | type | utterances | GB |"
    assert rows == [
        f"| {HUBERT} | SpeechEncoder | hubert | 12 | float16 | 2 | 0.02 |",
        f"| {BERT} | TextEncoder | bert | 12 | float16 | 2 | 0.00 |",
    ]
    assert (empty, total) == ("", f"0.02 GB of 2 networks in {folder}, 7.40 GB are free.")


def test_an_empty_folder_has_no_table(folder, capsys):
    (folder / "empty").mkdir()
    main(["features", str(folder / "empty")])
    assert capsys.readouterr().out == f"0.00 GB of 0 networks in {folder / 'empty'}, 7.40 GB are free.\n"


def test_a_network_of_which_nothing_can_be_read_is_listed(folder, capsys):
    [path] = (folder / BERT).iterdir()
    path.write_bytes(b"damaged")
    main(["features", str(folder)])
    assert f"| {BERT} | unknown | unknown | unknown | unknown | 0 | 0.00 |" in capsys.readouterr().out


def test_features_are_verified(folder, capsys):
    assert main(["features", str(folder), "--verify"]) == 0
    assert capsys.readouterr().out == f"0.02 GB in {folder} are as they were written.\n"
    paths = [next((folder / name).iterdir()) for name in (HUBERT, BERT)]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(SystemExit) as error:
        main(["features", str(folder), "--verify"])
    assert error.value.code == (
        f"error: Damaged files in {folder}: {paths[0]}, {paths[1]}. Delete them: the next run computes what was in "
        "them."
    )


def test_one_network_is_pruned(folder, capsys):
    assert main(["features", str(folder), "--prune", HUBERT]) == 0
    assert capsys.readouterr().out == f"Removed 0.02 GB of {HUBERT}.\n"
    assert not list((folder / HUBERT).glob("*.safetensors")) and list((folder / BERT).glob("*.safetensors"))


@pytest.mark.parametrize("name", ["aaaa", "", "../x", "c" * 16])
def test_a_network_that_is_not_there_is_not_pruned(folder, name):
    with pytest.raises(SystemExit) as error:
        main(["features", str(folder), "--prune", name])
    assert error.value.code == (
        f"error: {folder} holds nothing of a network {name}: `ser-ts features {folder}` lists those it holds."
    )


def test_one_thing_is_done_at_a_time(folder):
    with pytest.raises(SystemExit, match="^2$"):
        main(["features", str(folder), "--verify", "--prune", HUBERT])


def test_what_is_kept_is_told_without_torch(folder):
    program = (
        "import sys; from ser_ts_lobes.training.feature_folder import list_features; "
        "list_features(sys.argv[1]); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)
