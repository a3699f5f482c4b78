"""Writing files so that nothing is lost."""

import contextlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_FILES_A_TASK = 256


def map_files(function, files):
    """Do something with each of many small files, several at a time: on a network disk opening one is mostly waiting.

    A thread takes hundreds of them in one go: a task for each would cost more than the file.

    Parameters
    ----------
    function : callable
        Is called with one of `files`.
    files : list
        Paths or whatever else the function takes.

    Returns
    -------
    list
        The results, in the order of `files`.

    Example
    -------
    >>> map_files(len, ["a.wav", "bc.wav"])
    [5, 6]
    """

    def several(start):
        return [function(file) for file in files[start : start + _FILES_A_TASK]]

    with ThreadPoolExecutor() as pool:
        return list(itertools.chain.from_iterable(pool.map(several, range(0, len(files), _FILES_A_TASK))))


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
