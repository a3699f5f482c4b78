"""Time and memory of preparing MSP-Podcast at its real size.

To run, from the repository's root: ``python -m benchmarks.prepare_msp_podcast`` (about two minutes; the corpus is
release 1.6 as it was published, with its 50,362 files and odd ones, in which only the audio is short).

Each step is a program of its own, so that its time has Python's start and all imports in it, and its memory nothing
of the other steps, not even of writing the corpus: a program's peak has that of the one which starts it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "MSP-Podcast" / "msp_podcast_prepare.py"
WRITE = """
import sys
from tests.fixtures_msp import write_msp_release
write_msp_release(sys.argv[1], "1.6", {"Train": 34280, "Validation": 5958, "Test": 10124}, seconds=(0.01, 0.02))
"""
# Stands for what training does before its first batch; prints how long the reading itself took.
READ = """
import sys, time
from ser_ts_lobes.manifests import find_manifests, read_manifest
start = time.perf_counter()
manifests = [read_manifest(path) for path in find_manifests(sys.argv[1]).values()]
seconds = time.perf_counter() - start
assert sum(len(manifest.labels()) for manifest in manifests) > 50000
print(seconds)
"""


def run(*command):
    """Run a program; return its seconds, the peak of its memory in MB, and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} ended with {process.returncode}.")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return seconds, usage.ru_maxrss * unit / 1e6, output


def main():
    """Write the corpus, run the steps, print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where the corpus goes, or is from an earlier run; it stays there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        corpus = Path(arguments.folder or temporary, "MSP-Podcast-1.6")
        if not corpus.exists():
            seconds, _, _ = run("-c", WRITE, corpus)
            print(f"wrote {corpus} in {seconds:.0f} s")
        folder = Path(temporary, "manifests")
        prepare = (SCRIPT, corpus, folder, "--release", "1.6")
        first_s, first_mb, _ = run(*prepare)
        second_s, second_mb, _ = run(*prepare)
        _, read_mb, read_s = run("-c", READ, folder)

    print(f"{'step':32}{'seconds':>9}{'limit':>7}{'peak MB':>9}{'limit':>7}")
    for step, seconds, limit_s, peak, limit_mb in (
        ("prepare", first_s, 60, first_mb, 1000),
        ("prepare again, nothing changed", second_s, 5, second_mb, 1000),
        ("read all manifests", float(read_s), 3, read_mb, 1000),
    ):
        late = "" if seconds <= limit_s and peak <= limit_mb else "  over the limit"
        print(f"{step:32}{seconds:9.1f}{limit_s:7}{peak:9.0f}{limit_mb:7}{late}")


if __name__ == "__main__":
    main()
