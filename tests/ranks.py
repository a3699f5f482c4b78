"""Process groups on one machine, for tests of what a distributed run does."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist


def on_each_rank(task, folder, world_size):
    """Return what `task(rank)` returns on each rank of a process group, or what it exits with."""
    arguments = (task, folder, world_size)
    # Forked: they have torch already, and run the code that is loaded here.
    torch.multiprocessing.start_processes(run_rank, arguments, nprocs=world_size, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def run_rank(rank, task, folder, world_size):
    """Join the group, and save what `task` returns."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}  # which SpeechBrain asks, as of torchrun
    store, patience = f"file://{folder}/store", timedelta(seconds=30)  # a rank that waits in vain is a failure
    dist.init_process_group("gloo", init_method=store, timeout=patience, rank=rank, world_size=world_size)
    try:
        torch.save(task(rank), folder / f"{rank}.pt")
    except SystemExit as end:
        torch.save(end.code, folder / f"{rank}.pt")
        os._exit(0)  # its connections end with it, as a program's do
    dist.barrier()  # a rank that goes early takes its end of the others' connections with it
    dist.destroy_process_group()
