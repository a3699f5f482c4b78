"""The two files of a student: what loads, and what is refused."""

import json
import pickle
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.student.config import read_config, reads_what_it_hears
from ser_ts_lobes.student.network import describe_network, load_network, save_weights
from tests.hostile import at_least, changed_json
from tests.integration.programs import ROOT
from tests.tiny_models import save_tiny_bert, save_tiny_listener, save_tiny_reader, save_tiny_ssl, save_tiny_whisper
from tests.tiny_student import LABELS, change, make_tiny_network, save_tiny_student, scores


@pytest.fixture
def folder(tmp_path, tiny_hubert):
    save_tiny_student(tmp_path / "student", tiny_hubert)
    return tmp_path / "student"


def save_tiny_encoder(folder, kind, style="base"):
    if kind == "listener":
        return save_tiny_listener(folder, save_tiny_ssl(f"{folder}-below"))
    if kind == "reader":
        return save_tiny_reader(folder, save_tiny_ssl(f"{folder}-below"), save_tiny_bert(f"{folder}-text"))
    return save_tiny_whisper(folder) if kind == "whisper" else save_tiny_ssl(folder, kind, style)


def load(folder):
    return load_network(read_config(folder / "config.json"), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("kind", "style", "pooling", "layers"),
    [
        ("hubert", "base", "gru", "last"),
        ("hubert", "large", "transformer", "weighted"),
        ("wav2vec2", "base", "gru", "last"),
        ("wavlm", "base", "gru", "weighted"),
        ("whisper", None, "transformer", "last"),
        ("listener", None, "gru", "last"),
        ("reader", None, "gru", "weighted"),
    ],
)
def test_a_network_is_the_same_after_saving_and_loading(tmp_path, kind, style, pooling, layers):
    source = save_tiny_encoder(tmp_path, kind, style)
    network = make_tiny_network(source, pooling, layers)
    description = json.loads(json.dumps(describe_network(network)))
    assert reads_what_it_hears(description) == (kind == "reader")
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
    ("keys", "value", "said"),
    [
        # Larger than any machine: refused by the weights' shapes, before memory is taken.
        (("encoder", "model", "hidden_size"), 2**16, "doesn't hold the weights"),
        (("encoder", "model", "hidden_size"), 2**24, "hidden_size is not a number of at most 65,536"),
        (("embedding_size",), 2**40, "embedding_size is not a number of at most 65,536"),
        (("embedding_size",), True, "embedding_size is missing or malformed"),
        (
            ("encoder", "model", "num_hidden_layers"),
            10**9,
            "num_hidden_layers is not a number of layers of at most 100",
        ),
        (("pooling", "num_layers"), 10**9, "num_layers is not a number of layers of at most 100"),
        (("pooling", "num_layers"), 2.0, "above 0"),
        (("pooling", "num_heads"), 16, "no more"),
        (("encoder", "model", "num_hidden_layers"), 2, "doesn't hold the weights"),
        (("encoder", "model", "num_hidden_layers"), "many", "can't be used: .*expected int"),
        (("encoder", "model", "hidden_act"), "os.system", "describes no network"),
        (("encoder", "model", "model_type"), "gpt2", "must be a hubert"),
        (("encoder", "model", "model_type"), "../../code", "must be a hubert"),
        # Keys by which transformers can be made to fetch code.
        (("encoder", "model", "attn_implementation"), "someone/kernel", "has no attn_implementation"),
        (("encoder", "model", "_attn_implementation"), "someone/kernel", "has no _attn_implementation"),
        (("encoder", "model", "auto_map"), {"AutoModel": "code.Model"}, "has no auto_map"),
        (("encoder", "model"), {}, "must be a hubert"),
        (("encoder", "model"), 3, "describes no network"),
        (("encoder", "feature_extractor"), {}, "describes no network"),
        (("encoder", "feature_extractor", "do_normalize"), "false", "describes no network"),
        # What is no weight's shape: each frame, or each layer's attention, would take more memory than a machine has.
        (("encoder", "model", "conv_dim"), [8192, 16, 16, 16, 16, 16, 16], "a speech encoder's"),
        (("encoder", "model", "conv_stride"), [5, 2, 2, 2, 2, 1, 1], "a speech encoder's"),
        (("encoder", "model", "conv_kernel"), [10, 3, 3, 3, 3, 2, 2000], "a speech encoder's"),
        (("encoder", "model", "conv_kernel"), [10, 3, 3, 3, 3, 2, -2], "a speech encoder's"),
        (("encoder", "model", "num_attention_heads"), 0, "no attention heads"),
        (("encoder", "model", "num_attention_heads"), 128, "more than 64"),
        (("encoder", "model", "layer_norm_eps"), -1e4, "no numbers"),
        (("pooling", "kind"), "os.system", "choose one of gru, transformer"),
        (("pooling", "command"), "rm", "describes no network"),
    ],
)
def test_made_up_configurations_are_refused(folder, keys, value, said):
    change(folder, *keys, value=value)
    with pytest.raises(InputError, match=said):
        load(folder)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("model", "num_heads"), 0, "num_heads, stack and kernel_size above 0"),
        (("model", "num_heads"), 128, "more than 64 attention heads"),
        (("model", "stack"), -1, "above 0"),
        (("model", "kernel_size"), 2.0, "above 0"),
        (("model", "hidden_size"), 2**16, "doesn't hold the weights"),
        (("model", "num_layers"), 1000, "a number of layers of at most 100"),
        (("model", "dropout"), 7, "describes no network"),
        (("model", "command"), "rm", "describes no network"),
        (("speech", "model", "conv_stride"), [5, 2, 2, 2, 2, 1, 1], "a speech encoder's"),
        (("speech", "model", "model_type"), "gpt2", "must be a hubert"),
        (("speech", "model", "model_type"), "listener", "a listener on a listener"),
        (("speech",), {}, "describes no network"),
        (("learnt_layers",), 4, "choose 0 to 3"),
        (("learnt_layers",), "all", "describes no network"),
        (("layers",), "first", "choose last or weighted"),
    ],
)
def test_made_up_listeners_are_refused(tmp_path, tiny_hubert, keys, value, said):
    folder = tmp_path / "student"
    save_tiny_student(folder, save_tiny_listener(tmp_path / "listener", tiny_hubert))
    change(folder, "encoder", *keys, value=value)
    with pytest.raises(InputError, match=said):
        load(folder)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("n_pieces",), 1, "doesn't hold the weights"),
        (("token_width",), 0, "sizes above 0"),
        (("lowercase",), 1, "true or false"),
        (("command",), 1, "describes no network"),
        (("text", "model", "model_type"), "roberta", "not a roberta"),
        (("text", "model", "num_attention_heads"), 0, "attention heads"),
        (("text", "model", "auto_map"), "x", "no auto_map"),
        (("text",), {}, "describes no network"),
    ],
)
def test_made_up_readers_are_refused(tmp_path, keys, value, said):
    folder = tmp_path / "student"
    save_tiny_student(folder, save_tiny_encoder(tmp_path / "reader", "reader"))
    change(folder, "encoder", "reader", *keys, value=value)
    with pytest.raises(InputError, match=said):
        load(folder)


