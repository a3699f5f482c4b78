import csv
import json

import numpy as np
import pytest

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.results.run_folder import RunFolder
from tests.unit.tables.test_report import write_run


def test_a_finished_run_is_read(tmp_path):
    run = RunFolder(write_run(tmp_path, "cts", 1))
    assert run.finished and run.report()["system"] == "cts"
    speakers, prediction, label = run.predictions("test1")
    assert len(speakers) == 40 and prediction.shape == label.shape == (40, 3)


def test_a_run_that_is_not_finished_is_one_sentence(tmp_path):
    run = RunFolder(tmp_path / "cts" / "1")
    assert not run.finished
    with pytest.raises(InputError, match="has no metrics.json, so it isn't a finished run"):
        run.report()


def edit_metrics(folder, edit):
    path = folder / "metrics.json"
    report = json.loads(path.read_text())
    edit(report)
    path.write_text(json.dumps(report))


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
    speakers, prediction, label = RunFolder(folder).predictions("test1")
    assert len(speakers) == 40 and np.isfinite(prediction).all() and np.isnan(label).all()
    assert [part.shape for part in RunFolder(folder).predictions("test9")[1:]] == [(0, 3), (0, 3)]
