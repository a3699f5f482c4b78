"""The two files of a student: what loads, and what is refused."""

import json
import pickle

import pytest
import safetensors.torch
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.student import describe_network, load_network, read_config, save_weights
from tests.tiny_models import save_tiny_ssl, save_tiny_whisper
from tests.tiny_student import LABELS, make_tiny_network, save_tiny_student


@pytest.fixture
def folder(tmp_path, tiny_hubert):
    save_tiny_student(tmp_path / "student", tiny_hubert)
    return tmp_path / "student"


def load(folder):
    return load_network(read_config(folder / "config.json"), folder / "model.safetensors")


def change(folder, *keys, value):
    """Change one value deep inside config.json."""
    config = json.loads((folder / "config.json").read_text())
    part = config
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "style", "pooling"),
    [
        ("hubert", "base", "gru"),
        ("hubert", "large", "transformer"),
        ("wav2vec2", "base", "gru"),
        ("wavlm", "base", "gru"),
        ("whisper", None, "transformer"),
    ],
)
def test_a_network_is_the_same_after_saving_and_loading(tmp_path, kind, style, pooling):
    source = save_tiny_whisper(tmp_path) if kind == "whisper" else save_tiny_ssl(tmp_path, kind, style)
    network = make_tiny_network(source, pooling)
    description = json.loads(json.dumps(describe_network(network)))
    save_weights(network, tmp_path / "saved.safetensors")
    loaded = load_network(description, tmp_path / "saved.safetensors")
    wavs, lens = torch.randn(2, 16000), torch.tensor([1.0, 0.6])
    with torch.no_grad():
        expected, found = network(wavs, lens), loaded(wavs, lens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])


def test_predictions_are_on_the_scale_of_the_labels(tiny_hubert):
    network = make_tiny_network(tiny_hubert)
    wavs, lens = torch.randn(2, 8000), torch.ones(2)
    with torch.no_grad():
        frames, frame_lens = network.speech_encoder(wavs, lens)
        standardised = network.model(frames, frame_lens).prediction.double().numpy()
        found = network(wavs, lens).prediction
    torch.testing.assert_close(
        found, torch.tensor(standardised * LABELS.std(0) + LABELS.mean(0)).float(), rtol=0, atol=1e-5
    )


def test_half_precision_halves_the_file_and_is_used_in_float32(folder, tiny_hubert):
    network = make_tiny_network(tiny_hubert)
    save_weights(network, folder / "half.safetensors", half=True)
    full, half = (folder / name for name in ("model.safetensors", "half.safetensors"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded = load_network(read_config(folder / "config.json"), half)
    assert {weight.dtype for weight in loaded.state_dict().values()} == {torch.float32}
    assert loaded.label_scale.mean.equal(network.label_scale.mean)
    wavs, lens = torch.randn(2, 16000), torch.ones(2)
    with torch.no_grad():
        torch.testing.assert_close(loaded(wavs, lens), network(wavs, lens), rtol=0, atol=0.02)


def test_a_local_path_does_not_travel(folder, tiny_hubert):
    text = (folder / "config.json").read_text()
    assert tiny_hubert not in text
    assert json.loads(text)["encoder"]["base_model"] is None


class Exploit:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_by_the_name_of_safetensors_is_refused_and_not_run(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Exploit(folder / "harm")))
    with pytest.raises(InputError, match="not in safetensors format .* pickle"):
        load(folder)
    torch.save(Exploit(folder / "harm"), folder / "model.safetensors")
    with pytest.raises(InputError, match="not in safetensors format .* pickle"):
        load(folder)
    assert not (folder / "harm").exists()


def test_pickles_beside_are_never_read(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Exploit(folder / "harm")))
    (folder / "model.ckpt").write_bytes(pickle.dumps(Exploit(folder / "harm")))
    with pytest.raises(InputError, match=r"model\.safetensors does not exist.*pickles"):
        load(folder)
    assert not (folder / "harm").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "doesn't say format"),
        (b'{"model_type": "hubert"}', "doesn't say format"),
        (b" " * (2**20 + 1), "larger than"),
    ],
)
def test_what_is_no_configuration_is_refused(folder, content, said):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"config\.json .*{said}"):
        read_config(folder / "config.json")


def test_a_missing_configuration_names_what_writes_it(tmp_path):
    with pytest.raises(InputError, match="does not exist.*ser-ts export"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("label_mean", [1, 2]),
        ("label_mean", ["a", "b", "c"]),
        ("label_range", [1]),
        ("encoder", "hub/name"),
        ("test", 3),
    ],
)
def test_malformed_values_are_named(folder, key, value):
    change(folder, key, value=value)
    with pytest.raises(InputError, match=f"{key} is missing or malformed"):
        read_config(folder / "config.json")


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        # Larger than any machine: refused by the weights' shapes, before memory is taken.
        (("encoder", "model", "hidden_size"), 2**24, "doesn't hold the weights"),
        (("embedding_size",), 2**40, "doesn't hold the weights"),
        (("encoder", "model", "num_hidden_layers"), 10**9, "more than 1000 layers"),
        (("pooling", "num_layers"), 10**9, "more than 1000 layers"),
        (("encoder", "model", "num_hidden_layers"), 2, "doesn't hold the weights"),
        (("encoder", "model", "num_hidden_layers"), "many", "describes no network"),
        (("encoder", "model", "hidden_act"), "os.system", "describes no network"),
        (("encoder", "model", "model_type"), "gpt2", "must be a hubert"),
        (("encoder", "model", "model_type"), "../../code", "must be a hubert"),
        # Keys by which transformers can be made to fetch code.
        (("encoder", "model", "attn_implementation"), "someone/kernel", "has no attn_implementation"),
        (("encoder", "model", "_attn_implementation"), "someone/kernel", "has no _attn_implementation"),
        (("encoder", "model", "auto_map"), {"AutoModel": "code.Model"}, "has no auto_map"),
        (("encoder", "model"), {}, "must be a hubert"),
        (("encoder", "feature_extractor"), {}, "describes no network"),
        (("pooling", "kind"), "os.system", "choose one of gru, transformer"),
        (("pooling", "command"), "rm", "describes no network"),
    ],
)
def test_made_up_configurations_are_refused(folder, keys, value, said):
    change(folder, *keys, value=value)
    with pytest.raises(InputError, match=said):
        load(folder)


def test_weights_of_another_network_are_refused(folder):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["label_scale.mean"] = torch.zeros(4)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="doesn't hold the weights"):
        load(folder)
