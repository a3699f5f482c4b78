import ast
import csv
import json

import numpy as np
import pytest

import ser_ts_lobes.results.run_folder
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.seals import seal
from ser_ts_lobes.training.brains import Outputs
from tests.integration.programs import ROOT
from tests.unit.results.outputs import LABEL, OUTPUTS, PREDICTION, make_manifests, write_report
from tests.unit.tables.test_report import write_run

# Of a run; an exported student has a hyperparams.yaml of its own.
FILES = {
    "hyperparams.yaml",
    "log.txt",
    "metrics.json",
    "predictions.csv",
    "residuals.png",
    "table1.md",
    "train_log.txt",
}


def test_no_other_module_knows_the_files_of_a_run():
    package = ROOT / "ser_ts_lobes"
    spelt = {}
    for path in sorted(package.rglob("*.py")):
        strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        for value in sorted(value for value in strings if isinstance(value, str)):
            if value.split("/")[-1] in FILES or value.startswith("targets/"):
                spelt.setdefault(path.relative_to(package).as_posix(), set()).add(value)
    # What tells whether a run can be started again is asked on the ground floor.
    assert spelt.pop("provenance.py") == {"hyperparams.yaml", "metrics.json"}
    assert spelt.pop("results/run_folder.py") == FILES - {"hyperparams.yaml"}
    assert spelt == {"student/export.py": {"hyperparams.yaml"}}


# ------------------------------------------------------------------ what is written


def test_predictions_hold_what_was_predicted(tmp_path):
    write_report(tmp_path)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["ID"] for row in rows] == OUTPUTS["test1"].ids
    assert rows[5]["spk_id"] == "s1" and rows[5]["split"] == "test1"
    read = [[float(row[name]) for name in ("activation", "valence", "label_dominance")] for row in rows]
    np.testing.assert_allclose(read, np.column_stack([PREDICTION[:, :2], LABEL[:, 2]]), atol=1e-6)


@pytest.mark.parametrize(("n_speakers", "resampled"), [(20, "speakers"), (4, "utterances")])
def test_metrics_are_of_the_whole_set_with_intervals(tmp_path, n_speakers, resampled):
    report = write_report(tmp_path, n_speakers)
    scores = report["test"]["test1"]
    assert (report["system"], report["seed"], report["counts"]) == ("cts", 3, {"test1": 60})
    assert scores["resampled"] == resampled and scores["utterances"] == 60
    assert scores["valence"]["ccc"] == metrics.ccc(PREDICTION, LABEL)[1]
    assert scores["valence"]["rmse"] == pytest.approx(np.sqrt(np.mean((PREDICTION - LABEL)[:, 1] ** 2)))
    low, high = scores["valence"]["ccc_95"]
    assert low < scores["valence"]["ccc"] < high


