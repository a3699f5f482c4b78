"""A teacher's report, and in which order the scripts leave what it knows."""

import json
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.training import teacher_report
from ser_ts_lobes.training.targets import TeacherTargets
from ser_ts_lobes.training.teacher_report import report_teacher
from tests.integration.programs import ROOT

RANDOM = np.random.default_rng(0)
LABEL = RANDOM.uniform(1, 7, (60, 3))
PREDICTION = 0.8 * LABEL + RANDOM.normal(0, 0.5, LABEL.shape)


@pytest.fixture
def targets():
    """Targets of a training and a test set; the teacher is far off on 3 of the 60 training utterances."""
    residual = np.tile([[1.0], [-1.0]], (30, 3))
    residual[:3] *= 9
    embedding = np.zeros((60, 4), np.float32)
    ids, spread = [f"u{i:02d}" for i in range(60)], np.linspace(0.6, 0, 180).reshape(60, 3)
    of_set = TeacherTargets(ids, embedding, PREDICTION, LABEL, residual, {"spread": "of 10 passes"}, spread)
    of_unrated = TeacherTargets(ids, embedding, PREDICTION, None, None, {"manifest": "ab" * 32}, spread)
    return {"train": of_set, "test1": of_set, "unrated": of_unrated}


def test_a_teachers_report_is_a_table_and_plots(tmp_path, targets, capsys):
    report_teacher(tmp_path, targets)
    assert {path.name for path in tmp_path.iterdir()} == {
        "table1.md",
        "uncertainty.json",
        "residuals.png",
        "predictions_train.png",
        "predictions_test1.png",
    }
    printed, table = capsys.readouterr().out, RunFolder(tmp_path).table1_file.read_text(encoding="utf-8")
    assert f"the teacher on its 60 training utterances\n\n{table}" in printed and "| CCC | 0." in table
    assert "5.0% of them have a residual beyond 2 σ in some dimension." in printed
    assert "both leave out 5.0% (by chance: 0.3%)" in printed  # it is least sure of those where it is far off
    report = json.loads(RunFolder(tmp_path).uncertainty_file.read_text(encoding="utf-8"))
    assert (report["spread"], report["residual_threshold"]) == ("of 10 passes", 2.0)
    assert report["by_residual"] == report["by_spread"] == report["by_both"] == pytest.approx(0.05)
    assert report["rank_correlation"]["valence"] > 0.2


def test_without_spreads_it_does_not_say_whether_the_teacher_knows(tmp_path, targets, capsys):
    report_teacher(tmp_path, targets)
    capsys.readouterr()
    for of_set in targets.values():
        of_set.spread = None
    report_teacher(tmp_path, targets)
    assert "uncertainty.json" not in {path.name for path in tmp_path.iterdir()}  # nor what an earlier one left
    printed = capsys.readouterr().out
    assert "5.0% of them have a residual" in printed and "spread" not in printed


class Cut(Exception):
    pass


@pytest.mark.parametrize(("recipe", "prepare"), [("MSP-Podcast", "msp_podcast"), ("IEMOCAP", "iemocap")])
def test_targets_never_stand_beside_what_another_teacher_left(tmp_path, targets, monkeypatch, recipe, prepare):
    """A script that is cut before its plots are whole leaves the earlier teacher's targets, which are found stale."""
    hparams = {
        "prepare_opts": {},
        "manifest_folder": "",
        "data_folder": "",
        "unrated_manifest": None,
        "soft_label_weight": 0,
        "emotion_weight": 0,
        "output_folder": tmp_path,
    }
    (tmp_path / "save" / "CKPT+1").mkdir(parents=True)
    (tmp_path / "save" / "CKPT+1" / "CKPT.yaml").touch()
    settings = {**hparams, "save_folder": tmp_path / "save"}
    preparation = SimpleNamespace(**{f"prepare_{prepare}": lambda: None})
    monkeypatch.setitem(sys.modules, f"{prepare}_prepare", preparation)
    monkeypatch.setattr("ser_ts_lobes.experiment.parse_arguments", lambda _: (None, None, None))
    monkeypatch.setattr("ser_ts_lobes.experiment.start_experiment", lambda *_, **__: settings)
    monkeypatch.setattr("ser_ts_lobes.experiment.load_experiment", lambda *_, **__: hparams)
    monkeypatch.setattr(
        "ser_ts_lobes.training.datasets.load_manifests", lambda *_, **__: {"train": SimpleNamespace(label_range=(1, 7))}
    )
    monkeypatch.setattr("ser_ts_lobes.training.fitting.learn_from_training_set", lambda *_: None)
    monkeypatch.setattr("ser_ts_lobes.training.datasets.make_datasets", lambda *_: None)
    monkeypatch.setattr("ser_ts_lobes.results.paper.figures_of_run", lambda *_: ())
    brain = SimpleNamespace(make_targets=lambda datasets: targets)
    monkeypatch.setattr("ser_ts_lobes.training.brains.TeacherBrain", lambda *_: brain)

    def run_script(teacher):
        for of_set in targets.values():
            of_set.made_from["teacher"] = teacher
        runpy.run_path(str(ROOT / "recipes" / recipe / "precompute_targets.py"), run_name="__main__")

    def saved_teacher():
        return TeacherTargets.load(RunFolder(tmp_path).targets_path("train")).made_from["teacher"]

    run_script("first")
    assert saved_teacher() == "first"

    def cut(*_):
        raise Cut

    monkeypatch.setattr(teacher_report, "plot_predictions", cut)
    with pytest.raises(Cut):
        run_script("second")
    assert saved_teacher() == "first"
