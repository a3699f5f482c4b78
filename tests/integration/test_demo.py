"""The demo, as `make demo` runs it, on a corpus of a few utterances."""

import json
import shutil

import pytest
import torch
import yaml
from transformers import AutoModel

from tests.integration.programs import ROOT, run
from tools.demo import compare, speech_encoder


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    settings = yaml.safe_load((ROOT / "hparams" / "demo.yaml").read_text(encoding="utf-8"))
    settings["corpus"] = {"n_train": 40, "n_valid": 16, "n_test": 16}
    for system in ("teacher", "students"):
        settings[system]["number_of_epochs"] = 1
    (folder / "small.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["--hparams", folder / "small.yaml", "--vocabulary", "large"]
    output = run("-m", "tools.demo", "--folder", folder / "demo", *arguments)
    return folder / "demo", output


def test_all_systems_are_compared(demo):
    _, output = demo
    for row in ("| teacher | ", "| ft | ", "| ts | ", "| cts | ", "| CCC | "):
        assert row in output
    assert "SYNTHETIC" in output


def test_the_corpus_is_the_one_asked_for(demo):
    folder, _ = demo
    settings = json.loads((folder / "corpus" / "demo.json").read_text())
    assert {"train": 40, "valid": 16, "test": 16, "vocabulary": "large"}.items() <= settings.items()


def test_what_it_says_it_wrote_is_there(demo):
    _, output = demo
    paths = [line.strip() for line in output.split("Written:")[1].splitlines() if line.strip()]
    assert len(paths) >= 12
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_systems_ran_as_the_recipe_says(demo):
    folder, output = demo
    for system in ("teacher", "ft", "ts", "cts"):
        report = json.loads((folder / "results" / system / "1986" / "metrics.json").read_text())
        assert report["counts"] == {"train": 40, "valid": 16, "test1": 16}
    assert output.count("$ cd recipes/MSP-Podcast && python ") == 5


def test_encoders_stand_side_by_side(demo, capsys):
    folder, output = demo
    shutil.copytree(folder / "results", folder / "results_random")
    written = compare(folder, [1986], ["pretrained", "random"])
    both = capsys.readouterr().out
    assert "|  | pretrained encoder | random encoder |" in both
    pretrained, random = both.split("\nShare of")[0].split("Random speech encoder")
    assert pretrained.split("Table 1")[1].strip() == random.split("Table 1")[1].strip()
    assert folder / "results_random" / "comparison.png" in written


def test_a_random_encoder_is_the_same_but_for_its_weights(tmp_path):
    pretrained, random, again = (
        AutoModel.from_pretrained(speech_encoder(tmp_path / folder, kind)).state_dict()
        for folder, kind in (("", "pretrained"), ("a", "random"), ("b", "random"))
    )
    assert {name: weight.shape for name, weight in random.items()} == {
        name: weight.shape for name, weight in pretrained.items()
    }
    name = "encoder.layers.0.attention.k_proj.weight"
    assert not torch.equal(random[name], pretrained[name]) and torch.equal(random[name], again[name])
