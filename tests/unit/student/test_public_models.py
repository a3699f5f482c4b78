"""Public models, of random weights, against forwards of their own; and what is said of a folder that is none."""

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub.errors import EntryNotFoundError
from transformers import Wav2Vec2FeatureExtractor

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.cli import main
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.student.page import _limits, render
from ser_ts_lobes.student.predict import predict
from ser_ts_lobes.student.public_models import STRUCTURES, load_regressor
from tests.tiny_public import MEAN, STD, save_tiny_public
from tests.tiny_student import change

KINDS = ("wav2vec2", "wavlm")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Give by kind the model as published, and its folder."""
    return {kind: save_tiny_public(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def loaded(published):
    return {kind: load_regressor(folder) for kind, (_, folder) in published.items()}


@pytest.fixture
def clips():
    """Give three clips of noise of other lengths and levels, as recordings have."""
    random = np.random.default_rng(0)
    return [
        torch.from_numpy(random.normal(0.01, level, n)).float()
        for n, level in ((16000, 0.1), (9123, 0.02), (5000, 0.3))
    ]


@torch.no_grad()
def tell(model, clip):
    """Embed a clip, and tell arousal, dominance and valence from 0 to 1, as the model's makers do; alone."""
    if hasattr(model, "wav2vec2"):
        extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
        heard = torch.from_numpy(extractor(clip.numpy(), sampling_rate=16000).input_values[0])[None]
        embedding = model.wav2vec2(heard).last_hidden_state.mean(dim=1)
        return embedding[0], model.classifier.out_proj(torch.tanh(model.classifier.dense(embedding)))[0]
    heard = torch.from_numpy((clip.numpy().astype(np.float64) - MEAN) / (STD + 1e-6)).float()[None]
    frames = model.ssl_model(heard, attention_mask=torch.ones_like(heard)).last_hidden_state[0]
    weight = torch.softmax(torch.tanh(model.pool_model.sap_linear(frames)) @ model.pool_model.attention, dim=0)
    mean = (frames * weight).sum(0)
    deviation = ((frames**2 * weight).sum(0) - mean**2).clamp(min=1e-5).sqrt()
    embedding = hidden = torch.cat([mean, deviation])
    for layer in model.ser_model.fc:
        hidden = layer(hidden)
    return embedding, model.ser_model.out(hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_heard_as_its_makers_hear_each_clip_alone(published, loaded, clips, kind):
    model = published[kind][0]
    predictions = loaded[kind].predict_clips(clips)
    lengths = torch.tensor([len(clip) for clip in clips])
    wavs = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    network = loaded[kind].network
    batched = network(wavs, lengths / lengths.max())  # in one go, as on a GPU; the other way goes clip by clip
    for i, clip in enumerate(clips):
        embedding, (arousal, dominance, valence) = tell(model, clip)
        expected = 1 + 6 * torch.stack([arousal, valence, dominance])
        torch.testing.assert_close(predictions[i], expected, atol=2e-5, rtol=0)
        torch.testing.assert_close(batched.prediction[i], expected, atol=2e-5, rtol=0)
        embedded = loaded[kind].encode_batch(clip[None])
        torch.testing.assert_close(embedded[0, 0], embedding, atol=1e-5, rtol=0)
    assert predictions.std(dim=0).min() > 1e-3  # the clips are told apart, and so are the dimensions
    assert predictions.std(dim=1).min() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_of_tensors_with_names_of_before_will_do(published, loaded, clips, kind, tmp_path):
    _, folder = save_tiny_public(tmp_path, kind, pickled=True)
    assert load_regressor(folder).predict_clips(clips).equal(loaded[kind].predict_clips(clips))


def test_another_order_of_the_labels_is_followed(published, clips, tmp_path):
    model, folder = published["wav2vec2"]
    shutil.copytree(folder, tmp_path / "model")
    change(tmp_path / "model", "id2label", value={"1": "arousal", "0": "valence", "2": "dominance"})
    _, (valence, arousal, dominance) = tell(model, clips[0])
    [prediction] = load_regressor(tmp_path / "model").predict_clips(clips[:1])
    torch.testing.assert_close(prediction, 1 + 6 * torch.stack([arousal, valence, dominance]), atol=2e-5, rtol=0)


def test_the_ends_of_the_scale_are_1_and_7(published, clips, tmp_path):
    model, folder = published["wav2vec2"]
    shutil.copytree(folder, tmp_path / "model")
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights["classifier.out_proj.weight"].zero_()
    weights["classifier.out_proj.bias"] = torch.tensor([0.0, 1.0, 0.5])  # arousal, dominance, valence
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "model" / "pytorch_model.bin")
    assert load_regressor(tmp_path / "model").predict_clips(clips[:1]).tolist() == [[1.0, 4.0, 7.0]]


