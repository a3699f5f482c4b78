import numpy as np
import pytest
import torch

from ser_ts_lobes.student.robustness import CHANGES, as_mp3, by_telephone, with_gain, with_noise, with_silence

RATE = 16000


@pytest.fixture
def clip():
    """Make a second of two tones, of 440 Hz and of 6 kHz."""
    time = torch.arange(RATE, dtype=torch.float64) / RATE
    return (0.2 * torch.sin(2 * torch.pi * 440 * time) + 0.2 * torch.sin(2 * torch.pi * 6000 * time)).float()


def level(clip, low_hz, high_hz):
    spectrum = np.abs(np.fft.rfft(clip.numpy())) / len(clip)
    hz = np.fft.rfftfreq(len(clip), 1 / RATE)
    return 2 * spectrum[(hz >= low_hz) & (hz < high_hz)].max()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_a_sound_and_the_same_each_time(clip, name):
    before = clip.clone()
    changed, again = (CHANGES[name](clip, np.random.default_rng(3)) for _ in range(2))
    assert changed.dtype == torch.float32 and changed.dim() == 1 and changed.isfinite().all()
    torch.testing.assert_close(changed, again)
    torch.testing.assert_close(clip, before)  # and the clip itself stays
    assert changed.shape != clip.shape or not torch.equal(changed, clip)


def test_silence_is_where_it_is_said_to_be(clip):
    padded = with_silence(0.5, 1)(clip, None)
    assert len(padded) == 2.5 * RATE and torch.equal(padded[8000:24000], clip)
    assert padded[:8000].abs().max() == padded[24000:].abs().max() == 0


def test_gain_is_in_decibels_and_clips(clip):
    torch.testing.assert_close(with_gain(-20)(clip, None), clip / 10)
    loud = with_gain(20)(clip, None)
    assert loud.max() == 1 and loud.min() == -1


@pytest.mark.parametrize("snr_db", [0, 20])
def test_noise_has_the_power_it_should_have(clip, snr_db):
    noise = with_noise(snr_db)(clip, np.random.default_rng(0)) - clip
    found = 10 * np.log10((clip.square().mean() / noise.square().mean()).item())
    assert found == pytest.approx(snr_db, abs=0.1)


def test_a_telephone_has_nothing_above_4_khz(clip):
    changed = by_telephone(clip, None)
    assert len(changed) == len(clip)
    assert level(changed, 430, 450) == pytest.approx(0.2, rel=0.02) and level(changed, 4000, 8000) < 0.002


def test_mp3_sounds_alike(clip):
    changed = as_mp3(clip, None)
    assert abs(len(changed) - len(clip)) < 0.2 * RATE
    assert level(changed[:RATE], 430, 450) == pytest.approx(0.2, rel=0.1)
