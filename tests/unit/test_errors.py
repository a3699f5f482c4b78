"""Sentences about many things."""

from ser_ts_lobes.errors import InputError, first_few


def test_what_an_error_quotes_stays_on_its_line():
    assert str(InputError("id 'a\nb\x1b[2J\0\u202e é' is wrong.")) == r"id 'a\nb\x1b[2J\x00\u202e é' is wrong."


def test_first_few():
    assert first_few("abcd") == "a, b, c and 1 more"
    assert first_few("abc") == "a, b, c"