def test_an_unlabelled_set_is_predicted_but_not_scored(tmp_path):
    outputs = {"test1": Outputs(OUTPUTS["test1"].ids, OUTPUTS["test1"].embedding, PREDICTION, np.full((60, 3), np.nan))}
    unlabelled = make_manifests(4)
    unlabelled["test1"].labelled = False
    RunFolder(tmp_path).write(outputs, unlabelled, reads=False)
    row = next(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert (row["valence"], row["label_valence"]) == (f"{PREDICTION[0, 1]:.6f}", "")
    assert json.loads((tmp_path / "metrics.json").read_text())["test"] == {}


def test_a_run_is_not_finished_before_its_predictions_are_there(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(ser_ts_lobes.results.run_folder, "write_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path)
    assert not RunFolder(tmp_path).finished


def test_what_is_written_anew_is_read_anew(tmp_path):
    run = RunFolder(tmp_path)
    run.write(OUTPUTS, make_manifests(4), reads=False, seed=1)
    assert run.report()["seed"] == 1 and run.predictions("test1").ids == OUTPUTS["test1"].ids
    fewer = {"test1": Outputs(*(values[:50] for values in vars(OUTPUTS["test1"]).values()))}
    run.write(fewer, make_manifests(4), reads=False, seed=2)
    assert len(run.predictions("test1").ids) == 50
    run.remove_results()
    assert not run.finished and list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ what is read


def test_a_finished_run_is_read(tmp_path):
    run = RunFolder(write_run(tmp_path, "cts", 1))
    assert run.finished and run.report()["system"] == "cts"
    ids, speakers, prediction, label = run.predictions("test1")
    assert (ids[21], speakers[21]) == ("u21", "s1") and len(ids) == len(speakers) == 40
    assert prediction.shape == label.shape == (40, 3)
    assert run.settings == {"system": "cts", "seed": 1, "batch_size": 32}
    assert not run.started
    run.train_log_file.touch()
    assert run.started


def test_predictions_are_read_once(tmp_path, monkeypatch):
    run, reads = RunFolder(write_run(tmp_path, "cts", 1)), []
    read_rows = ser_ts_lobes.results.run_folder.read_rows
    monkeypatch.setattr(
        ser_ts_lobes.results.run_folder, "read_rows", lambda *args: reads.append(args) or read_rows(*args)
    )
    for _ in range(2):
        run.report()
        run.predictions("test1")
    assert len(reads) == 1
    RunFolder(run.path).report()
    assert len(reads) == 2


def test_finished_runs_are_found_at_any_depth(tmp_path):
    folders = [write_run(tmp_path, "cts", 2), write_run(tmp_path, "cts", 1, fold=3), write_run(tmp_path, "ft", 1)]
    (tmp_path / "cts" / "9").mkdir()
    assert [run.path for run in RunFolder.finished_below(tmp_path / "cts")] == folders[:2]
    assert [run.path for run in RunFolder.finished_below(tmp_path)] == folders
    assert RunFolder.finished_below(tmp_path / "no") == []


def test_linked_runs_are_found_and_links_in_circles_do_no_harm(tmp_path):
    elsewhere, results = write_run(tmp_path / "scratch", "cts", 2), tmp_path / "results"
    folders = [write_run(results, "cts", 1), results / "cts" / "2"]
    folders[1].symlink_to(elsewhere)
    (results / "cts" / "all").symlink_to(results / "cts")
    (results / "cts" / "gone").symlink_to("nowhere")
    (results / "ft").symlink_to(tmp_path / "scratch" / "cts")
    assert [run.path for run in RunFolder.finished_below(results / "cts")] == folders
    assert [run.path for run in RunFolder.finished_below(results / "ft")] == [results / "ft" / "2"]


def test_hours_are_those_of_all_sessions(tmp_path):
    assert RunFolder(write_run(tmp_path, "ft", 1)).training_hours == pytest.approx(0.5 + 0.25)
    assert RunFolder(tmp_path).training_hours is None


def test_a_session_in_which_the_clock_was_set_back_took_no_negative_time(tmp_path):
    lines = [
        "2026-11-30 10:00:00,000 - Beginning experiment!",
        "2026-11-30 08:00:00,000 - epoch: 1",
        "2026-11-30 08:10:00,000 - Beginning experiment!",
        "2026-11-30 08:40:00,000 - epoch: 2",
    ]
    (tmp_path / "log.txt").write_text("\n".join(lines))
    assert RunFolder(tmp_path).training_hours == 0.5


@pytest.mark.parametrize(
    ("output_folder", "expected"),
    [
        ("results/ft/1", "."),
        ("ft/1", "results"),
        ("results/cts/1", None),  # moved since
        ("{absolute}", None),
    ],
)
def test_relative_paths_belong_where_the_script_ran(tmp_path, monkeypatch, output_folder, expected):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = tmp_path / "results" / "ft" / "1"
    settings = {"output_folder": output_folder.format(absolute=folder)}
    folder.mkdir(parents=True)
    (folder / "hyperparams.yaml").write_text(json.dumps(settings))
    for path in (folder, "../results/ft/1"):
        assert RunFolder(path).working_folder == tmp_path / (expected or "elsewhere")


def test_a_run_that_is_not_finished_is_one_sentence(tmp_path):
    run = RunFolder(tmp_path / "cts" / "1")
    assert not run.finished
    with pytest.raises(InputError, match="has no metrics.json, so it isn't a finished run"):
        run.report()


def edit_metrics(folder, edit):
    path = folder / "metrics.json"
    report = json.loads(path.read_text())
    edit(report)
    path.write_text(json.dumps(seal(report)))


def drop_predictions(folder, number):
    path = folder / "predictions.csv"
    rows = list(csv.reader(path.open()))
    with path.open("w") as file:
        csv.writer(file).writerows(rows[:-number])


def swap_predictions(folder):
    text = (folder / "predictions.csv").read_text().splitlines()
    columns = [line.split(",") for line in text[1:]]
    moved = columns[1:] + columns[:1]
    lines = [",".join([*a[:3], *b[3:6], *a[6:]]) for a, b in zip(columns, moved, strict=True)]
    (folder / "predictions.csv").write_text("\n".join([text[0], *lines]) + "\n")


def change_a_digit(path):
    content = path.read_bytes()
    place = content.rindex(b"1")
    path.write_bytes(content[:place] + b"2" + content[place + 1 :])


def test_a_digit_that_has_changed_is_noticed(tmp_path):
    folder = write_run(tmp_path, "cts", 1)
    change_a_digit(folder / "predictions.csv")  # in the sixth place, which no CCC shows
    with pytest.raises(InputError, match="cts/1: predictions.csv is not as it was written: run its training command"):
        RunFolder(folder).report()
    edit_metrics(folder, lambda report: report.pop("predictions_sha256"))  # as an earlier version wrote it
    assert RunFolder(folder).report()["counts"] == {"test1": 40}
    change_a_digit(folder / "metrics.json")
    with pytest.raises(InputError, match="cts/1: metrics.json is not as it was written: run its training command"):
        RunFolder(folder).report()


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", '"test"', '{"test": 3}', '{"test": {"test1": 3}}', '{"test": {"test1": {}}}', "[" * 3000],
)
def test_metrics_of_another_form_are_refused(tmp_path, text):
    folder = write_run(tmp_path, "cts", 1)
    (folder / "metrics.json").write_text(text)
    with pytest.raises(InputError, match="cts/1: metrics.json is (damaged|not as it was written): run its training"):
        RunFolder(folder).report()


def test_predictions_that_are_gone_are_missed(tmp_path):
    folder = write_run(tmp_path, "cts", 1)
    (folder / "predictions.csv").unlink()
    with pytest.raises(InputError, match="cts/1: predictions.csv is missing: run its training command again"):
        RunFolder(folder).report()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: drop_predictions(run, 2), "predictions.csv has 38 of the 40 utterances of test1"),
        (
            lambda run: edit_metrics(run, lambda report: report["test"]["test1"].update(utterances=2)),
            "metrics.json has 2 of the 40 utterances of test1",
        ),
        (swap_predictions, "metrics.json and predictions.csv do not agree on test1"),
    ],
)
def test_numbers_that_are_not_of_the_whole_test_set_are_refused(tmp_path, damage, message):
    folder = write_run(tmp_path, "cts", 1)
    damage(folder)
    with pytest.raises(InputError, match=f"{message}: run its training command again"):
        RunFolder(folder).report()