def test_tokens_that_no_text_encoder_has_are_refused(tmp_path):
    folder = tmp_path / "student"
    save_tiny_student(folder, save_tiny_encoder(tmp_path / "reader", "reader"))
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["speech_encoder.model.reader.token_table"].zero_()
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lack .*CLS"):
        load(folder)


def test_the_spelling_of_a_reader_is_not_rounded(tmp_path):
    network = make_tiny_network(save_tiny_encoder(tmp_path / "reader", "reader"))
    save_weights(network, tmp_path / "half.safetensors", half=True)
    loaded = load_network(describe_network(network), tmp_path / "half.safetensors")
    for name in "piece_table", "token_table":
        expected, found = (getattr(n.speech_encoder.model.reader, name) for n in (network, loaded))
        assert found.dtype == torch.uint8 and found.equal(expected)


def test_a_sentence_does_not_grow_with_what_it_quotes(folder):
    change(folder, "encoder", "model", "hidden_dropout", value=[[65_536] * 200] * 200)
    with pytest.raises(InputError, match="hidden_dropout") as refusal:
        load(folder)
    assert len(str(refusal.value)) <= 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_fft", 8_000_000),
        ("n_fft", 400.0),
        ("n_fft", 0),
        ("hop_length", 1),
        ("hop_length", 4000),
        ("feature_size", 60_000),
        ("feature_size", 79),
        ("sampling_rate", 8000),
    ],
)
def test_a_spectrogram_is_whispers_or_refused_before_it_is_made(tmp_path, monkeypatch, key, value):
    folder = Path(save_tiny_student(tmp_path / "student", save_tiny_whisper(tmp_path / "whisper")))
    change(folder, "encoder", "feature_extractor", key, value=value)
    monkeypatch.setattr(torch, "hann_window", None)  # it would fail in another way
    with pytest.raises(InputError, match="a speech encoder's|n_fft is not a number of at most 65,536"):
        load(folder)


