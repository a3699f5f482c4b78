import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ser_ts_lobes.dataio import load_manifests, load_teacher, make_dataset, make_datasets, use_teacher
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.lobes.text import TextEncoder
from ser_ts_lobes.residuals import keep_mask
from ser_ts_lobes.targets import TeacherTargets
from tests.fixtures_msp import write_msp_tree

RECIPE = Path(__file__).parents[2] / "recipes" / "MSP-Podcast"
spec = importlib.util.spec_from_file_location("msp_podcast_prepare", RECIPE / "msp_podcast_prepare.py")
msp_podcast_prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(msp_podcast_prepare)


@pytest.fixture
def manifests(tmp_path):
    msp_podcast_prepare.prepare_msp_podcast(write_msp_tree(tmp_path / "msp"), tmp_path / "manifests")
    return load_manifests(tmp_path / "manifests", needs_text=True)


def make_targets(manifest, teacher="teacher"):
    random, n = np.random.default_rng(0), len(manifest.utterances)
    return TeacherTargets(
        ids=list(manifest.utterances)[::-1],  # another order than the manifest's
        embedding=random.normal(size=(n, 4)).astype(np.float32),
        prediction=random.normal(size=(n, 3)),
        label=manifest.labels()[::-1],
        residual=np.vstack([np.full((1, 3), 9.0), random.normal(size=(n - 1, 3))]),
        made_from={"manifest": manifest.fingerprint, "teacher": teacher},
    )


def save_teacher(folder, targets, fingerprint="teacher"):
    (folder / "targets").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"fingerprint": fingerprint, "test": {}}))
    targets.save(folder / "targets" / "train.safetensors")
    return {"teacher_folder": folder}


def test_a_dataset_gives_what_the_manifest_says(manifests, tiny_bert):
    encoder = TextEncoder(tiny_bert)
    dataset = make_dataset(manifests["train"], encoder)
    for item, (utterance, row) in zip(dataset, manifests["train"].utterances.items(), strict=True):
        assert item["id"] == utterance
        assert item["labels"].tolist() == pytest.approx([row["activation"], row["valence"], row["dominance"]])
        assert len(item["speech"]) == round(16000 * row["duration"])
        assert item["text"].equal(encoder.tokenize(row["transcript"]))
    assert set(make_dataset(manifests["train"], encoder, hears=False)[0]) == {"id", "labels", "text"}


def test_training_and_validation_get_frozen_features_and_tests_the_audio(manifests, tmp_path, tiny_hubert):
    encoder = load_speech_encoder(tiny_hubert, trainable_layers=1)
    hparams = {
        "modules": {"speech_encoder": encoder},
        "feature_folder": tmp_path / "features",
        "feature_dtype": "float32",
        "batch_size": 4,
        "num_workers": 0,
    }
    run_opts = {"device": "cpu", "noprogressbar": True}
    kept = make_datasets(manifests, hparams, run_opts)
    anew = make_datasets(manifests, hparams | {"feature_folder": None}, run_opts)
    for name in ("train", "valid"):
        for with_features, with_audio in zip(kept[name], anew[name], strict=True):
            assert with_features["id"] == with_audio["id"] and with_features["labels"].equal(with_audio["labels"])
            expected, _ = encoder.frozen_forward(with_audio["speech"].unsqueeze(0), torch.ones(1))
            torch.testing.assert_close(with_features["speech"], expected[0], rtol=0, atol=1e-5)
    assert kept["test1"][0]["speech"].equal(anew["test1"][0]["speech"])


@pytest.mark.parametrize("threshold", [2.0, None])
def test_each_utterance_gets_its_own_teacher(manifests, threshold):
    targets = make_targets(manifests["train"])
    dataset = make_dataset(manifests["train"])
    share = use_teacher(dataset, manifests["train"], targets, threshold)
    keep = keep_mask(targets.residual, threshold)
    assert share == keep.mean() and keep.all() == (threshold is None)
    for item in dataset:
        row = targets.ids.index(item["id"])
        np.testing.assert_array_equal(item["teacher_embedding"], targets.embedding[row])
        assert item["keep"] == keep[row]


def test_a_system_without_teacher_folder_learns_alone(manifests):
    assert load_teacher(manifests["train"], {}) is None


def test_the_teachers_targets_are_loaded(manifests, tmp_path):
    targets = make_targets(manifests["train"])
    loaded = load_teacher(manifests["train"], save_teacher(tmp_path / "teacher", targets))
    np.testing.assert_array_equal(loaded.embedding, targets.embedding)


def test_a_missing_teacher_names_the_commands(manifests, tmp_path):
    with pytest.raises(InputError, match=r"run `python train_teacher.py hparams/teacher.yaml` and `python precompute"):
        load_teacher(manifests["train"], {"teacher_folder": tmp_path / "nobody"})


def test_missing_targets_name_the_command(manifests, tmp_path):
    hparams = save_teacher(tmp_path / "teacher", make_targets(manifests["train"]))
    (tmp_path / "teacher" / "targets" / "train.safetensors").unlink()
    with pytest.raises(InputError, match=r"`python precompute_targets.py hparams/teacher.yaml`"):
        load_teacher(manifests["train"], hparams)


def test_targets_of_a_teacher_that_was_trained_again_are_refused(manifests, tmp_path):
    hparams = save_teacher(tmp_path / "teacher", make_targets(manifests["train"]), fingerprint="trained again")
    with pytest.raises(InputError, match="another teacher"):
        load_teacher(manifests["train"], hparams)


def test_targets_for_another_manifest_are_refused(manifests, tmp_path):
    hparams = save_teacher(tmp_path / "teacher", make_targets(manifests["train"]))
    with pytest.raises(InputError, match="another manifest"):
        load_teacher(manifests["valid"], hparams | {"teacher_folder": rename_targets(tmp_path / "teacher")})


def rename_targets(folder):
    (folder / "targets" / "train.safetensors").rename(folder / "targets" / "valid.safetensors")
    return folder


def test_missing_transcripts_name_the_command(tmp_path):
    corpus = write_msp_tree(tmp_path / "msp", transcripts=False)
    msp_podcast_prepare.prepare_msp_podcast(corpus, tmp_path / "manifests")
    load_manifests(tmp_path / "manifests")
    with pytest.raises(InputError, match=r"8 of 8 utterances have no transcript .*`ser-ts transcribe"):
        load_manifests(tmp_path / "manifests", needs_text=True)


def test_a_missing_split_is_named(tmp_path):
    corpus = write_msp_tree(tmp_path / "msp", {"Train": 4, "Test1": 4})
    msp_podcast_prepare.prepare_msp_podcast(corpus, tmp_path / "manifests")
    with pytest.raises(InputError, match="no utterances for valid.csv"):
        load_manifests(tmp_path / "manifests")
