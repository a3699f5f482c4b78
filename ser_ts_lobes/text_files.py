"""Text files that people and other programs write, read strictly: lines, CSV, JSON, numbers.

What is wrong with one is said in a sentence that names the file and the line.
"""

import csv
import functools
import hashlib
import io
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing

logger = logging.getLogger(__name__)

# Python's float also takes 0_5 for 5, ٣ for 3, and nan and inf, which are no labels.
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def read_lines(path: str | Path, warn_if_cut: bool = False) -> Iterator[tuple[int, str]]:
    """Read a text file in UTF-8 line by line, for readers that must say where something is wrong.

    A byte order mark and CRLF are fine.

    Parameters
    ----------
    path
        The text file.
    warn_if_cut
        Whether to warn of a last line without a line break, for formats whose lines don't show that they were cut.

    Yields
    ------
    tuple of int and str
        The number of the line, from 1, and the line with its line break.

    Raises
    ------
    InputError
        When the file can't be read, or a line is not UTF-8.
    """
    number, text = 0, "\n"
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number}: not text in UTF-8 ({error.reason}). Save it as UTF-8.") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from error
    if warn_if_cut and not text.endswith("\n"):
        logger.warning(f"{path}, line {number}: no line break at the end; is the file cut short?")


def read_rows(path: str | Path, columns: Iterable[str], key: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a CSV with a header, telling lines apart, for readers that must say where something is wrong.

    A byte order mark, CRLF, another order of the columns and further columns are all fine, and so are blanks around a
    key, which is given without them.

    Parameters
    ----------
    path
        The CSV, in UTF-8.
    columns
        Columns that it must have.
    key
        Column whose values must be unique.

    Yields
    ------
    tuple of int and dict
        The line of the file (the header is line 1), and the row with all its columns.

    Raises
    ------
    InputError
        When the file can't be read, lacks a column or has one twice, has a row of another length, or repeats a key.
    """
    lines_of_keys: dict[str, int] = {}
    reader = csv.DictReader(
        (text for _, text in read_lines(path, warn_if_cut=True)), skipinitialspace=True, strict=True
    )
    try:
        header = reader.fieldnames or ()
        absent = [column for column in columns if column not in header]
        if absent:
            raise InputError(
                f"{path}, line 1: no column {', '.join(absent)}; it must have {', '.join(columns)}, "
                f"separated by commas."
            )
        named = [name.strip() for name in header]
        if twice := sorted({name for name in named if name and named.count(name) > 1}):
            raise InputError(f"{path}, line 1: the column {', '.join(twice)} is there twice; keep one.")
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                raise InputError(f"{path}, line {line}: not the {len(header)} values of the header.")
            if key:
                row[key] = row[key].strip()
            if key and (first := lines_of_keys.setdefault(row[key], line)) != line:
                raise InputError(f"{path}, lines {first} and {line}: {key} {row[key]} occurs twice; keep one.")
            yield line, row
    except csv.Error as error:
        # line_num is the end of the last good row.
        raise InputError(f"{path}, line {reader.line_num + 1}: not CSV ({error}).") from error


def write_csv(path: str | Path, columns: Iterable[str], rows: Iterable[Sequence]) -> str:
    """Write a CSV whole or not at all.

    Parameters
    ----------
    path
        The file; its folder exists.
    columns
        The header.
    rows
        The values.

    Returns
    -------
    str
        SHA-256 of the file, in hexadecimal.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    try:
        content = text.getvalue().encode()
    except UnicodeEncodeError as error:  # JSON can name half a character
        near = error.object[max(0, error.start - 20) : error.end + 20]
        raise InputError(f"{path} can't be written: {near!r} is not text. Correct it where it is from.") from error
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def parse_json(text: str, path: str | Path, **options) -> dict[str, Any] | list | str | float | int | bool | None:
    """Parse JSON that somebody else may have written.

    Parameters
    ----------
    text
        The JSON.
    path
        Where it is from, for errors.
    **options
        Of `json.loads`.

    Returns
    -------
    dict, list, str, float, int, bool or None
        What it says.

    Raises
    ------
    InputError
        When it is not JSON, nested too deeply, or has an integer of thousands of digits.
    """
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as error:
        where, problem = f"{path}, line {error.lineno}", error.msg
    except RecursionError:
        where, problem = str(path), "nested too deeply"
    except InputError:  # of a hook among the options
        raise
    except ValueError:  # Python reads no integer of more than 4,300 digits
        where, problem = str(path), "a number has too many digits"
    raise InputError(f"{where}: not JSON that can be used ({problem}). Restore the file.")


@functools.lru_cache(4096)  # of millions of answers most are the same few
def parse_number(text: str) -> float | None:
    """Read a number that is written as people and programs write one; None for any other text.

    Example
    -------
    >>> parse_number("4.25"), parse_number("1e-05 ")
    (4.25, 1e-05)
    >>> [parse_number(text) for text in ("", "0_5", "nan", "inf", "9" * 5000)]
    [None, None, None, None, None]
    """
    text = text.strip()
    number = float(text) if NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None
