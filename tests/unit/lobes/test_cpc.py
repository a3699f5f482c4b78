import hashlib
import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from scipy.special import expit

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.cpc import CPC, CPCEncoder, load_cpc, save_cpc
from tools.build_hparams import compose

SECOND = 16000
# Of each convolution of the original: kernel, stride, padding.
CONVOLUTIONS = [(10, 5, 3), (8, 4, 2), (4, 2, 1), (4, 2, 1), (4, 2, 1)]
Checkpoint = namedtuple("Checkpoint", "config weights")


def public_checkpoint(channels=12, size=6, mode="LSTM", layers=1, seed=0):
    """Make what CPC_audio's checkpoints hold, with its names and random values."""
    random = np.random.default_rng(seed)

    def tensor(*shape):
        return torch.from_numpy(random.normal(0, 0.3, shape).astype(np.float32))

    weights = {}
    for i, (kernel, _, _) in enumerate(CONVOLUTIONS):
        weights[f"gEncoder.conv{i}.weight"] = tensor(channels, channels if i else 1, kernel)
        weights[f"gEncoder.conv{i}.bias"] = tensor(channels)
        weights[f"gEncoder.batchNorm{i}.weight"] = 1 + tensor(1, channels, 1)
        weights[f"gEncoder.batchNorm{i}.bias"] = tensor(1, channels, 1)
    gates = {"LSTM": 4, "GRU": 3}[mode] * size
    for layer in range(layers):
        weights[f"gAR.baseNet.weight_ih_l{layer}"] = tensor(gates, size if layer else channels)
        weights[f"gAR.baseNet.weight_hh_l{layer}"] = tensor(gates, size)
        weights[f"gAR.baseNet.bias_ih_l{layer}"] = tensor(gates)
        weights[f"gAR.baseNet.bias_hh_l{layer}"] = tensor(gates)
    config = {
        "hiddenEncoder": channels,
        "hiddenGar": size,
        "arMode": mode,
        "nLevelsGRU": layers,
        "normMode": "layerNorm",
        "encoder_type": "cpc",
        "cpc_mode": None,
        "samplingType": "samespeaker",
        "learningRate": 0.0002,
        "pathDB": ["/datasets"],
    }
    return Checkpoint(config, weights)


def write(path, checkpoint, **options):
    torch.save(checkpoint._asdict(), path, **options)
    return path


def expected_context(weights, wav, mode, layers=1):
    """Run the original's architecture on one utterance, (N,) -> (T, size), in float64, a frame at a time."""
    w = {key: value.double().numpy() for key, value in weights.items()}
    hidden = wav.double().numpy()[None]
    for i, (kernel, stride, padding) in enumerate(CONVOLUTIONS):
        padded = np.pad(hidden, ((0, 0), (padding, padding)))
        starts = range(0, padded.shape[1] - kernel + 1, stride)
        hidden = np.stack(
            [
                np.einsum("oik,ik->o", w[f"gEncoder.conv{i}.weight"], padded[:, start : start + kernel])
                for start in starts
            ],
            axis=1,
        )
        hidden += w[f"gEncoder.conv{i}.bias"][:, None]
        hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0, ddof=1) + 1e-5)
        hidden = hidden * w[f"gEncoder.batchNorm{i}.weight"][0] + w[f"gEncoder.batchNorm{i}.bias"][0]
        hidden = np.maximum(hidden, 0)
    sequence = hidden.T
    for layer in range(layers):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        cell = [w[f"gAR.baseNet.{name}_l{layer}"] for name in names]
        sequence = {"LSTM": lstm, "GRU": gru}[mode](sequence, *cell)
    return sequence


def lstm(sequence, input_weight, hidden_weight, input_bias, hidden_bias):
    state = memory = np.zeros(hidden_weight.shape[1])
    outputs = []
    for frame in sequence:
        gates = input_weight @ frame + input_bias + hidden_weight @ state + hidden_bias
        enter, forget, candidate, leave = np.split(gates, 4)
        memory = expit(forget) * memory + expit(enter) * np.tanh(candidate)
        state = expit(leave) * np.tanh(memory)
        outputs.append(state)
    return np.stack(outputs)


def gru(sequence, input_weight, hidden_weight, input_bias, hidden_bias):
    state = np.zeros(hidden_weight.shape[1])
    outputs = []
    for frame in sequence:
        from_input = np.split(input_weight @ frame + input_bias, 3)
        from_state = np.split(hidden_weight @ state + hidden_bias, 3)
        reset, update = (expit(a + b) for a, b in zip(from_input[:2], from_state[:2], strict=True))
        candidate = np.tanh(from_input[2] + reset * from_state[2])
        state = (1 - update) * candidate + update * state
        outputs.append(state)
    return np.stack(outputs)


