"""Text files: what is read, and how what is wrong is said."""

import csv
import hashlib
import os

import pytest

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.text_files import parse_json, read_lines, read_rows, write_csv


def test_text_that_has_no_encoding_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv can't be written: 'x\\nhalf \\ud800 a character\\n' is not text"):
        write_csv(tmp_path / "a.csv", ["x"], [["half \ud800 a character"]])
    assert os.listdir(tmp_path) == []


def test_read_rows_counts_lines_of_the_file(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'\xef\xbb\xbfb,a,more\r\n"1\r\n2",x,y\r\n\r\n3, z,\r\n')
    assert list(read_rows(path, ("a", "b"), key="a")) == [
        (3, {"b": "1\r\n2", "a": "x", "more": "y"}),
        (5, {"b": "3", "a": "z", "more": ""}),
    ]


def test_rows_that_may_be_cut_are_a_warning(tmp_path, caplog):
    path = tmp_path / "cut.csv"
    path.write_text("a,b\n1,2")
    assert list(read_rows(path, ("a", "b"))) == [(2, {"a": "1", "b": "2"})]
    assert caplog.messages == [f"{path}, line 2: no line break at the end; is the file cut short?"]


def test_read_lines_says_where(tmp_path, caplog):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert list(read_lines(path)) == [(1, "one\r\n"), (2, "two\n")]
    assert caplog.messages == []
    path.write_bytes(b"one\ntw")
    assert list(read_lines(path)) == list(read_lines(path, warn_if_cut=True)) == [(1, "one\n"), (2, "tw")]
    assert caplog.messages == [f"{path}, line 2: no line break at the end; is the file cut short?"]
    path.write_bytes(b"")
    assert list(read_lines(path, warn_if_cut=True)) == [] and len(caplog.messages) == 1
    path.write_bytes("one\ntwö\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"lines\.txt, line 2: not text in UTF-8"):
        list(read_lines(path))
    with pytest.raises(InputError, match=r"can't be read: Is a directory"):
        list(read_lines(tmp_path))


def test_write_csv_digests_what_it_writes(tmp_path):
    digest = write_csv(tmp_path / "a.csv", ("x", "y"), [(1, 'say "é"')])
    assert digest == hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest()
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["x", "y"], ["1", 'say "é"']]
    assert os.listdir(tmp_path) == ["a.csv"]


def test_blanks_after_commas_are_no_part_of_a_value(tmp_path):
    path = tmp_path / "blanks.csv"
    path.write_text('a, b\n1, "x, y"\n')
    assert list(read_rows(path, ("a", "b"))) == [(2, {"a": "1", "b": "x, y"})]


def test_parse_json_hands_its_options_on():
    def refuse(pairs):
        raise InputError("twice")

    assert parse_json('{"a": 1}', "a.json", parse_int=str) == {"a": "1"}
    with pytest.raises(InputError, match="^twice$"):
        parse_json('{"a": 1}', "a.json", object_pairs_hook=refuse)
    with pytest.raises(InputError) as error:
        parse_json("{}\n{", "a.json")
    assert str(error.value) == "a.json, line 2: not JSON that can be used (Extra data). Restore the file."


def test_what_is_not_text_is_shown_with_what_is_around_it(tmp_path):
    text = 25 * "x" + "\ud800" + 25 * "y"
    with pytest.raises(InputError) as error:
        write_csv(tmp_path / "a.csv", ["x"], [[text]])
    assert f"a.csv can't be written: '{20 * 'x'}\\ud800{20 * 'y'}' is not text. Correct it" in str(error.value)