# ------------------------------------------------------------------ what is no such model


def remove(name):
    return lambda folder: (folder / name).unlink()


def set_value(*keys, value):
    return lambda folder: change(folder, *keys, value=value)


def set_weights(alter):
    def spoil(folder):
        weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
        alter(weights)
        torch.save(weights, folder / "pytorch_model.bin")

    return spoil


class Harm:
    def __reduce__(self):
        return print, ("harm",)


BIAS = "classifier.out_proj.bias"


@pytest.mark.parametrize(
    ("kind", "spoil", "said"),
    [
        ("wav2vec2", remove("pytorch_model.bin"), "has neither model.safetensors nor pytorch_model.bin"),
        ("wav2vec2", remove("preprocessor_config.json"), "no preprocessor_config.json beside it says do_normalize"),
        ("wav2vec2", set_weights(lambda weights: weights.pop(BIAS)), f"lacks model.{BIAS}"),
        ("wav2vec2", set_weights(lambda weights: weights.update(more=torch.ones(1))), "has besides model.more"),
        ("wav2vec2", set_weights(lambda weights: weights.update({BIAS: torch.ones(8)})), f"another shape model.{BIAS}"),
        ("wav2vec2", set_weights(lambda weights: weights[BIAS].fill_(torch.nan)), "becomes no numbers"),
        (
            "wav2vec2",
            lambda folder: torch.save(Harm(), folder / "pytorch_model.bin"),
            "no weights that can be read saf",
        ),
        (
            "wav2vec2",
            lambda folder: (folder / "model.safetensors").write_bytes(b"no"),
            "no weights that can be read saf",
        ),
        ("wav2vec2", set_value("id2label", value={"0": "happy", "1": "sad"}), "it tells happy, sad, not arousal"),
        ("wav2vec2", set_value("id2label", value={"0": "arousal"}), "it tells arousal, not arousal, dominance"),
        ("wav2vec2", set_value("pooling_mode", value="max"), "not pooled by their mean"),
        ("wav2vec2", set_value("num_hidden_layers", value=10**9), "is not a number of layers of at most 100"),
        ("wav2vec2", set_value("num_hidden_layers", value=3), "lacks speech_encoder.model.encoder.layers.2"),
        ("wav2vec2", set_value("hidden_size", value=2**52), "describes no network|doesn't hold the weights"),
        ("wav2vec2", set_value("conv_stride", value=[1] * 7), "not a speech encoder's"),
        ("wav2vec2", set_value("sampling_rate", value=8000), "does not hear 16000 samples a second"),
        ("wavlm", set_value("ssl_type", value="somebody/wavlm"), "ssl_type is not microsoft/wavlm-large"),
        ("wavlm", set_value("std", value=None), "does not say mean and std"),
        ("wavlm", set_value("classifier_hidden_layers", value=0), "not all whole numbers above 0"),
    ],
)
def test_what_can_not_be_used_is_one_sentence(tmp_path, capsys, kind, spoil, said):
    _, folder = save_tiny_public(tmp_path, kind, pickled=True)
    spoil(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        load_regressor(folder)
    assert "\n" not in str(caught.value) and "harm" not in capsys.readouterr().out


def test_what_is_neither_is_said_as_of_a_student(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}')
    with pytest.raises(InputError, match="doesn't say format"):
        load_regressor(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="does not exist"):
        load_regressor(tmp_path)
    with pytest.raises(InputError, match="neither a folder nor a name"):
        load_regressor("nowhere")


def test_a_student_is_loaded_as_ever(student_folder, student, clips, capsys):
    assert load_regressor(student_folder).predict_clips(clips).equal(student.predict_clips(clips))
    assert capsys.readouterr().err == ""


def test_a_name_on_the_hub_takes_safetensors_alone_and_no_code(published, monkeypatch, capsys, tmp_path):
    fetched = []

    def download(repo_id, filename, revision):
        fetched.append(filename)
        assert (repo_id, revision) == (STRUCTURES[0].published, "main")
        if not (tmp_path / "model" / filename).exists():
            raise EntryNotFoundError(f"no {filename}")
        return str(tmp_path / "model" / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    shutil.copytree(published["wav2vec2"][1], tmp_path / "model")
    model = load_regressor(STRUCTURES[0].published, revision="main")
    assert set(fetched) == {"config.json", "model.safetensors", "README.md", "preprocessor_config.json"}
    assert model.config["system"] == STRUCTURES[0].published
    assert f"{STRUCTURES[0].published}: cc-by-nc-sa-4.0" in capsys.readouterr().err
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has neither"):
        load_regressor(STRUCTURES[0].published, revision="main")


# ------------------------------------------------------------------ where a student serves


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0 (not for commercial use)"),
        ("---\nlicense: <b>x</b>\n---\n", "not stated"),
        ("---\n: : :\n---\n", "not stated"),
        ("no metadata", "not stated"),
        (
            None,
            f"not stated with it; {STRUCTURES[0].published} was published under cc-by-nc-sa-4.0 (not for commercial",
        ),
    ],
)
def test_the_licence_is_what_the_card_says_or_how_it_was_published(published, tmp_path, capsys, card, said):
    shutil.copytree(published["wav2vec2"][1], tmp_path / "model")
    (tmp_path / "model" / "README.md").unlink()
    if card is not None:
        (tmp_path / "model" / "README.md").write_text(card)
    config = load_regressor(tmp_path / "model").config
    assert config["licence"].startswith(said) and config["corpus"] == "the corpus that its card names"
    assert f"note: licence of the model model: {said}" in capsys.readouterr().err


