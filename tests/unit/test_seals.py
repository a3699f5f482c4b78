import hashlib
import json

import pytest

from ser_ts_lobes.seals import is_intact, seal

VALUES = {"b": (1, 2.5), "a": {"é": None, "x": float("inf")}, "c": 1e-300}


def test_a_seal_survives_being_written_in_any_order_and_form():
    sealed = seal(VALUES)
    assert is_intact(sealed)
    assert is_intact(json.loads(json.dumps(sealed, indent=2, sort_keys=True, ensure_ascii=False)))
    assert set(sealed) == {"a", "b", "c", "sha256"} and sealed["b"] == [1, 2.5]


def test_the_seal_is_the_digest_of_the_rest():
    assert seal({"b": 1, "a": [2]})["sha256"] == hashlib.sha256(b'{"a": [2], "b": 1}').hexdigest()


@pytest.mark.parametrize(
    "change",
    [{"b": [1, 2.6]}, {"c": 1e-301}, {"a": {}}, {"d": 0}, {"sha256": "0" * 64}, {"sha256": None}],
    ids=str,
)
def test_any_change_breaks_it(change):
    assert not is_intact(seal(VALUES) | change)


def test_a_seal_is_replaced_when_a_change_is_meant():
    assert seal(seal(VALUES) | {"b": 2}) == seal({**VALUES, "b": 2})


def test_what_has_no_seal_is_taken_as_it_is():
    assert is_intact({"a": 1})
