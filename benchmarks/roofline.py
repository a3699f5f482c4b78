"""How near the fine-tuning step comes to what the machine can multiply.

To run, from the repository's root: ``python -m benchmarks.roofline`` (two minutes). The step is one of `ft` on HuBERT
base in its real size (random weights), whose upper half learns from kept frames of noise of 2.75 to 11 s: batch,
forward, backward and optimizer, as in training. Its floating-point operations are counted (`torch.utils.flop_counter`:
products of matrices and convolutions, nothing else); the machine's own rate is that of two square float32 matrices, in
the same turns. On a CPU it is one core, and seconds are those on a processor. The profile tells where the rest goes.
"""

import argparse
import tempfile
import time
from functools import partial

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging as transformers_logging

from benchmarks.timing import interleave
from benchmarks.training_cost import REAL_SIZES, RUN_OPTS, learn, make_manifest, make_ours, save_encoders

MATRIX = 2048


def measure(folder, config, device="cpu", precision="fp32", repeats=1, by_length=False):
    """Measure the step and the machine.

    Parameters
    ----------
    folder : str
        For what is written.
    config : transformers.HubertConfig
        Of the encoder.
    device : str
        Where to train.
    precision : str
        As of ``--precision``: ``fp32``, ``bf16``.
    repeats : int
        Turns, of which the median counts.
    by_length : bool
        Whether clips of one length share a batch, four of them, or clips of all lengths, eight of them.

    Returns
    -------
    dict[str, float | dict[str, float]]
        ``flops`` a step, ``step_s``, ``rate`` and ``machine`` (operations a second), ``share`` of the machine's rate,
        and ``profile``, the share of the step's time by the name of the operation.
    """
    folders = save_encoders(folder, {"base": config})
    manifest = make_manifest(folder, *((16, 4) if by_length else (8, 8)))
    settings = {"batches": "by_length", "batch_size": 4} if by_length else {}
    run_opts = RUN_OPTS | {"device": device, "precision": precision}
    brain, loader, _ = make_ours("ft", folders, manifest, folder, run_opts, **settings)
    step = partial(learn, brain, loader)
    step()  # allocates the optimizer's state
    with FlopCounterMode(display=False) as counter:
        step()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = torch.randn(2, MATRIX, MATRIX, device=device, dtype=dtype)
    clock = time.process_time if device == "cpu" else time.perf_counter
    calls = [step, partial(torch.mm, left, right)]
    calls[1]()
    step_s, machine_s = np.median(interleave(calls, repeats, clock, warm_up=False), axis=0).tolist()
    rate, machine = counter.get_total_flops() / step_s, 2 * MATRIX**3 / machine_s
    return {
        "flops": counter.get_total_flops(),
        "step_s": step_s,
        "rate": rate,
        "machine": machine,
        "share": rate / machine,
        "profile": shares_of_time(step, device),
    }


def shares_of_time(step, device):
    """Give the share of a step's own time by operation, the largest first."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device != "cpu")
    with profile(activities=activities) as profiler:
        step()
    kind = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    times = {event.key: getattr(event, kind) for event in profiler.key_averages()}
    return {name: t / sum(times.values()) for name, t in sorted(times.items(), key=lambda item: -item[1]) if t}


def report(measured, n_rows=10):
    """Give the figures and the profile as text."""
    lines = [
        f"A step: {measured['flops'] / 1e9:.0f} GFLOP in {measured['step_s']:.2f} s, "
        f"{measured['rate'] / 1e9:.1f} GFLOP/s",
        f"A product of two {MATRIX} x {MATRIX} matrices: {measured['machine'] / 1e9:.1f} GFLOP/s",
        f"Share of the machine's rate: {measured['share']:.0%}",
        "\n| operation | share of the step |\n| --- | ---: |",
    ]
    rows = list(measured["profile"].items())
    lines += [f"| {name} | {share:.1%} |" for name, share in rows[:n_rows]]
    return "\n".join(lines)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--by_length", action="store_true", help="batches of clips of one length")
    parser.add_argument("--repeats", type=int, default=1, help="the median counts (1)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # so that what a processor spends is work, and not waiting
    torch.manual_seed(0)
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(folder, REAL_SIZES["base"], **vars(arguments))
    print(report(measured))


if __name__ == "__main__":
    main()
