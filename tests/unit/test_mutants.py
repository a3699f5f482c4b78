"""The mutation tool on a small package of two functions, one of them tested."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ser_ts_lobes.errors import InputError
from tools import mutants, quickest_first

SETTINGS = """
[tool.pytest.ini_options]
addopts = "--import-mode=importlib"
[tool.mutmut]
source_paths = ["ser_ts_lobes"]
also_copy = ["tools"]
process_isolation = "forkserver"
"""
CODE = """
def larger(a, b):
    return a if a > b else b

def double(a):
    return a + a
"""
TEST = """
from ser_ts_lobes.numbers import double, larger

def test_larger():
    assert larger(1, 2) == larger(2, 1) == 2

def test_double():
    assert double(0) == 0
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a project of one module and let the tool work on it."""
    files = {
        "pyproject.toml": SETTINGS,
        "ser_ts_lobes/__init__.py": "",
        "ser_ts_lobes/numbers.py": CODE,
        "tests/unit/test_numbers.py": TEST,
        "tools/quickest_first.py": Path(quickest_first.__file__).read_text(),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "WORK", tmp_path / "build" / "mutants")
    monkeypatch.setattr(mutants, "MODULES", ["numbers"])


def test_the_table_counts_what_tests_notice_and_the_rest_is_shown(project, capfd):
    mutants.main(["numbers"])
    shown, table = capfd.readouterr().out.split("| module |")
    assert "+    return a if a >= b else b" in shown and "+    return a - a" in shown
    # Noticed: always a, always b. Not: a >= b, which is equivalent, and a - a, which the test is too weak for.
    assert "| numbers | 4 | 2 | 2 | 50.0% |" in table


def test_an_unknown_module_is_named(project):
    with pytest.raises(InputError, match="words: no such module; choose among numbers"):
        mutants.main(["words"])


@pytest.mark.parametrize("module", mutants.MODULES)
def test_each_module_and_its_tests_are_there(module):
    assert (mutants.ROOT / mutants.source_of(module)).is_file()
    assert (mutants.ROOT / mutants.tests_of(module)).is_file()


def test_a_failing_test_ends_the_run(project):
    (mutants.ROOT / "tests" / "unit" / "test_numbers.py").write_text("def test_fails():\n    assert False\n")
    with pytest.raises(InputError, match="mutmut failed for numbers"):
        mutants.main(["numbers"])


def test_quick_tests_come_first_once_their_times_are_known(tmp_path, monkeypatch):
    def order():
        items = [SimpleNamespace(nodeid=name) for name in ("slow", "quick", "new", "slower")]
        quickest_first.pytest_collection_modifyitems(items)
        return [item.nodeid for item in items]

    monkeypatch.chdir(tmp_path)
    assert order() == ["slow", "quick", "new", "slower"]
    (tmp_path / "mutmut-stats.json").write_text(json.dumps({"duration_by_test": {"slower": 3, "slow": 2, "quick": 1}}))
    assert order() == ["new", "quick", "slow", "slower"]
