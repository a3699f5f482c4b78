import os
import re

import pytest
import torch
import yaml

from ser_ts_lobes import settings as settings_module
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.experiment import load_experiment, model_settings, parse_arguments
from ser_ts_lobes.settings import difference, read_settings
from ser_ts_lobes.training.checkpoints import Checkpointer
from tests.integration.programs import ROOT

HPARAMS = """\
system: ft
seed: 1
results_folder: results
data_folder: !PLACEHOLDER
output_folder: !ref <results_folder>/<system>/<seed>
save_folder: !ref <output_folder>/save
lr: 0.1
number_of_epochs: 5
max_grad_norm: null
precision: fp32
num_workers: 2
opt_class: !name:torch.optim.Adam
    lr: !ref <lr>
"""


@pytest.fixture
def hparams_file(tmp_path):
    path = tmp_path / "ft.yaml"
    path.write_text(HPARAMS)
    return str(path)


def settings(hparams_file, *options):
    path, run_opts, overrides = parse_arguments([hparams_file, "--data_folder=/corpus", *options])
    return read_settings(path, overrides)


def test_options_are_settings_as_they_stand(hparams_file):
    read = settings(hparams_file, "--lr", "0.2", "--max_grad_norm=3", "--precision", "bf16", "--results_folder=/a=b c")
    assert (read["lr"], read["max_grad_norm"], read["precision"]) == (0.2, 3, "bf16")
    assert read["output_folder"] == "/a=b c/ft/1"
    assert settings(hparams_file, "--max_grad_norm=null")["max_grad_norm"] is None
    adam = settings(hparams_file, "--opt_class={weight_decay: 0.1}")["opt_class"]
    assert adam == {"!": "name:torch.optim.Adam", "lr": 0.1, "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr=1", "--lr=2"], "--lr is given twice; keep one"),
        (["--lr=1", "--lr", "2"], "--lr is given twice"),
        (["--device=cpu", "--device=cuda"], "--device is given twice"),
        (["--learning=1", "--lr"], "--learning is no key of .*ft.yaml: its keys are"),
        (["--number_of_epoch=1"], "--number_of_epoch is no key of .*: did you mean number_of_epochs"),
        (["--precis=bf16"], "--precis is no key of .*: did you mean .*precision"),  # argparse would complete it
        (["--lr"], "--lr needs a value: --lr=VALUE"),
        (["--opt_class=!name:torch.optim.SGD {lr: 1}"], r"can't change what opt_class is \(!name:torch.optim.Adam\)"),
        (["--lr=1", "2"], "'2' is no option"),
    ],
)
def test_an_option_that_cannot_be_meant_is_one_sentence(hparams_file, options, message):
    with pytest.raises(InputError, match=message):
        parse_arguments([hparams_file, *options])


def test_a_hparams_file_that_is_not_there_is_said():
    with pytest.raises(InputError, match="nowhere.yaml does not exist: name a file of hparams/"):
        parse_arguments(["nowhere.yaml"])


def test_a_debug_run_has_a_folder_of_its_own(hparams_file):
    assert settings(hparams_file, "--debug")["save_folder"] == "results/debug/ft/1/save"
    assert settings(hparams_file, "--debug", "--output_folder=here")["output_folder"] == "here"


def made_with(hparams_file, *options):
    path, run_opts, overrides = parse_arguments([hparams_file, "--data_folder=/corpus", *options])
    return model_settings(read_settings(path, overrides), run_opts, processes=2)


def test_what_makes_a_model_is_told_from_what_does_not(hparams_file):
    first = made_with(hparams_file)
    assert first["lr"] == 0.1 and first["processes"] == 2
    harmless = ["--num_workers=0", "--results_folder=b", "--device=cpu", "--noprogressbar"]
    assert made_with(hparams_file, *harmless) == first
    for option in ("--lr=0.2", "--precision=bf16", "--max_grad_norm=1", "--optimizer_step_limit=3"):
        assert made_with(hparams_file, option) != first


def save_model(folder, **made_from):
    checkpointer = Checkpointer(folder, {"layer": torch.nn.Linear(1, 1)})
    checkpointer.add_made_from(made_from)
    checkpointer.save_checkpoint()


def test_a_model_of_other_settings_is_refused_before_anything_is_written(hparams_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [hparams_file, "--data_folder=/corpus"]
    hparams = load_experiment(*parse_arguments(options))
    save_model(hparams["save_folder"], **hparams["settings"])
    assert load_experiment(*parse_arguments(options))["settings"] == hparams["settings"]
    assert load_experiment(*parse_arguments([*options, "--number_of_epochs=9"]))["number_of_epochs"] == 9
    before = sorted(os.walk(tmp_path))
    with pytest.raises(InputError, match=r"was trained with lr 0.1, not 0.2: give the old value"):
        load_experiment(*parse_arguments([*options, "--lr=0.2"]))
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"was trained with processes 1, not 4"):
        load_experiment(*parse_arguments(options))
    assert sorted(os.walk(tmp_path)) == before


def test_a_run_of_before_a_key_is_one_with_its_first_value():
    before = {"lr": 0.1}
    assert difference(before, {"lr": 0.1, "distance": "norm"}) is None
    assert difference({"lr": 0.1, "distance": "norm"}, before) is None
    assert difference(before, {"lr": 0.1, "distance": "cosine"}) == "distance norm, not cosine"
    assert difference(before, {"lr": 0.1, "another": 1}) == "another (not set), not 1"


def test_what_came_later_has_in_the_hparams_the_value_that_runs_had_before():
    of_a_student = yaml.safe_load(re.sub(r"!\S+", "", (ROOT / "hparams" / "parts" / "teaching.yaml").read_text()))
    assert {key: of_a_student[key] for key in settings_module._CAME_LATER} == settings_module._CAME_LATER
