"""Lay a tree of ``tools.speechbrain_pr.compose`` over a checkout of SpeechBrain and run SpeechBrain's own checks of it.

To run: ``make speechbrain-pr OUT=folder SPEECHBRAIN_SOURCE=checkout``, or ``python -m tools.speechbrain_pr.check OUT
CHECKOUT``. The checkout is copied, and nothing is written into it. What is checked: SpeechBrain's
``tests/consistency``; ruff, yamllint and codespell by its settings; that no file is over 1 MB; and with ``--run``, its
recipe runner on our rows, which takes some 20 seconds a row.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from ser_ts_lobes.errors import InputError, plain_errors
from tools.speechbrain_pr.compose import RECIPES

#: SpeechBrain's .pre-commit-config.yaml, check-added-large-files.
MAX_BYTES = 1024 * 1024

# Programs of its .pre-commit-config.yaml, as modules with arguments, and what they look at.
_LINTERS = {
    "ruff check": (["ruff", "check"], ".py"),
    "ruff format": (["ruff", "format", "--check"], ".py"),
    "yamllint": (["yamllint", "-c", ".yamllint.yaml"], ".yaml"),
    "codespell": (["codespell_lib", "--ignore-words=.dict-speechbrain.txt"], (".py", ".yaml", ".md", ".txt")),
}
_RUNNER = """
import sys
from tests.utils.recipe_tests import run_recipe_tests
sys.exit(not run_recipe_tests(filters_fields=["Script_file"], filters=[sys.argv[1:]], run_opts="--device=cpu"))
"""


def lay_over(out, source, folder):
    """Copy a checkout and lay a composed tree over it.

    Parameters
    ----------
    out, source, folder : str | pathlib.Path
        The tree, the checkout, and where the two go together; it must not exist.

    Raises
    ------
    InputError
        If the checkout has no consistency tests.
    """
    if not Path(source, "tests", "consistency").is_dir():
        raise InputError(f"{source} has no tests/consistency: name a checkout of SpeechBrain, not a package of it.")
    shutil.copytree(source, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", "tmp"))
    shutil.copytree(out, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git", "tmp"))


def consistency(merged):
    """Run SpeechBrain's consistency tests.

    Parameters
    ----------
    merged : str | pathlib.Path
        From `lay_over`.

    Returns
    -------
    subprocess.CompletedProcess
        Of pytest.
    """
    return _run(merged, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/consistency")


def lint(out, merged):
    """Run its linters on the files of a composed tree, and look for large files.

    Parameters
    ----------
    out, merged : str | pathlib.Path
        The tree, and what `lay_over` made of it.

    Returns
    -------
    dict[str, str]
        What each check complains of; nothing where it passes.

    Raises
    ------
    InputError
        If a linter is not installed.
    """
    if missing := [command[0] for command, _ in _LINTERS.values() if not find_spec(command[0])]:
        raise InputError(f"SpeechBrain's linters need {' and '.join(missing)}: pip install -e '.[dev]'.")
    files = [path for recipe in RECIPES for path in Path(out, "recipes", recipe.there).rglob("*") if path.is_file()]
    files += [path for path in Path(out, "tests", "samples", "SER").rglob("*") if path.is_file()]
    complaints = {"size": "\n".join(str(path) for path in files if path.stat().st_size > MAX_BYTES)}
    for name, (command, endings) in _LINTERS.items():
        names = [path.relative_to(out) for path in files if path.name.endswith(endings)]
        result = _run(merged, "-m", *command, *names)
        complaints[name] = result.stdout if result.returncode else ""
    return complaints


def run_rows(merged):
    """Run SpeechBrain's recipe runner on the rows of a composed tree.

    Parameters
    ----------
    merged : str | pathlib.Path
        From `lay_over`; the rows write into its ``tests/tmp``.

    Returns
    -------
    dict[str, str]
        What it complains of in each row that it ran; nothing where the row passes.
    """
    scripts = [path for recipe in RECIPES for path in Path(merged, "recipes", recipe.there).glob("*.py")]
    log = _run(merged, "-c", _RUNNER, *(path.relative_to(merged) for path in scripts)).stdout
    complaints = {}
    for part in log.split("Running test for ")[1:]:
        row, _, rest = part.partition("...")
        errors = [line for line in rest.splitlines() if line.startswith("ERROR")]
        for name in re.findall(r"Check (\S+) and", rest):
            errors += Path(merged, name).read_text(encoding="utf-8").splitlines()[-5:]
        complaints[row] = "\n".join(errors)
    return complaints


def _run(merged, *command):
    # The runner starts `python`, which is to be this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=merged,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(merged)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def main():
    """Check the tree that the command line names; end with 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a composed tree")
    parser.add_argument("source", type=Path, help="a checkout of SpeechBrain")
    parser.add_argument("--run", action="store_true", help="run the rows, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder, "speechbrain")
        lay_over(arguments.out, arguments.source, merged)
        result = consistency(merged)
        complaints = {"tests/consistency": result.stdout if result.returncode else "", **lint(arguments.out, merged)}
        for name, complaint in complaints.items():
            print(f"{name}: {complaint or 'passed'}", flush=True)
        if arguments.run:
            rows = run_rows(merged)
            print(f"rows of tests/recipes: {list(rows.values()).count('')} of {len(rows)} passed")
            print("".join(f"{row}: {errors}\n" for row, errors in rows.items() if errors), end="")
            complaints |= rows or {"rows": "none was run"}
    sys.exit(any(complaints.values()))


if __name__ == "__main__":
    with plain_errors():
        main()
