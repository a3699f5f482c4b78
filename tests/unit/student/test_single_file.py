"""One file out of many: that it is whole, minimal and faithful."""

import ast
import sys

import pytest

from ser_ts_lobes.student.single_file import compose


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a package `toy`, and let `compose` take it for its own."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "__init__.py").write_text("")

    def write(**modules):
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("ser_ts_lobes.student.single_file._PACKAGE", "toy")
    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "toy"]:
        del sys.modules[name]


def run(source):
    namespace = {"__name__": "composed"}
    exec(source, namespace)
    return namespace


def test_what_is_reached_is_taken_in_order_and_nothing_else(package):
    package(
        base="import math\nimport json\n# How far.\nFAR, NEAR = math.tau, 1\nUNUSED = json\n"
        "def helper():\n    return FAR\n",
        top="from toy.base import helper, UNUSED\n"
        "def other():\n    return UNUSED\n"
        "class Top:\n    go = staticmethod(helper)\n",
    )
    source = compose("toy.top", "Top", "Says what it is.")
    composed = run(source)
    assert composed["Top"].go() == pytest.approx(6.2831853)
    assert composed["__doc__"] == "Says what it is."
    assert {"Top", "helper", "FAR", "NEAR", "math"} <= set(composed) and not {"other", "UNUSED", "json"} & set(composed)
    assert "# How far.\nFAR, NEAR" in source and source.index("def helper") < source.index("class Top")


def test_names_that_would_clash_are_an_error(package):
    package(
        one="def _same():\n    return 1\n\ndef one():\n    return _same()\n",
        two="from toy.one import one\n\ndef _same():\n    return 2\n\ndef two():\n    return one() + _same()\n",
    )
    with pytest.raises(ValueError, match="toy.one and toy.two both define _same|toy.two and toy.one both define _same"):
        compose("toy.two", "two", "")


@pytest.mark.parametrize("line", ["from toy import base", "from toy.base import helper as base"])
def test_imports_that_can_not_be_resolved_are_an_error(package, line):
    package(base="def helper():\n    return 1\n", top=f"{line}\n\ndef top():\n    return base\n")
    with pytest.raises(ValueError, match="can't go into a single file"):
        compose("toy.top", "top", "")


def test_the_student_needs_nothing_of_this_package():
    tree = ast.parse(compose("ser_ts_lobes.student.inference", "EmotionRegressor", "A student."))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots = {name.split(".")[0] for name in modules} - sys.stdlib_module_names
    assert roots == {
        "huggingface_hub",
        "numpy",
        "safetensors",
        "silero_vad",
        "soundfile",
        "speechbrain",
        "torch",
        "torchaudio",
        "tqdm",
        "transformers",
    }
