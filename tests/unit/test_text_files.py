"""Text files: what is read, and how what is wrong is said."""

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
    with pytest.raises(InputError) as error:
        list(read_lines(path))
    assert str(error.value) == f"{path}, line 2: not text in UTF-8 (invalid start byte). Save it as UTF-8."
    for nothing, problem in [(tmp_path, "Is a directory"), (tmp_path / "nowhere", "No such file or directory")]:
        with pytest.raises(InputError) as error:
            list(read_lines(nothing))
        assert str(error.value) == f"{nothing} can't be read: {problem}."


def test_a_byte_order_mark_is_one_at_the_very_start_only(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    assert list(read_lines(path)) == [(1, "one\n"), (2, "\ufefftwo\n")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b\n", "{path}, line 1: no column ID, a; it must have ID, a, b, separated by commas."),
        ("", "{path}, line 1: no column ID, a, b; it must have ID, a, b, separated by commas."),
        ("b,ID,a,b , a\n", "{path}, line 1: the column a, b is there twice; keep one."),
        ("ID,a,b\n1,2,3\n4,5\n", "{path}, line 3: not the 3 values of the header."),
        ("ID,a,b\n1,2,3\n4,5,6,7\n", "{path}, line 3: not the 3 values of the header."),
        ("ID,a,b\n1,2,3\n\n1 ,5,6\n", "{path}, lines 2 and 4: ID 1 occurs twice; keep one."),
        ('ID,a,b\n1,2,3\n4,"5" 6,7\n', "{path}, line 3: not CSV (',' expected after '\"')."),
    ],
)
def test_what_is_wrong_with_rows_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        list(read_rows(path, ("ID", "a", "b"), key="ID"))
    assert str(error.value) == message.format(path=path)


def test_columns_without_a_name_are_no_repetition(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,,\n1,2,3\n")
    [(line, row)] = read_rows(path, ("a",))
    assert (line, row["a"]) == (2, "1")


def test_without_a_key_rows_may_be_the_same(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a\n1 \n1 \n")
    assert list(read_rows(path, ("a",))) == [(2, {"a": "1 "}), (3, {"a": "1 "})]


def test_write_csv_digests_what_it_writes(tmp_path):
    digest = write_csv(tmp_path / "a.csv", ("x", "y"), [(1, 'say "é"')])
    content = (tmp_path / "a.csv").read_bytes()
    assert content.decode() == 'x,y\n1,"say ""é"""\n'  # the same on any system
    assert digest == hashlib.sha256(content).hexdigest()
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


@pytest.mark.parametrize(
    ("text", "problem"),
    [("[" * 200_000, "nested too deeply"), ('{"a": ' + "9" * 5000 + "}", "a number has too many digits")],
)
def test_json_that_python_cannot_read_is_one_sentence(text, problem):
    with pytest.raises(InputError) as error:
        parse_json(text, "a.json")
    assert str(error.value) == f"a.json: not JSON that can be used ({problem}). Restore the file."


def test_what_is_not_text_is_shown_with_what_is_around_it(tmp_path):
    text = 25 * "x" + "\ud800" + 25 * "y"
    with pytest.raises(InputError) as error:
        write_csv(tmp_path / "a.csv", ["x"], [[text]])
    assert f"a.csv can't be written: '{20 * 'x'}\\ud800{20 * 'y'}' is not text. Correct it" in str(error.value)