def test_the_page_shows_the_licence_and_no_labels_that_nobody_tells(loaded):
    model = loaded["wav2vec2"]
    assert "Licence of the model: cc-by-nc-sa-4.0 (not for commercial use)." in _limits(model)
    assert "was trained on some-corpus," in _limits(model) and "not measured" in _limits(model)
    html = render(model.config, (2.0, 5.0, 3.0))
    assert "is not known" in html and "Thin arc" not in html and "this recording at valence 5.00" in html


@pytest.fixture
def recordings(tmp_path, clips, monkeypatch):
    """Write the clips and a table of them; go there."""
    monkeypatch.chdir(tmp_path)
    rows = ["ID,wav,spk_id,activation,valence,dominance"]
    for i, clip in enumerate(clips):
        soundfile.write(f"{i}.wav", clip.numpy(), 16000, subtype="FLOAT")
        rows.append(f"utterance{i},{i}.wav,s{i},{2 + i},{5 - i},{3 + 2 * (i % 2)}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_predict_gives_values_and_windows_of_several_public_models(published, loaded, clips, recordings, capsys):
    folders = [published[kind][1] for kind in KINDS]
    assert main(["predict", *folders, "0.wav", "1.wav", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    mean = torch.stack([loaded[kind].predict_clips(clips[:2]) for kind in KINDS]).mean(dim=0)
    np.testing.assert_allclose([[row[name] for name in DIMENSIONS] for row in rows], mean, atol=1e-4)
    assert "cc-by-nc-sa-4.0" in err and ": mit" in err
    assert "2 of 2 recordings" in err and "2.8 to 11.0 s" in err  # they are shorter than any that it has learnt from
    assert predict(folders[0], ["0.wav"], timeline=True, window=0.5, hop=0.25, vad=False, format="json") == 0
    windows = json.loads(capsys.readouterr().out)
    assert [row["start_s"] for row in windows] == [0, 0.25, 0.5]
    third = loaded["wav2vec2"].predict_clips([clips[0][8000:]])[0]
    np.testing.assert_allclose([windows[2][name] for name in DIMENSIONS], third, atol=1e-4)
    assert loaded["wav2vec2"].window_s == 6


def test_evaluate_scores_a_public_model_and_report_takes_it_as_a_row(
    published, loaded, student_folder, clips, recordings, capsys
):
    folder = published["wavlm"][1]
    assert main(["evaluate", folder, "labels.csv", "--robustness", "--out", "public.csv"]) == 0
    out = capsys.readouterr().out
    assert "labels: 3 recordings" in out and "2 s of silence behind" in out
    predictions = loaded["wavlm"].predict_clips(clips).numpy()
    labels = np.array([[2, 5, 3], [3, 4, 5], [4, 3, 3]])
    (a, b) = predictions[:, 0], labels[:, 0]
    ccc = 2 * np.cov(a, b, ddof=0)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    assert f"CCC | {ccc:.3f}" in out
    assert main(["evaluate", student_folder, "labels.csv", "--out", "ours.csv"]) == 0
    assert main(["report", "odyssey=public.csv", "ours=ours.csv", "--out", "report.html"]) == 0
    page = (recordings / "report.html").read_text()
    assert "odyssey" in page and "ours" in page and f"{ccc:.3f}".lstrip("0") in page
