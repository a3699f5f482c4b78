"""Each row of tests/recipes/*.csv: two epochs from the command line, with small random encoders."""

import csv
import json
import math
import re
import shlex
import shutil
from functools import cache

import numpy as np
import pytest

from ser_ts_lobes.data.transcribed import prepare_transcribed_speech
from ser_ts_lobes.training.targets import TeacherTargets
from tests.fixtures_iemocap import write_iemocap_tree
from tests.fixtures_librispeech import write_librispeech_tree
from tests.fixtures_msp import write_msp_tree
from tests.fixtures_recordings import write_recordings
from tests.integration.programs import ROOT, run, run_warm
from tests.tiny_models import save_tiny_bert, save_tiny_cpc, save_tiny_ssl, save_word_vectors

# What the flags of the rows name, relative to the root.
TMP = ROOT / "tests" / "tmp"
STEPS_BEFORE = ("train_teacher-teacher", "precompute_targets-teacher")
CPC, WORDS = "LibriSpeech-train_cpc-cpc", "TranscribedSpeech-train_words-words"
# Which row makes what other rows start from.
PRETRAINED = {
    "tests/tmp/results_librispeech/cpc/1986/cpc.pt": CPC,
    "tests/tmp/results_words/words/1986/listener": WORDS,
    "tests/tmp/results_words/words/1986/reader": WORDS,
}


def read_rows():
    rows = {}
    for path in sorted((ROOT / "tests" / "recipes").glob("*.csv")):
        with open(path, encoding="utf-8") as file:
            for row in csv.DictReader(file):
                stems = [row[column].rsplit("/", 1)[-1].split(".")[0] for column in ("Script_file", "Hparam_file")]
                rows["-".join([row["Dataset"], *stems])] = row
    return rows


ROWS = read_rows()


@pytest.fixture(scope="module", autouse=True)
def material():
    shutil.rmtree(TMP, ignore_errors=True)
    write_msp_tree(TMP / "msp", {"Train": 24, "Development": 8, "Test1": 8, "Test2": 8})
    write_msp_tree(TMP / "unrated" / "speech", {"Train": 12}, seed=9)
    prepare_transcribed_speech([TMP / "unrated" / "speech"], TMP / "unrated", valid_share=0.1, max_duration_s=20)
    write_iemocap_tree(TMP / "iemocap")
    write_librispeech_tree(TMP / "librispeech")
    write_recordings(
        TMP / "recordings", raters=3, emotion=lambda place: ("angry", "happy", "neutral", "sad")[place % 4]
    )
    save_tiny_cpc(TMP / "modified_cpc.pt")
    save_tiny_ssl(TMP / "hubert")
    for system in ("hubert_large", "wav2vec2_base", "wav2vec2_large"):
        save_tiny_ssl(TMP / system, *system.split("_"))
    save_tiny_bert(TMP / "bert")
    save_word_vectors(TMP / "word_vectors.txt")
    yield
    shutil.rmtree(TMP)


@cache
def run_row(name):
    """Run a row once, after those that it needs (teacher, pretraining); return its results folder and output."""
    row = ROWS[name]
    for source, pretraining in PRETRAINED.items():
        if source in row["test_debug_flags"]:
            run_row(pretraining)
    if "teacher_folder:" in (ROOT / row["Hparam_file"]).read_text(encoding="utf-8"):
        for step in STEPS_BEFORE:
            run_row(f"{row['Dataset']}-{step}")
    flags = shlex.split(row["test_debug_flags"])
    output = run_warm(row["Script_file"], row["Hparam_file"], *flags)
    [results] = [flag.split("=")[1] for flag in flags if flag.startswith("--results_folder=")]
    system = row["Hparam_file"].rsplit("/", 1)[-1].split(".")[0]
    [metrics] = (ROOT / results / system).rglob("metrics.json")
    return metrics.parent, output


def flags_elsewhere(row, folder, **others):
    """Give the flags of a row, with another results folder and other values."""
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in shlex.split(row["test_debug_flags"]))
    return [f"--{key}={value}" for key, value in (flags | {"results_folder": folder} | others).items()]


@pytest.mark.parametrize("name", ROWS)
def test_a_recipe_runs(name):
    folder, _ = run_row(name)
    files = ROWS[name]["test_debug_checks"].removeprefix("file_exists=[").removesuffix("]").split(",")
    missing = [file for file in files if not (folder / file).is_file()]
    assert not missing


