"""The devices that networks run on."""

import torch

from ser_ts_lobes.errors import InputError


def check_device(name: str) -> torch.device:
    """Refuse a device that this machine lacks.

    Parameters
    ----------
    name
        Such as ``cpu``, ``cuda`` or ``cuda:0``.

    Returns
    -------
    torch.device

    Raises
    ------
    InputError
        If there is no such device, or PyTorch can't use it.

    Example
    -------
    >>> check_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a PyTorch without CUDA
        raise InputError(f"The device '{name}' can't be used ({str(error).splitlines()[0]}). Try cpu.") from error
    return device
