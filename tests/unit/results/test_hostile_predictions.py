"""Scores and predictions that were damaged or changed: refused in a sentence, or what they were."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.report.strangers import read_facts, read_predictions
from ser_ts_lobes.report.submission import check_submission
from ser_ts_lobes.results.run_folder import RunFolder
from tests.hostile import changed_json, changed_tables, damaged, is_a_sentence, read_or_refused, rearranged, written
from tests.unit.results.outputs import write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Give a run's folder, the bytes of its two files, and what is read."""
    folder = tmp_path_factory.mktemp("hostile")
    report = write_report(folder)
    files = {name: (folder / name).read_bytes() for name in ("metrics.json", "predictions.csv")}
    return folder, files, report, RunFolder(folder).predictions("test1")


def use(run, **changed):
    """Read a run of which files are others: None where it is refused, in a sentence that names it."""
    folder, files, *_ = run
    for name, content in files.items():
        (folder / name).write_bytes(changed.get(name.split(".")[0], content))
    there = RunFolder(folder)
    try:
        return there.report(), there.predictions("test1")
    except InputError as error:
        assert is_a_sentence(error) and str(folder) in str(error)
        return None


def is_same(read, run):
    *_, report, predictions = run
    return read[0] == report and all(np.array_equal(*pair) for pair in zip(read[1], predictions, strict=True))


@given(st.data())
def test_damaged_predictions_of_a_run_are_refused(run, data):
    read = use(run, predictions=data.draw(damaged(run[1]["predictions.csv"])))
    assert read is None or is_same(read, run)


@given(st.data())
def test_damaged_scores_of_a_run_are_refused(run, data):
    read = use(run, metrics=data.draw(damaged(run[1]["metrics.json"])))
    assert read is None or is_same(read, run)


@given(changes=st.data(), sealed=st.booleans())
def test_any_value_anywhere_in_a_runs_scores_is_refused_or_used(run, changes, sealed):
    report = json.loads(run[1]["metrics.json"])
    if not sealed:  # as an earlier version wrote it
        del report["sha256"], report["predictions_sha256"]
    changed = changes.draw(changed_json(report))
    read = use(run, metrics=json.dumps(changed).encode())
    if read is not None and "test1" in read[0]["test"]:
        for name in DIMENSIONS:  # what is not computed from the predictions is not believed
            assert abs(read[0]["test"]["test1"][name]["ccc"] - run[2]["test"]["test1"][name]["ccc"]) < 1e-4


# ------------------------------------------------------------------ of others

TABLE = [
    ["FileName", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Split_Set"],
    ["MSP_1.wav", "4.5", "3", "2.25", "7", "Test1"],
    ["Audios/MSP_2.wav", "1", "7.0", "6.5", "Unknown", "Test1"],
    ["MSP, 3.wav", "2e0", "+3", ".5", "", "Test1"],
]
COLUMNS = ("EmoAct", "EmoVal", "EmoDom")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "theirs.csv"


def read(path, content):
    return read_or_refused(read_predictions, path, content)


@given(st.data())
def test_predictions_that_say_the_same_are_read_as_the_same(path, data):
    rows = read(path, data.draw(written(data.draw(rearranged(TABLE)))))
    assert [row.id for row in rows] == ["MSP_1", "MSP_2", "MSP, 3"]
    assert [row.prediction for row in rows] == [(4.5, 3, 2.25), (1, 7, 6.5), (2, 3, 0.5)]
    assert [row.speaker for row in rows] == ["7", "Unknown", "Unknown"]
    assert {row.label for row in rows} == {None} and {row.split for row in rows} == {"Test1"}


@given(st.data())
def test_changed_predictions_are_read_as_they_stand_or_refused(path, data):
    table = data.draw(changed_tables(TABLE))
    rows = read(path, data.draw(written(table)))
    if rows is None:
        assert table != TABLE
        return
    header, *lines = ([cell.strip() for cell in row] for row in table if row)
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        by_name = {name.lower(): cell for name, cell in zip(header, line, strict=True)}
        if all(name.lower() in by_name for name in COLUMNS):  # else a changed header has named another column
            assert row.prediction == tuple(float(by_name[name.lower()]) for name in COLUMNS)
        assert np.isfinite(row.prediction).all()


@given(st.data())
def test_damaged_bytes_of_anybodys_table_are_read_or_refused(path, data):
    content = "\r\n".join(f'"{row[0]}",{",".join(row[1:])}' for row in TABLE).encode()
    path.write_bytes(data.draw(damaged(content)))
    for use in (read_predictions, lambda path: read_facts([path]), check_submission):
        try:
            use(path)
        except InputError as error:
            assert is_a_sentence(error) and str(path) in str(error)
