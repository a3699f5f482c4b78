import sys

import numpy as np
import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.descriptors import FrameScale, LowLevelDescriptors, ShortTermStatistics, short_term

EPSILON = np.finfo(np.float64).eps
RATE = 16000


def harmonic(pitch, duration=0.5, level=0.3):
    time = np.arange(round(duration * RATE)) / RATE
    return level * sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6))


def recording():
    random = np.random.default_rng(0)
    return np.concatenate([harmonic(150), 1e-4 * random.normal(size=1600), 0.05 * random.normal(size=3000) + 0.01])


def entropy_of_blocks(energies):
    n = len(energies) // 10
    shares = [sum(energies[i * n : (i + 1) * n]) / (sum(energies) + EPSILON) for i in range(10)]
    return -sum(share * np.log2(share + EPSILON) for share in shares)


def mel_energy(spectrum, i):
    """Energy in one of Slaney's 40 triangles; pyAudioAnalysis takes bin k for k / 200 of the sampling rate."""
    edges = [133.33 + 200 / 3 * j for j in range(13)]
    edges += [edges[-1] * 1.0711703**j for j in range(1, 30)]
    low, centre, high = edges[i : i + 3]
    total = 0.0
    for k, magnitude in enumerate(spectrum):
        hertz = k * RATE / len(spectrum)
        if low < hertz <= centre:
            total += magnitude * 2 / (high - low) * (hertz - low) / (centre - low)
        elif centre < hertz < high:
            total += magnitude * 2 / (high - low) * (high - hertz) / (high - centre)
    return total


def chroma_of(power):
    """Sum the 12 pitch classes as pyAudioAnalysis does: a later bin overwrites an earlier one's semitone."""
    n = len(power)
    semitone = [round(12 * np.log2((k + 1) * RATE / (2 * n) / 27.5)) for k in range(n)]
    by_semitone = np.zeros(n)
    for k in range(n):
        by_semitone[semitone[k]] = power[k]
    for note in range(n):
        by_semitone[note] /= semitone.count(semitone[semitone[note]])
    return np.array([by_semitone[pitch_class::12].sum() for pitch_class in range(12)]) / (power.sum() or EPSILON)


def descriptors_of(frame, previous):
    """Compute the 34 descriptors of one frame from their definitions; and its spectrum."""
    n = len(frame) // 2
    spectrum = (
        np.array([abs(np.sum(frame * np.exp(-2j * np.pi * k * np.arange(2 * n) / (2 * n)))) for k in range(n)]) / n
    )
    power = spectrum**2
    signs = np.sign(frame)
    hertz = np.array([(k + 1) * RATE / 2 / n for k in range(n)])
    weights = spectrum / (spectrum.max() or EPSILON)
    centroid = (hertz * weights).sum() / (weights.sum() + EPSILON)
    spread = np.sqrt((weights * (hertz - centroid) ** 2).sum() / (weights.sum() + EPSILON))
    before = spectrum if previous is None else previous
    flux = ((spectrum / (spectrum + EPSILON).sum() - before / (before + EPSILON).sum()) ** 2).sum()
    roll_off = next((k for k in range(n) if power[: k + 1].sum() + EPSILON > 0.9 * power.sum()), 0) / n
    log_mel = [np.log10(mel_energy(spectrum, i) + EPSILON) for i in range(40)]
    mfccs = [
        np.sqrt((1 if j == 0 else 2) / 40) * sum(log_mel[i] * np.cos(np.pi * j * (i + 0.5) / 40) for i in range(40))
        for j in range(13)
    ]
    chroma = chroma_of(power)
    time_domain = [abs(np.diff(signs)).sum() / 2 / (2 * n - 1), (frame**2).mean(), entropy_of_blocks(frame**2)]
    spectral = [centroid / (RATE / 2), spread / (RATE / 2), entropy_of_blocks(power), flux, roll_off]
    return [*time_domain, *spectral, *mfccs, *chroma, chroma.std()], spectrum


@pytest.mark.parametrize(
    "wav", [recording()[6000:12000], np.zeros(1000), recording()[:200]], ids=["parts", "0", "short"]
)
def test_short_term_descriptors_are_as_they_are_defined(wav):
    computed = short_term(torch.from_numpy(wav).float(), 400, 160).numpy()
    wav = wav.astype(np.float32).astype(np.float64)
    wav = wav - wav.mean()
    wav = np.pad(wav / (abs(wav).max() + 1e-10), (0, max(0, 400 - len(wav))))
    expected, previous = [], None
    for begin in range(0, len(wav) - 399, 160):
        row, previous = descriptors_of(wav[begin : begin + 400], previous)
        expected.append(row)
    np.testing.assert_allclose(computed, expected, rtol=1e-6, atol=1e-6)


def test_statistics_are_mean_and_population_standard_deviation():
    wav = torch.from_numpy(recording()).float()
    statistics, lens = ShortTermStatistics()(wav.unsqueeze(0), torch.ones(1))
    frames = short_term(wav, 400, 160).numpy()
    np.testing.assert_allclose(statistics[0, 0], np.concatenate([frames.mean(0), frames.std(0)]), rtol=1e-5, atol=1e-6)
    assert lens.tolist() == [1.0]


