"""Writing files so that nothing is lost."""

import contextlib
import os
from pathlib import Path


@contextlib.contextmanager
def replacing(path):
    """Write a file whole or not at all.

    Yields a temporary path in the same folder; when the block ends without an error it takes the place of
    `path`, otherwise it is removed and an older `path` stays as it was.

    Parameters
    ----------
    path : str or pathlib.Path
        The file to write, in an existing folder.

    Yields
    ------
    pathlib.Path
        Where to write.

    Example
    -------
    >>> path = getfixture("tmp_path") / "notes.txt"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> path.read_text()
    'all of it'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