def test_every_hparams_file_has_a_row():
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("hparams/*.yaml")}
    tried = {row["Hparam_file"] for row in ROWS.values()}
    assert tried <= files
    # Of recipes/Template the method is enough: its systems are those of the others.
    assert {file for file in files - tried if not file.startswith("recipes/Template/")} == set()


def test_every_test_set_is_scored():
    folder, _ = run_row("MSP-Podcast-train_student-ft")
    report = json.loads((folder / "metrics.json").read_text())
    assert set(report["test"]) == {"test1", "test2"}
    with open(folder / "predictions.csv") as file:
        assert [row["split"] for row in csv.DictReader(file)].count("test2") == 8


def test_the_targets_script_prints_table_1():
    _, output = run_row("MSP-Podcast-precompute_targets-teacher")
    assert "| training set | activation | valence | dominance |" in output and "residual beyond 2 σ" in output


def test_cpc_learns_from_audio_alone():
    folder, _ = run_row(CPC)
    report = json.loads((folder / "metrics.json").read_text())
    assert report["valid_loss_of_chance"] == pytest.approx(math.log(129))
    assert report["valid_loss"] < math.log(129) - 0.1


def test_words_are_learnt_from_transcripts_alone():
    folder, _ = run_row(WORDS)
    report = json.loads((folder / "metrics.json").read_text())
    assert report["sentences"]["train"] > report["sentences"]["valid"] >= 1
    with open(folder / "manifests" / "train.csv") as file:
        assert not any(row["valence"] for row in csv.DictReader(file))


def test_a_student_before_its_teacher_is_one_sentence(tmp_path):
    row = ROWS["MSP-Podcast-train_student-cts"]
    flags = flags_elsewhere(row, tmp_path)
    output = run_warm(row["Script_file"], row["Hparam_file"], *flags, succeeds=False)
    assert "error: " in output and "run `python train_teacher.py hparams/teacher.yaml`" in output
    assert "Traceback" not in output


def logged(run_folder):
    """Give the numbers of a run's log by name, epoch by epoch."""
    lines = [line for line in (run_folder / "train_log.txt").read_text().splitlines() if line.startswith("epoch: ")]
    number = re.compile(r"([a-z_][a-z_ ]*): ([-+.e\d]+)")
    return [{name: float(value) for name, value in number.findall(line)} for line in lines]


@pytest.mark.parametrize("name", ["Template-train_teacher-teacher", "Template-train_student-cts"])
def test_raters_are_learnt_from(name):
    folder, _ = run_row(name)
    assert [epoch["train soft_label_loss"] > 0 for epoch in logged(folder)] == [True, True]


def test_classes_are_learnt_and_tested():
    folder, output = run_row("Template-train_student-cts")
    assert [epoch["train emotion_loss"] > 0 for epoch in logged(folder)] == [True, True]
    scores = json.loads((folder / "metrics.json").read_text())["test"]["test"]["emotion"]
    assert scores["utterances"] == 8 and f"Emotion classes of 8 utterances: accuracy {scores['accuracy']:.3f}" in output


def test_unrated_speech_is_taught_on():
    folder, _ = run_row("MSP-Podcast-train_student-cts_unrated")
    report = json.loads((folder / "metrics.json").read_text())
    with open(TMP / "unrated" / "train.csv") as file:
        rows = list(csv.DictReader(file))
    assert report["counts"]["unrated"] == len(rows) > 4 and not any(row["valence"] for row in rows)
    _, output = run_row("MSP-Podcast-precompute_targets-teacher")
    assert "both leave out" in output


@pytest.mark.parametrize(
    ("system", "batches"), [("cts", "shuffled"), ("cts_unrated", "shuffled"), ("cts", "by_length")]
)
def test_two_processes_train_the_student_that_one_would(tmp_path, system, batches):
    row = ROWS[f"MSP-Podcast-train_student-{system}"]
    run_row(f"MSP-Podcast-train_student-{system}")  # for its teacher
    teacher = ROOT / "tests" / "tmp" / "results" / "teacher" / "1986"
    runs = {}
    for processes in (1, 2):
        # Without dropout, which no two processes share.
        others = {"teacher_folder": teacher, "trainable_layers": 0, "batches": batches}
        flags = flags_elsewhere(row, tmp_path / str(processes), **others)
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2"] if processes == 2 else []
        run(*launcher, row["Script_file"], row["Hparam_file"], *flags)
        runs[processes] = tmp_path / str(processes) / system / "1986"
    one, two = (logged(folder) for folder in runs.values())
    assert len(one) == len(two) == 2
    for epoch_of_one, epoch_of_two in zip(one, two, strict=True):
        assert epoch_of_one == pytest.approx(epoch_of_two, rel=0.02, abs=1e-6)  # the log has three digits
    predicted = [read_predictions(folder) for folder in runs.values()]
    np.testing.assert_allclose(*predicted, rtol=0, atol=1e-5)
    assert json.loads((runs[2] / "metrics.json").read_text())["settings"]["processes"] == 2