@pytest.mark.parametrize("encoder_class", [ShortTermStatistics, LowLevelDescriptors])
def test_descriptors_do_not_depend_on_the_batch(encoder_class):
    encoder = encoder_class()
    wavs = [torch.from_numpy(harmonic(*shape)).float() for shape in ((200, 0.7), (120, 0.3), (300, 0.01))]
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    lens = torch.tensor([len(wav) for wav in wavs]) / batch.shape[1]
    frames, frame_lens = encoder.frozen_forward(batch, lens)
    for wav, row, share in zip(wavs, frames, frame_lens, strict=True):
        alone, _ = encoder.frozen_forward(wav.unsqueeze(0), torch.ones(1))
        n = alone.shape[1]
        assert round(share.item() * frames.shape[1]) == n
        torch.testing.assert_close(row[:n], alone[0], rtol=0, atol=0)
        assert not row[n:].any()


def column(name):
    names = LowLevelDescriptors()._smile.feature_names
    return names.index(name)


def smoothed(values):
    return (values[:-2] + values[1:-1] + values[2:]) / 3


def test_low_level_descriptors_are_of_32_ms_each_16_ms():
    wav = np.concatenate([harmonic(150), 0.05 * np.random.default_rng(0).normal(size=8000)])
    wav = np.round(wav * 2**15) / 2**15
    wav[wav == 0] = 2**-15  # a zero may count as a crossing or not
    encoder = LowLevelDescriptors()
    frames, _ = encoder.frozen_forward(torch.from_numpy(wav).float().unsqueeze(0), torch.ones(1))
    frames = frames[0].double().numpy()
    windows = np.lib.stride_tricks.sliding_window_view(wav, 512)[::256]
    energy = smoothed(np.sqrt((windows**2).mean(1)))
    np.testing.assert_allclose(frames[1 : len(energy) + 1, column("pcm_RMSenergy_sma")], energy, rtol=1e-4)
    tone = slice(0, 28)  # in noise openSMILE counts two crossings in a row as one
    crossings = smoothed((windows[:, 1:] * windows[:, :-1] < 0).sum(1) / 512)[tone]
    np.testing.assert_allclose(frames[1:29, column("pcm_zcr_sma")], crossings, atol=1e-6)
    slope = (energy[3:-1] - energy[1:-3] + 2 * (energy[4:] - energy[:-4])) / 10
    np.testing.assert_allclose(frames[3 : len(slope) + 3, column("pcm_RMSenergy_sma_de")], slope, rtol=1e-4, atol=1e-6)


def test_the_pitch_of_a_tone_is_found():
    wav = torch.from_numpy(harmonic(220, 1.0)).float()
    frames, _ = LowLevelDescriptors().frozen_forward(wav.unsqueeze(0), torch.ones(1))
    assert frames.shape == (1, 62, 130)
    assert frames[0, :, column("F0final_sma")].median().item() == pytest.approx(220, rel=0.02)


def test_full_scale_does_not_wrap_around():
    loud = torch.from_numpy(harmonic(220, level=2.0)).float().clamp(-1, 1)
    encoder = LowLevelDescriptors()
    frames, _ = encoder.frozen_forward(torch.stack([loud, 0.999 * loud]), torch.ones(2))
    torch.testing.assert_close(frames[0, :, column("pcm_zcr_sma")], frames[1, :, column("pcm_zcr_sma")])


def test_frames_are_standardised_on_the_training_set():
    encoder = LowLevelDescriptors()
    wavs = 0.1 * torch.randn(3, 12000)
    lens = torch.tensor([1.0, 0.7, 0.9])
    raw, raw_lens = encoder.frozen_forward(wavs, lens)
    encoder.fit([(raw[:2], raw_lens[:2]), (raw[2:], raw_lens[2:])])
    counts = (raw_lens * raw.shape[1]).round().int().tolist()
    training = np.concatenate([row[:n].double().numpy() for row, n in zip(raw, counts, strict=True)])
    expected = np.clip((training - training.mean(0)) / np.where(training.std(0) > 0, training.std(0), 1), -3, 3)
    frames, _ = encoder(wavs, lens)
    computed = np.concatenate([row[:n].numpy() for row, n in zip(frames, counts, strict=True)])
    np.testing.assert_allclose(computed, expected, atol=1e-3)
    assert not frames[1, counts[1] :].any()
    assert expected.max() == 3  # something was clipped


def test_statistics_far_from_zero_are_exact():
    values = 1e6 + torch.randn(5, 40, 1, dtype=torch.float64)
    scale = FrameScale(1, limit=3.0)
    scale.fit(values)
    assert scale.std.item() == pytest.approx(values.std(correction=0).item(), rel=1e-6)


def test_the_statistics_travel_in_the_checkpoint(tmp_path):
    encoder = LowLevelDescriptors()
    encoder.fit([encoder.frozen_forward(0.1 * torch.randn(2, 8000), torch.ones(2))])
    Checkpointer(tmp_path, {"encoder": encoder}).save_checkpoint()
    other = LowLevelDescriptors()
    assert other.frozen_fingerprint() == encoder.frozen_fingerprint()
    Checkpointer(tmp_path, {"encoder": other}).recover_if_possible()
    assert other.scale.mean.equal(encoder.scale.mean) and other.scale.std.equal(encoder.scale.std)


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(InputError, match=r"needs opensmile, which is not installed: .* -m pip install -e '.*\[attn\]'"):
        LowLevelDescriptors()


def test_another_configuration_of_opensmile_is_refused(tmp_path):
    path = tmp_path / "IS13.conf"
    path.write_text("frameSize = 0.060\n")
    with pytest.raises(InputError, match="configures IS13.conf in another way"):
        LowLevelDescriptors()._set_frames(path)
