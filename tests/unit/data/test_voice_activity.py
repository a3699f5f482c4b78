import builtins

import numpy as np
import pytest
import torch

from ser_ts_lobes.data import voice_activity
from ser_ts_lobes.data.voice_activity import MARGIN_S, load_detector, trim_silence
from ser_ts_lobes.errors import InputError


@pytest.mark.parametrize("noise", [0, 0.001])
def test_words_stay_and_what_is_around_them_goes(spoken, noise):
    silence = [np.random.default_rng(seed).normal(0, noise, seconds * 16000) for seed, seconds in enumerate((1, 2))]
    wav = torch.tensor(np.concatenate([silence[0], spoken, silence[1]]), dtype=torch.float32)
    trimmed = trim_silence(wav)
    start = next(i for i in range(len(wav) - len(trimmed) + 1) if torch.equal(wav[i : i + len(trimmed)], trimmed))
    loud = np.flatnonzero(np.abs(spoken) > 0.02)
    first, last = 16000 + loud[0], 16000 + loud[-1]
    slack = (MARGIN_S + 0.25) * 16000
    assert first - slack < start < first and last < start + len(trimmed) < last + slack


def test_noise_is_nobody():
    assert trim_silence(torch.tensor(np.random.default_rng(0).normal(0, 0.1, 32000), dtype=torch.float32)) is None


def test_a_recording_does_not_depend_on_the_one_before(spoken):
    wav = torch.tensor(np.concatenate([spoken, np.zeros(16000)]), dtype=torch.float32)
    first = trim_silence(wav)
    trim_silence(wav.flip(0))
    torch.testing.assert_close(trim_silence(wav), first)


def test_loading_it_leaves_the_number_of_threads(monkeypatch):
    load_detector.cache_clear()
    monkeypatch.delitem(__import__("sys").modules, "silero_vad.model", raising=False)
    monkeypatch.delitem(__import__("sys").modules, "silero_vad", raising=False)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        load_detector()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "silero_vad":
            raise ModuleNotFoundError(name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    voice_activity.load_detector.cache_clear()
    with pytest.raises(InputError, match=r"Telling speech from silence needs silero-vad, .*\[vad\]"):
        trim_silence(torch.zeros(16000))
