import numpy as np
import pytest
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.baselines import ChunkAttention, SpeechTextLSTM, split_chunks

AGGREGATIONS = ("mean", "gate", "rnn", "self")
SIZE, CHUNKS, FRAMES = 6, 4, 5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def numpy_state(module):
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}


def lstm(inputs, state, prefix, layer=0):
    """Run one LSTM layer over (T, D), gate by gate (Hochreiter and Schmidhuber 1997, with forget gates)."""
    w_ih, w_hh = state[f"{prefix}.weight_ih_l{layer}"], state[f"{prefix}.weight_hh_l{layer}"]
    bias = state[f"{prefix}.bias_ih_l{layer}"] + state[f"{prefix}.bias_hh_l{layer}"]
    hidden = cell = np.zeros(w_hh.shape[1])
    outputs = []
    for frame in inputs:
        i, f, g, o = np.split(w_ih @ frame + w_hh @ hidden + bias, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.array(outputs)


def batch_norm(x, state, prefix):
    mean, variance = state[f"{prefix}.running_mean"], state[f"{prefix}.running_var"]
    return (x - mean) / np.sqrt(variance + 1e-3) * state[f"{prefix}.weight"] + state[f"{prefix}.bias"]


def linear(x, state, prefix):
    return state[f"{prefix}.weight"] @ x + state.get(f"{prefix}.bias", 0.0)


def randomise(model):
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2.0) if name.endswith("running_var") else tensor.normal_(std=0.5)
    return model.double().eval()


def aggregate(chunks, kind, state, prefix):
    """Aggregate (C, D) by the formula of each kind, chunk by chunk."""
    if kind == "mean":
        return sum(chunks) / len(chunks)
    if kind == "gate":
        return sum(sigmoid(linear(chunk, state, f"{prefix}.gate")) * chunk for chunk in chunks) / len(chunks)
    if kind == "rnn":
        hidden, states = np.zeros(SIZE), []
        for chunk in chunks:
            inputs = state[f"{prefix}.rnn.weight_ih_l0"] @ chunk + state[f"{prefix}.rnn.bias_ih_l0"]
            hidden = np.tanh(inputs + state[f"{prefix}.rnn.weight_hh_l0"] @ hidden + state[f"{prefix}.rnn.bias_hh_l0"])
            states.append(hidden)
        weights = softmax(np.array([linear(s, state, f"{prefix}.score") @ states[-1] for s in states]))
        context = sum(weight * s for weight, s in zip(weights, states, strict=True))
        return np.tanh(linear(np.concatenate([context, states[-1]]), state, f"{prefix}.output"))
    kernels = state[f"{prefix}.query_key_value.weight"].reshape(3, 3, 50, SIZE)  # query, key, value of each head
    results = []
    for chunk in chunks:
        heads = []
        for query, key, value in kernels.transpose(1, 0, 2, 3):
            weights = softmax(np.array([(query @ chunk) @ (key @ other) for other in chunks]) / np.sqrt(50))
            heads.append(sum(weight * (value @ other) for weight, other in zip(weights, chunks, strict=True)))
        total = chunk + np.maximum(linear(np.concatenate(heads), state, f"{prefix}.merge"), 0)
        normalised = (total - total.mean()) / np.sqrt(total.var() + 1e-6)
        results.append(normalised * state[f"{prefix}.norm.weight"] + state[f"{prefix}.norm.bias"])
    return sum(results) / len(results)


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_chunk_attention_is_the_formula_of_each_step(kind):
    model = randomise(ChunkAttention(SIZE, CHUNKS, FRAMES, kind))
    frames = torch.randn(2, 17, SIZE, dtype=torch.float64)
    frames[1, 11:] = 0
    output = model(frames, torch.tensor([1.0, 11 / 17], dtype=torch.float64))
    state = numpy_state(model)
    for row, n, prediction in zip(frames.numpy(), (17, 11), output.prediction.detach().numpy(), strict=True):
        step = (n - FRAMES) // (CHUNKS - 1)
        for dimension in range(3):
            prefix = f"networks.{dimension}"
            encoded = []
            for c in range(CHUNKS):
                hidden = row[c * step : c * step + FRAMES]
                for layer in range(2):
                    hidden = lstm(hidden, state, f"{prefix}.lstms.{layer}")
                encoded.append(batch_norm(hidden[-1], state, f"{prefix}.norm"))
            pooled = aggregate(np.array(encoded), kind, state, f"{prefix}.aggregation")
            hidden = np.maximum(linear(pooled, state, f"{prefix}.hidden"), 0)
            expected = linear(hidden, state, f"{prefix}.output")
            np.testing.assert_allclose(prediction[dimension], expected[0], rtol=1e-9)


