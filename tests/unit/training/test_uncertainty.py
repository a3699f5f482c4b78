"""How sure a teacher is: it regenerates, it is of each utterance alone, and it chooses what it should."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.emotion import EmotionModel, EmotionOutput
from ser_ts_lobes.lobes.pooling import GRUPooling
from ser_ts_lobes.training.uncertainty import DropoutSpread, compare_rules, keep_surest


def inputs_of(n, n_frames=20):
    """Give frames and tokens of n utterances; the first are the same for any n."""
    frames = torch.stack([torch.randn(n_frames, 6, generator=torch.Generator().manual_seed(i)) for i in range(n)])
    return {"frames": frames, "frame_lens": torch.ones(n), "tokens": frames[:, :5, :4], "token_lens": torch.ones(n)}


@pytest.fixture
def model():
    return EmotionModel(GRUPooling(6, 8), GRUPooling(4, 8), embedding_size=8).eval()


class Sum(torch.nn.Module):
    """Predicts three times the sum of the features of the first frame and the first token."""

    def forward(self, frames, frame_lens, tokens, token_lens):
        total = frames[:, 0].sum(dim=1) + tokens[:, 0].sum(dim=1)
        return EmotionOutput(frames[:, 0], torch.stack([total, 2 * total, 0 * total], dim=1))


def test_the_spread_is_that_of_sums_whose_terms_are_dropped():
    inputs = {"frames": torch.ones(1, 3, 50), "tokens": torch.ones(1, 2, 50)}
    lens = {"frame_lens": torch.ones(1), "token_lens": torch.ones(1)}
    [spread] = DropoutSpread(4000, 0.2, seed=1).of(Sum(), {**inputs, **lens}, ["a"])
    expected = math.sqrt(100 * 0.2 / 0.8)  # of a hundred terms that are 0 or 1 / .8
    assert spread.tolist() == pytest.approx([expected, 2 * expected, 0], rel=0.04)


def test_all_frames_of_an_utterance_lose_the_same_features():
    seen = []

    class Look(Sum):
        def forward(self, frames, frame_lens, tokens, token_lens):
            seen.append((frames, tokens))
            return super().forward(frames, frame_lens, tokens, token_lens)

    lens = {"frame_lens": torch.ones(2), "token_lens": torch.ones(2)}
    DropoutSpread(3, 0.4, seed=1).of(
        Look(), {"frames": torch.ones(2, 3, 40), "tokens": torch.ones(2, 2, 40), **lens}, "ab"
    )
    assert len(seen) == 3
    for frames, tokens in seen:
        assert frames.unique().tolist() == pytest.approx([0, 1 / 0.6])
        assert (frames == frames[:, :1]).all() and (tokens == tokens[:, :1]).all()
        assert not frames[0].equal(frames[1]) and not frames[0, 0].equal(tokens[0, 0])
    assert not seen[0][0].equal(seen[1][0])


def test_a_spread_is_of_the_utterance_alone_and_regenerates(model):
    spread = DropoutSpread(5, 0.2, seed=1986)
    together = spread.of(model, inputs_of(4), "abcd")
    torch.manual_seed(7)
    again = spread.of(model, inputs_of(2), "ab")
    torch.testing.assert_close(again, together[:2], rtol=1e-5, atol=1e-7)
    assert together.dtype == torch.float64 and (together > 0).all() and not together.requires_grad
    for other in (DropoutSpread(5, 0.2, seed=1987), DropoutSpread(5, 0.3, seed=1986), DropoutSpread(6, 0.2, seed=1986)):
        assert not other.of(model, inputs_of(2), "ab").allclose(again)
        assert str(other) != str(spread) == "5 passes, dropout 0.2, seed 1986"
    assert not spread.of(model, inputs_of(2), "ac").allclose(again)


def test_a_model_that_only_hears_or_only_reads_has_a_spread():
    inputs = inputs_of(2)
    hears, reads = EmotionModel(GRUPooling(6, 8)), EmotionModel(text_pooling=GRUPooling(4, 8))
    frames = {key: inputs[key] for key in ("frames", "frame_lens")}
    tokens = {key: inputs[key] for key in ("tokens", "token_lens")}
    for model, given in ((hears, frames), (reads, tokens)):
        assert (DropoutSpread(3, 0.2, seed=1).of(model, given, "ab") > 0).all()


@pytest.mark.parametrize(
    ("n_passes", "dropout", "message"),
    [
        (1, 0.2, "spread_passes is 1: give a whole number from 2 on"),
        (2.5, 0.2, "spread_passes is 2.5"),
        (5, 0, "spread_dropout is 0: give a number above 0 and below 1"),
        (5, 1.0, "spread_dropout is 1.0"),
    ],
)
def test_a_setting_out_of_range_is_one_sentence(n_passes, dropout, message):
    with pytest.raises(InputError, match=message):
        DropoutSpread(n_passes, dropout, seed=1)


def test_the_surest_are_kept_by_their_largest_spread():
    spread = np.random.default_rng(0).uniform(size=(40, 3))
    for share, n_kept in ((1.0, 40), (0.875, 35), (0.87, 35), (0.01, 1)):
        kept = keep_surest(spread, share)
        assert kept.sum() == n_kept and kept.dtype == bool
        assert n_kept == 40 or spread[kept].max(axis=1).max() < spread[~kept].max(axis=1).min()
    assert keep_surest(np.ones((3, 3)), 0.1).all()  # who can't be told apart


@pytest.mark.parametrize(
    ("spread", "share", "message"),
    [
        ([[0.1]], 0, "share of utterances to keep is 0"),
        ([[0.1]], 1.1, "share of utterances to keep is 1.1: give a number above 0 and up to 1"),
        (np.empty((0, 3)), 0.5, r"spread has shape \(0, 3\)"),
        ([0.1], 0.5, r"spread has shape \(1,\); it has to be"),
        ([[np.nan]], 0.5, "spread"),
    ],
)
def test_what_cannot_be_ranked_is_one_sentence(spread, share, message):
    with pytest.raises(InputError, match=message):
        keep_surest(spread, share)


def test_rules_are_compared_at_the_same_share():
    random = np.random.default_rng(0)
    residual = random.normal(size=(400, 3))
    keep = (np.abs(residual) <= 1.9).all(axis=1)
    unrelated = compare_rules(residual, random.uniform(size=(400, 3)), keep)
    assert unrelated.by_residual == pytest.approx(1 - keep.mean()) == unrelated.by_spread
    assert unrelated.by_both_by_chance == pytest.approx(unrelated.by_residual**2)
    assert unrelated.by_both == pytest.approx(unrelated.by_both_by_chance, abs=0.03)
    spread = np.abs(residual) + 0.5 * random.uniform(size=(400, 3))
    related = compare_rules(residual, spread, keep)
    assert 0.5 < related.by_both / related.by_residual < 1
    for j, dimension in enumerate(DIMENSIONS):
        expected = spearmanr(np.abs(residual[:, j]), spread[:, j]).statistic
        assert related.rank_correlation[dimension] == pytest.approx(expected, abs=1e-12)
    assert f"both leave out {related.by_both:.1%} (by chance: {related.by_both_by_chance:.1%})" in str(related)


def test_what_there_is_not_is_null_in_json():
    residual = np.array([[0.0, 0.0, 5.0], [0.0, 1.0, 0.0], [0.0, 2.0, 0.0]])
    report = compare_rules(residual, residual + 1, [False, True, True]).for_json()
    assert report["rank_correlation"]["activation"] is None
    assert json.loads(json.dumps(report, allow_nan=False))["by_residual"] == pytest.approx(1 / 3)
