"""Running programs as a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command, cwd=ROOT, succeeds=True):
    """Run Python with a command line; return what it printed, stderr included."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # One thread: the same sums in the same order, whatever the machine.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert (result.returncode == 0) == succeeds, f"{command} ended with {result.returncode}:\n{result.stdout[-5000:]}"
    return result.stdout
