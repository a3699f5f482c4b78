import importlib.util
import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import ser_ts_lobes.training.datasets
from ser_ts_lobes import file_digests
from ser_ts_lobes.data.manifests import UNRATED, read_unrated
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.fingerprint import fingerprint_tensors
from ser_ts_lobes.lobes.descriptors import LowLevelDescriptors, ShortTermStatistics
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.lobes.text import TextEncoder
from ser_ts_lobes.lobes.words import WordEncoder
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.training.datasets import (
    load_manifests,
    load_teacher,
    make_dataset,
    make_datasets,
    make_frozen_dataset,
    use_teacher,
)
from ser_ts_lobes.training.feature_store import find_networks
from ser_ts_lobes.training.features import FrozenFeatures
from ser_ts_lobes.training.residuals import keep_mask
from ser_ts_lobes.training.targets import TeacherTargets, save_targets, targets_file
from ser_ts_lobes.training.trust import trust_by_residual, trust_by_spread
from ser_ts_lobes.training.uncertainty import keep_surest
from tests.fixtures_msp import WORDS, write_msp_tree

RECIPE = Path(__file__).parents[3] / "recipes" / "MSP-Podcast"
spec = importlib.util.spec_from_file_location("msp_podcast_prepare", RECIPE / "msp_podcast_prepare.py")
msp_podcast_prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(msp_podcast_prepare)


RUN_OPTS = {"device": "cpu", "noprogressbar": True}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    msp_podcast_prepare.prepare_msp_podcast(write_msp_tree(folder / "msp"), folder / "manifests")
    return folder / "manifests"


@pytest.fixture
def manifests(prepared):
    return load_manifests(prepared, needs_text=True)


def hparams_of(modules, **changes):
    settings = {"feature_folder": None, "feature_dtype": "float32", "batch_size": 4, "num_workers": 0}
    teaching = {"taught": "joint", "trust": "cut", "soft_label_weight": 0, "wav_augment": None, "emotion_weight": 0}
    return {"modules": modules, **teaching, **settings, **changes}


def word_encoder(folder):
    path = folder / "vectors.txt"
    path.write_text("".join(f"{word} 1 0\n" for word in [*sorted(set(WORDS)), "unheard"]))
    return WordEncoder(path, size=2)


def with_transcript(manifest, transcript):
    rows = {utterance: row | {"transcript": transcript} for utterance, row in manifest.utterances.items()}
    return replace(manifest, utterances=rows)


def test_the_corpus_may_have_moved(prepared):
    for manifest in load_manifests(prepared, data_root="/elsewhere").values():
        assert all(row["wav"].startswith("/elsewhere/Audios/") for row in manifest.utterances.values())


def make_targets(manifest, teacher="teacher"):
    random, n = np.random.default_rng(0), len(manifest.utterances)
    residual = np.vstack([np.full((1, 3), 9.0), random.normal(size=(n - 1, 3))])
    residual[1] = 2.2 * residual.std(axis=0)  # out by a threshold of 2, in by one of 3
    return TeacherTargets(
        ids=list(manifest.utterances)[::-1],  # another order than the manifest's
        embedding=random.normal(size=(n, 4)).astype(np.float32),
        prediction=random.normal(size=(n, 3)),
        label=manifest.labels()[::-1],
        residual=residual,
        made_from={"manifest": manifest.fingerprint, "teacher": teacher},
    )


SCRIPTS = {"teacher": "train_it.py", "targets": "make_its_targets.py"}


def save_teacher(folder, targets, fingerprint="teacher"):
    (folder / "targets").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"fingerprint": fingerprint, "test": {}}))
    targets.save(folder / "targets" / "train.safetensors")
    return {"teacher_folder": folder, "scripts": SCRIPTS, "taught": "joint"}


def test_a_dataset_gives_what_the_manifest_says(manifests, tiny_bert):
    encoder = TextEncoder(tiny_bert)
    dataset = make_dataset(manifests["train"], encoder)
    for item, (utterance, row) in zip(dataset, manifests["train"].utterances.items(), strict=True):
        assert item["id"] == utterance
        assert item["labels"].tolist() == pytest.approx([row["activation"], row["valence"], row["dominance"]])
        assert len(item["speech"]) == round(16000 * row["duration"])
        assert item["text"].equal(encoder.tokenize(row["transcript"]))
    assert set(make_dataset(manifests["train"], encoder, hears=False)[0]) == {"id", "labels", "text"}


