"""Seeds that are made of other seeds."""

import numpy as np


def derive_seed(*parts: int) -> int:
    """Make a seed of whole numbers, such as a run's seed, the epoch and the step.

    Sums would not do: the second epoch of seed 1 and the first of seed 2 would draw the same.

    Parameters
    ----------
    *parts
        >= 0 each.

    Returns
    -------
    int
        From 0 to 2**63 - 1; the same for the same parts in the same order, on any machine.

    Example
    -------
    >>> derive_seed(1986, 1) == derive_seed(1986, 1)
    True
    >>> len({derive_seed(1986, 2), derive_seed(1987, 1), derive_seed(2, 1986)})
    3
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
