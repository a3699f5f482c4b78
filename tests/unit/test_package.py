"""What holds for all modules of the package."""

import ast
import re

import pytest

from tests.integration.programs import ROOT

RECIPES = ROOT / "recipes"
MODULES = sorted((ROOT / "ser_ts_lobes").rglob("*.py"))


def names_of_recipes():
    """Name each recipe and its scripts; a name counts however it is spelt (MSP-Podcast, msp_podcast)."""
    corpora = {path.name for path in RECIPES.iterdir()} - {"Template"}
    scripts = {path.stem for path in RECIPES.rglob("*.py")}
    spelt = [re.sub(r"[\W_]", r"[\\W_]?", name) for name in sorted(corpora | scripts)]
    return re.compile("|".join(spelt), re.IGNORECASE)


def without_docstrings(text):
    """Blank the lines of docstrings, where a corpus may be cited and a script shown."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            for number in range(docstring.lineno - 1, docstring.end_lineno):
                lines[number] = ""
    return lines


NAMES = names_of_recipes()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_package_knows_no_recipe(path):
    lines = without_docstrings(path.read_text(encoding="utf-8"))
    named = [f"line {number}: {line.strip()}" for number, line in enumerate(lines, 1) if NAMES.search(line)]
    assert not named, named


@pytest.mark.parametrize("line", ["FOLDS = 5  # IEMOCAP's", "run('msp_podcast_prepare.py')", "x = 'train_teacher.py'"])
def test_a_recipes_name_is_noticed_outside_of_docstrings(line):
    assert NAMES.search("\n".join(without_docstrings(f'"""Of IEMOCAP."""\n{line}\n')))
    assert not NAMES.search("\n".join(without_docstrings(f'"""Such as {line}."""\n')))