def test_audio_that_is_gone_or_damaged_since_it_was_prepared_is_named_with_its_utterance(manifests, tmp_path):
    (tmp_path / "damaged.wav").write_bytes(b"RIFF")
    utterances = list(manifests["train"].utterances)[:2]
    for utterance, name in zip(utterances, ("gone.wav", "damaged.wav"), strict=True):
        manifests["train"].utterances[utterance]["wav"] = str(tmp_path / name)
    dataset = make_dataset(manifests["train"])
    with pytest.raises(InputError) as error:
        dataset[0]
    assert str(error.value) == (
        f"The audio file {tmp_path}/gone.wav of {utterances[0]} is gone: bring back the corpus (is a network drive "
        "missing?) and give the same command again, which goes on."
    )
    with pytest.raises(InputError, match=f"^{utterances[1]}: The audio file .*damaged.wav can't be used .unreadable."):
        dataset[1]
    assert len(dataset[2]["speech"])


def test_training_and_validation_get_frozen_features_and_tests_the_audio(manifests, tmp_path, tiny_hubert):
    encoder = load_speech_encoder(tiny_hubert, trainable_layers=1)
    hparams = hparams_of({"speech_encoder": encoder}, feature_folder=tmp_path / "features")
    kept = make_datasets(manifests, hparams, RUN_OPTS)
    anew = make_datasets(manifests, hparams | {"feature_folder": None}, RUN_OPTS)
    for name in ("train", "valid"):
        for with_features, with_audio in zip(kept[name], anew[name], strict=True):
            assert with_features["id"] == with_audio["id"] and with_features["labels"].equal(with_audio["labels"])
            expected, _ = encoder.frozen_forward(with_audio["speech"].unsqueeze(0), torch.ones(1))
            torch.testing.assert_close(with_features["speech"], expected[0], rtol=0, atol=1e-5)
    assert kept["test1"][0]["speech"].equal(anew["test1"][0]["speech"])


def test_a_system_that_only_reads_gets_no_audio(manifests, tmp_path):
    encoder = word_encoder(tmp_path)
    encoder.fit(["so it was"])
    datasets = make_datasets(manifests, hparams_of({"text_encoder": encoder}), RUN_OPTS)
    for name, manifest in manifests.items():
        item = datasets[name][0]
        assert list(item) == ["id", "labels", "text"]
        assert item["text"].equal(encoder.tokenize(manifest.utterances[item["id"]]["transcript"]))


@pytest.mark.parametrize("kept", [False, True])
def test_making_datasets_changes_no_network(manifests, tmp_path, kept):
    modules = {"speech_encoder": LowLevelDescriptors(), "text_encoder": word_encoder(tmp_path)}
    modules["text_encoder"].fit(["words of some other set", "so it was"])
    modules["speech_encoder"].scale.mean += 1

    def look():
        states = {f"{key}.{name}": t for key, m in modules.items() for name, t in m.state_dict().items()}
        return fingerprint_tensors(states), [module.frozen_fingerprint() for module in modules.values()]

    before = look()
    make_datasets(manifests, hparams_of(modules, feature_folder=tmp_path / "kept" if kept else None), RUN_OPTS)
    assert look() == before


def make_kept(manifest, folder, text_encoder, **encoders):
    return make_frozen_dataset(manifest, encoders | {"text": text_encoder}, folder, progressbar=False)


def kept_sizes(folder):
    """Of each network, how many features are kept."""
    return {network.made_by["encoder"]: network.n_features for network in find_networks(folder)}


def test_tokens_are_kept_as_frames_are(manifests, tmp_path, tiny_bert):
    encoder = TextEncoder(tiny_bert)
    kept = make_kept(manifests["train"], tmp_path, encoder)
    assert list(kept[0]) == ["id", "labels", "text"]
    for item, row in zip(kept, manifests["train"].utterances.values(), strict=True):
        expected, _ = encoder.frozen_forward(encoder.tokenize(row["transcript"]).unsqueeze(0), torch.ones(1))
        torch.testing.assert_close(item["text"], expected[0], rtol=0, atol=5e-3)


