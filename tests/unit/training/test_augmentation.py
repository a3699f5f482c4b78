import csv
import random

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.augment.time_domain import AddNoise, DropChunk, DropFreq, SpeedPerturb
from speechbrain.dataio.batch import PaddedBatch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.training.augmentation import augment, take_rows


def augmented(augmenter, signals, seed=1, of_torch=5):
    torch.manual_seed(of_torch)
    return augment(augmenter, signals, torch.ones(len(signals)), seed)


def test_each_row_is_of_the_utterance_that_is_said():
    levels = torch.tensor([1.0, 2.0, 3.0])
    wavs = levels[:, None].expand(3, 1600)
    faster = Augmenter(
        concat_original=True,
        repeat_augment=2,
        augmentations=[SpeedPerturb(16000, [80]), SpeedPerturb(16000, [80])],
        min_augmentations=2,
    )
    signals, lens, rows = augmented(faster, wavs)
    assert rows.tolist() == [0, 1, 2] * 3 and len(signals) == 9
    np.testing.assert_allclose(signals[:, 600:800].mean(dim=1), levels[rows], rtol=0.01)
    assert (lens * signals.shape[1]).round().tolist() == [1600] * 3 + [2500] * 6  # 1600 / 0.8 / 0.8
    part = Augmenter(augment_start_index=1, augmentations=[DropChunk(drop_start=0, drop_end=10)])
    assert augmented(part, wavs)[2].tolist() == [1, 2]


def test_what_is_drawn_does_not_depend_on_what_was_drawn_before():
    """Python's random numbers too: whether, which, in which order; and a replacement that SpeechBrain keeps."""
    mask = SpectrogramDrop(replace="random_selection")
    augmenter = Augmenter(
        augment_prob=0.7, shuffle_augmentations=True, augmentations=[mask, SpectrogramDrop(dim=2, replace="rand")]
    )
    frames = torch.randn(4, 60, 60)
    first = [augmented(augmenter, frames, seed)[0] for seed in range(12)]
    random.seed(99)
    state = random.getstate()
    again = [augmented(augmenter, frames, seed)[0] for seed in reversed(range(12))]
    assert random.getstate() == state and mask.replace == "random_selection"
    assert all(one.equal(other) for one, other in zip(first, reversed(again), strict=True))
    changed = [not one.equal(frames) for one in first]
    assert 4 < sum(changed) < 12 and len({one.sum().item() for one in first}) > 5


def test_noise_of_files_follows_from_the_seed(tmp_path):
    levels = np.arange(1, 9) / 10
    with open(tmp_path / "noise.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ID", "duration", "wav", "wav_format", "wav_opts"])
        for level in levels:
            path = tmp_path / f"{level}.wav"
            soundfile.write(path, np.sign(np.sin(np.arange(8000) * level)), 16000)
            rows.writerow([level, 0.5, path, "wav", ""])
    noise = AddNoise(csv_file=str(tmp_path / "noise.csv"), snr_low=0, snr_high=0, start_index=0)
    augmenter, wavs = Augmenter(augmentations=[noise]), torch.randn(2, 4000)
    drawn = [augmented(augmenter, wavs, seed)[0] for seed in range(6)]
    again = [augmented(augmenter, wavs, seed)[0] for seed in (5, 0)]
    assert again[0].equal(drawn[5]) and again[1].equal(drawn[0])
    assert len({one.sum().item() for one in drawn}) >= 5


def test_originals_stay_as_they_are():
    """SpeechBrain's SpectrogramDrop works in place, also on the originals that its augmenter keeps."""
    frames = torch.ones(3, 40, 8)
    augmenter = Augmenter(concat_original=True, repeat_augment=2, augmentations=[SpectrogramDrop(dim=1)])
    out, _, rows = augmented(augmenter, frames)
    assert rows.tolist() == [0, 1, 2] * 3
    assert frames.eq(1).all() and out[:3].eq(1).all()
    kept = out.eq(1).all(dim=2).sum(dim=1)
    assert kept[3:].lt(40).all() and kept.ge(40 - 3 * 14).all()


def test_waveforms_are_not_rounded_under_autocast():
    augmenter, wavs = Augmenter(augmentations=[DropFreq()]), torch.randn(2, 4000)
    expected = augmented(augmenter, wavs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert augmented(augmenter, wavs)[0].equal(expected)


def test_an_augmenter_that_loses_count_is_refused():
    wrong = Augmenter(
        parallel_augment=True,
        parallel_augment_fixed_bs=True,
        min_augmentations=2,
        augmentations=[SpectrogramDrop(dim=1), SpectrogramDrop(dim=2)],
    )
    with pytest.raises(InputError) as error:
        augmented(wrong, torch.randn(4, 30, 30))
    assert str(error.value) == (
        "The augmenter makes 4 rows of 4 utterances, and labels for 8: leave parallel_augment_fixed_bs and "
        "enable_augmentations out."
    )


def test_a_batch_follows():
    examples = [
        {"id": name, "speech": torch.full((length,), length), "labels": torch.tensor([length, 0.0]), "keep": length > 2}
        for name, length in (("a", 2), ("b", 4))
    ]
    batch = PaddedBatch(examples, padded_keys=["speech"])
    take_rows(batch, torch.tensor([1, 0, 1]))
    assert batch.id == ["b", "a", "b"] and batch.labels[:, 0].tolist() == [4, 2, 4]
    assert batch.speech.lengths.tolist() == [1, 0.5, 1] and batch.speech.data[:, 0].tolist() == [4, 2, 4]
    assert torch.as_tensor(batch.keep).tolist() == [True, False, True]
