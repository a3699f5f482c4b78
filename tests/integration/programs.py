"""Running programs as a user does."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from speechbrain.utils import logger

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600  # processes that wait for one another would wait for good

_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(
    ["ser_ts_lobes.experiment", "ser_ts_lobes.training.brains", "ser_ts_lobes.training.fitting", __name__]
)


def run(*command, cwd=ROOT, succeeds=True):
    """Run Python with a command line; return what it printed, stderr included."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    return _check(command, result.returncode, result.stdout, succeeds)


def run_warm(script, *arguments, succeeds=True):
    """Run a script as `run` does, in a process that has imported the package already: that takes most of a short run.

    It is forked from one that has done nothing else, so no run sees another's traces.
    """
    command = list(map(str, [script, *arguments]))
    with tempfile.TemporaryFile("w+") as output:
        process = start_warm(command, output)
        process.join(TIMEOUT_S)
        assert process.exitcode is not None, f"{command} has not ended after {TIMEOUT_S} s"
        output.seek(0)
        return _check(command, process.exitcode, output.read(), succeeds)


def start_warm(command, output, before=None):
    """Start what `run_warm` runs, with its output in an open file; `before`, if any, is called in the process first.

    ``-m`` and the name of a module stand for a script.
    """
    arguments = (command, dict(os.environ), _WARM.reducer.DupFd(output.fileno()), before)
    process = _WARM.Process(target=_be_main, args=arguments)
    process.start()
    return process


def _be_main(command, environment, output, before):
    descriptor = output.detach()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    # The system's own, as in any program; a pool's processes would otherwise import all that tests do, for seconds.
    multiprocessing.set_start_method(None, force=True)
    logger.get_environment_description = str  # pip's list of all packages takes longer than many a run
    if before is not None:
        before()
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = command
    sys.path[0] = str(Path(command[0]).resolve().parent)
    runpy.run_path(command[0], run_name="__main__")


def _check(command, code, output, succeeds):
    assert (code == 0) == succeeds, f"{command} ended with {code}:\n{output[-5000:]}"
    return output