def test_what_is_kept_depends_on_its_own_input_alone(manifests, tmp_path, tiny_bert):
    encoder, n = TextEncoder(tiny_bert), len(manifests["valid"].utterances)
    n_texts = len({row["transcript"] for row in manifests["valid"].utterances.values()})
    kept = make_kept(manifests["valid"], tmp_path, encoder, speech=ShortTermStatistics())
    assert kept_sizes(tmp_path) == {"ShortTermStatistics": n, "TextEncoder": n_texts}
    changed = with_transcript(manifests["valid"], "it was not so good")
    again = make_kept(changed, tmp_path, encoder, speech=ShortTermStatistics())
    assert kept_sizes(tmp_path) == {"ShortTermStatistics": n, "TextEncoder": n_texts + 1}
    assert list(kept[0]) == ["id", "labels", "speech", "text"]
    assert kept[0]["speech"].equal(again[0]["speech"])
    assert all(item["text"].equal(again[0]["text"]) for item in again)


def test_splits_of_other_folds_share_what_is_kept(manifests, tmp_path):
    fold_1 = manifests["train"]
    some = dict(list(fold_1.utterances.items())[:5])
    fold_2 = replace(manifests["valid"], utterances=some | manifests["valid"].utterances)
    for manifest, expected in [(fold_1, 8), (fold_2, 8 + len(manifests["valid"].utterances))]:
        make_frozen_dataset(manifest, {"speech": ShortTermStatistics()}, tmp_path, progressbar=False)
        assert kept_sizes(tmp_path) == {"ShortTermStatistics": expected}


def test_other_audio_of_the_same_length_and_date_is_noticed(tmp_path):
    corpus = write_msp_tree(tmp_path / "msp")
    msp_podcast_prepare.prepare_msp_podcast(corpus, tmp_path / "manifests")
    manifest = load_manifests(tmp_path / "manifests")["train"]
    encoders = {"speech": ShortTermStatistics()}
    before = make_frozen_dataset(manifest, encoders, tmp_path / "kept", progressbar=False)[0]["speech"]
    path = Path(next(iter(manifest.utterances.values()))["wav"])
    date = path.stat()
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1] / 2, rate)
    os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))
    assert path.stat().st_size == date.st_size
    after = make_frozen_dataset(manifest, encoders, tmp_path / "kept", progressbar=False)[0]["speech"]
    assert not after.allclose(before)


def test_audio_is_read_once_to_know_it_by_its_content(manifests, tmp_path, monkeypatch):
    read = []
    fingerprint_file = file_digests.fingerprint_file
    monkeypatch.setattr(file_digests, "fingerprint_file", lambda path: read.append(path) or fingerprint_file(path))
    monkeypatch.setattr(file_digests, "_STEP_NS", -(10**12))  # as if it had been there for long
    for encoder in (ShortTermStatistics(), LowLevelDescriptors()):
        make_frozen_dataset(manifests["valid"], {"speech": encoder}, tmp_path, progressbar=False)
    wavs = [path for path in read if path.endswith(".wav")]  # beside shards, which are read once, too
    assert sorted(wavs) == sorted(row["wav"] for row in manifests["valid"].utterances.values())
    assert len(read) == len(wavs) + 2
    assert (tmp_path / "audio_digests.json").is_file()


def test_nothing_is_kept_of_an_encoder_that_freezes_nothing(manifests, tmp_path):
    encoder = word_encoder(tmp_path)
    encoder.fit(["so unheard"])
    kept = make_kept(with_transcript(manifests["train"], "unheard so"), tmp_path / "kept", encoder)
    assert [item["text"].tolist() for item in kept] == [[2, 1]] * len(kept)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(("device", "expected"), [("cuda:1", "cuda:1"), (None, "the one that is there")])