def test_two_processes_make_the_targets_that_one_would(tmp_path):
    name = "MSP-Podcast-precompute_targets-teacher"
    alone, _ = run_row(name)
    shutil.copytree(alone, tmp_path / "teacher" / "1986", ignore=shutil.ignore_patterns("targets", "table1.md"))
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    flags = flags_elsewhere(ROWS[name], tmp_path)  # of which one process has trained; nothing is kept there
    output = run(*launcher, ROWS[name]["Script_file"], ROWS[name]["Hparam_file"], *flags)
    assert output.count("| training set | activation | valence | dominance |") == 1
    paths = sorted((alone / "targets").iterdir())
    assert len(paths) == 5
    for path in paths:
        one, two = TeacherTargets.load(path), TeacherTargets.load(tmp_path / "teacher" / "1986" / "targets" / path.name)
        assert (one.ids, one.made_from) == (two.ids, two.made_from)
        for key in ("embedding", "prediction", "residual", "text", "sentence", "spread"):
            np.testing.assert_equal(getattr(one, key) is None, getattr(two, key) is None)
            if getattr(one, key) is not None:
                np.testing.assert_allclose(getattr(two, key), getattr(one, key), rtol=0, atol=1e-5)


def test_neither_workers_nor_kept_features_change_a_number(tmp_path):
    row = ROWS["MSP-Podcast-train_student-ft"]
    others = {"as it is": {}, "workers": {"num_workers": 2}, "nothing kept": {"feature_folder": "null"}}
    row = row | {"test_debug_flags": row["test_debug_flags"] + " --feature_dtype=float32"}
    predicted = {}
    for name, changed in others.items():
        run_warm(row["Script_file"], row["Hparam_file"], *flags_elsewhere(row, tmp_path / name, **changed))
        folder = tmp_path / name / "ft" / "1986"
        predicted[name] = logged(folder), (folder / "predictions.csv").read_bytes()
    assert predicted["as it is"] == predicted["workers"] == predicted["nothing kept"]


def read_predictions(folder):
    with open(folder / "predictions.csv") as file:
        return [[float(row[name]) for name in ("activation", "valence", "dominance")] for row in csv.DictReader(file)]


def test_more_processes_than_a_batch_has_recordings_are_refused(tmp_path):
    row = ROWS["MSP-Podcast-train_student-hubert_base"]
    flags = flags_elsewhere(row, tmp_path, distributed_backend="gloo", batch_size=1)
    command = ("-m", "torch.distributed.run", "--nproc_per_node=2", row["Script_file"], row["Hparam_file"], *flags)
    output = run(*command, succeeds=False)
    assert "A batch of 1 recordings can't be shared out among 2 processes" in output
    assert not (tmp_path / "hubert_base" / "1986" / "metrics.json").exists()


def test_a_debug_run_leaves_nothing_that_passes_for_a_result(tmp_path):
    row = ROWS["MSP-Podcast-train_student-hubert_base"]
    run_warm(row["Script_file"], row["Hparam_file"], *flags_elsewhere(row, tmp_path), "--debug")
    assert not list(tmp_path.rglob("metrics.json")) and not list(tmp_path.rglob("predictions.csv"))
    assert (tmp_path / "debug" / "hubert_base" / "1986" / "train_log.txt").is_file()
    assert not (tmp_path / "hubert_base").exists()


def test_a_run_keeps_the_settings_that_it_was_trained_with(tmp_path):
    row = ROWS["MSP-Podcast-train_student-hubert_base"]
    flags = flags_elsewhere(row, tmp_path)
    run_warm(row["Script_file"], row["Hparam_file"], *flags)
    folder = tmp_path / "hubert_base" / "1986"
    kept = {name: (folder / name).read_bytes() for name in ("hyperparams.yaml", "metrics.json", "predictions.csv")}
    output = run_warm(row["Script_file"], row["Hparam_file"], *flags, "--lr=0.01", succeeds=False)
    assert "lr 0.0005, not 0.01: give the old value" in output and "Traceback" not in output
    assert {name: (folder / name).read_bytes() for name in kept} == kept
