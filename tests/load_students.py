"""Load one student after another in a process of its own, and tell what became of each.

A line of input is the folder of a student in JSON; so is a line of output: ``outcome``, ``seconds``, and ``peak_mb``,
the most memory that the process has ever had, touched or not.
"""

import json
import sys
import time

import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.student.inference import EmotionRegressor
from ser_ts_lobes.student.page import _limits, render


def use(folder):
    """Load and use a student as everything that reads its configuration does."""
    try:
        student = EmotionRegressor.from_pretrained(folder)
        emotion = student.predict_batch(torch.randn(1, 16000))[0]
        f"{_limits(student)} {render(student.config, emotion.tolist())}".encode()
    except InputError as error:
        sentence = str(error)
        return "refused" if sentence.isprintable() and len(sentence) < 2000 else f"no sentence: {sentence[:500]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "heard" if emotion.isfinite().all() else "no number"


def peak_mb():
    """Give the largest address space of this process so far; that of its resident part would miss untouched pages."""
    with open("/proc/self/status", encoding="ascii") as file:
        [line] = [line for line in file if line.startswith("VmPeak")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        start = time.perf_counter()
        outcome = use(json.loads(line))
        seconds = time.perf_counter() - start
        print(json.dumps({"outcome": outcome, "seconds": seconds, "peak_mb": peak_mb()}), flush=True)
