"""Students' folders that were damaged: refused in a sentence, or what they were.

That any value in a configuration is used or refused, whatever it would cost, is tested in ``test_network.py``.
"""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.fingerprint import fingerprint_file
from ser_ts_lobes.seals import seal
from ser_ts_lobes.student.config import CONFIG_FILE, WEIGHTS_FILE
from ser_ts_lobes.student.inference import EmotionRegressor
from ser_ts_lobes.student.public_models import load_regressor
from tests.hostile import changed_json, damaged, is_a_sentence
from tests.tiny_student import save_tiny_student

WAVS = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def exported(tiny_hubert, tmp_path_factory):
    """Give a student's folder, sealed as `ser-ts export` does it, the bytes of its files, and what it says."""
    folder = Path(save_tiny_student(tmp_path_factory.mktemp("hostile") / "student", tiny_hubert))
    config = json.loads((folder / CONFIG_FILE).read_text())
    sealed = seal({**config, "weights_sha256": fingerprint_file(folder / WEIGHTS_FILE)})
    (folder / CONFIG_FILE).write_text(json.dumps(sealed, indent=1))
    files = {name: (folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
    student = EmotionRegressor.from_pretrained(folder)
    return folder, files, (student.config, student.predict_batch(WAVS))


def use(exported, load=EmotionRegressor.from_pretrained, **changed):
    """Load a student of which files are others: None where it is refused in a sentence."""
    folder, files, _ = exported
    for name, content in files.items():
        (folder / name).unlink(missing_ok=True)  # weights may still be mapped
        (folder / name).write_bytes(changed.get(name.split(".")[0], content))
    try:
        student = load(folder)
        return student.config, student.predict_batch(WAVS)
    except InputError as error:
        assert is_a_sentence(error) and (CONFIG_FILE in str(error) or str(folder) in str(error))
        return None


def is_same(used, exported):
    return used[0] == exported[2][0] and used[1].equal(exported[2][1])


@given(st.data())
def test_damaged_weights_are_refused(exported, data):
    used = use(exported, model=data.draw(damaged(exported[1][WEIGHTS_FILE])))
    assert used is None or is_same(used, exported)


@given(st.data(), st.sampled_from([EmotionRegressor.from_pretrained, load_regressor]))
def test_a_damaged_configuration_is_refused(exported, data, load):
    used = use(exported, load, config=data.draw(damaged(exported[1][CONFIG_FILE])))
    assert used is None or is_same(used, exported)


@given(st.data())
def test_changed_values_of_a_configuration_are_refused(exported, data):
    config = data.draw(changed_json(json.loads(exported[1][CONFIG_FILE]), most=1))
    used = use(exported, config=json.dumps(config).encode())
    if used is not None:
        assert used[1].equal(exported[2][1])
        assert "sha256" not in config or used[0] == exported[2][0]
