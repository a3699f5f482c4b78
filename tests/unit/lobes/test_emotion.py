import numpy as np
import pytest
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.emotion import EmotionModel, LabelScale
from ser_ts_lobes.lobes.pooling import GRUPooling


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_by_hand(gru, frames):
    """Cho et al. (2014) in float64, layer by layer; the last output."""
    outputs = frames.double().numpy()
    weights = {name: value.detach().double().numpy() for name, value in gru.named_parameters()}
    for layer in range(gru.num_layers):
        w, u, b, c = (weights[f"{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        size = gru.hidden_size
        state, states = np.zeros(size), []
        for frame in outputs:
            x, h = w @ frame + b, u @ state + c
            reset, update = sigmoid(x[:size] + h[:size]), sigmoid(x[size : 2 * size] + h[size : 2 * size])
            candidate = np.tanh(x[2 * size :] + reset * h[2 * size :])
            state = (1 - update) * candidate + update * state
            states.append(state)
        outputs = np.stack(states)
    return outputs[-1]


def test_pooling_is_the_gru_at_the_last_valid_frame():
    pooling = GRUPooling(input_size=4, hidden_size=5)
    frames = torch.randn(3, 6, 4)
    pooled = pooling(frames, torch.tensor([0.5, 1.0, 1 / 6])).detach().numpy()
    for row, n_frames in enumerate((3, 6, 1)):
        np.testing.assert_allclose(pooled[row], gru_by_hand(pooling.gru, frames[row, :n_frames]), atol=1e-6)


def test_the_teacher_embeds_both_and_the_student_speech_alone():
    speech, text = GRUPooling(4), GRUPooling(6)
    frames, tokens, lens = torch.randn(2, 7, 4), torch.randn(2, 3, 6), torch.ones(2)
    teacher = EmotionModel(speech, text)
    embedding, prediction = teacher(frames, lens, tokens, lens)
    pooled = torch.cat([speech(frames, lens), text(tokens, lens)], dim=1)
    torch.testing.assert_close(embedding, pooled @ teacher.projection.weight.T + teacher.projection.bias)
    torch.testing.assert_close(prediction, embedding @ teacher.output.weight.T + teacher.output.bias)
    student = EmotionModel(speech)
    expected = speech(frames, lens) @ student.projection.weight.T + student.projection.bias
    torch.testing.assert_close(student(frames, lens).embedding, expected)
    assert embedding.shape == expected.shape == (2, 128)


def test_sizes_are_the_papers():
    # GRU layer: 3 gates x 128 x (input + 128 + 2 biases); projection and output with biases.
    gru = 3 * 128 * (768 + 128 + 2) + 3 * 128 * (128 + 128 + 2)
    student = EmotionModel(GRUPooling(768))
    assert sum(p.numel() for p in student.parameters()) == gru + 128 * 129 + 3 * 129


def test_a_model_without_input_is_refused():
    with pytest.raises(ValueError, match="speech_pooling, a text_pooling or both"):
        EmotionModel()


def test_label_scale_standardises_and_restores():
    labels = np.random.default_rng(0).normal([4, 3, 5], [1, 2, 0.5], (50, 3))
    scale = LabelScale()
    scale.fit(labels)
    standardised = scale.standardise(torch.tensor(labels, dtype=torch.float32)).numpy()
    expected = (labels - labels.mean(0)) / labels.std(0)
    np.testing.assert_allclose(standardised, expected, atol=1e-5)
    np.testing.assert_allclose(scale.restore(torch.tensor(standardised)).numpy(), labels, atol=1e-5)


def test_labels_that_do_not_vary_are_refused():
    with pytest.raises(InputError, match="All 4 training labels of valence are the same"):
        LabelScale().fit([[1.0, 2.0, 3.0], [2.0, 2.0, 4.0]] * 2)
