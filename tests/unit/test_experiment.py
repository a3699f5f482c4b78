import atexit
import copy
import errno
import os
import runpy
import sys
from pathlib import Path

import pytest
import speechbrain as sb
import torch

from ser_ts_lobes import settings as settings_module
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.experiment import load_experiment, model_settings, parse_arguments, start_experiment
from ser_ts_lobes.settings import difference, flatten, read_settings
from ser_ts_lobes.training.checkpoints import Checkpointer
from tests.fixtures_msp import write_msp_tree
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
prepare_opts:
    skip_prep: False
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
        (["--prepare_opts=!new:torch.nn.ReLU"], r"can't change what prepare_opts is \(a mapping\)"),
        (["--lr=1", "2"], "'2' is no option"),
    ],
)
def test_an_option_that_cannot_be_meant_is_one_sentence(hparams_file, options, message):
    with pytest.raises(InputError, match=message):
        parse_arguments([hparams_file, *options])


def test_a_mapping_in_place_of_a_value_is_one_sentence(hparams_file):
    with pytest.raises(InputError, match="an option gives a mapping where the file has a single value"):
        settings(hparams_file, "--lr={a: 1}")


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
    start_experiment(*parse_arguments(options))
    hparams = load_experiment(*parse_arguments(options))
    save_model(hparams["save_folder"], **hparams["settings"])
    assert start_experiment(*parse_arguments(options))["lr"] == 0.1
    assert start_experiment(*parse_arguments([*options, "--number_of_epochs=9"]))["number_of_epochs"] == 9
    before = sorted(os.walk(tmp_path))
    with pytest.raises(InputError, match=r"was trained with lr 0.1, not 0.2: give the old value"):
        start_experiment(*parse_arguments([*options, "--lr=0.2"]))
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"was trained with processes 1, not 4"):
        start_experiment(*parse_arguments(options))
    # What it has learnt is asked for by any number.
    assert start_experiment(*parse_arguments(options), trains=False)["lr"] == 0.1
    assert load_experiment(*parse_arguments(options), trains=False)["settings"]["processes"] == 1
    with pytest.raises(InputError, match=r"was trained with lr 0.1, not 0.2"):
        start_experiment(*parse_arguments([*options, "--lr=0.2"]), trains=False)
    assert sorted(os.walk(tmp_path)) == before


