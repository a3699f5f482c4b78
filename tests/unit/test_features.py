import pytest
import torch
from safetensors import safe_open
from speechbrain.dataio.dataset import DynamicItemDataset

import ser_ts_lobes.features
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.features import FrozenFeatures
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.lobes.words import WordEncoder
from tests.tiny_models import save_word_vectors


@pytest.fixture
def wavs():
    return {f"utt{i}": 0.1 * torch.randn(4000 + 1500 * i) for i in range(5)}


def dataset(wavs):
    rows = {name: {"duration": len(wav) / 16000, "speech": wav} for name, wav in wavs.items()}
    return DynamicItemDataset(rows, [], ["id", "speech"])


def compute(folder, encoder, wavs, progressbar=False, **options):
    return FrozenFeatures.compute(
        folder, encoder, dataset(wavs), "speech", "manifest", progressbar=progressbar, **options
    )


@pytest.mark.parametrize("progressbar", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 5e-3)])
def test_each_utterance_gets_its_own_features(tmp_path, tiny_hubert, wavs, dtype, tolerance, progressbar):
    encoder = load_speech_encoder(tiny_hubert, trainable_layers=1)
    features = compute(tmp_path, encoder, wavs, progressbar, dtype=dtype, batch_size=2)
    for name, wav in wavs.items():
        expected, _ = encoder.frozen_forward(wav.unsqueeze(0), torch.ones(1))
        torch.testing.assert_close(features[name], expected[0], rtol=0, atol=tolerance)


def test_what_is_there_is_not_computed_again(tmp_path, tiny_hubert, wavs, monkeypatch):
    encoder = load_speech_encoder(tiny_hubert)
    first = compute(tmp_path, encoder, wavs)
    monkeypatch.setattr(encoder, "frozen_forward", None)
    again = compute(tmp_path, encoder, wavs)
    assert again["utt0"].equal(first["utt0"])


@pytest.mark.parametrize("change", ["weights", "layer", "dtype", "manifest"])
def test_a_change_of_what_made_them_makes_new_ones(tmp_path, tiny_hubert, wavs, change):
    compute(tmp_path, load_speech_encoder(tiny_hubert), wavs)
    encoder = load_speech_encoder(tiny_hubert, trainable_layers=int(change == "layer"))
    if change == "weights":
        with torch.no_grad():
            encoder.layers[0].final_layer_norm.bias.add_(0.1)
    FrozenFeatures.compute(
        tmp_path,
        encoder,
        dataset(wavs),
        "speech",
        "another manifest" if change == "manifest" else "manifest",
        dtype="float32" if change == "dtype" else "float16",
        progressbar=False,
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_run_goes_on(tmp_path, tiny_hubert, wavs, monkeypatch):
    monkeypatch.setattr(ser_ts_lobes.features, "_SHARD_BYTES", 0)  # a shard a batch
    encoder = load_speech_encoder(tiny_hubert)
    forward, calls = encoder.frozen_forward, []

    def interrupted(*inputs):
        calls.append(len(inputs[0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(*inputs)

    monkeypatch.setattr(encoder, "frozen_forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path, encoder, wavs, batch_size=2)
    features = compute(tmp_path, encoder, wavs, batch_size=2)
    assert sum(calls) == 2 + 2 + 3  # one batch, the interrupted one, the rest
    expected, _ = forward(wavs["utt0"].unsqueeze(0), torch.ones(1))
    torch.testing.assert_close(features["utt0"], expected[0], rtol=0, atol=5e-3)
    [folder] = tmp_path.iterdir()
    kept = [key for path in folder.glob("*.safetensors") for key in safe_open(path, "pt").keys()]
    assert sorted(kept) == sorted(wavs)


def test_what_overflows_the_number_type_is_named(tmp_path, tiny_hubert, wavs):
    encoder = load_speech_encoder(tiny_hubert)
    with torch.no_grad():
        encoder.layers[-1].final_layer_norm.bias.fill_(1e5)  # float16 ends at 65504
    with pytest.raises(InputError, match="utt0.*float16.*--feature_dtype float32"):
        compute(tmp_path, encoder, wavs)
    assert compute(tmp_path, encoder, wavs, dtype="float32")["utt0"].isfinite().all()


def test_whole_numbers_stay_what_they_are(tmp_path):
    encoder = WordEncoder(save_word_vectors(tmp_path / "vectors.txt", size=2), size=2)
    encoder.learn_words([" ".join(["it was", *(f"word{i}" for i in range(3000))])])
    ids = {"utt0": encoder.tokenize("it was word2049 word2999"), "utt1": encoder.tokenize("word7")}
    rows = {name: {"duration": 1.0, "text": value} for name, value in ids.items()}
    data = DynamicItemDataset(rows, [], ["id", "text"])
    features = FrozenFeatures.compute(tmp_path / "features", encoder, data, "text", "manifest", progressbar=False)
    for name, value in ids.items():  # float16 could not tell 2049 from 2048
        assert features[name].equal(value)
