"""Running programs as a user does."""

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
        timeout=600,  # processes that wait for one another would wait for good
    )
    assert (result.returncode == 0) == succeeds, f"{command} ended with {result.returncode}:\n{result.stdout[-5000:]}"
    return result.stdout
