"""A student's configuration, read as a stranger's."""

import json
import subprocess
import sys

import pytest

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.student.config import is_hub_name, read_config
from tests.tiny_student import change, save_tiny_student, scores


@pytest.fixture
def folder(tmp_path, tiny_hubert):
    save_tiny_student(tmp_path / "student", tiny_hubert)
    return tmp_path / "student"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "doesn't say format"),
        (b'{"model_type": "hubert"}', "doesn't say format"),
        (b" " * (2**20 + 1), "larger than"),
    ],
)
def test_what_is_no_configuration_is_refused(folder, content, said):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"config\.json .*{said}"):
        read_config(folder / "config.json")


def test_a_missing_configuration_names_what_writes_it(tmp_path):
    with pytest.raises(InputError, match="does not exist.*ser-ts export"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("label_mean", [1, 2]),
        ("label_mean", ["a", "b", "c"]),
        ("label_range", [1]),
        ("encoder", "hub/name"),
        ("test", 3),
    ],
)
def test_malformed_values_are_named(folder, key, value):
    change(folder, key, value=value)
    with pytest.raises(InputError, match=f"{key} is missing or malformed"):
        read_config(folder / "config.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "note is not a number"),
        ("-Infinity", "note is not a number"),
        ("1e999", "note is not a number"),
        ("9" * 4000, "note is not a number"),
        ("9" * 5000, "is not JSON"),
        (json.dumps("a" * 501), "note is not a text of at most 500"),
        (json.dumps("\ud800"), "note is not a text"),
        (json.dumps("\x1b[2J"), "note is not a text"),
        (json.dumps({"\n": 1}), "a name in note is not a text"),
        (json.dumps([0] * 257), "note has more than 256 entries"),
        ("[" * 8 + "]" * 8, "note[.0]* has more than 256 entries, or too many levels"),
    ],
)
def test_values_that_no_student_has_are_refused_wherever_they_stand(folder, text, said):
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(f'{{"note": {text}, {config[1:]}')
    with pytest.raises(InputError, match=said):
        read_config(folder / "config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("label_range", [7.0, 1.0]),
        ("label_range", [1.0, 1.0]),
        ("label_range", [-1e6, 1e6]),  # as many marks on the page's axes
        ("label_range", [False, 7]),
        ("label_mean", [1, 2, float("inf")]),
        ("label_std", [1, 0, 1]),
        ("label_std", [1, -1, 1]),
        ("system", 3),
        ("test", {"test1": None}),
        ("test", {"test1": {}}),
        ("test", {"test1": scores(None)}),
        ("test", {"test1": scores({})}),
        ("test", {"test1": scores({"ccc": "high"})}),
        ("test", {"test1": scores({"ccc": True})}),
        ("label_histogram", {}),
        ("label_histogram", {"valence_edges": [1, 7], "activation_edges": [1, 7], "counts": [[1.5]]}),
        ("label_histogram", {"valence_edges": [1, 7], "activation_edges": [1, 7], "counts": [[-1]]}),
        ("label_histogram", {"valence_edges": [1, 7], "activation_edges": [1, 7], "counts": [[1, 2]]}),
        ("label_histogram", {"valence_edges": [1, 7], "activation_edges": [1, 7], "counts": [[1], [2]]}),
        ("label_histogram", {"valence_edges": [7, 1], "activation_edges": [1, 7], "counts": [[1]]}),
        ("label_histogram", {"valence_edges": [1], "activation_edges": [1, 7], "counts": []}),
        ("label_histogram", {"valence_edges": [1, 7], "activation_edges": ["1", 7], "counts": [[1]]}),
        ("label_histogram", {"valence_edges": [*range(202)], "activation_edges": [1, 7], "counts": [[1]] * 201}),
    ],
)
def test_what_the_page_shows_is_checked_when_it_is_read(folder, key, value):
    change(folder, key, value=value)
    with pytest.raises(InputError, match=f"{key} is missing or malformed|{key}.2 is not a number"):
        read_config(folder / "config.json")


def test_scores_that_could_not_be_had_are_no_fault(folder):
    change(folder, "test", value={"test1": scores({"ccc": None})})
    assert read_config(folder / "config.json")["test"]["test1"]["valence"] == {"ccc": None}


@pytest.mark.parametrize("name", ["ab", "a/b/c", "a b/c", "/b", "a/", "-/../x", ""])
def test_what_is_no_name_on_the_hub(name):
    assert not is_hub_name(name) and is_hub_name("user/my.student-1_6")


def test_whoever_only_looks_waits_for_no_library():
    code = "import sys, ser_ts_lobes.student.hub; sys.exit('torch' in sys.modules or 'huggingface_hub' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
