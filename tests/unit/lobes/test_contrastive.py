import math

import numpy as np
import pytest
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.contrastive import FuturePrediction, draw_negatives, info_nce, present_frames


def info_nce_by_hand(prediction, context, frames, negatives):
    """Oord et al.'s equation 4 in float64, one prediction at a time: loss and accuracy of each step."""
    batch, time, channels = frames.shape
    n_steps = len(prediction.predictors)
    every_frame = frames.double().numpy().reshape(batch * time, channels)
    losses, accuracies = [], []
    for step, predictor in enumerate(prediction.predictors, 1):
        weight = predictor.weight.detach().double().numpy()
        loss, hits, count = 0.0, 0, 0
        for utterance in range(batch):
            for t in range(time - n_steps):
                predicted = weight @ context[utterance, t].double().numpy()
                right = math.exp(every_frame[utterance * time + t + step] @ predicted / channels)
                wrong = [math.exp(every_frame[i] @ predicted / channels) for i in negatives[count].tolist()]
                loss -= math.log(right / (right + sum(wrong)))
                hits += all(right > other for other in wrong)
                count += 1
        losses.append(loss / count)
        accuracies.append(hits / count)
    return losses, accuracies


def test_the_loss_is_the_formula(monkeypatch):
    prediction = FuturePrediction(context_size=5, channels=7, n_steps=4, n_negatives=6)
    context, frames = 3 * torch.randn(3, 10, 5), 3 * torch.randn(3, 10, 7)
    drawn = draw_negatives(present_frames(3, 10, 4), 30, 4, 6)
    monkeypatch.setattr("ser_ts_lobes.lobes.contrastive.draw_negatives", lambda *_: drawn)
    losses, accuracies = prediction(context, frames)
    expected_losses, expected_accuracies = info_nce_by_hand(prediction, context, frames, drawn)
    np.testing.assert_allclose(losses.detach().numpy(), expected_losses, rtol=1e-5)
    np.testing.assert_allclose(accuracies.numpy(), expected_accuracies, rtol=1e-6)
    assert 0 < min(expected_accuracies) and max(expected_accuracies) < 1


def test_negatives_are_every_frame_but_the_next_ones():
    now = present_frames(batch=2, time=7, n_steps=3)
    assert now.tolist() == [0, 1, 2, 3, 7, 8, 9, 10]
    negatives = draw_negatives(now, n_frames=14, n_steps=3, n_negatives=2000)
    for frame, drawn in zip(now.tolist(), negatives, strict=True):
        counts = np.bincount(drawn, minlength=14)
        assert not counts[frame + 1 : frame + 4].any()
        others = np.delete(counts, [frame + 1, frame + 2, frame + 3])
        assert others.min() > 130 and others.max() < 240  # 182 expected, 13 their standard deviation


def test_frames_that_are_all_alike_give_the_loss_of_chance_and_no_hit():
    prediction = FuturePrediction(context_size=5, channels=7, n_steps=2, n_negatives=128)
    losses, accuracies = prediction(torch.randn(2, 10, 5), torch.ones(2, 10, 7))
    assert losses.tolist() == pytest.approx([math.log(129)] * 2)
    assert accuracies.tolist() == [0, 0]


def test_a_sure_prediction_costs_nothing():
    frames = torch.eye(6)
    loss, accuracy = info_nce(100 * frames[[2, 4]], frames, torch.tensor([2, 4]), torch.tensor([[0, 1], [3, 5]]))
    assert float(loss) == pytest.approx(0, abs=1e-6) and float(accuracy) == 1


def test_gradients_reach_the_network():
    prediction = FuturePrediction(context_size=5, channels=7, n_steps=2)
    context, frames = torch.randn(2, 10, 5, requires_grad=True), torch.randn(2, 10, 7, requires_grad=True)
    prediction(context, frames)[0].mean().backward()
    assert context.grad[:, :8].abs().sum() > 0 and not context.grad[:, 8:].any()
    assert frames.grad.abs().sum() > 0
    assert all(predictor.weight.grad.abs().sum() > 0 for predictor in prediction.predictors)


def test_a_window_without_a_future_is_one_sentence():
    with pytest.raises(InputError, match="has 12 frames: too few to predict 12 steps"):
        FuturePrediction(context_size=5, channels=7)(torch.randn(2, 12, 5), torch.randn(2, 12, 7))