def test_what_the_user_set_reaches_the_frozen_features(manifests, tmp_path, monkeypatch, device, expected):
    calls = []
    monkeypatch.setattr(FrozenFeatures, "compute", lambda **options: calls.append(options) or {})
    monkeypatch.setattr(ser_ts_lobes.training.datasets, "infer_device", lambda: "the one that is there")
    settings = {"feature_folder": tmp_path, "feature_dtype": "float16", "batch_size": 7, "num_workers": 3}
    make_datasets(
        manifests,
        hparams_of({"speech_encoder": ShortTermStatistics()}, **settings),
        {"device": device, "noprogressbar": False},
    )
    wanted = {"cache_folder": tmp_path, "dtype": "float16", "batch_size": 7, "num_workers": 3, "device": expected}
    assert all(call.items() >= (wanted | {"progressbar": True, "key": "speech"}).items() for call in calls)


@pytest.mark.parametrize("threshold", [2.0, None])
def test_the_training_set_alone_gets_the_teacher(manifests, threshold):
    targets = make_targets(manifests["train"])
    hparams = hparams_of({"speech_encoder": ShortTermStatistics()}, residual_threshold=threshold)
    datasets = make_datasets(manifests, hparams, RUN_OPTS, {"train": targets})
    rows = [targets.ids.index(utterance) for utterance in manifests["train"].utterances]
    assert [item["keep"] for item in datasets["train"]] == keep_mask(targets.residual, threshold)[rows].tolist()
    assert "keep" not in datasets["valid"][0]
    assert "keep" not in make_datasets(manifests, hparams, RUN_OPTS)["train"][0]


@pytest.mark.parametrize(
    ("threshold", "kind", "said"),
    [
        (2.0, "cut", "on 87.5% of 8"),
        (None, "cut", "on 100.0% of 8"),
        (2.0, "per_dimension", "on 87.5% of 8"),
        (2.0, "soft", "with a mean weight of 0.80 on 8"),
    ],
)
def test_each_utterance_gets_its_own_teacher(manifests, threshold, kind, said, caplog):
    targets = make_targets(manifests["train"])
    dataset = make_dataset(manifests["train"])
    trust = trust_by_residual(targets.residual, threshold, kind)
    with caplog.at_level(logging.INFO):
        use_teacher(dataset, manifests["train"], targets, trust)
    assert f"The student follows the teacher {said} training utterances." in caplog.text
    for item in dataset:
        row = targets.ids.index(item["id"])
        np.testing.assert_array_equal(item["teacher_embedding"], targets.embedding[row])
        np.testing.assert_array_equal(item["teacher_prediction"], targets.prediction[row].astype(np.float32))
        assert item["keep"] == trust.embedding[row] and item["keep"].dtype == torch.from_numpy(trust.embedding).dtype
        np.testing.assert_array_equal(item["prediction_trust"], trust.prediction[row], strict=True)


@pytest.mark.parametrize("kind", ["text", "sentence"])
def test_each_utterance_gets_the_embedding_that_is_taught(manifests, kind):
    targets = make_targets(manifests["train"])
    random = np.random.default_rng(2)
    targets.text, targets.sentence = (random.normal(size=(8, size)).astype(np.float32) for size in (6, 7))
    hparams = hparams_of({"speech_encoder": ShortTermStatistics()}, residual_threshold=2.0, taught=kind)
    for item in make_datasets(manifests, hparams, RUN_OPTS, {"train": targets})["train"]:
        np.testing.assert_array_equal(item["teacher_embedding"], getattr(targets, kind)[targets.ids.index(item["id"])])


def test_targets_of_before_are_refused_where_they_lack_what_is_taught(manifests, tmp_path):
    hparams = save_teacher(tmp_path / "teacher", make_targets(manifests["train"]))
    assert load_teacher(manifests, hparams)
    with pytest.raises(InputError) as error:
        load_teacher(manifests, hparams | {"taught": "sentence"})
    assert str(error.value) == (
        f"{tmp_path / 'teacher/targets/train.safetensors'}: there is no sentence embedding; an earlier version made "
        "them, or the teacher has none: make the teacher targets again. The command is `python make_its_targets.py "
        "hparams/teacher.yaml`."
    )


