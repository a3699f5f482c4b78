"""What a user did that we can't work with, said in one sentence."""

import contextlib
import sys


class InputError(ValueError):
    """Input that can't be used: a file, a label, a setting, an earlier step that is missing.

    The message is one clear sentence that says what is wrong, where (file, line, utterance id) and
    what to do about it. Anything else that goes wrong is a bug and keeps its traceback.
    """


@contextlib.contextmanager
def plain_errors():
    """End the program with the sentence of an `InputError` instead of a traceback.

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
