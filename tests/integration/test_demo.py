"""The demo, as `make demo` runs it, on a corpus of a few utterances."""

import json
import shlex
import shutil
import subprocess

import pytest
import torch
import yaml
from transformers import AutoModel

from ser_ts_lobes.tables.report import make_tables
from ser_ts_lobes.tables.runs import find_runs
from tests.integration.programs import ROOT, run
from tools import demo as demo_module
from tools.demo import compare, next_commands, plan, speech_encoder, train


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
    settings = json.loads((folder / "synthetic-speech" / "demo.json").read_text())
    assert {"train": 40, "valid": 16, "test": 16, "vocabulary": "large"}.items() <= settings.items()


def test_what_it_says_it_wrote_is_there(demo):
    _, output = demo
    paths = [line.strip() for line in output.split("Written:")[1].split("\n\n")[0].splitlines() if line.strip()]
    assert len(paths) >= 12
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_next_commands_work_as_printed(demo):
    folder, output = demo
    export, predict, page = (line.strip() for line in output.rpartition("\nNext")[2].splitlines()[1:])
    for command in (export, predict):
        result = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}: {result.stderr}"
    assert "activation" in result.stdout and "DEMO_" in result.stdout
    card = (folder / "student" / "README.md").read_text(encoding="utf-8")
    assert "was trained on synthetic-speech" in card
    assert shlex.split(page)[-2:] == ["demo-app", shlex.split(predict)[-2]]
    [run] = find_runs(folder / "results", ["cts"], [1986])
    assert "--force" in next_commands(folder, run.run_folder)[0]  # now that there is a student


def test_a_table_of_it_says_that_it_is_synthetic(demo, capsys):
    folder, _ = demo
    make_tables(ROOT / "recipes" / "MSP-Podcast", options=[f"--results_folder={folder / 'results'}"], report_only=True)
    assert "CCC on test1 of synthetic-speech (recipe MSP-Podcast)" in capsys.readouterr().out


def test_another_encoder_has_results_of_its_own(demo, tiny_hubert):
    folder, _ = demo
    overrides = yaml.safe_load((folder.parent / "small.yaml").read_text(encoding="utf-8"))
    for source, path in ((tiny_hubert, tiny_hubert), ("facebook/hubert-base-ls960", "facebook/hubert-base-ls960")):
        jobs = plan(folder, source, [1986], overrides)
        assert {job.settings["speech_source"] for job in jobs} == {path} and not any(job.finished for job in jobs)
    assert jobs[0].settings["results_folder"] == str(folder / "results_hubert_base_ls960")


def test_the_systems_ran_as_the_recipe_says(demo):
    folder, output = demo
    for system in ("teacher", "ft", "ts", "cts"):
        report = json.loads((folder / "results" / system / "1986" / "metrics.json").read_text())
        assert report["counts"] == {"train": 40, "valid": 16, "test1": 16}
    commands = [line.split()[1:3] for line in output.splitlines() if line.startswith("python ")]
    assert sorted(commands) == [
        ["precompute_targets.py", "hparams/teacher.yaml"],
        *(["train_student.py", f"hparams/{system}.yaml"] for system in ("cts", "ft", "ts")),
        ["train_teacher.py", "hparams/teacher.yaml"],
    ]
    assert f"cd {ROOT / 'recipes' / 'MSP-Podcast'}\n" in output


def test_what_has_been_trained_is_not_trained_again(demo):
    folder, _ = demo
    overrides = yaml.safe_load((folder.parent / "small.yaml").read_text(encoding="utf-8"))
    assert all(job.finished for job in plan(folder, "pretrained", [1986], overrides))
    assert not any(job.finished for job in plan(folder, "pretrained", [7], overrides))


def test_a_new_corpus_and_old_runs_are_refused(demo, tmp_path):
    folder, _ = demo
    (tmp_path / "results").mkdir()
    output = run("-m", "tools.demo", "--folder", tmp_path, "--hparams", folder.parent / "small.yaml", succeeds=False)
    assert f"error: {tmp_path / 'results'} has runs on an earlier corpus: delete it" in output


def test_jobs_of_one_thread_share_the_cores(tmp_path, monkeypatch):
    pools, ran = [], []
    monkeypatch.setattr(demo_module, "LocalPool", lambda logs, jobs, environment: pools.append((jobs, environment)))
    monkeypatch.setattr(demo_module, "run_jobs", lambda jobs, *_: ran.append([job.name for job in jobs]) or [])
    overrides = yaml.safe_load((ROOT / "hparams" / "demo.yaml").read_text(encoding="utf-8"))
    train(plan(tmp_path, "pretrained", [1, 2], overrides), tmp_path / "logs")
    assert pools == [(3, {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})]
    train([], tmp_path / "logs", offline=False)
    assert "HF_HUB_OFFLINE" not in pools[-1][1]
    of_one_seed = ("teacher/1", "ft/1", "teacher/1/targets", "ts/1", "cts/1")
    assert set(of_one_seed) < set(ran[0]) and len(ran[0]) == 10


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
