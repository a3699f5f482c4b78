"""Break each module on purpose, one small change at a time, and see whether its tests notice.

To run: ``make mutants MUTANTS_ARGS="training.losses results.metrics"``, or ``python -m tools.mutants training.losses``
in an environment with ``pip install -e .[dev]``; without a name, all of `MODULES`. It ends with a table and the changes
that no test has noticed. mutmut makes the changes and runs the tests that call the changed function, of the module's
own test file only, the quickest first. Those of decorated functions, of module constants and of the words in f-strings
aren't made.

Each module has a folder ``build/mutants/<module>`` in mutmut's own layout, made anew by each run. After a test was
added, the survivors alone can be tried again there, without all others:

    cd build/mutants/training.losses
    mutmut run ser_ts_lobes.training.losses.x_ccc_loss__mutmut_3 ...
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.results.text_tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutants"
#: What is tried; the tests of ``training.losses`` are ``tests/unit/training/test_losses.py``.
MODULES = (
    "results.metrics",
    "data.manifests",
    "data.preparation",
    "text_files",
    "fingerprint",
    "file_digests",
    *(
        f"training.{name}"
        for name in (
            "losses",
            "residuals",
            "targets",
            "features",
            "feature_store",
            "feature_folder",
            "datasets",
            "fitting",
            "distributed",
            "brains",
            "reproducible",
            "checkpoints",
        )
    ),
)
NOTICED = ("killed", "timeout", "segfault")  # a test fails, never ends, or takes Python down with it


def main(arguments=None):
    """Read the command line and work through the modules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="module", help=f"of ser_ts_lobes: {', '.join(MODULES)}")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tested at the same time")
    options = parser.parse_args(arguments)
    unknown = [module for module in options.modules if module not in MODULES]
    if unknown:
        raise InputError(f"{', '.join(unknown)}: no such module; choose among {', '.join(MODULES)}.")

    rows, survivors = [], []
    for module in options.modules or MODULES:
        start = time.monotonic()
        statuses = try_mutants(module, options.jobs)
        rows.append(row(module, statuses, time.monotonic() - start))
        survivors += [(module, name) for name, status in statuses.items() if status not in NOTICED]
    for module, name in survivors:
        print(mutmut(module, "show", name, stdout=subprocess.PIPE))
    print(markdown_table(["module", "mutants", "killed", "survived", "score", "minutes"], rows))


def try_mutants(module, jobs):
    """Return what became of each mutant of a module: its name in mutmut, and ``killed``, ``survived``, ..."""
    lay_out(module)
    mutmut(module, "run", "--max-children", str(jobs))
    listing = mutmut(module, "results", "--all", "true", stdout=subprocess.PIPE)
    return dict(line.strip().split(": ") for line in listing.splitlines())


def lay_out(module):
    """Make the folder of a module: links to all that the tests need, and mutmut's settings for this module."""
    folder = WORK / module
    shutil.rmtree(folder, ignore_errors=True)
    # mutmut's own folder too: a Python that starts before it is there goes on to believe that it isn't.
    (folder / "mutants").mkdir(parents=True)
    for name in ("ser_ts_lobes", "tests", "conftest.py", "tools", "hparams", "recipes", "setup.py"):
        (folder / name).symlink_to(ROOT / name)
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tests = [tests_of(module)]
    # The settings of all modules end with mutmut's table, which goes on here.
    settings += (
        f'only_mutate = ["{source_of(module)}"]\n'
        f"pytest_add_cli_args_test_selection = {tests}\n"
        'pytest_add_cli_args = ["-p", "tools.quickest_first"]\n'
    )
    (folder / "pyproject.toml").write_text(settings, encoding="utf-8")


def source_of(module):
    """Return the path of a module, relative to the root.

    Example
    -------
    >>> source_of("training.losses")
    'ser_ts_lobes/training/losses.py'
    """
    return f"ser_ts_lobes/{module.replace('.', '/')}.py"


def tests_of(module):
    """Return the path of a module's tests, relative to the root.

    Example
    -------
    >>> tests_of("training.losses")
    'tests/unit/training/test_losses.py'
    """
    *room, name = module.split(".")
    return "/".join(["tests/unit", *room, f"test_{name}.py"])


def mutmut(module, *arguments, **options):
    """Run mutmut in the folder of a module; end the program if it fails."""
    folder = WORK / module
    # Programs that tests start import the mutated package too.
    environment = os.environ | {"PYTHONPATH": str(folder / "mutants")}
    result = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], cwd=folder, env=environment, text=True, **options
    )
    if result.returncode != 0:
        raise InputError(f"mutmut failed for {module} for the reason above; its folder is {folder}.")
    return result.stdout


def row(module, statuses, seconds):
    """Return a row of the table.

    Example
    -------
    >>> row("losses", {"a": "killed", "b": "timeout", "c": "survived", "d": "no tests"}, 90)
    ['losses', '4', '2', '2', '50.0%', '1.5']
    """
    count = Counter(status in NOTICED for status in statuses.values())
    share = count[True] / len(statuses)
    return [module, str(len(statuses)), str(count[True]), str(count[False]), f"{share:.1%}", f"{seconds / 60:.1f}"]


if __name__ == "__main__":
    with plain_errors():
        main()
