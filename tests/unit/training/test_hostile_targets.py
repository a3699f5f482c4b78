"""Teacher targets that were damaged: refused in a sentence, or what they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.training.targets import TeacherTargets
from tests.hostile import damaged, is_a_sentence

ARRAYS = ("embedding", "prediction", "label", "residual", "spread", "text", "sentence")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Give the file of some targets, its bytes, and what is in it."""
    path = tmp_path_factory.mktemp("hostile") / "train.safetensors"
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys(ARRAYS, (3, 3)) | {"embedding": (3, 4), "text": (3, 2), "sentence": (3, 5)}
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    TeacherTargets(["a", "b", "Ses01F_ü"], made_from={"manifest": "m1", "teacher": "t1"}, **arrays).save(path)
    return path, path.read_bytes(), TeacherTargets.load(path)


def load(path):
    try:
        return TeacherTargets.load(path)
    except InputError as error:
        assert is_a_sentence(error) and str(path) in str(error)
        return None


def is_same(one, other):
    return (one.ids, one.made_from) == (other.ids, other.made_from) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS
    )


@given(st.data())
def test_damaged_targets_are_refused(sound, data):
    path, content, targets = sound
    path.write_bytes(data.draw(damaged(content)))
    loaded = load(path)
    assert loaded is None or is_same(loaded, targets)


METADATA = st.sampled_from(["ids", "made_from"])
JSON = st.sampled_from(
    [
        "",
        "null",
        "[]",
        "{}",
        "0",
        '"abc"',
        '["a", "b", "c"]',
        '["a", "b", 3]',
        '[["a"], "b", {}]',
        '{"a": 1}',
        "[" * 2000,
    ]
) | st.text(max_size=8)


@given(kind=METADATA, text=JSON | st.none())
def test_what_targets_of_before_say_of_themselves_is_refused_or_used(sound, kind, text):
    path, content, targets = sound
    path.write_bytes(content)
    with safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in ARRAYS}
        metadata = {key: value for key, value in file.metadata().items() if key in ("ids", "made_from")}
    del metadata[kind]
    save_file(arrays, path, metadata if text is None else {**metadata, kind: text})
    loaded = load(path)
    if loaded is not None:
        assert [type(id) for id in loaded.ids] == [str] * 3
        loaded.check("m1") if kind == "ids" else None
        np.testing.assert_array_equal(loaded.embedding, targets.embedding)
        try:
            loaded.check("m1", "t1")
        except InputError as error:
            assert kind == "made_from" and is_a_sentence(error)