@pytest.mark.parametrize(("mode", "layers"), [("LSTM", 1), ("GRU", 1), ("LSTM", 2)])
@pytest.mark.parametrize("n_samples", [4800, 4933])
def test_the_network_computes_what_the_original_does(tmp_path, mode, layers, n_samples):
    checkpoint = public_checkpoint(mode=mode, layers=layers)
    wav = 0.3 * torch.randn(n_samples)
    expected = expected_context(checkpoint.weights, wav, mode, layers)
    frames, lens = CPCEncoder(write(tmp_path / "cpc.pt", checkpoint))(wav.unsqueeze(0), torch.ones(1))
    assert lens.tolist() == [1.0]
    np.testing.assert_allclose(frames[0].numpy(), expected, rtol=0, atol=1e-5)


def test_the_sizes_are_those_of_the_originals():
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(CPC()) == 1_843_456  # Modified CPC
    oord = CPC(channels=512, context="GRU")
    # Five convolutions with biases and norms, then a GRU of 3 gates with two biases each.
    assert count(oord) == (10 + (8 + 4 + 4 + 4) * 512) * 512 + 5 * 3 * 512 + 3 * 256 * (512 + 256 + 2)


def test_another_context_is_one_sentence():
    with pytest.raises(InputError, match="context is 'RNN'; choose one of LSTM, GRU"):
        CPC(context="RNN")


@pytest.fixture
def encoder(tmp_path):
    return CPCEncoder(write(tmp_path / "cpc.pt", public_checkpoint()))


@pytest.mark.parametrize(
    ("n_samples", "n_frames"), [(SECOND, 100), (SECOND + 137, 100), (319, 2), (317, 1), (160, 1), (90, 1)]
)
def test_frames_do_not_depend_on_the_batch(encoder, n_samples, n_frames):
    short, long = 0.1 * torch.randn(n_samples) + 0.05, torch.randn(2 * SECOND)
    alone, _ = encoder(short.unsqueeze(0), torch.ones(1))
    batch = torch.stack([long, torch.full_like(long, 3.0)])  # the padding may be anything
    batch[1, :n_samples] = short
    together, lens = encoder(batch, torch.tensor([1.0, n_samples / len(long)]))
    assert alone.shape[1] == round(float(lens[1] * together.shape[1])) == n_frames
    torch.testing.assert_close(together[1, :n_frames], alone[0], rtol=0, atol=1e-5)
    assert not together[1, n_frames:].any()


def test_the_context_may_learn_and_the_convolutions_may_not(tmp_path):
    path = write(tmp_path / "cpc.pt", public_checkpoint())
    frozen, learning = CPCEncoder(path), CPCEncoder(path, trainable_layers=1).train()
    batch = torch.randn(2, SECOND), torch.tensor([1.0, 0.5])
    whole, lens = frozen(*batch)
    assert not whole.requires_grad
    hidden, _ = learning.frozen_forward(*batch)
    assert hidden.shape == (2, 100, 12)
    frames, _ = learning(hidden, lens)
    torch.testing.assert_close(frames[0], whole[0])
    frames.square().sum().backward()
    learnt = {name for name, parameter in learning.named_parameters() if parameter.grad is not None}
    assert learnt == {name for name, _ in learning.named_parameters() if name.startswith("model.context.")}
    with pytest.raises(InputError, match="trainable_layers is 2.*choose 0 to 1"):
        CPCEncoder(path, trainable_layers=2)


def test_the_fingerprint_names_weights_and_structure(tmp_path):
    path = write(tmp_path / "cpc.pt", public_checkpoint())
    fingerprint = CPCEncoder(path).frozen_fingerprint()
    assert CPCEncoder(write(tmp_path / "same.pt", public_checkpoint())).frozen_fingerprint() == fingerprint
    others = [public_checkpoint(seed=1), public_checkpoint(mode="GRU")]
    assert fingerprint not in [CPCEncoder(write(tmp_path / "a.pt", other)).frozen_fingerprint() for other in others]


def test_a_checkpoint_goes_there_and_back(tmp_path):
    cpc = CPC(channels=8, context_size=4, context="GRU", context_layers=2)
    save_cpc(cpc, tmp_path / "cpc.pt")
    again = load_cpc(tmp_path / "cpc.pt")
    wavs = torch.randn(1, 3200)
    assert again(wavs)[0].equal(cpc(wavs)[0])
    saved = torch.load(tmp_path / "cpc.pt", weights_only=True)
    original = public_checkpoint(channels=8, size=4, mode="GRU", layers=2)
    assert {k: v.shape for k, v in saved["weights"].items()} == {k: v.shape for k, v in original.weights.items()}
    assert saved["config"].keys() <= original.config.keys()


