"""Times of calls that stand beside one another."""

import time

import numpy as np
import torch


def interleave(calls, repeats, clock=time.perf_counter, warm_up=True):
    """Time calls turn by turn, so that other programs slow all of them down alike.

    Parameters
    ----------
    calls : list of callable
        Of no argument.
    repeats : int
        Turns that count.
    clock : callable
        Seconds; `time.process_time` counts those on a processor, of which others may want their part.
    warm_up : bool
        Whether there is a first turn that doesn't count.

    Returns
    -------
    numpy.ndarray
        Seconds, (repeats, calls).
    """
    seconds = np.empty((repeats + warm_up, len(calls)))
    for row in seconds:
        for j, call in enumerate(calls):
            started = clock()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            row[j] = clock() - started
    return seconds[int(warm_up) :]
