"""The floors of the package: what may import what; and the names that its rooms give."""

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ser_ts_lobes

ROOT = Path(ser_ts_lobes.__file__).parent
PACKAGE = ROOT.name
# Which rooms a room may import from, besides itself and the ground; the ground imports from no room.
BELOW = {
    "ground": set(),
    "lobes": set(),
    "data": set(),
    "results": {"data"},  # whose manifests say what has been predicted
    "training": {"lobes", "data", "results"},
    "tables": {"lobes", "data", "results", "training"},
    "report": {"data", "results", "training"},
    "student": {"lobes", "data", "results", "training"},
    "cli": {"lobes", "data", "results", "training", "tables", "report", "student"},
}
ROOMS = [room for room in BELOW if room not in ("ground", "cli")]


def modules():
    """All modules but the door for an old address, by name."""
    paths = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    del paths[f"{PACKAGE}.inference"]
    return paths


def room_of(name):
    first = name.split(".")[1] if "." in name else "ground"
    return first if first in BELOW else "ground"


def imports(path, names):
    """Which of some modules a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: say the whole name of what is imported."
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in names or node.module in names:
                    yield submodule if submodule in names else node.module


def test_nothing_imports_upward():
    paths = modules()
    assert {room_of(name) for name in paths} == set(BELOW)
    upward = {
        f"{name} imports {imported}"
        for name, path in paths.items()
        for imported in imports(path, paths)
        if room_of(imported) not in {"ground", room_of(name)} | BELOW[room_of(name)]
    }
    assert not upward, upward


def test_no_modules_import_one_another():
    paths = modules()
    TopologicalSorter({name: set(imports(path, paths)) for name, path in paths.items()}).prepare()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_gives_the_names_of_its_modules(room):
    package = importlib.import_module(f"{PACKAGE}.{room}")
    submodules = {path.stem for path in (ROOT / room).glob("*.py")}
    assert package.__all__ == sorted(package.__all__) and not submodules & set(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        there = getattr(package, name)
        module = importlib.import_module(there.__module__)
        assert module.__name__.startswith(f"{PACKAGE}.{room}.") and getattr(module, name) is there
    with pytest.raises(AttributeError, match=f"module '{PACKAGE}.{room}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_a_room_is_entered_without_its_modules():
    program = f"""
import importlib, sys
for room in {ROOMS}:
    importlib.import_module("{PACKAGE}." + room)
print([name for name in sys.modules if name == "torch" or name.count(".") == 2 and name.startswith("{PACKAGE}.")])
from ser_ts_lobes.training import ccc_loss
print(ccc_loss.__module__)
"""
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT.parent, check=True, capture_output=True, text=True
    )
    assert output.stdout.splitlines() == ["[]", "ser_ts_lobes.training.losses"]
