import numpy as np
import pytest
import torch

from ser_ts_lobes.lobes.descriptors import LowLevelDescriptors
from ser_ts_lobes.lobes.emotion import LabelScale
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.lobes.words import WordEncoder
from ser_ts_lobes.training.datasets import load_manifests, make_datasets
from ser_ts_lobes.training.fitting import learn_from_training_set
from tests.fixtures_msp import write_msp_tree
from tests.tiny_models import save_word_vectors
from tests.unit.training.test_datasets import RUN_OPTS, hparams_of, msp_podcast_prepare


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus = write_msp_tree(folder / "msp", {"Train": 7, "Development": 4, "Test1": 4})
    msp_podcast_prepare.prepare_msp_podcast(corpus, folder / "manifests")
    return load_manifests(folder / "manifests", needs_text=True)


def learn(manifest, feature_folder=None, **modules):
    """Let networks learn from a training set; return the settings that they are in."""
    hparams = hparams_of({"label_scale": LabelScale(), **modules}, feature_folder=feature_folder)
    hparams["valid_dataloader_opts"] = {"batch_size": 3, "num_workers": 0}
    learn_from_training_set(manifest, hparams, RUN_OPTS)
    return hparams


def test_labels_are_standardised_on_the_training_set(manifests):
    scale = learn(manifests["train"])["modules"]["label_scale"]
    labels = torch.tensor(manifests["train"].labels())
    standardised = scale.standardise(labels)
    torch.testing.assert_close(standardised.mean(dim=0).double(), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(standardised.std(dim=0, correction=0).double(), torch.ones(3).double())
    assert not np.allclose(manifests["valid"].labels().mean(axis=0), labels.mean(dim=0), atol=0.01)


def test_words_are_those_of_the_training_set(manifests, tmp_path):
    encoder = WordEncoder(save_word_vectors(tmp_path / "vectors.txt", size=2), size=2)
    learn(manifests["train"], text_encoder=encoder)
    transcripts = [row["transcript"] for row in manifests["train"].utterances.values()]
    words = sorted({word for transcript in transcripts for word in transcript.lower().split()})
    assert len(words) > 3
    assert encoder.tokenize(f"unheard {words[-1]} {words[0]}").tolist() == [len(words), 1]


@pytest.mark.parametrize("kept", [False, True], ids=["from audio", "from kept features"])
def test_descriptors_are_standardised_on_the_whole_training_set(manifests, tmp_path, kept):
    encoder = LowLevelDescriptors()
    hparams = learn(manifests["train"], str(tmp_path) if kept else None, speech_encoder=encoder)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    datasets = make_datasets(manifests, hparams | {"feature_folder": str(tmp_path)}, RUN_OPTS)
    if kept:  # what was computed to learn from is what training reads
        assert written and all(path.stat().st_mtime_ns == time for path, time in written.items())
    frames = np.concatenate([item["speech"].double().numpy() for item in datasets["train"]])
    np.testing.assert_allclose(encoder.scale.mean, frames.mean(axis=0), rtol=1e-4, atol=1e-5)
    varying = frames.std(axis=0) > 1e-6
    np.testing.assert_allclose(encoder.scale.std[varying], frames.std(axis=0)[varying], rtol=1e-4)


def test_nothing_is_computed_for_an_encoder_that_needs_nothing(manifests, tmp_path, tiny_hubert):
    encoder = load_speech_encoder(tiny_hubert)
    encoder.frozen_forward = None
    learn(manifests["train"], str(tmp_path), speech_encoder=encoder)
    assert not list(tmp_path.iterdir())