def test_a_finished_run_keeps_the_corpus_that_made_it(hparams_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def start(corpus):
        return start_experiment(*parse_arguments([hparams_file, f"--data_folder={corpus}"]))["data_folder"]

    run = tmp_path / "results" / "ft" / "1"
    start("corpus")
    assert start("elsewhere") == "elsewhere"  # it is not finished: a cluster may lay the corpus somewhere else
    start("corpus")
    (run / "metrics.json").write_text("{}")
    assert start("corpus") == "corpus" and start(tmp_path / "corpus") == str(tmp_path / "corpus")
    with pytest.raises(InputError, match="ft/1 is finished, and was trained on .*corpus, not elsewhere: give the old"):
        start("elsewhere")
    (run / "hyperparams.yaml").write_text("data_folder: elsewhere\n")  # as the sentence says
    assert start("elsewhere") == "elsewhere"


def test_the_settings_of_a_run_are_those_that_speechbrain_writes_and_whole_or_not_there(
    hparams_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = parse_arguments([hparams_file, "--data_folder=/corpus", "--lr=0.25"])
    start_experiment(*arguments, trains=False)
    assert not list(tmp_path.rglob("hyperparams.yaml"))
    folder = Path(start_experiment(*arguments)["output_folder"])
    ours = (folder / "hyperparams.yaml").read_text()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which this replaces
    sb.create_experiment_directory(str(folder), hparams_file, arguments[2], save_env_desc=False)
    assert ours == (folder / "hyperparams.yaml").read_text() and "lr: 0.25" in ours

    write_text = Path.write_text

    def full_disk(path, text, **options):
        write_text(path, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        start_experiment(*arguments)
    assert (folder / "hyperparams.yaml").read_text() == ours


def test_a_key_that_a_file_of_before_lacks_is_one_sentence(hparams_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = parse_arguments([hparams_file, "--data_folder=/corpus"])
    said = r"^/.*/ft\.yaml has no distance, which is needed: copy it from the recipe's own hparams/ft\.yaml\.$"
    for hparams in (start_experiment(*arguments), load_experiment(*arguments)):
        assert hparams["lr"] == 0.1 and hparams.get("distance") is None and "distance" not in hparams
        with pytest.raises(InputError, match=said):
            hparams["distance"]
        namespace = hparams.as_namespace()
        assert namespace.lr == 0.1 and copy.deepcopy(namespace).lr == 0.1 and getattr(namespace, "distance", 7) == 7
        with pytest.raises(InputError, match=said):
            namespace.distance  # noqa: B018


def test_a_process_that_joins_others_leaves_them_before_it_ends(hparams_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    at_the_end = []
    monkeypatch.setattr(atexit, "register", at_the_end.append)
    start_experiment(*parse_arguments([hparams_file, "--data_folder=/corpus"]))
    assert at_the_end == []
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        start_experiment(*parse_arguments([hparams_file, "--data_folder=/corpus"]))
        assert at_the_end == [torch.distributed.destroy_process_group]
    finally:
        torch.distributed.destroy_process_group()


def test_a_run_of_before_a_key_is_one_with_its_first_value():
    before = {"lr": 0.1}
    assert difference(before, {"lr": 0.1, "distance": "norm"}) is None
    assert difference({"lr": 0.1, "distance": "norm"}, before) is None
    assert difference(before, {"lr": 0.1, "distance": "cosine"}) == "distance norm, not cosine"
    paper = {"taught": "joint", "prediction_weight": 0.0, "trust": "cut"}
    assert difference(before, before | paper) is None
    others = {"taught": "text", "prediction_weight": 1, "trust": "soft"}
    assert difference(before, before | others) == (
        "prediction_weight 0.0, not 1; taught joint, not text; trust cut, not soft"
    )
    assert difference(before, {"lr": 0.1, "speech_encoder.lora_rank": 0}) is None
    assert difference(before, {"lr": 0.1, "another": 1}) == "another (not set), not 1"
    assert difference(before, {"lr": 0.1, "encoder_lr": 0.025}) is None
    raters = {"soft_label_weight": 0.0, "soft_label_points": [1, 2, 3]}
    assert difference(before, before | raters) is None
    assert difference(before, before | raters | {"soft_label_weight": 1}) == "soft_label_weight 0.0, not 1"
    classes = {"emotion_weight": 0.0, "emotion_classes": ["a", "b"]}
    assert difference(before, before | classes) is None
    assert difference(before, before | classes | {"emotion_weight": 1}) == "emotion_weight 0.0, not 1"
    other_points = raters | {"soft_label_points": [1, 3]}
    assert difference(before | raters, before | other_points) == "soft_label_points [1, 2, 3], not [1, 3]"
    assert difference({"lr": 0.1, "encoder_lr": 0.1}, {"lr": 0.1, "encoder_lr": 0.025}) == "encoder_lr 0.1, not 0.025"


@pytest.mark.parametrize("system", ["teacher", "cts"])
def test_what_came_later_has_in_the_hparams_the_value_that_runs_had_before(system):
    settings = flatten(read_settings(ROOT / f"recipes/MSP-Podcast/hparams/{system}.yaml", "data_folder: /x"))
    later = {
        key: value for key, value in settings.items() if key.removeprefix("modules.") in settings_module._CAME_LATER
    }
    assert later and all(
        value == settings_module._CAME_LATER[key.removeprefix("modules.")] for key, value in later.items()
    )
    assert difference({key: value for key, value in settings.items() if key not in later}, settings) is None


def test_an_attribute_of_an_object_is_no_difference_of_its_own():
    before, now = (
        {"object.size": size, "pooling.size": [{"!": "new:Object", "size": size}, "output_size"]} for size in (1, 2)
    )
    assert difference(before, now) == "object.size 1, not 2"
    assert difference(before, {"object.size": 1}) is None


def test_other_augmentations_are_a_difference():
    noise, speed = {"!": "new:AddNoise", "snr_low": 0}, {"!": "new:SpeedPerturb", "speeds": [90, 110]}
    runs = [
        flatten({"wav_augment": {"!": "new:Augmenter", "augmentations": which}}) for which in ([noise], [noise, speed])
    ]
    assert difference(runs[0], runs[0]) is None and "wav_augment.augmentations" in difference(*runs)
    assert difference({"lr": 0.1}, {"lr": 0.1, "wav_augment": None, "fea_augment": None}) is None
    assert "wav_augment" in difference({}, runs[0])


def test_a_setting_is_the_number_that_the_networks_get(hparams_file):
    """PyYAML alone would read a word."""
    assert settings(hparams_file, "--lr=1e-3")["lr"] == settings(hparams_file, "--lr=0.001")["lr"] == 0.001
    assert load_experiment(*parse_arguments([hparams_file, "--data_folder=/x", "--lr=1e-3"]))["lr"] == 0.001


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr=abc"], "^lr is abc: give a number from 0 on.$"),
        (["--device=cuda:99"], "^The device 'cuda:99' can't be used"),
        (["--device=gpu"], "^The device 'gpu' can't be used"),
        (["--device=cpu", "--precision=fp16"], "^precision is fp16, which needs a GPU: use --precision=bf16 on a CPU"),
        (["--jit"], "^--jit can't be used here: transformers' networks can't be scripted"),
        (["--optimizer_step_limit=two"], "^--optimizer_step_limit is two: give a whole number.$"),
        (["--ckpt_interval_minutes=1", "--ckpt_interval_steps=2"], "ckpt_interval_steps are given: keep one"),
    ],
)
def test_what_can_not_be_met_is_one_sentence_before_anything_is_made(
    hparams_file, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        start_experiment(*parse_arguments([hparams_file, "--data_folder=/corpus", *options]))
    assert not (tmp_path / "results").exists()


def test_processes_without_a_gpu_talk_by_gloo(hparams_file, monkeypatch):
    def backend(*options):
        return parse_arguments([hparams_file, *options])[1].distributed_backend

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert backend() == "gloo" and backend("--distributed_backend=nccl") == "nccl"
    assert "distributed_backend" in parse_arguments([hparams_file])[1].overridden_args  # else no Brain would take it
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert backend() == "nccl" and backend("--device=cpu") == "gloo" and backend("--device=cuda:0") == "nccl"


def test_a_limit_of_steps_is_a_number(hparams_file):
    assert parse_arguments([hparams_file, "--optimizer_step_limit=3"])[1].optimizer_step_limit == 3


# ------------------------------------------------------------------ the scripts

SCRIPTS = sorted(path for path in (ROOT / "recipes").rglob("*.py") if "load_experiment" in path.read_text())
SYSTEMS = {"train_teacher": "teacher", "precompute_targets": "teacher", "train_student": "cts"}


def run_script(path, monkeypatch, *options):
    """Run a script until it would load networks."""

    def load(*_):
        raise AssertionError("networks are loaded")

    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr("ser_ts_lobes.experiment.load_experiment", load)
    monkeypatch.setattr("speechbrain.create_experiment_directory", lambda *_: None)
    system = SYSTEMS.get(path.stem, path.stem.removeprefix("train_"))
    monkeypatch.setattr(sys, "argv", [str(path), str(path.parent / "hparams" / f"{system}.yaml"), *options])
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_what_is_missing_is_said_before_networks_are_loaded(path, tmp_path, monkeypatch):
    option = "--sources=[/nowhere]" if path.stem == "train_words" else "--data_folder=/nowhere"
    said = "run `python train_teacher.py hparams/teacher.yaml` first" if "targets" in path.stem else "/nowhere"
    with pytest.raises(SystemExit, match=f"^error: .*{said}"):
        run_script(path, monkeypatch, option, f"--results_folder={tmp_path}")


def test_a_teacher_that_is_missing_is_said_before_networks_are_loaded(tmp_path, monkeypatch):
    write_msp_tree(tmp_path / "msp", {"Train": 12, "Development": 4, "Test1": 4})
    path, options = ROOT / "recipes" / "MSP-Podcast" / "train_student.py", [f"--data_folder={tmp_path / 'msp'}"]
    with pytest.raises(SystemExit, match="has no trained teacher: run `python train_teacher.py"):
        run_script(path, monkeypatch, *options, f"--results_folder={tmp_path}")
    with pytest.raises(AssertionError, match="networks are loaded"):
        monkeypatch.setattr("ser_ts_lobes.training.datasets.load_teacher", lambda *_: None)
        run_script(path, monkeypatch, *options, f"--results_folder={tmp_path}")
