"""What damage and odd people do to files: for property tests of all that reads some."""

import csv
import io
import json

from hypothesis import settings
from hypothesis import strategies as st

from ser_ts_lobes.errors import InputError


def at_least(number):
    """Give a test so many cases, or as many as the profile (see ``conftest.py``) has if these are more."""
    return settings(max_examples=max(number, settings.default.max_examples))


# ------------------------------------------------------------------ bytes


@st.composite
def damaged(draw, content, times=1):
    """Damage bytes as disks, transfers and editors do; what comes out may be what went in."""
    for _ in range(times):
        # Most of what a file says of itself is at its head.
        places = st.integers(0, min(200, len(content))) | st.integers(0, len(content))
        start, end = sorted((draw(places), draw(places)))
        before, part, behind = content[:start], content[start:end], content[end:]
        content = draw(
            st.sampled_from(
                [
                    before + bytes([content[start] ^ (1 << draw(st.integers(0, 7)))]) + content[start + 1 :]
                    if start < len(content)
                    else before,
                    before + draw(st.binary(min_size=1, max_size=4)) + content[start:],
                    before,  # cut
                    before + behind,  # a hole
                    before + part + part + behind,  # twice
                    before + bytes(len(part)) + behind,  # blocks that were never written
                    behind + part + before,  # in another order
                    content[::-1],
                    content + content,
                    content + b"\0",
                ]
            )
        )
    return content


# ------------------------------------------------------------------ tables

#: What may stand in a cell of a table that people and programs have handled.
CELLS = st.one_of(
    st.sampled_from(["", " ", "nan", "NaN", "inf", "-inf", "null", "None", "N/A", "1e400", "1e-400", "-1", "0", "-0"]),
    st.sampled_from(["0_5", "\u0663", "1,5", "4.0.0", "0x10", "1e3", ".5", "5.", "+2", "4 ", " 4", "9" * 400, "1/2"]),
    st.sampled_from(
        ['"', '""', "a\nb", "a\r\nb", "a\rb", "a,b", "a;b", "a\tb", "\0", "4\0", "\ufeff4", "'", "\\", "#"]
    ),
    st.sampled_from(
        ["$data_root", "$data_root/../..", "../..", "/dev/zero", "=1+1", "\u202e4", "\u00e9", "e\u0301", "\U0001f600"]
    ),
    st.floats().map(str),
    st.text(st.characters(codec="utf-8"), max_size=6),
)


@st.composite
def changed_tables(draw, table, cells=CELLS):
    """Change one to three things in a table, a list of rows of text of which the first is the header."""
    table = [list(row) for row in table]
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, len(table) - 1))
        row = table[i]
        action = draw(st.sampled_from(["cell"] * 6 + ["again", "gone", "short", "long", "swap"]))
        if action == "cell" and row:
            row[draw(st.integers(0, len(row) - 1))] = draw(cells)
        elif action == "again":
            table.insert(i, list(row))
        elif action == "gone" and len(table) > 1:
            del table[i]
        elif action == "short":
            del row[-1:]
        elif action == "long":
            row.append(draw(cells))
        elif action == "swap":
            j = draw(st.integers(0, len(table) - 1))
            table[i], table[j] = table[j], table[i]
    return table


@st.composite
def written(draw, table):
    """Write a table as CSV in one of the ways that say the same: ends of lines, quotes, a byte order mark."""
    text = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    csv.writer(text, lineterminator=draw(st.sampled_from(["\n", "\r\n"])), quoting=quoting).writerows(table)
    content = text.getvalue().encode("utf-8")
    if draw(st.booleans()):
        content = content.rstrip(b"\r\n")
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + content


@st.composite
def rearranged(draw, table):
    """Order the columns of a table otherwise, and add one."""
    columns = [*zip(*table, strict=True), ["notes", *("x, y" for _ in table[1:])]]
    return [list(row) for row in zip(*draw(st.permutations(columns)), strict=True)]


# ------------------------------------------------------------------ JSON

#: What may stand anywhere in JSON.
VALUES = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 10**4000, 1e300, float("nan"), float("inf")]),
    st.sampled_from(["", "\ud800", "\0", "..", "/", "9" * 10_000, "NaN", "\n"]),
    st.sampled_from([[], {}, [None], [[]], {"": {}}, [1] * 3, [1.0, 2.0, 3.0], {"a": 1}]),
)


def places_in(value, path=()):
    """List where anything stands in parsed JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, item in items for found in places_in(item, (*path, key))]


@st.composite
def changed_json(draw, value, values=VALUES, most=3, added=("", "self", "sha256", "format")):
    """Replace, remove or add (under one of some names) one to a few values anywhere in parsed JSON."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, most))):
        places = places_in(value)
        if not places:
            break
        *parents, key = draw(st.sampled_from(places))
        part = value
        for parent in parents:
            part = part[parent]
        action = draw(st.sampled_from(["replace"] * 6 + ["remove", "add"]))
        hostile = json.loads(json.dumps(draw(values)))  # a copy: the next change may be in it
        if action == "remove":
            del part[key]
        elif action == "add" and isinstance(part, dict):
            part[draw(st.sampled_from(added))] = hostile
        else:
            part[key] = hostile
    return value


# ------------------------------------------------------------------ errors


def read_or_refused(reader, path, content, named=None):
    """Read a file with other bytes in it; None where it is refused in a sentence that names it, or what is `named`."""
    path.write_bytes(content)
    try:
        return reader(path)
    except InputError as error:
        assert is_a_sentence(error) and (named or str(path)) in str(error)
        return None


def is_a_sentence(error):
    """Say whether an error is one sentence for people."""
    text = str(error)
    return text.isprintable() and len(text) < 2000 and text.endswith((".", ")", "?"))
