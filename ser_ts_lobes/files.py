"""Finding files, and writing them so that nothing is lost, whoever else writes."""

import contextlib
import errno
import fcntl
import fnmatch
import functools
import glob
import itertools
import logging
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from ser_ts_lobes.errors import InputError

logger = logging.getLogger(__name__)

_FILES_A_TASK = 256
_FULL_BYTES = 2**20  # a disk with less is full
# What safetensors, whose errors are its own, says when a file can't be written.
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
# Python's threads take turns, and each turn costs several of a small file's 10 microseconds on a local disk.
_WORTH_A_THREAD_S = 2e-4


def map_files(function: Callable, files: list) -> list:
    """Do something with each of many files, several at a time where that pays.

    It does where a file is mostly waiting (for a network disk) or decoding; whether it is, the first few hundred tell.
    A thread takes hundreds of them in one go: a task for each would cost more than the file.

    Parameters
    ----------
    function
        Is called with one of `files`.
    files
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

    start = time.perf_counter()
    results = several(0)
    rest = range(len(results), len(files), _FILES_A_TASK)
    if time.perf_counter() - start < _WORTH_A_THREAD_S * len(results):
        return list(itertools.chain(results, *map(several, rest)))
    with ThreadPoolExecutor() as pool:
        return list(itertools.chain(results, *pool.map(several, rest)))


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    Yields a temporary path in the same folder; when the block ends without an error it takes the place of
    `path`, otherwise it is removed and an older `path` stays as it was. What processes of this machine have left that
    were killed while they wrote the same file, before this one first wrote in the folder, is removed, too.

    Write to that path itself: safetensors' `save_file` makes a hidden file of its own beside it first, which would
    stay when a process is killed; its `save` gives bytes.

    Parameters
    ----------
    path
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
    for left in _abandoned(path, _first_seen(os.path.abspath(path.parent))):
        left.unlink(missing_ok=True)
    temporary = temporary_path(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # of any new file; some writers let nobody but the owner read
        temporary.unlink()
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    except Exception as error:
        name_failed_write(error, path, temporary)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def name_failed_write(error: Exception, path: str | Path, written: str | Path | None = None) -> None:
    """Let an error of writing say which file it was and, where the writer's own error does not, what the system said.

    Parameters
    ----------
    error
        Of any writer.
    path
        The file that was wanted, or its folder.
    written
        What was written in its place.

    Raises
    ------
    OSError
        In place of another error behind which is one of the system; otherwise `error` is the caller's to raise.
    """
    number = None
    if isinstance(error, OSError):
        if error.errno and error.filename in (None, written, str(written)):
            error.filename, error.filename2 = str(path), None
    elif told := _SYSTEM_ERROR.search(str(error)):
        number = int(told[1])
    # PyTorch does not say why; what it has written of a file lies there still.
    elif isinstance(error, RuntimeError) and shutil.disk_usage(Path(path).parent).free < _FULL_BYTES:
        number = errno.ENOSPC
    if number:
        raise OSError(number, os.strerror(number), str(path)) from error


@contextlib.contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Give a folder for what is to take the place of a file or folder, beside it.

    It is removed in the end, and so are those of processes of this machine that were killed.

    Parameters
    ----------
    path
        The file or folder, in an existing folder.

    Yields
    ------
    pathlib.Path
        An empty folder.

    Example
    -------
    >>> with temporary_folder(getfixture("tmp_path") / "model") as folder:
    ...     folder.is_dir()
    True
    >>> folder.exists()
    False
    """
    for left in find_abandoned(path):
        shutil.rmtree(left)
    folder = temporary_path(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def temporary_path(path: str | Path) -> Path:
    """Name what this process writes before it takes the place of a file or folder, which is beside it.

    Parameters
    ----------
    path
        The file or folder.

    Returns
    -------
    pathlib.Path
    """
    return Path(path).with_name(_temporary_name(Path(path).name, os.getpid()))


def find_abandoned(path: str | Path) -> list[Path]:
    """Find what processes of this machine that are gone, or this one, began to write in place of a file or folder.

    Parameters
    ----------
    path
        The file or folder.

    Returns
    -------
    list of pathlib.Path
        Of the names that `temporary_path` gives.

    Example
    -------
    >>> path = getfixture("tmp_path") / "notes.txt"
    >>> temporary_path(path).touch()
    >>> find_abandoned(path) == [temporary_path(path)]
    True
    """
    path = Path(path)
    return _abandoned(path, _temporaries(path.parent))


def _abandoned(path, names):
    """Pick from the names of temporary files those that were to take the place of one, and that nobody writes."""
    found = sorted(fnmatch.filter(names, _temporary_name(glob.escape(path.name), "*")))
    return [path.with_name(name) for name in found if not _is_another(name.removesuffix(".tmp").rpartition("-")[2])]


def _temporaries(folder):
    return [path.name for path in Path(folder).glob(".*.tmp")]


@functools.cache
def _first_seen(folder):
    """List the temporary files of a folder once: listing it before each of 10,000 files that go there takes minutes."""
    return _temporaries(folder)


def _temporary_name(name, process):
    """Name what a process writes; only its own machine can tell whether it is still there."""
    return f".{name}.{socket.gethostname()}-{process}.tmp"


def _is_another(process):
    """Say whether another process may be running under a number."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (PermissionError, ValueError):  # somebody else's; no number, so no process wrote it
        return True
    return int(process) != os.getpid()


def remove_leftovers(folder: str | Path) -> None:
    """Remove what `replacing` could not, in processes that were killed; nobody may be writing in the folder.

    Parameters
    ----------
    folder
        Where they wrote.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with replacing(folder / "notes.txt") as temporary:
    ...     _ = temporary.write_text("half")
    ...     remove_leftovers(folder)
    ...     temporary.exists()
    ...     _ = temporary.write_text("all of it")
    False
    """
    for path in Path(folder).glob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[bool]:
    """Let one process at a time do the block; another waits, and says for whom.

    The lock is the kernel's (``flock``): it ends with the process that has it, however that ends. The file stays, for
    a lock on a file that was removed keeps nobody out.

    Parameters
    ----------
    path
        The lock file, in an existing folder; it is made if it is missing, and names who has the lock.

    Yields
    ------
    bool
        Whether others are kept out. They are not on a file system without locks; then a warning has said so.

    Example
    -------
    >>> path = getfixture("tmp_path") / ".lock"
    >>> with locked(path) as alone, open(path) as another:
    ...     alone, try_lock(another)
    (True, False)
    """
    path = Path(path)
    with open(path, "a+", encoding="utf-8") as file:  # not "w", which would blot out the other's name
        alone = _wait_for_lock(file, path)
        if alone:
            sign_lock(file)
        try:
            yield alone
        finally:
            if alone:  # not by closing: a data loader's workers have inherited the file
                fcntl.flock(file, fcntl.LOCK_UN)


def try_lock(file: IO[Any]) -> bool:
    """Take the lock of an open file if no other process has it.

    It is held until every process that has inherited the open file has closed it or ended.

    Parameters
    ----------
    file
        Open for writing, which network file systems ask for.

    Returns
    -------
    bool
        Whether it was taken.

    Raises
    ------
    OSError
        If the file system has no locks.

    Example
    -------
    >>> path = getfixture("tmp_path") / ".lock"
    >>> with open(path, "a") as first, open(path, "a") as second:
    ...     try_lock(first), try_lock(second)
    (True, False)
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def share_lock(path: str | Path) -> IO[Any]:
    """Take a lock that others may share; `try_lock` of the same file fails until all have let it go.

    Parameters
    ----------
    path
        The lock file, in an existing folder; it is made if it is missing, and need not be writable.

    Returns
    -------
    file
        Who closes it, or forgets it, lets the lock go. On a file system without locks it holds none.

    Example
    -------
    >>> path = getfixture("tmp_path") / ".in_use"
    >>> first, second = share_lock(path), share_lock(path)
    >>> with open(path, "a") as another:
    ...     try_lock(another)
    False
    """
    file = open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_CREAT, 0o666))
    with contextlib.suppress(OSError):  # whoever would take the lock for itself is told that there are none
        fcntl.flock(file, fcntl.LOCK_SH)
    return file


