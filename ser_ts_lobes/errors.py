"""What a user did that we can't work with, said in one sentence."""

import contextlib
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


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with the sentence of an `InputError` instead of a traceback.

    Of several processes that work together, one that can't go on says why; the others, which wait for it, say that.

    Example
    -------
    >>> with plain_errors():
    ...     raise InputError("labels.csv, line 3: 'nine' is not a number.")
    Traceback (most recent call last):
    SystemExit: error: labels.csv, line 3: 'nine' is not a number.
    """
    try:
        yield
    except InputError as error:
        sys.exit(f"error: {error}")
    except RuntimeError as error:
        if not any(words in str(error) for words in _LEFT_ALONE):
            raise
        sys.exit("error: another process of this run has ended: see what it said.")


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