def test_weights_of_another_network_are_refused(folder):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["label_scale.mean"] = torch.zeros(4)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="doesn't hold the weights"):
        load(folder)


def test_weights_in_another_format_than_export_writes_are_refused(folder):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["label_scale.mean"] = weights["label_scale.mean"].long()
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="doesn't hold the weights"):
        load(folder)


def test_weights_that_are_no_numbers_are_refused(folder):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["model.output.bias"][1] = torch.nan
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="becomes no numbers"):
        load(folder)


def test_a_header_that_claims_much_is_not_read(folder, monkeypatch):
    header = {f"{i:0100}": {"dtype": "F32", "shape": [0, 2**60], "data_offsets": [0, 0]} for i in range(10_000)}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    monkeypatch.setattr(safetensors, "safe_open", None)  # it would fail in another way
    with pytest.raises(InputError, match=r"not in safetensors format \(a header of 1,[\d,]+ bytes\)"):
        load(folder)


# ------------------------------------------------------------------ any value anywhere


class Loader:
    """`tests.load_students` in a process of its own, so that a case that takes all memory or time is only a failure."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.load_students"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.answers = queue.Queue()
        threading.Thread(target=lambda: [self.answers.put(line) for line in self.process.stdout], daemon=True).start()

    def load(self, folder):
        self.process.stdin.write(json.dumps(str(folder)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.answers.get(timeout=120))


@pytest.fixture(scope="module")
def loader():
    loader = Loader()
    yield loader
    loader.process.kill()
    loader.process.communicate()


@pytest.fixture(scope="module")
def students(tmp_path_factory, loader):
    """Give a student of each architecture and both kinds of pooling; the loader has heard them all."""
    parent = tmp_path_factory.mktemp("students")
    folders = []
    poolings = {"hubert": "gru", "wav2vec2": "gru", "wavlm": "transformer", "listener": "gru", "whisper": "gru"}
    for kind, pooling in poolings.items():
        encoder = parent / f"{kind}-encoder"
        source = save_tiny_encoder(encoder, kind)
        test = {"test1": {**scores({"ccc": 0.3, "ccc_95": [0.2, 0.4]}), "utterances": 9, "resampled": "speakers"}}
        save_tiny_student(parent / kind, source, pooling, test=test)
        folders.append(parent / kind)
    heard = [loader.load(folder) for folder in folders]
    assert [result["outcome"] for result in heard] == ["heard"] * 5
    return folders, heard[-1]["peak_mb"]


def deep(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


ADDED = ["num_heads", "use_cache", "sampling_rate", "", "self"]
HOSTILE = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2, 3, 8, 63, 1024, 20_000, 2**16, 2**16 + 1, 8_000_000, 2**31, 2**63]
    ),
    st.sampled_from(
        [-(2**40), 10**30, 10**4000, 0.0, -0.5, 1e-300, 1e300, 2.0, float("nan"), float("inf"), -float("inf")]
    ),
    st.sampled_from(["", "gelu", "layer", "whisper", "../..", "\ud800", "\x00", "9" * 10_000, "{}", "NaN"]),
    st.sampled_from([[], {}, [None], [[]], {"": {}}, [1] * 100, [2**16] * 200, [1] * 100_000, deep(7), deep(200)]),
    st.lists(st.integers(-1, 600), max_size=8),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
)


@at_least(300)
@given(data=st.data())
def test_any_value_anywhere_is_used_or_refused_in_a_sentence(students, loader, data):
    folders, before_mb = students
    folder = data.draw(st.sampled_from(folders))
    config = data.draw(changed_json(json.loads((folder / "config.json").read_text()), HOSTILE, added=ADDED))
    made_up = folder.with_name("made-up")
    made_up.mkdir(exist_ok=True)
    (made_up / "config.json").write_text(json.dumps(config))
    weights = made_up / "model.safetensors"
    weights.unlink(missing_ok=True)
    weights.hardlink_to(folder / "model.safetensors")
    result = loader.load(made_up)
    assert result["outcome"] in ("heard", "refused")
    assert result["seconds"] < 20  # of which a case takes a hundredth: it catches what has no end
    assert result["peak_mb"] < before_mb + 200
