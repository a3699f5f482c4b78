"""Time and memory of preparing MSP-Podcast at its real size.

To run, from the repository's root: ``python -m benchmarks.prepare_msp_podcast`` (about two minutes; the corpus is
release 1.6 as it was published, with its 50,362 files and odd ones, in which only the audio is short). With
``--release 2.0`` it has 267,905 files, about 4 GB on the disk for as long as it runs, and takes about ten minutes.

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
import runpy, sys
from tests.fixtures_msp import LAYOUTS, write_msp_release
script, folder, release = sys.argv[1:]
sizes = runpy.run_path(script)["RELEASES"][release]
write_msp_release(folder, release, dict(zip(LAYOUTS[release].splits, sizes.values(), strict=True)), (0.01, 0.02))
"""
# Stands for what training does before its first batch; prints how long the reading itself took, and its part of that
# on a processor.
READ = """
import sys, time
from ser_ts_lobes.data.manifests import find_manifests, read_manifest
start, start_cpu = time.perf_counter(), time.process_time()
manifests = [read_manifest(path) for path in find_manifests(sys.argv[1]).values()]
print(time.perf_counter() - start, time.process_time() - start_cpu)
assert sum(len(manifest.labels()) for manifest in manifests if manifest.labelled) > 50000
"""
# Of each release, the most that each step may take: seconds, and MB.
LIMITS = {
    "1.6": {"prepare": (60, 1000), "prepare again, nothing changed": (5, 1000), "read all manifests": (3, 1000)},
    "2.0": {"prepare": (60, 600), "prepare again, nothing changed": (3, 600), "read all manifests": (15, 1000)},
}


def run(*command):
    """Run a program; return its seconds, those of them on a processor, its peak memory in MB, and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} ended with {process.returncode}.")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6, output


def main():
    """Write the corpus, run the steps, print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", choices=LIMITS, default="1.6", help="whose size and files the corpus has (1.6)")
    parser.add_argument("--folder", help="where the corpus goes, or is from an earlier run; it stays there")
    arguments = parser.parse_args()
    release = arguments.release
    with tempfile.TemporaryDirectory() as temporary:
        corpus = Path(arguments.folder or temporary, f"MSP-Podcast-{release}")
        if not corpus.exists():
            seconds, *_ = run("-c", WRITE, SCRIPT, corpus, release)
            print(f"wrote {corpus} in {seconds:.0f} s")
        folder = Path(temporary, "manifests")
        prepare = (SCRIPT, corpus, folder, "--release", release)
        first = run(*prepare)[:3]
        second = run(*prepare)[:3]
        _, _, peak, printed = run("-c", READ, folder)
        read = (*map(float, printed.split()), peak)

    print(f"{'step':32}{'seconds':>9}{'limit':>7}{'on CPU':>9}{'peak MB':>9}{'limit':>7}")
    for (step, (limit_s, limit_mb)), (seconds, cpu_s, peak) in zip(
        LIMITS[release].items(), (first, second, read), strict=True
    ):
        late = "" if seconds <= limit_s and peak <= limit_mb else "  over the limit"
        print(f"{step:32}{seconds:9.1f}{limit_s:7}{cpu_s:9.1f}{peak:9.0f}{limit_mb:7}{late}")


if __name__ == "__main__":
    main()