def keras_recurrent(inputs, units, gates):
    return gates * units * (inputs + units + 1)  # one bias; PyTorch has two, of which one is redundant


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_chunk_attention_has_the_parameters_of_the_original(kind):
    aggregation = {
        "mean": 0,
        "gate": 130 + 1,
        "rnn": keras_recurrent(130, 130, gates=1) + 130 * 130 + 260 * 130,
        "self": 3 * (3 * 130 * 50) + (150 * 130 + 130) + 2 * 130,
    }[kind]
    output = 130 * 130 + 130 + 130 + 1
    original = 2 * keras_recurrent(130, 130, gates=4) + 2 * 130 + aggregation + output
    redundant = 2 * 4 * 130 + (130 if kind == "rnn" else 0)
    model = ChunkAttention(aggregation=kind)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3 * (original + redundant)


def test_the_three_dimensions_share_nothing():
    model = ChunkAttention(SIZE, CHUNKS, FRAMES)
    output = model(torch.randn(3, 20, SIZE), torch.ones(3))
    output.prediction[:, 1].sum().backward()
    with_gradient = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == {"1"}


@pytest.mark.parametrize("n_frames", [62, 63, 72, 300, 687])
def test_chunks_begin_where_the_original_begins_them(n_frames):
    frames = torch.arange(float(n_frames)).reshape(1, -1, 1)
    chunks = split_chunks(frames, torch.ones(1))
    step = int((n_frames - 62) / 10)
    expected = [list(range(c * step, c * step + 62)) for c in range(11)]
    assert chunks[0, :, :, 0].tolist() == expected


def test_an_utterance_shorter_than_a_chunk_is_filled_with_zeros():
    frames = torch.zeros(2, 20, 1)
    frames[0, :20] = frames[1, :7] = 1
    chunks = split_chunks(frames, torch.tensor([1.0, 0.35]))
    assert chunks.shape == (2, 11, 62, 1)
    for row, n in zip(chunks, (20, 7), strict=True):
        assert (row[:, :n] == 1).all() and not row[:, n:].any()


def test_dropout_leaves_out_an_input_in_a_whole_chunk():
    network = ChunkAttention(SIZE, CHUNKS, FRAMES).train().networks[0]
    seen = []
    network.lstms[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.ones(50, CHUNKS, FRAMES, SIZE))
    [inputs] = seen
    assert set(inputs.unique().tolist()) == {0.0, 2.0}
    assert inputs.equal(inputs[:, :1].expand_as(inputs))
    assert (inputs[:, 0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_an_unknown_aggregation_is_refused():
    with pytest.raises(InputError, match="aggregation is 'max'; choose one of mean, gate, rnn, self"):
        ChunkAttention(aggregation="max")


def test_speech_and_text_are_the_formula_of_each_step():
    model = randomise(SpeechTextLSTM(speech_size=5, word_size=4, lstm_size=3))
    speech = torch.randn(2, 1, 5, dtype=torch.float64)
    words = torch.randn(2, 6, 4, dtype=torch.float64)
    output = model(speech, torch.ones(2), words, torch.tensor([1.0, 0.5]))
    state = numpy_state(model)
    for b, n_words in enumerate((6, 3)):
        heard = batch_norm(speech[b].numpy(), state, "norm")
        read = words[b, :n_words].numpy()
        for layer in range(3):
            heard, read = lstm(heard, state, "speech_lstm", layer), lstm(read, state, "text_lstm", layer)
        joint = np.concatenate([heard[0], linear(read[-1], state, "text_projection")])
        for layer in (0, 2):
            joint = np.maximum(linear(joint, state, f"joint.{layer}"), 0)
        np.testing.assert_allclose(output.embedding[b].detach(), joint, rtol=1e-9)
        np.testing.assert_allclose(output.prediction[b].detach(), linear(joint, state, "output"), rtol=1e-9)


def cudnn_lstm(inputs, units):
    return 4 * units * (inputs + units + 2)  # two biases, as in PyTorch


def test_speech_and_text_have_the_parameters_of_the_original():
    speech = 2 * 68 + cudnn_lstm(68, 256) + 2 * cudnn_lstm(256, 256)
    text = cudnn_lstm(300, 256) + 2 * cudnn_lstm(256, 256) + 256 * 64 + 64
    joint = 320 * 64 + 64 + 64 * 32 + 32 + 3 * (32 + 1)
    assert sum(parameter.numel() for parameter in SpeechTextLSTM().parameters()) == speech + text + joint
