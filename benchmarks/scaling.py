"""What more threads and processes gain, and how long a corpus takes then.

To run, from the repository's root: ``python -m benchmarks.scaling`` (four minutes, on a machine that has nothing else
to do). `ft` on HuBERT base in its real size (random weights), whose upper half learns, on 8 clips of noise of 2.75 to
11 s: seconds of the clock to compute the frozen frames once, and to train on all clips, by one process of one thread,
one process of two threads, and two processes (gloo) that share the work. ``--device cuda --precision bf16 --clips
3428`` is for a GPU, which gets a tenth of MSP-Podcast 1.6.

Hours are worked out for the recordings of MSP-Podcast 1.6 (training set) and 2.0 (all): seconds a clip, times
recordings, for the frames once and 50 epochs. They assume that the clips' mean length (5.9 s) is the corpus's and that
the disk keeps up, and leave out validation and tests.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import speechbrain as sb
import torch
from transformers.utils import logging as transformers_logging

from benchmarks.training_cost import (
    N_EPOCHS,
    N_MSP_PODCAST_2,
    N_UTTERANCES,
    REAL_SIZES,
    RUN_OPTS,
    learn,
    make_manifest,
    make_ours,
    save_encoders,
)
from ser_ts_lobes.processes import join

ROOT = Path(__file__).resolve().parents[1]
CORPORA = {"1.6, training set": N_UTTERANCES, "2.0, all": N_MSP_PODCAST_2}
#: Processes, and threads of each.
ON_CPU = ((1, 1), (1, 2), (2, 1))
ON_GPU = ((1, 1),)


def measure(folder, config, arrangements, options):
    """Measure arrangements, each in processes of its own.

    Parameters
    ----------
    folder : str
        For what is written.
    config : transformers.HubertConfig
        Of the encoder.
    arrangements : iterable of tuple[int, int]
        Processes, and threads of each.
    options : list of str
        ``--clips``, ``--repeats``, ``--device``, ``--precision`` and their values.

    Returns
    -------
    dict[tuple[int, int], dict[str, float]]
        By arrangement: ``once`` and ``epoch``, seconds.
    """
    encoder = save_encoders(folder, {"base": config})["base"]
    seconds = {}
    for processes, threads in arrangements:
        out = Path(folder, f"{processes}x{threads}")
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
        subprocess.run(
            [sys.executable, *launcher, __file__, f"--encoder={encoder}", f"--out={out}", *options],
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)},
            check=True,
        )
        seconds[processes, threads] = json.loads((out / "seconds.json").read_text(encoding="utf-8"))
    return seconds


def work(encoder, out, n_clips, repeats, run_opts):
    """Be one of the processes; the first writes ``once`` and ``epoch`` into the folder."""
    torch.manual_seed(0)
    transformers_logging.disable_progress_bar()
    if "RANK" in os.environ:
        run_opts = run_opts | {"distributed_launch": True, "distributed_backend": "gloo"}
        join(run_opts)
    noise = Path(out, f"noise-{os.environ.get('RANK', 0)}")  # all processes make the same
    noise.mkdir(parents=True)
    manifest = make_manifest(noise, n_clips, n_clips)
    started = time.perf_counter()
    brain, loader, _ = make_ours("ft", {"base": encoder}, manifest, out, run_opts)
    once_s = time.perf_counter() - started
    seconds = []
    for _ in range(repeats + 1):
        sb.utils.distributed.ddp_barrier()
        started = time.perf_counter()
        learn(brain, loader)
        seconds.append(time.perf_counter() - started)
    if sb.utils.distributed.if_main_process():
        text = json.dumps({"once": once_s, "epoch": statistics.median(seconds[1:])})
        Path(out, "seconds.json").write_text(text, encoding="utf-8")


def report(seconds, n_clips):
    """Give the tables as text."""
    first = next(iter(seconds.values()))
    lines = [
        "| processes x threads | frames once, s | faster | training, s | faster |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for (processes, threads), measured in seconds.items():
        cells = (f"{measured[part]:.2f} | {first[part] / measured[part]:.2f}" for part in ("once", "epoch"))
        lines.append(f"| {processes} x {threads} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Hours for MSP-Podcast, the frames once and {N_EPOCHS} epochs:\n",
        f"| processes x threads | {' | '.join(CORPORA)} |",
        "| --- | ---: | ---: |",
    ]
    for (processes, threads), measured in seconds.items():
        a_clip = (measured["once"] + N_EPOCHS * measured["epoch"]) / n_clips
        hours = (f"{n_recordings * a_clip / 3600:,.0f}" for n_recordings in CORPORA.values())
        lines.append(f"| {processes} x {threads} | {' | '.join(hours)} |")
    return "\n".join(lines)


def main():
    """Measure and print, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    for of_one_process in ("--encoder", "--out"):
        parser.add_argument(of_one_process, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.out:
        run_opts = RUN_OPTS | {"device": arguments.device, "precision": arguments.precision}
        work(arguments.encoder, arguments.out, arguments.clips, arguments.repeats, run_opts)
        return
    with tempfile.TemporaryDirectory() as folder:
        arrangements = ON_CPU if arguments.device == "cpu" else ON_GPU
        seconds = measure(folder, REAL_SIZES["base"], arrangements, sys.argv[1:])
    print(report(seconds, arguments.clips))


if __name__ == "__main__":
    main()
