"""What a user did that we can't work with, said in one sentence."""

import contextlib
import errno
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


class InputError(ValueError):
    r"""Input that can't be used: a file, a label, a setting, an earlier step that is missing.

    The message is one clear sentence that says what is wrong, where (file, line, utterance id) and
    what to do about it. Anything else that goes wrong is a bug and keeps its traceback. What it quotes
    from a file stays on the line, and moves no cursor.

    Example
    -------
    >>> print(InputError("line 3: 'a\nb' occurs twice; keep one."))
    line 3: 'a\nb' occurs twice; keep one.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


# What gloo says to a process that waits for one that has ended.
_LEFT_ALONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
# What PyTorch says when a data loader's process has ended, and of an error there: a traceback that ends with it.
_WORKER_DIED = re.compile(r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)")
_FROM_WORKER = re.compile(r"\ACaught .*^ser_ts_lobes\.[\w.]+: (?P<sentence>.*)\Z", re.MULTILINE | re.DOTALL)
# What a user can do about what the system says of a file.
_MAKE_ROOM, _ALLOW, _MOUNT = (
    "make room there, or name a folder on another disk",
    "let this program write there, or name another folder",
    "see that the disk or the network drive is there",
)
_MENDED_BY = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _MAKE_ROOM),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _ALLOW),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN), _MOUNT),
}


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with the sentence of an `InputError` instead of a traceback.

    So it also ends where the disk is full, a file may not be written or a drive is gone. Of several processes that work
    together, one that can't go on says why; the others, which wait for it, say that.

    Example
    -------
    >>> with plain_errors():
    ...     raise InputError("labels.csv, line 3: 'nine' is not a number.")
    Traceback (most recent call last):
    SystemExit: error: labels.csv, line 3: 'nine' is not a number.
    """
    try:
        yield
    except (InputError, RuntimeError, OSError) as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        sys.exit(f"error: {sentence}")


def _sentence(error):
    """Say what has gone wrong in one sentence, if it is nothing that a programmer would have to mend."""
    text = Exception.__str__(error)  # of several lines, from a process that read
    if in_worker := _FROM_WORKER.search(text):
        return in_worker["sentence"].strip()
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno not in _MENDED_BY:
            return None
        where = error.filename or "A file"
        return (
            f"{where} can't be read or written ({error.strerror}): {_MENDED_BY[error.errno]}, and give the same "
            "command again."
        )
    if any(words in text for words in _LEFT_ALONE):
        return "another process of this run has ended: see what it said."
    if _WORKER_DIED.search(text):
        return (
            f"a process that read the data has died ({' '.join(text.split())[:200]}), most often for lack of memory: "
            "give the same command again, with fewer --num_workers if that is so."
        )
    return None


def needs_extra(what: str, package: str, extra: str) -> InputError:
    """Say which package is missing, and the command that installs it where this program looks for it.

    Parameters
    ----------
    what
        Needs it.
    package
        Can't be imported.
    extra
        Of ``extras_require`` in ``setup.py``, which names it.

    Returns
    -------
    InputError
        To raise.

    Example
    -------
    >>> str(needs_extra("The page", "gradio", "app"))
    "The page needs gradio, which is not installed: ... -m pip install -e '...[app]'"
    """
    checkout = Path(__file__).resolve().parents[1]
    # The package is on no index, so its name alone tells pip nothing.
    source = f"-e '{checkout}[{extra}]'" if (checkout / "setup.py").is_file() else package
    return InputError(f"{what} needs {package}, which is not installed: {sys.executable} -m pip install {source}")


def first_few(names: Iterable[str], number: int = 3) -> str:
    """Name the first few of many.

    Example
    -------
    >>> first_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    >>> first_few(["a", "b"])
    'a, b'
    """
    names = list(names)
    rest = f" and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(names[:number]) + rest
