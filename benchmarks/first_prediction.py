"""Time from the shell to the first prediction, beside what its libraries take to be imported.

To run, from the repository's root: ``python -m benchmarks.first_prediction`` (a minute). Programs are started turn by
turn: ``ser-ts predict`` on one clip of 3 s with a student on the shipped encoder, and Python alone with PyTorch, and
with what else reads and runs such a student. Seconds are those on a processor, of which other programs may want part.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

import ser_ts_lobes
from benchmarks.timing import interleave
from ser_ts_lobes.lobes.speech import SAMPLE_RATE
from tests.tiny_student import save_tiny_student

IMPORTS = {
    "import torch": "import torch",
    "import torch, transformers' HuBERT, SpeechBrain, soundfile": "import soundfile, torch\n"
    "from speechbrain.inference.interfaces import Pretrained\nfrom transformers import HubertModel",
}


def children_s():
    """Return the seconds that finished programs started from here were on a processor."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main():
    """Print a row for each program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = f"{folder}/clip.wav"
        soundfile.write(clip, np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE), SAMPLE_RATE)
        student = save_tiny_student(f"{folder}/student", str(Path(ser_ts_lobes.__file__).parent / "mini_hubert"))
        programs = {name: ["-c", code] for name, code in IMPORTS.items()}
        programs["ser-ts predict"] = ["-m", "ser_ts_lobes.cli", "predict", student, clip]
        run = partial(subprocess.run, check=True, capture_output=True)
        calls = [partial(run, [sys.executable, *words]) for words in programs.values()]
        seconds = interleave(calls, arguments.repeats, clock=children_s)
    print("| program | s on a processor | relative |\n| --- | ---: | ---: |")
    for name, column in zip(programs, seconds.T, strict=True):
        print(f"| {name} | {np.median(column):.1f} | {np.median(column / seconds[:, -1]):.2f} |")


if __name__ == "__main__":
    main()
