"""Where somebody speaks in a recording, by Silero's voice activity detector (the package silero-vad)."""

import functools
import threading
import warnings
from typing import TYPE_CHECKING, Any

from ser_ts_lobes.errors import needs_extra

if TYPE_CHECKING:
    import torch

#: Seconds that are left before the first and behind the last word, as people leave who cut a corpus (ours).
MARGIN_S = 0.2

# The only rate at which a student hears, and one of the detector's two.
_RATE_HZ = 16000
# The detector remembers what it has heard of a recording; a page hears several at once.
_ONE_AT_A_TIME = threading.Lock()


def trim_silence(wav: "torch.Tensor") -> "torch.Tensor | None":
    """Cut off what comes before the first word and behind the last, but for `MARGIN_S`.

    Parameters
    ----------
    wav
        (N,), 16 kHz, full scale -1 to 1.

    Returns
    -------
    torch.Tensor or None
        (M,), a part of `wav`; None where nobody speaks.

    Raises
    ------
    InputError
        If silero-vad is not installed.

    Example
    -------
    >>> import torch
    >>> trim_silence(torch.zeros(16000)) is None
    True
    """
    detector = load_detector()
    import silero_vad

    with _ONE_AT_A_TIME:
        spoken = silero_vad.get_speech_timestamps(wav, detector, sampling_rate=_RATE_HZ)
    if not spoken:
        return None
    margin = round(MARGIN_S * _RATE_HZ)
    return wav[max(0, spoken[0]["start"] - margin) : spoken[-1]["end"] + margin]


@functools.cache
def load_detector() -> Any:
    """Load the detector, which its package brings along; once.

    Returns
    -------
    torch.jit.ScriptModule

    Raises
    ------
    InputError
        If silero-vad is not installed.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        import silero_vad
    except ModuleNotFoundError as error:
        raise needs_extra("Telling speech from silence", "silero-vad", "vad") from error
    finally:
        torch.set_num_threads(threads)  # importing it sets one, for everybody
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, in which it comes
        return silero_vad.load_silero_vad()
