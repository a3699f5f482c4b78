"""The linear probe of speech encoders."""

import csv

import numpy as np
import pytest
import soundfile
import torch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.speech import load_speech_encoder
from tests.tiny_models import save_tiny_ssl, save_tiny_whisper
from tools.encoder_research import probe_encoder as tool


def test_ridge_agrees_with_the_normal_equations():
    rng = np.random.default_rng(0)
    features, labels, new = rng.normal(3, 2, (40, 60)), rng.normal(4, 1, (40, 3)), rng.normal(3, 2, (7, 60))
    features[:, 5] = new[:, 5] = 1.5  # a unit that is dead
    penalties = np.array([1e-3, 0.5, 100.0])
    found = tool.ridge_predictions(features, labels, new, penalties)
    live = np.delete(np.arange(60), 5)
    mean, sd = features[:, live].mean(axis=0), features[:, live].std(axis=0)
    x = (features[:, live] - mean) / sd
    for penalty, predictions in zip(penalties, found, strict=True):
        weights = np.linalg.solve(x.T @ x + 40 * penalty * np.eye(59), x.T @ (labels - labels.mean(axis=0)))
        expected = labels.mean(axis=0) + (new[:, live] - mean) / sd @ weights
        np.testing.assert_allclose(predictions, expected, rtol=1e-9)


def _labels_of_speakers(rng):
    speakers = np.array([f"s{index:02d}" for index in range(20) for _ in range(12)])
    return speakers, rng.normal(4, 1, (len(speakers), 3))


def test_probe_finds_what_features_say_linearly():
    rng = np.random.default_rng(1)
    speakers, labels = _labels_of_speakers(rng)
    noise = rng.normal(size=(len(labels), 30))
    turned = labels @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    features = np.hstack([noise, turned + 1])
    assert (tool.probe(features, labels, speakers) > 0.99).all()
    assert (np.abs(tool.probe(noise, labels, speakers)) < 0.2).all()


def test_probe_never_sees_the_speaker_it_predicts():
    rng = np.random.default_rng(2)
    speakers, how = _labels_of_speakers(rng)
    _, number = np.unique(speakers, return_inverse=True)
    who = rng.normal(0, 1, (20, 3))[number]  # half of the variance is a matter of the speaker alone
    features = np.hstack([how, np.eye(20)[number]])
    assert (tool.probe(features, how + who, speakers) < 0.8).all()


def test_folds_share_no_speaker():
    speakers = np.random.default_rng(3).choice(list("abcdefghijk"), size=200)
    folds = tool.speaker_folds(speakers)
    assert set(folds) == set(range(5))
    assert all(len(set(folds[speakers == speaker])) == 1 for speaker in set(speakers))


@pytest.mark.parametrize("save", [save_tiny_ssl, lambda folder: save_tiny_ssl(folder, "wavlm"), save_tiny_whisper])
def test_pooling_averages_each_layer_of_any_architecture(tmp_path, save):
    encoder = load_speech_encoder(save(tmp_path)).eval()
    wavs = [torch.randn(6000), torch.randn(9000)]
    pooled = tool.mean_pooled(encoder, wavs)
    assert pooled.shape == (len(encoder.layers) + 1, 2, encoder.output_size)
    with torch.no_grad():
        frames, _ = encoder(wavs[1].unsqueeze(0), torch.ones(1))
    np.testing.assert_allclose(pooled[-1, 1], frames[0].double().mean(dim=0).numpy(), rtol=1e-5, atol=1e-6)


def test_random_weights_follow_the_seed(tiny_hubert):
    encoder = load_speech_encoder(tiny_hubert)
    weight = "encoder.layers.0.feed_forward.output_dense.weight"
    trained = encoder.model.state_dict()[weight]
    first, again, other = (tool.untrained(encoder, seed).model.state_dict()[weight] for seed in (1, 1, 2))
    assert not torch.equal(first, trained) and not torch.equal(first, other)
    assert torch.equal(first, again)


@pytest.fixture
def corpus(tmp_path):
    """Write a corpus of 6 speakers, and one utterance of nobody known."""
    (tmp_path / "Audios").mkdir()
    (tmp_path / "Labels").mkdir()
    rng = np.random.default_rng(4)
    rows = []
    for index in range(25):
        soundfile.write(tmp_path / "Audios" / f"{index}.wav", 0.1 * rng.standard_normal(4000), 16000)
        speaker = "Unknown" if index == 24 else index % 6
        rows.append([f"{index}.wav", *np.round(rng.uniform(1, 7, 3), 3), speaker])
    _write_labels(tmp_path, rows)
    return tmp_path


def _write_labels(folder, rows):
    with open(folder / "Labels" / "labels_consensus.csv", "w", newline="") as file:
        csv.writer(file).writerows([["FileName", "EmoAct", "EmoVal", "EmoDom", "SpkrID"], *rows])


def test_tool_prints_a_table_for_each_encoder(corpus, tiny_hubert, capsys):
    tool.main([tiny_hubert, "--random", "--corpus", str(corpus)])
    printed = capsys.readouterr().out
    assert "24 utterances of 6 speakers" in printed
    assert printed.count("| layer | activation | valence | dominance |") == 2
    assert printed.count("\n| 0 | ") == printed.count("\n| 3 | ") == 2 and f"{tiny_hubert}, random weights: " in printed


def test_a_corpus_that_cannot_be_probed_is_refused(corpus):
    _write_labels(corpus, [["0.wav", 4, "high", 4, 1]])
    with pytest.raises(InputError, match=r"labels_consensus.csv, line 2: a label of 0.wav is not a number"):
        tool.read_corpus(corpus)
    _write_labels(corpus, [[f"{index}.wav", 4, 4, 4, index % 4] for index in range(8)])
    with pytest.raises(InputError, match="has 4 known speakers; 5 folds need"):
        tool.read_corpus(corpus)
