"""Sentences about many things."""

from ser_ts_lobes.errors import first_few


def test_first_few():
    assert first_few("abcd") == "a, b, c and 1 more"
    assert first_few("abc") == "a, b, c"
