import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ser_ts_lobes.results.report
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.paper import Figure
from ser_ts_lobes.results.report import (
    ccc_table,
    fit_table,
    plot_comparison,
    plot_predictions,
    plot_residuals,
    report_teacher,
    write_metrics,
    write_predictions,
)
from ser_ts_lobes.training.brains import Outputs
from ser_ts_lobes.training.targets import TeacherTargets

RANDOM = np.random.default_rng(0)
LABEL = RANDOM.uniform(1, 7, (60, 3))
PREDICTION = 0.8 * LABEL + RANDOM.normal(0, 0.5, LABEL.shape)
OUTPUTS = {"test1": Outputs([f"u{i:02d}" for i in range(60)], np.zeros((60, 4), np.float32), PREDICTION, LABEL)}


def manifests(n_speakers):
    utterances = {id: {"spk_id": f"s{i % n_speakers}"} for i, id in enumerate(OUTPUTS["test1"].ids)}
    return {
        "test1": SimpleNamespace(utterances=utterances, labelled=True, fingerprints=lambda reads: {"test1": "ab12"})
    }


def test_predictions_hold_what_was_predicted(tmp_path):
    write_predictions(tmp_path / "predictions.csv", OUTPUTS, manifests(4))
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["ID"] for row in rows] == OUTPUTS["test1"].ids
    assert rows[5]["spk_id"] == "s1" and rows[5]["split"] == "test1"
    read = [[float(row[name]) for name in ("activation", "valence", "label_dominance")] for row in rows]
    np.testing.assert_allclose(read, np.column_stack([PREDICTION[:, :2], LABEL[:, 2]]), atol=1e-6)


@pytest.mark.parametrize(("n_speakers", "resampled"), [(20, "speakers"), (4, "utterances")])
def test_metrics_are_of_the_whole_set_with_intervals(tmp_path, n_speakers, resampled):
    write_metrics(tmp_path / "metrics.json", OUTPUTS, manifests(n_speakers), reads=False, system="cts", seed=3)
    report = json.loads((tmp_path / "metrics.json").read_text())
    scores = report["test"]["test1"]
    assert (report["system"], report["seed"], report["counts"]) == ("cts", 3, {"test1": 60})
    assert scores["resampled"] == resampled and scores["utterances"] == 60
    assert scores["valence"]["ccc"] == metrics.ccc(PREDICTION, LABEL)[1]
    assert scores["valence"]["rmse"] == pytest.approx(np.sqrt(np.mean((PREDICTION - LABEL)[:, 1] ** 2)))
    low, high = scores["valence"]["ccc_95"]
    assert low < scores["valence"]["ccc"] < high


def test_an_unlabelled_set_is_predicted_but_not_scored(tmp_path):
    outputs = {"test1": Outputs(OUTPUTS["test1"].ids, OUTPUTS["test1"].embedding, PREDICTION, np.full((60, 3), np.nan))}
    unlabelled = manifests(4)
    unlabelled["test1"].labelled = False
    write_predictions(tmp_path / "predictions.csv", outputs, unlabelled)
    row = next(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert (row["valence"], row["label_valence"]) == (f"{PREDICTION[0, 1]:.6f}", "")
    write_metrics(tmp_path / "metrics.json", outputs, unlabelled, reads=False)
    assert json.loads((tmp_path / "metrics.json").read_text())["test"] == {}


def test_tables_say_what_metrics_say(tmp_path):
    write_metrics(tmp_path / "metrics.json", OUTPUTS, manifests(4), reads=False)
    report = json.loads((tmp_path / "metrics.json").read_text())
    table = ccc_table({"teacher": report}, "test1").splitlines()
    ccc = metrics.ccc(PREDICTION, LABEL)
    low, high = report["test"]["test1"]["activation"]["ccc_95"]
    assert table[0] == "| test1 | activation | valence | dominance |"
    assert table[2].startswith(f"| teacher | {ccc[0]:.3f} [{low:.3f}, {high:.3f}] | {ccc[1]:.3f} [")
    rho = metrics.pearson(PREDICTION, LABEL)
    assert (
        fit_table(PREDICTION, LABEL).splitlines()[3] == f"| Pearson's ρ | {rho[0]:.3f} | {rho[1]:.3f} | {rho[2]:.3f} |"
    )
    values = {"release": "1.6", "sizes": {}, "system": "teacher", "statistic": "pearson", "values": (0.1, 0.2, 0.3)}
    paper = [Figure("1", "", split="train", **values), Figure("2", "9", split="test", **values)]
    *ours, theirs = fit_table(PREDICTION, LABEL, paper).splitlines()
    assert ours == fit_table(PREDICTION, LABEL).splitlines()
    assert theirs == "| Pearson's ρ, the paper's Table 1 | 0.100 | 0.200 | 0.300 |"


def test_plots_are_drawn(tmp_path):
    write_metrics(tmp_path / "metrics.json", OUTPUTS, manifests(4), reads=False)
    report = json.loads(Path(tmp_path / "metrics.json").read_text())
    keep = np.arange(60) > 5
    plot_residuals(tmp_path / "residuals.png", PREDICTION, PREDICTION - LABEL, keep, 2.0)
    plot_predictions(tmp_path / "predictions.png", PREDICTION, LABEL, "title")
    tiny = json.loads(json.dumps(report))
    tiny["test"]["test1"]["valence"]["ccc_95"] = [float("nan")] * 2
    plot_comparison(tmp_path / "comparison.png", {"a": report, "b": tiny}, "test1", "title")
    for name in ("residuals", "predictions", "comparison"):
        image = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert image.shape[1] > 1000 and 0.001 < (image < 200).mean() < 0.5


def test_targets_never_stand_beside_what_another_teacher_left(tmp_path, monkeypatch):
    """A run that is cut before its plots are whole leaves the earlier teacher's targets, which are then found stale."""

    def targets(teacher):
        made_from = {"manifest": "m", "teacher": teacher}
        embedding = np.zeros((60, 4), np.float32)
        return {"train": TeacherTargets(OUTPUTS["test1"].ids, embedding, PREDICTION, LABEL, LABEL * 0, made_from)}

    report_teacher(tmp_path, targets("first"))
    assert TeacherTargets.load(tmp_path / "targets" / "train.safetensors").made_from["teacher"] == "first"

    def cut(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ser_ts_lobes.results.report, "plot_predictions", cut)
    with pytest.raises(KeyboardInterrupt):
        report_teacher(tmp_path, targets("second"))
    assert TeacherTargets.load(tmp_path / "targets" / "train.safetensors").made_from["teacher"] == "first"