@pytest.fixture
def with_unrated(manifests):
    """Give the manifests with one of speech that nobody rated; here the valid one's."""
    return manifests | {UNRATED: read_unrated(manifests["valid"].path)}


def make_unrated_targets(manifest, teacher="teacher"):
    random, n = np.random.default_rng(1), len(manifest.utterances)
    return TeacherTargets(
        ids=list(manifest.utterances)[::-1],
        embedding=random.normal(size=(n, 4)).astype(np.float32),
        prediction=random.normal(size=(n, 3)),
        label=None,
        residual=None,
        made_from={"manifest": manifest.fingerprint, "teacher": teacher, "spread": "of 10 passes"},
        spread=random.uniform(size=(n, 3)),
    )


@pytest.mark.parametrize(("share", "n_kept"), [(None, 4), (0.5, 2), (1.0, 4)])  # None: 7 of 8, as of the rated ones
def test_unrated_utterances_follow_the_rated_ones_in_training(with_unrated, share, n_kept, caplog):
    targets = {"train": make_targets(with_unrated["train"]), UNRATED: make_unrated_targets(with_unrated[UNRATED])}
    hparams = hparams_of({"speech_encoder": ShortTermStatistics()}, residual_threshold=2.0, unrated_keep=share)
    with caplog.at_level(logging.INFO):
        datasets = make_datasets(with_unrated, hparams, RUN_OPTS, targets)
    assert f"follows the teacher on {n_kept / 4:.1%} of 4 unrated utterances" in caplog.text
    assert list(datasets) == ["train", "valid", "test1"]
    mixed = datasets["train"]
    assert (len(mixed), len(mixed.rated), len(mixed.unrated)) == (12, 8, 4)
    items = list(mixed)
    assert [item["id"] for item in items] == [*with_unrated["train"].utterances, *with_unrated[UNRATED].utterances]
    assert [item["labels"].isnan().all().item() for item in items] == [False] * 8 + [True] * 4
    keep = keep_surest(targets[UNRATED].spread, 7 / 8 if share is None else share)
    assert keep.sum() == n_kept
    for item in items[8:]:
        row = targets[UNRATED].ids.index(item["id"])
        np.testing.assert_array_equal(item["teacher_embedding"], targets[UNRATED].embedding[row])
        assert item["keep"] == keep[row] and item["speech"].dim() == 1
    alone = make_datasets(with_unrated, hparams, RUN_OPTS, {"train": targets["train"]})["train"]
    assert [item["keep"] for item in alone] == [item["keep"] for item in items[:8]]


@pytest.mark.parametrize("kind", ["soft", "per_dimension"])
@pytest.mark.parametrize("share", [None, 0.5])
def test_unrated_speech_is_trusted_in_the_same_way_by_its_spread(with_unrated, kind, share):
    targets = {"train": make_targets(with_unrated["train"]), UNRATED: make_unrated_targets(with_unrated[UNRATED])}
    options = {"residual_threshold": 2.0, "unrated_keep": share, "trust": kind}
    hparams = hparams_of({"speech_encoder": ShortTermStatistics()}, **options)
    mixed = make_datasets(with_unrated, hparams, RUN_OPTS, targets)["train"]
    # By default on as large a share as the cut keeps of the rated ones.
    by_spread = trust_by_spread(targets[UNRATED].spread, 7 / 8 if share is None else share, kind)
    by_residual = trust_by_residual(targets["train"].residual, 2.0, kind)
    for dataset, name, trust in ((mixed.rated, "train", by_residual), (mixed.unrated, UNRATED, by_spread)):
        for item in dataset:
            row = targets[name].ids.index(item["id"])
            assert item["keep"] == trust.embedding[row]
            np.testing.assert_array_equal(item["prediction_trust"], trust.prediction[row])
            np.testing.assert_array_equal(item["teacher_prediction"], targets[name].prediction[row].astype(np.float32))


def test_frozen_features_of_unrated_speech_are_kept(with_unrated, tmp_path):
    hparams = hparams_of({"speech_encoder": ShortTermStatistics()}, feature_folder=tmp_path)
    make_datasets({name: with_unrated[name] for name in ("train", UNRATED)}, hparams, RUN_OPTS)
    assert kept_sizes(tmp_path) == {"ShortTermStatistics": 12}


