"""Frozen features that were damaged: what is read of them is what was written, or nothing is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.training.feature_folder import list_features, verify_features
from ser_ts_lobes.training.feature_store import network_folder, write_shard
from ser_ts_lobes.training.features import FrozenFeatures
from tests.hostile import damaged, is_a_sentence

MADE_BY = {"encoder": "SpeechEncoder", "source": "hubert", "frozen_layers": "12", "dtype": "float16"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Give the shard of some features, its bytes, and the features by content."""
    folder = network_folder(tmp_path_factory.mktemp("hostile"), "0123456789abcdef" * 4)
    folder.mkdir()
    torch.manual_seed(0)
    features = {name * 64: torch.randn(frames, 4).half() for name, frames in {"a": 2, "b": 1, "c": 3}.items()}
    write_shard(folder, features, MADE_BY)
    [path] = folder.glob("*.safetensors")
    return path, path.read_bytes(), features


def replace(path, content):
    path.unlink()  # it may still be mapped
    path.write_bytes(content)


@given(st.data())
def test_damaged_features_are_never_read(kept, data):
    path, content, features = kept
    damage = data.draw(damaged(content))
    replace(path, damage)
    try:
        read = FrozenFeatures(path.parent, {f"utterance {key[0]}": key for key in features})
    except InputError as error:  # `FrozenFeatures.compute` computes them again
        assert is_a_sentence(error) and str(path.parent) in str(error) and damage != content
        return
    assert damage == content
    for key, expected in features.items():
        assert read[f"utterance {key[0]}"].equal(expected.float())


@given(st.data())
def test_damaged_features_are_listed_and_named(kept, data):
    path, content, _ = kept
    damage = data.draw(damaged(content))
    replace(path, damage)
    list_features(path.parents[1])
    try:
        verify_features(path.parents[1])
    except InputError as error:
        assert is_a_sentence(error) and str(path) in str(error) and damage != content
    else:
        assert damage in (content, b"")