def hold_lock(path: str | Path, inherited: str | None = None) -> None:
    """Keep other processes out until this one ends; one that comes second is told.

    Parameters
    ----------
    path
        The lock file; it is made if it is missing, with its folder, and names who has the lock.
    inherited
        Path of a lock that the process which started this one has taken for it.

    Raises
    ------
    InputError
        If another process has the lock.

    Example
    -------
    >>> path = getfixture("tmp_path") / "run" / ".lock"
    >>> hold_lock(path)
    >>> hold_lock(path)  # it has it
    >>> with open(path, "a") as another:
    ...     try_lock(another)
    False
    """
    path = Path(path).resolve()
    if path in _held or (inherited and path == Path(inherited).resolve()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+", encoding="utf-8")
    try:
        taken = try_lock(file)
    except OSError as error:
        _warn_of_no_locks(path, error)
        taken = True
    if not taken:
        file.seek(0)
        raise InputError(
            f"{path.parent} is in use by {file.read() or 'another process'}: wait until it is done, or name another "
            "output_folder."
        )
    sign_lock(file)
    _held[path] = file


_held: dict[Path, IO[str]] = {}


def sign_lock(file: IO[str]) -> None:
    """Write into a lock file who has the lock."""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()


def _wait_for_lock(file, path):
    """Take the lock of an open file, however long it takes; say whether the file system has locks."""
    try:
        if not try_lock(file):
            file.seek(0)
            logger.info(f"{path.parent} is in use by {file.read() or 'another process'}: waiting until it is done.")
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        _warn_of_no_locks(path, error)
        return False
    return True


def _warn_of_no_locks(path, error):
    logger.warning(
        f"The file system of {path.parent} has no locks ({error.strerror}): do not start two programs that write there "
        "at the same time, or name a folder on another disk."
    )


def walk_files(folder: str | Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Find all files under a folder, in no order.

    Links are followed, but not round in circles.

    Parameters
    ----------
    folder
        The folder.

    Yields
    ------
    tuple of str and os.stat_result or None
        The name relative to the folder, and the status; None for a link that leads nowhere.

    Raises
    ------
    InputError
        When a folder can't be read, or a name is not text in UTF-8, which is what manifests are written in.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "link.wav").symlink_to("nowhere.wav")
    >>> list(walk_files(folder))
    [('link.wav', None)]
    """
    pending: list[tuple[str | Path, str, tuple[tuple[int, int], ...]]] = [(folder, "", ())]
    while pending:
        path, prefix, above = pending.pop()
        try:
            here = os.stat(path)
            identity = here.st_dev, here.st_ino
            entries = () if identity in above else os.scandir(path)  # no list: each keeps its status
            for entry in entries:
                name = prefix + entry.name
                try:
                    name.encode()
                    status: os.stat_result | None = entry.stat()
                except UnicodeEncodeError:
                    named = os.fsencode(entry.name)
                    raise InputError(f"{path} has a file whose name is not UTF-8, {named!r}. Rename it.") from None
                except OSError:
                    status = None
                if status and stat.S_ISDIR(status.st_mode):
                    pending.append((entry.path, f"{name}/", (*above, identity)))
                else:
                    yield name, status
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror}.") from error


def make_folder(folder: str | Path) -> None:
    """Make a folder, and those that it is in, where there is none yet; refuse one that can't be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} can't be made ({error.strerror}). Name another one.") from error
