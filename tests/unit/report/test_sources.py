import csv
import json
import re
import shutil

import numpy as np
import pytest

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.report.sources import read_test_sets
from ser_ts_lobes.results.run_folder import RunFolder
from tests.unit.report import runs


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return runs.write_study(tmp_path_factory.mktemp("study"))


def rows_of(run):
    with open(run / "predictions.csv") as file:
        return list(csv.DictReader(file))


def write_csv(path, rows, columns=("ID", "activation", "valence", "dominance")):
    with open(path, "w") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_runs_below_a_folder_are_systems_with_their_seeds(study):
    [found] = read_test_sets([str(study)])
    assert found.title == "made-up, test1" and found.label_range == (1, 7) and not found.notes
    assert {name: system.seeds for name, system in found.systems.items()} == {
        "cts": [1, 2],
        "ft": [1, 2],
        "teacher": [1],
    }
    said = RunFolder(study / "ft" / "2").predictions("test1")
    assert found.ids == said.ids and found.speakers == said.speakers
    assert np.array_equal(found.label, said.label)
    assert np.array_equal(found.systems["ft"].prediction[1], said.prediction)
    assert found.groups == found.speakers  # 12 are enough


def test_what_the_manifest_knows_is_known(study):
    [found] = read_test_sets([str(study / "ft")])
    assert found.known("gender")[:3].tolist() == ["Female", "Male", "Female"]
    assert found.known("emotion")[3] == "A"
    assert all(1 <= duration <= 10 for duration in found.known("duration"))


def test_a_manifest_that_has_changed_is_not_believed(study, tmp_path):
    run = tmp_path / "ft" / "1"
    shutil.copytree(study / "ft" / "1", run)
    settings = json.loads((run / "hyperparams.yaml").read_text())
    other = runs.write_corpus(tmp_path, "made-up", (0, 1))
    (run / "hyperparams.yaml").write_text(json.dumps({**settings, "manifest_folder": str(other)}))
    [found] = read_test_sets([str(run)])
    assert found.known("gender") is None
    assert found.notes == [f"Gender and duration are not known: {other / 'test1.csv'} has changed since the test."]
    (run / "hyperparams.yaml").write_text(json.dumps({**settings, "manifest_folder": "nowhere"}))
    [found] = read_test_sets([str(run)])
    assert "does not exist" in found.notes[0]


def test_a_csv_of_anybody_joins_the_runs(study, tmp_path):
    rows = rows_of(study / "ft" / "1")[::-1]
    labels = [
        {"ID": row["ID"], **{d: row[f"label_{d}"] for d in ("activation", "valence", "dominance")}} for row in rows
    ]
    facts = write_csv(tmp_path / "labels.csv", labels)
    [found] = read_test_sets([f"theirs={write_csv(tmp_path / 'p.csv', rows)}", str(study / "ft" / "1")], [facts])
    assert list(found.systems) == ["theirs", "ft"] and found.corpus == "made-up"
    assert np.array_equal(found.systems["theirs"].prediction, found.systems["ft"].prediction)
    assert found.systems["theirs"].seeds == [None] and found.systems["theirs"].runs == [[]]


def test_several_csvs_of_one_name_are_seeds(study, tmp_path):
    everything = rows_of(study / "ft" / "1")[0].keys()
    paths = [write_csv(tmp_path / f"{seed}.csv", rows_of(study / "ft" / str(seed)), everything) for seed in (1, 2)]
    [found] = read_test_sets([f"theirs={path}" for path in paths])
    assert found.systems["theirs"].seeds == [None, None] and found.title == "test1"
    assert found.systems["theirs"].prediction.shape == (2, runs.N, 3)
    assert found.label_range == (found.label.min(), found.label.max())


def test_other_utterances_are_another_test_set(study, tmp_path):
    other = runs.write_corpus(tmp_path, "other", (1, 5), prefix="v")
    runs.write_run(tmp_path, other, "ft", 7)
    first, second = read_test_sets([str(study / "ft"), str(tmp_path / "other")])
    assert (first.title, second.title) == ("made-up, test1", "other, test1")
    assert second.systems["ft"].seeds == [7] and second.label_range == (1, 5)


def test_the_folds_of_a_seed_are_one_test_set(study, tmp_path):
    for fold, prefix in ((1, "u"), (2, "v")):
        manifests = runs.write_corpus(tmp_path / f"fold{fold}", "folded", prefix=prefix)
        runs.write_run(tmp_path / f"fold{fold}", manifests, "ft", 1, fold=fold, data_folder="/folded")
    sources = [str(tmp_path / f"fold{fold}" / "folded") for fold in (1, 2)]
    [found] = read_test_sets(sources)
    assert len(found.ids) == 2 * runs.N and found.systems["ft"].seeds == [1]
    assert len(found.systems["ft"].runs[0]) == 2
    with pytest.raises(InputError, match="was not tested on the 480 utterances of folded, test1 that others here were"):
        read_test_sets([*sources, f"half={sources[0]}"])


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (["nowhere"], "nowhere does not exist: name a run"),
        (["{tmp}"], "has no finished run: name a folder like results/cts, or a CSV"),
        (["{study}/ft/1", "{study}/ft"], "are both seed 1 of ft: name one of them"),
        (["a={study}/ft", "a={study}/cts"], "are both called a, but the first was trained with"),
    ],
)
def test_what_cant_be_meant_is_refused(study, tmp_path, sources, said):
    with pytest.raises(InputError, match=said):
        read_test_sets([source.format(study=study, tmp=tmp_path) for source in sources])


def test_a_csv_without_labels_names_the_first_line(study, tmp_path):
    path = write_csv(tmp_path / "p.csv", rows_of(study / "ft" / "1"))
    with pytest.raises(InputError, match=re.escape(f"{path}, line 2: u000 has no label there, nor in a file named by")):
        read_test_sets([path])


def test_fewer_utterances_and_other_labels_are_refused(study, tmp_path):
    rows = rows_of(study / "ft" / "1")
    fewer = write_csv(tmp_path / "fewer.csv", rows[:-2], rows[0])
    with pytest.raises(InputError, match="only one side has u238, u239. Compare systems on the same utterances"):
        read_test_sets([str(study / "cts"), fewer])
    rows[3]["label_valence"] = "9"
    other = write_csv(tmp_path / "other.csv", rows, rows[0])
    with pytest.raises(InputError, match="other.csv has another label of u003 than others here"):
        read_test_sets([str(study / "cts"), other])
