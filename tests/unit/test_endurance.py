"""What `make endurance` notices in a folder of results."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tools.endurance import Moment, Tally, contents, describe, differences, half_written


@pytest.fixture
def results(tmp_path):
    """Make a folder of results with one file of each kind."""
    run = tmp_path / "ft" / "1"
    for name, second in (("b", 2), ("a", 1)):  # of the same epoch, the names tell nothing
        checkpoint = run / "save" / f"CKPT+{name}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "CKPT.yaml").write_text(f"end-of-epoch: true\nepoch: {second}\nunixtime: {second}\n")
        torch.save({"weight": torch.full((2,), float(second))}, checkpoint / "model.ckpt")
    (run / "hyperparams.yaml").write_text("# Generated today\nlr: 0.1\n")
    (run / "metrics.json").write_text(json.dumps({"ccc": 0.5}))
    (run / "predictions.csv").write_text("ID,valence\na,1\n")
    (run / "log.txt").write_text("half a li")
    (tmp_path / "features" / "ab").mkdir(parents=True)
    save_file({"x": np.zeros(2)}, tmp_path / "features" / "ab" / "shard-1.safetensors")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "table.md").write_text("| ft | 0.513 | 0.02 |\n")
    return tmp_path


def test_what_is_of_the_moment_makes_no_difference(results):
    before, run = contents(results), results / "ft" / "1"
    (run / "log.txt").write_text("another")
    (run / "hyperparams.yaml").write_text("# Generated tomorrow\nlr: 0.1\n")
    (run / "save" / "CKPT+b").rename(run / "save" / "CKPT+c")
    (run / "save" / "CKPT+a" / "CKPT.yaml").write_text("end-of-epoch: true\nepoch: 1\nunixtime: 1.5\n")
    shard = results / "features" / "ab" / "shard-1.safetensors"
    shard.rename(shard.with_name("shard-2.safetensors"))
    (results / "table" / "table.md").write_text("| ft | 0.513 | 0.03 |\n")
    assert contents(results) == before and half_written(results, before) == []


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("ft/1/metrics.json", lambda path: path.write_text('{"ccc": 0.6}'), "is another"),
        ("ft/1/hyperparams.yaml", lambda path: path.write_text("lr: 0.2\n"), "is another"),
        ("table/table.md", lambda path: path.write_text("| ft | 0.514 | 0.02 |\n"), "is another"),
        ("ft/1/.metrics.json.tmp", lambda path: path.touch(), "is left over"),
        ("ft/1/predictions.csv", lambda path: path.unlink(), "is missing"),
    ],
)
def test_a_difference_is_named(results, name, change, problem):
    before = contents(results)
    change(results / name)
    assert differences(before, contents(results)) == [f"{name} {problem}"]


def test_other_weights_and_features_are_a_difference(results):
    before = contents(results)
    torch.save({"weight": torch.zeros(2)}, results / "ft" / "1" / "save" / "CKPT+a" / "model.ckpt")
    save_file({"x": np.zeros(2)}, results / "features" / "ab" / "shard-2.safetensors")  # computed twice
    assert differences(before, contents(results)) == [
        "features/ab: x is another",
        "ft/1/save/checkpoint 0/model.ckpt is another",
    ]


@pytest.mark.parametrize("name", ["ft/1/metrics.json", "ft/1/hyperparams.yaml", "ft/1/predictions.csv"])
def test_a_file_that_is_half_written_is_named(results, name):
    before = contents(results)
    path = results / name
    path.write_bytes(path.read_bytes()[:-3])
    [problem] = half_written(results, before)
    assert problem.startswith(f"{name} is half-written")


def test_a_checkpoint_that_is_not_yet_there_may_be_half_written(results):
    before, checkpoint = contents(results), results / "ft" / "1" / "save" / "CKPT+b"
    (checkpoint / "CKPT.yaml").rename(checkpoint / "CKPT.yaml.tmp")
    (checkpoint / "batch_means.json").write_text("{")
    assert half_written(results, before) == []
    (checkpoint / "CKPT.yaml.tmp").write_text("")
    (checkpoint / "CKPT.yaml.tmp").rename(checkpoint / "CKPT.yaml")
    assert len(half_written(results, before)) == 2


def test_the_table_counts_kills():
    moments = [Moment(3, 0, "open a"), Moment(4, 0.0123, "os.rename b")]
    assert [str(moment) for moment in moments] == ["before open a", "12.3 ms after os.rename b"]
    table = describe({"ft": Tally(9, 2.4, moments), "cts": Tally(9, 2.4, moments, ["odd"]), "idle": Tally(9, 2.4)})
    assert "| ft | 2 | 1 | 9 | 2 | the same |" in table and "**1 differ**" in table and "idle" not in table