def edit_cells(folder, line, cells):
    path = folder / "predictions.csv"
    rows = list(csv.reader(path.open()))
    for column, text in cells.items():
        rows[line - 1][rows[0].index(column)] = text
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize(
    ("column", "text"),
    [("valence", "about 4"), ("valence", "4_0"), ("valence", "nan"), ("valence", ""), ("label_dominance", "")],
)
def test_a_prediction_that_is_not_a_number_is_one_sentence(tmp_path, column, text):
    folder = write_run(tmp_path, "cts", 1)
    edit_cells(folder, 3, {column: text})
    with pytest.raises(InputError) as refused:
        RunFolder(folder).predictions("test1")
    assert str(refused.value) == (
        f"{folder}: predictions.csv, line 3: the {column} of u01 is {text!r}, not a number: run its training command "
        "again, which tests it."
    )


def test_empty_labels_are_an_unlabelled_set(tmp_path):
    folder = write_run(tmp_path, "cts", 1)
    for line in range(2, 42):
        edit_cells(folder, line, dict.fromkeys(("label_activation", "label_valence", "label_dominance"), ""))
    _, speakers, prediction, label = RunFolder(folder).predictions("test1")
    assert len(speakers) == 40 and np.isfinite(prediction).all() and np.isnan(label).all()
    assert [np.shape(part) for part in RunFolder(folder).predictions("test9")] == [(0,), (0,), (0, 3), (0, 3)]