def test_the_teachers_targets_of_unrated_speech_are_loaded(with_unrated, tmp_path):
    targets = {"train": make_targets(with_unrated["train"]), UNRATED: make_unrated_targets(with_unrated[UNRATED])}
    hparams = save_teacher(tmp_path / "teacher", targets["train"])
    command = f"`python make_its_targets.py hparams/teacher.yaml --unrated_manifest {with_unrated[UNRATED].path}`"
    with pytest.raises(
        InputError, match=re.escape(f"there are no teacher targets: make them. The command is {command}")
    ):
        load_teacher(with_unrated, hparams)
    save_targets(tmp_path / "teacher", targets)
    loaded = load_teacher(with_unrated, hparams)
    assert list(loaded) == ["train", UNRATED]
    np.testing.assert_array_equal(loaded[UNRATED].spread, targets[UNRATED].spread)
    targets[UNRATED].made_from["teacher"] = "trained before"
    targets[UNRATED].save(targets_file(RunFolder(tmp_path / "teacher"), UNRATED, with_unrated[UNRATED].fingerprint))
    with pytest.raises(InputError, match=f"another teacher.*{re.escape(command)}"):
        load_teacher(with_unrated, hparams)


def test_a_system_without_teacher_folder_learns_alone(manifests):
    assert load_teacher(manifests, {}) == {}


def test_the_teachers_targets_are_loaded(manifests, tmp_path):
    targets = make_targets(manifests["train"])
    [loaded] = load_teacher(manifests, save_teacher(tmp_path / "teacher", targets)).values()
    np.testing.assert_array_equal(loaded.embedding, targets.embedding)


def test_a_missing_teacher_names_the_commands(manifests, tmp_path):
    with pytest.raises(InputError) as error:
        load_teacher(manifests, {"teacher_folder": tmp_path / "nobody", "scripts": SCRIPTS})
    assert str(error.value) == (
        f"{tmp_path / 'nobody'} has no trained teacher: run `python train_it.py hparams/teacher.yaml` and "
        "`python make_its_targets.py hparams/teacher.yaml` first, or name another --teacher_folder."
    )


def test_missing_targets_name_the_command(manifests, tmp_path):
    hparams = save_teacher(tmp_path / "teacher", make_targets(manifests["train"]))
    (tmp_path / "teacher" / "targets" / "train.safetensors").unlink()
    with pytest.raises(InputError, match=r"`python make_its_targets.py hparams/teacher.yaml`"):
        load_teacher(manifests, hparams)


def test_targets_of_a_teacher_that_was_trained_again_are_refused(manifests, tmp_path):
    hparams = save_teacher(tmp_path / "teacher", make_targets(manifests["train"]), fingerprint="trained again")
    with pytest.raises(InputError, match="another teacher.*`python make_its_targets.py hparams/teacher.yaml`"):
        load_teacher(manifests, hparams)


def test_targets_for_another_manifest_are_refused(manifests, tmp_path):
    hparams = save_teacher(tmp_path / "teacher", make_targets(manifests["train"]))
    with pytest.raises(InputError, match="another manifest"):
        load_teacher({"train": replace(manifests["valid"], name="train")}, hparams)


def test_missing_transcripts_name_the_command(tmp_path):
    corpus = write_msp_tree(tmp_path / "msp", transcripts=False)
    msp_podcast_prepare.prepare_msp_podcast(corpus, tmp_path / "manifests")
    load_manifests(tmp_path / "manifests")
    with pytest.raises(InputError, match=r"8 of 8 utterances have no transcript .*`ser-ts transcribe"):
        load_manifests(tmp_path / "manifests", needs_text=True)


