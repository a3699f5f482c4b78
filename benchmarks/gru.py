"""A training step of the GRU, in the ways that there are on a CPU.

To run, from the repository's root: ``python -m benchmarks.gru`` (a minute). 32 clips of 2.75 to
11 s, as shuffled batches have them, and of about the same length, as batches by length have them, at 50 frames a second
of 384 and of 768 numbers; two layers of 128. Forward and backward, seconds of one core, turn by turn; the difference
is the largest of a gradient, relative to the largest gradient of the same parameter.
"""

import argparse
import statistics
import time

import torch
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.speech_encoder import SECONDS
from benchmarks.timing import interleave
from ser_ts_lobes.lobes.gru import last_states

BATCH_SIZE, FRAME_RATE, HIDDEN_SIZE, N_LAYERS = 32, 50, 128, 2


def whole(gru, frames, lengths):
    """Compute the padding, too."""
    return gru(frames)[0][torch.arange(len(frames)), lengths - 1]


def time_major(gru, frames, lengths):
    """Compute the padding, too, with the frames of a point in time side by side."""
    gru.batch_first = False
    outputs = gru(frames.transpose(0, 1).contiguous())[0]
    gru.batch_first = True
    return outputs[lengths - 1, torch.arange(len(frames))]


def packed(gru, frames, lengths):
    """Leave the padding out."""
    return gru(pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False))[1][-1]


def in_bfloat16(gru, frames, lengths):
    """Compute the padding, too, in less precision."""
    with torch.autocast("cpu", torch.bfloat16):
        return whole(gru, frames, lengths).float()


VARIANTS = {
    "torch.nn.GRU": whole,
    "the same, time first": time_major,
    "the same, packed": packed,
    "the same, bfloat16 (autocast)": in_bfloat16,
    "ser_ts_lobes.lobes.gru": last_states,
}


def compare(size, longest_s, shortest_s, repeats):
    """Print milliseconds a step of each variant, relative time, and difference from the first one."""
    gru = torch.nn.GRU(size, HIDDEN_SIZE, N_LAYERS, batch_first=True)
    lengths = (torch.linspace(shortest_s, longest_s, BATCH_SIZE)[torch.randperm(BATCH_SIZE)] * FRAME_RATE).long()
    frames = torch.randn(BATCH_SIZE, int(lengths.max()), size)
    gradients = {}

    def step(name):
        gru.zero_grad()
        VARIANTS[name](gru, frames, lengths).square().sum().backward()
        gradients[name] = [p.grad.clone() for p in gru.parameters()]

    seconds = interleave([lambda name=name: step(name) for name in VARIANTS], repeats, time.process_time)
    print(f"\n{BATCH_SIZE} clips of {shortest_s} to {longest_s} s, {size} numbers a frame\n")
    print("| variant | ms a step | its time / the first's | difference |\n| --- | ---: | ---: | ---: |")
    for name, column in zip(VARIANTS, seconds.T, strict=True):
        pairs = zip(gradients[name], next(iter(gradients.values())), strict=True)
        difference = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
        ratio = statistics.median(column / seconds[:, 0])
        print(f"| {name} | {1000 * statistics.median(column):.0f} | {ratio:.2f} | {difference:.0e} |", flush=True)


def main():
    """Print all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # so that what a processor spends is work, and not waiting
    torch.manual_seed(0)
    for size in (384, 768):
        compare(size, max(SECONDS), min(SECONDS), arguments.repeats)
        compare(size, 5.6, 5.4, arguments.repeats)


if __name__ == "__main__":
    main()