def test_a_pretraining_has_no_test_to_report(tmp_path):
    run = RunFolder(tmp_path)
    run.write_report({"system": "cpc", "valid_loss": 1.0})
    with pytest.raises(InputError, match="is a pretraining, which tests nothing: name a run like results/cts/1986"):
        run.report()


# ------------------------------------------------------------------ how it was trained


def test_the_learning_curve_is_that_of_the_log(tmp_path):
    run = RunFolder(tmp_path)
    assert run.learning_curve() == {}
    ccc = "valid ccc_activation: {0:.2e}, valid ccc_valence: -1.00e-02, valid ccc_dominance: 0.5"
    run.train_log_file.write_text(
        f"epoch: 1, lr: 5.00e-04 - train loss: 1.00 - valid loss: 9.0e-01, {ccc.format(0.1)}\n"
        f"epoch: 2, lr: 5.00e-04 - train loss: 1.00 - valid loss: 9.0e-01, {ccc.format(0.2)}\n"
        f"epoch: 2, lr: 5.00e-04 - train loss: 1.00 - valid loss: 9.0e-01, {ccc.format(0.3)}\n"  # after an interruption
        "epoch: 3, lr: 5.00e-04 - train loss: 1.00\n"
        "Epoch loaded: 2 - test ccc_activation: 7.00e-01\n"
    )
    assert run.learning_curve() == {1: (0.1, -0.01, 0.5), 2: (0.3, -0.01, 0.5)}


def test_a_run_says_its_corpus_and_where_its_manifests_were(tmp_path, monkeypatch):
    folder = write_run(
        tmp_path,
        "cts",
        1,
        data_folder="/corpora/mine",
        manifest_folder="results/manifests",
        output_folder="results/cts/1",
    )
    monkeypatch.chdir(tmp_path)
    run = RunFolder(folder)
    assert run.corpus == "mine"
    assert run.manifest_path("test1") == tmp_path / "results" / "manifests" / "test1.csv"
    assert run.made_with()["batch_size"] == 32


def test_classes_are_written_beside_the_dimensions(tmp_path):
    manifests = make_manifests(4)
    classes = ["ang", "neu", "X"] * 20
    for row, emotion in zip(manifests["test1"].utterances.values(), classes, strict=True):
        row["emotion"] = emotion
    manifests["test1"].emotion_classes = ("ang", "neu")
    told = ["ang"] * 30 + ["neu"] * 30
    of_test = OUTPUTS["test1"]
    shuffled = np.random.default_rng(1).permutation(60)
    outputs = Outputs(
        [of_test.ids[row] for row in shuffled],
        of_test.embedding[shuffled],
        PREDICTION[shuffled],
        LABEL[shuffled],
        [told[row] for row in shuffled],
    )
    run = RunFolder(tmp_path)
    run.write({"test1": outputs}, manifests, reads=False, system="cts", best={"epoch": 1})
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [(row["emotion"], row["label_emotion"]) for row in rows] == [
        (said, "" if known == "X" else known) for said, known in zip(told, classes, strict=True)
    ]
    assert run.report()["test"]["test1"]["emotion"] == {"utterances": 40, "accuracy": 0.5, "uar": 0.5, "macro_f1": 0.5}
    assert "Emotion classes of 40 utterances: accuracy 0.500, UAR 0.500, macro-F1 0.500" in run.describe_scores()
    write_report(tmp_path)
    assert "emotion" not in (tmp_path / "predictions.csv").read_text().splitlines()[0]