def test_unrated_speech_comes_last_and_needs_words_where_they_are_read(prepared, tmp_path):
    rows = (prepared / "train.csv").read_text().replace("$data_root", "/elsewhere").splitlines()
    unrated = tmp_path / "train.csv"
    unrated.write_text("\n".join(rows) + "\n")
    manifests = load_manifests(prepared, needs_text=True, unrated=unrated)
    assert list(manifests) == ["train", "valid", "test1", "unrated"] and not manifests["unrated"].labelled
    unrated.write_text("\n".join([*rows, "x,1,/elsewhere/x.wav,1,Male,,,,,"]) + "\n")
    with pytest.raises(InputError, match="line 10: x has no labels, unlike the rows above"):
        load_manifests(prepared, unrated=unrated)
    unrated.write_text("\n".join([rows[0], "x,1,/elsewhere/x.wav,1,Male,,,,,"]) + "\n")
    assert len(load_manifests(prepared, unrated=unrated)["unrated"].utterances) == 1
    with pytest.raises(InputError, match=r"train.csv: 1 of 1 utterances have no transcript \(first: x\)"):
        load_manifests(prepared, needs_text=True, unrated=unrated)
    unrated.write_text((prepared / "valid.csv").read_text().replace("$data_root", str(prepared.parent / "msp")))
    with pytest.raises(InputError, match="4 of 4 recordings are of the sets that validate and test"):
        load_manifests(prepared, unrated=unrated)


def test_ratings_are_read_of_the_training_set_where_they_are_needed(tmp_path):
    corpus = write_msp_tree(tmp_path / "msp")
    names = [path.name for path in sorted((corpus / "Audios").iterdir())]
    answers = "".join(f"{name},W{rater},{3 + rater},2,7\n" for name in names[:-1] for rater in range(3))
    (corpus / "Labels" / "labels_detailed.csv").write_text(f"FileName,Worker,EmoAct,EmoVal,EmoDom\n{answers}")
    folder = tmp_path / "manifests"
    msp_podcast_prepare.prepare_msp_podcast(corpus, folder)
    assert load_manifests(folder)["train"].ratings is None
    manifests = load_manifests(folder, needs_ratings=True)
    train = manifests["train"]
    assert train.ratings == dict.fromkeys(train.utterances, ((3, 4, 5), (2, 2, 2), (7, 7, 7)))
    assert manifests["valid"].ratings is None
    options = {"soft_label_weight": 0.5, "soft_label_points": [1, 4, 7]}
    datasets = make_datasets(manifests, hparams_of({}, **options), RUN_OPTS)
    # Of 3, 4 and 5 between the points 1, 4 and 7; 2 is a third of the way from 1 to 4.
    expected = torch.tensor([[1 / 9, 7 / 9, 1 / 9], [2 / 3, 1 / 3, 0], [0, 0, 1]])
    torch.testing.assert_close(datasets["train"][0]["soft_labels"], expected)
    assert "soft_labels" not in datasets["valid"][0]


def test_missing_ratings_name_their_file(prepared):
    with pytest.raises(InputError, match=r"has no ratings.csv, .*--soft_label_weight=0"):
        load_manifests(prepared, needs_ratings=True)


def test_a_missing_split_is_named(tmp_path):
    corpus = write_msp_tree(tmp_path / "msp", {"Train": 4, "Test1": 4})
    msp_podcast_prepare.prepare_msp_podcast(corpus, tmp_path / "manifests")
    with pytest.raises(InputError, match="no utterances for valid.csv"):
        load_manifests(tmp_path / "manifests")


def test_classes_are_those_that_are_named(prepared):
    assert "emotion_class" not in make_datasets(load_manifests(prepared), hparams_of({}), RUN_OPTS)["train"][0]
    there = sorted({row["emotion"] for row in load_manifests(prepared)["train"].utterances.values()})
    manifests = load_manifests(prepared, emotion_classes=there[::-1][:2])
    dataset = make_datasets(manifests, hparams_of({}, emotion_weight=1), RUN_OPTS)["train"]
    for item, row in zip(dataset, manifests["train"].utterances.values(), strict=True):
        assert item["emotion_class"].item() == {there[-1]: 0, there[-2]: 1}.get(row["emotion"], -1)
    with pytest.raises(InputError, match=r"train.csv: no utterance is of emotion class Q; its column emotion has .* "):
        load_manifests(prepared, emotion_classes=[there[0], "Q"])
