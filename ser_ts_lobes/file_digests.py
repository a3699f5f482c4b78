"""Digests of many files, each of which is read once."""

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import locked, make_folder, map_files, replacing
from ser_ts_lobes.fingerprint import fingerprint_file

logger = logging.getLogger(__name__)

# File systems tell times in steps of up to 2 s (FAT; others of milliseconds): a file that has just been changed may be
# changed again within the same step, and look as if it had not been.
_STEP_NS = 2 * 10**9


class FileDigests:
    """SHA-256 of files, kept in a side file for as long as size and times of a file stay as they are.

    Times are those of the content and of the entry (``st_mtime``, ``st_ctime``): a copy that was given the date of what
    it replaces is noticed. Several processes may use one side file.

    Parameters
    ----------
    side_file
        JSON, made when there is something to keep; a damaged one is made anew.
    tells
        Whether to log how many files are read.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a.txt").write_text("abc")
    >>> [digest] = FileDigests(folder / "digests.json").of([folder / "a.txt"])
    >>> digest[:8]
    'ba7816bf'
    """

    def __init__(self, side_file: str | Path, tells: bool = True) -> None:
        self._side_file, self._tells = Path(side_file), tells
        self._known = self._read()

    def of(self, paths: Sequence[str | Path]) -> list[str]:
        """Give the digests of files as they are now; only what is new or has changed is read.

        Parameters
        ----------
        paths
            Existing files.

        Returns
        -------
        list of str
            Of each, 64 hexadecimal digits.

        Raises
        ------
        InputError
            If a file can't be read.
        """
        names = [os.path.abspath(path) for path in paths]
        start_ns = time.time_ns()
        # Before they are read: what is changed meanwhile has other times than those kept here.
        states = dict(zip(names, map_files(_state, names), strict=True))
        changed = [name for name, state in states.items() if self._known.get(name, [])[:-1] != state]
        if changed and self._tells:
            logger.info(f"{len(changed)} of {len(states)} files are read to know them by their content.")
        digests = dict(zip(changed, map_files(_digest, changed), strict=True))
        settled = [name for name in changed if states[name][-1] < start_ns - _STEP_NS]
        if settled:
            self._keep({name: [*states[name], digests[name]] for name in settled})
        return [digests[name] if name in digests else self._known[name][-1] for name in names]

    def _keep(self, entries):
        make_folder(self._side_file.parent)
        try:
            with locked(self._side_file.with_name(f".{self._side_file.name}.lock")):
                self._known = self._read() | entries  # others may have written since
                with replacing(self._side_file) as temporary:
                    temporary.write_text(json.dumps(self._known), encoding="utf-8")
        except OSError as error:  # somebody else's folder, or a full disk
            logger.warning(
                f"{self._side_file} can't be written ({error.strerror}): the files are read again next time."
            )
            self._known |= entries

    def _read(self):
        try:
            known = json.loads(self._side_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            known = None
        if not _is_whole(known):
            logger.warning(f"{self._side_file} is damaged and made anew: all files are read again.")
            return {}
        return known


def _is_whole(known):
    """Say whether parsed JSON has for each file its state and its digest."""
    return isinstance(known, dict) and all(
        isinstance(entry, list) and [type(part) for part in entry] == [int, int, int, str] for entry in known.values()
    )


def _state(name):
    """Tell what changes when a file does: size and times."""
    try:
        status = os.stat(name)
    except OSError as error:
        raise _unreadable(name, error) from error
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _digest(name):
    try:
        return fingerprint_file(name)
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name, error):
    return InputError(f"{name} can't be read ({error.strerror}): restore it, or prepare the corpus again.")