def test_older_files_and_what_else_they_hold_are_fine(tmp_path):
    checkpoint = public_checkpoint(channels=256, size=256)
    for key in ("hiddenEncoder", "hiddenGar", "arMode", "nLevelsGRU", "encoder_type", "normMode", "cpc_mode"):
        del checkpoint.config[key]  # CPC_audio's defaults
    checkpoint.weights["wPrediction.predictors.0.weight"] = torch.zeros(2, 2)
    path = write(tmp_path / "cpc.pt", checkpoint, _use_new_zipfile_serialization=False)
    assert load_cpc(path).context.weight_hh_l0.equal(checkpoint.weights["gAR.baseNet.weight_hh_l0"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normMode", "batchNorm", "normMode 'batchNorm', but only layerNorm"),
        ("arMode", "transformer", "arMode 'transformer', but only LSTM or GRU"),
        ("cpc_mode", "reverse", "cpc_mode 'reverse'"),
        ("encoder_type", "mfcc", "encoder_type 'mfcc', but only cpc"),
        ("hiddenGar", 7, r"gAR.baseNet.weight_ih_l0 of shape \(28, 12\)"),
        ("nLevelsGRU", 2, "should hold gAR.baseNet.weight_ih_l1"),
    ],
)
def test_another_structure_is_one_sentence(tmp_path, key, value, message):
    checkpoint = public_checkpoint()
    checkpoint.config[key] = value
    with pytest.raises(InputError, match=message):
        load_cpc(write(tmp_path / "cpc.pt", checkpoint))


class Trap:
    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_runs_no_code(tmp_path):
    Trap.path = str(tmp_path / "sprung")
    for content in ({"config": Trap(), "weights": {}}, Trap()):
        torch.save(content, tmp_path / "cpc.pt")
        with pytest.raises(InputError, match="not a CPC checkpoint"):
            load_cpc(tmp_path / "cpc.pt")
        assert not (tmp_path / "sprung").exists()
    with open(tmp_path / "cpc.pt", "rb") as file:  # the trap does work
        torch.load(file, weights_only=False)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", pickle.dumps([1, 2], protocol=2)])
def test_another_file_is_one_sentence(tmp_path, content):
    (tmp_path / "cpc.pt").write_bytes(content)
    with pytest.raises(InputError, match="cpc.pt is not a CPC checkpoint"):
        load_cpc(tmp_path / "cpc.pt")


def test_the_hash_is_checked(tmp_path):
    path = write(tmp_path / "cpc.pt", public_checkpoint())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for digits in (8, 20, 64):
        load_cpc(path, sha256[:digits])
    with pytest.raises(InputError, match=f"has the SHA-256 {sha256}, not 00000000"):
        load_cpc(path, "00000000")
    for wrong in (sha256[:7], sha256.upper(), "d0f474dx", 12345678.5):
        with pytest.raises(InputError, match="is no SHA-256"):
            load_cpc(path, wrong)


def test_the_recipe_wants_the_public_checkpoint(tmp_path):
    path = write(tmp_path / "cpc.pt", public_checkpoint())
    overrides = {"data_folder": "corpus", "results_folder": str(tmp_path), "speech_source": str(path)}
    text = compose("MSP-Podcast", "modified_cpc")
    assert load_hyperpyyaml(text, overrides | {"speech_sha256": None})["speech_encoder"].output_size == 6
    with pytest.raises(InputError, match="not d0f474de"):
        load_hyperpyyaml(text, overrides)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="nothing.pt does not exist: .*the recipe for pretraining"):
        load_cpc(tmp_path / "nothing.pt")


def test_a_url_is_downloaded_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    path = write(tmp_path / "cpc.pt", public_checkpoint())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="downloaded unchecked: give its SHA-256"):
        load_cpc(path.as_uri())
    with pytest.raises(InputError, match="does not have the SHA-256 00000000; nothing was kept"):
        load_cpc(path.as_uri(), "00000000")
    with pytest.raises(InputError, match="Can't download file:.*name the file instead"):
        load_cpc((tmp_path / "nothing.pt").as_uri(), sha256)
    assert not list((tmp_path / "home").rglob("*.pt"))
    load_cpc(path.as_uri(), sha256[:8])
    path.write_bytes(b"changed")
    load_cpc(path.as_uri(), sha256[:8])
    [kept] = (tmp_path / "home").rglob("*.pt")
    kept.write_bytes(b"damaged")
    with pytest.raises(InputError, match="it is damaged or another file; delete it"):
        load_cpc(path.as_uri(), sha256[:8])
