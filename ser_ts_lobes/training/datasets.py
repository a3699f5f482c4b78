"""Datasets: from manifests to what a Brain's batches hold."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import infer_device
from speechbrain.utils.logger import get_logger

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.audio import UnusableAudio, read_audio
from ser_ts_lobes.data.manifests import UNRATED, find_manifests, read_manifest, read_unrated
from ser_ts_lobes.data.ratings import read_ratings, soft_labels
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.file_digests import FileDigests
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.training.features import FrozenFeatures
from ser_ts_lobes.training.targets import TeacherTargets, targets_file
from ser_ts_lobes.training.trust import Trust, trust_by_residual, trust_by_spread

if TYPE_CHECKING:
    from ser_ts_lobes.data.manifests import Manifest
    from ser_ts_lobes.lobes.encoder import Encoder
    from ser_ts_lobes.lobes.text import TextEncoder
    from ser_ts_lobes.lobes.words import WordEncoder

logger = get_logger(__name__)


def load_manifests(
    folder: str | Path,
    data_root: str | Path | None = None,
    needs_text: bool = False,
    unrated: str | Path | None = None,
    needs_ratings: bool = False,
    emotion_classes: Sequence[str] | None = None,
) -> "dict[str, Manifest]":
    """Read all manifests of a folder and check that they can train and test a system.

    Parameters
    ----------
    folder
        Where a prepare script wrote them.
    data_root
        What ``$data_root`` stands for; None takes the folder that was prepared.
    needs_text
        Whether each utterance must have been transcribed.
    unrated
        A manifest of speech that nobody rated, to be taught on; None for none.
    needs_ratings
        Whether to read what each rater said of the training set.
    emotion_classes
        The classes of the column ``emotion`` that are to be learnt; None for none.

    Returns
    -------
    dict[str, ser_ts_lobes.data.manifests.Manifest]
        In the order ``train``, ``valid``, then the test sets, then `ser_ts_lobes.data.manifests.UNRATED`, if any.

    Raises
    ------
    InputError
        If a split that training needs is missing, or a transcript, or a class in the training set; or as of
        `ser_ts_lobes.data.manifests.read_unrated` and `ser_ts_lobes.data.ratings.read_ratings`.
    """
    manifests = {name: read_manifest(path, data_root) for name, path in find_manifests(folder).items()}
    for name in ("train", "valid"):
        if name not in manifests or not manifests[name].utterances:
            raise InputError(f"{folder} has no utterances for {name}.csv: training needs it.")
    if unrated is not None:
        manifests[UNRATED] = read_unrated(unrated, list(manifests.values()))
    if emotion_classes is not None:
        for name in manifests.keys() - {UNRATED}:
            manifests[name].emotion_classes = tuple(emotion_classes)
        manifests["train"].require_emotions()
    if needs_ratings:
        manifests["train"].ratings = read_ratings(folder, manifests["train"].utterances)
    if needs_text:
        for manifest in manifests.values():
            manifest.require_transcripts()
    return manifests


def labels_beside(hparams: dict[str, Any]) -> dict[str, Any]:
    """Say what is learnt beside the three dimensions, as `load_manifests` takes it.

    Parameters
    ----------
    hparams
        ``soft_label_weight``, ``emotion_weight`` and ``emotion_classes``.

    Returns
    -------
    dict[str, Any]
        ``needs_ratings`` and ``emotion_classes``.

    Example
    -------
    >>> labels_beside({"soft_label_weight": 0.0, "emotion_weight": 0.5, "emotion_classes": ["angry", "sad"]})
    {'needs_ratings': False, 'emotion_classes': ['angry', 'sad']}
    """
    return {
        "needs_ratings": hparams["soft_label_weight"] > 0,
        "emotion_classes": hparams["emotion_classes"] if hparams["emotion_weight"] > 0 else None,
    }


def make_dataset(
    manifest: "Manifest", text_encoder: "TextEncoder | WordEncoder | None" = None, hears: bool = True
) -> DynamicItemDataset:
    """Make the dataset of one manifest: waveforms, tokens and labels by utterance id.

    Parameters
    ----------
    manifest
        One split.
    text_encoder
        Whose tokens to give; None for none.
    hears
        Whether to give the waveform.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        Items ``id``; ``speech``: (N,) float32 at 16 kHz; ``text``: (U,) int64; ``labels``: (3,) float32
        on the corpus's scale.
    """
    items: dict[str, Any] = {}
    if hears:
        items["speech"] = _read_speech, ("id", "wav")
    if text_encoder is not None:
        items["text"] = text_encoder.tokenize, "transcript"
    return _make_dataset(manifest, items)


def _make_dataset(manifest, items):
    """Make a dataset of ids, labels and some items: by name, a function and the column or columns that it takes."""
    # Copies, for a dataset that is filtered writes the ids into its rows.
    dataset = DynamicItemDataset({utterance: dict(row) for utterance, row in manifest.utterances.items()})
    dataset.add_dynamic_item(_to_labels, DIMENSIONS, "labels")
    for key, (function, columns) in items.items():
        dataset.add_dynamic_item(function, columns, key)
    dataset.set_output_keys(["id", "labels", *items])
    return dataset


def _read_speech(utterance, path):
    """Read the waveform of an utterance, which was there when the corpus was prepared."""
    try:
        return read_audio(path)
    except UnusableAudio as error:
        if error.problem != "missing":
            raise InputError(f"{utterance}: {error}") from error
        raise InputError(
            f"The audio file {path} of {utterance} is gone: bring back the corpus (is a network drive missing?) and "
            "give the same command again, which goes on."
        ) from error


def _to_labels(*labels):
    return torch.tensor(labels, dtype=torch.float32)


def make_frozen_dataset(
    manifest: "Manifest",
    encoders: "dict[str, Encoder]",
    feature_folder: str | Path,
    keeps_waveforms: bool = False,
    **options,
) -> DynamicItemDataset:
    """Make a dataset like `make_dataset`'s, of what frozen networks compute, kept on disk.

    Parameters
    ----------
    manifest
        One split.
    encoders
        The encoder of each item, ``speech`` or ``text``.
    feature_folder
        Where features are kept, and the digests of the audio files beside them.
    keeps_waveforms
        Whether ``speech`` is the waveform nevertheless, and nothing of it is computed.
    **options
        ``dtype``, ``device``, ``batch_size``, ``num_workers``, ``progressbar``: see
        `ser_ts_lobes.training.features.FrozenFeatures.compute`.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        Its ``speech`` and ``text`` are (T, D) float32; an encoder of which nothing is frozen gets its tokens, (T,).
        Kept waveforms are as of `make_dataset`.
    """
    text_encoder: Any = encoders.get("text")
    dataset = make_dataset(manifest, text_encoder, hears="speech" in encoders)
    items: dict[str, Any] = {}
    for key, encoder in encoders.items():
        if key == "speech" and keeps_waveforms:
            items[key] = _read_speech, ("id", "wav")
            continue
        if not encoder.computes_frozen:
            items[key] = text_encoder.tokenize, "transcript"
            continue
        features = FrozenFeatures.compute(
            cache_folder=feature_folder,
            encoder=encoder,
            dataset=dataset,
            key=key,
            contents=_CONTENTS[key](manifest, feature_folder),
            **options,
        )
        items[key] = features.__getitem__, "id"
    return _make_dataset(manifest, items)


def _audio_contents(manifest, feature_folder):
    """Give a function from utterances to digests of their audio files: of the bytes, for a file is read whole.

    Reading the bytes costs a fraction of decoding them, and equal bytes are heard alike. That the same samples in
    another format are another content costs no more than computing them once more.
    """
    digests = FileDigests(Path(feature_folder) / "audio_digests.json")
    return lambda utterances: digests.of([manifest.utterances[utterance]["wav"] for utterance in utterances])


def _text_contents(manifest, _):
    """Give a function from utterances to digests of their transcripts: the tokenizer counts as part of the network."""
    transcripts = {utterance: row["transcript"] for utterance, row in manifest.utterances.items()}
    return lambda utterances: [hashlib.sha256(transcripts[name].encode()).hexdigest() for name in utterances]


_CONTENTS = {"speech": _audio_contents, "text": _text_contents}


class MixedDataset(torch.utils.data.ConcatDataset):
    """Rated utterances, then unrated ones, whose labels are NaN.

    Parameters
    ----------
    rated, unrated
        With the same items.
    """

    def __init__(self, rated: DynamicItemDataset, unrated: DynamicItemDataset) -> None:
        super().__init__([rated, unrated])
        self.rated, self.unrated = rated, unrated


def load_teacher(manifests: "dict[str, Manifest]", hparams: dict[str, Any]) -> dict[str, TeacherTargets]:
    """Load the teacher's targets of what is taught on, if the system has a teacher.

    Parameters
    ----------
    manifests
        From `load_manifests`.
    hparams
        ``teacher_folder``: the teacher's run; a system without that key learns alone. ``scripts``: what makes it.
        ``taught``: which embedding is asked for, as of `ser_ts_lobes.training.targets.TeacherTargets.taught`.

    Returns
    -------
    dict[str, ser_ts_lobes.training.targets.TeacherTargets]
        Of ``train`` and, if there is such a manifest, `ser_ts_lobes.data.manifests.UNRATED`; empty without a teacher.

    Raises
    ------
    InputError
        If an earlier step is missing, or the targets were made by another teacher or for another manifest, or lack what
        is taught; it names the commands to run.
    """
    if "teacher_folder" not in hparams:
        return {}
    teacher = RunFolder(hparams["teacher_folder"])
    train, make_targets = (f"python {hparams['scripts'][step]} hparams/teacher.yaml" for step in ("teacher", "targets"))
    if UNRATED in manifests:
        make_targets += f" --unrated_manifest {manifests[UNRATED].path}"
    if not teacher.finished:
        raise InputError(
            f"{teacher.path} has no trained teacher: run `{train}` and `{make_targets}` first, or name another "
            "--teacher_folder."
        )
    targets = {}
    for name in ("train", UNRATED) if UNRATED in manifests else ("train",):
        fingerprint = manifests[name].fingerprint
        try:
            targets[name] = TeacherTargets.load(targets_file(teacher, name, fingerprint))
            targets[name].check(fingerprint, teacher.fingerprint)
            targets[name].taught(hparams["taught"])
        except InputError as error:
            raise InputError(f"{error} The command is `{make_targets}`.") from error
    return targets


def make_datasets(
    manifests: "dict[str, Manifest]",
    hparams: dict[str, Any],
    run_opts: dict[str, Any],
    targets: dict[str, TeacherTargets] | None = None,
) -> dict[str, DynamicItemDataset | MixedDataset]:
    """Make the datasets of all manifests, as the system needs them.

    With ``feature_folder``, all but the test sets give what the frozen networks compute; test sets always go the whole
    way from the audio, and so does what is trained on where waveforms are augmented (``wav_augment``). The networks
    have learnt from the training set before (`ser_ts_lobes.training.fitting.learn_from_training_set`), and nothing that
    they know changes here.

    Parameters
    ----------
    manifests
        From `load_manifests`.
    hparams
        ``modules`` (``speech_encoder``, ``text_encoder``), ``feature_folder``, ``feature_dtype``,
        ``batch_size``, ``num_workers``, ``wav_augment``, ``soft_label_weight``, ``soft_label_points``,
        ``emotion_weight`` and, with a teacher, ``taught``, ``trust`` and ``residual_threshold``; for unrated speech
        ``unrated_keep``.
    run_opts
        SpeechBrain's run options: ``device``, ``noprogressbar``.
    targets
        From `load_teacher`.

    Returns
    -------
    dict[str, speechbrain.dataio.dataset.DynamicItemDataset]
        By split. With targets of unrated speech, that is in the training set, which is a `MixedDataset`.
    """
    modules = hparams["modules"]
    encoders = {key: modules[f"{key}_encoder"] for key in ("speech", "text") if f"{key}_encoder" in modules}
    augmented = hparams["wav_augment"] is not None
    datasets: dict[str, Any] = {
        name: make_training_dataset(manifest, encoders, hparams, run_opts, augmented and name != "valid")
        if name in ("train", "valid", UNRATED)
        else make_dataset(manifest, encoders.get("text"), hears="speech" in encoders)
        for name, manifest in manifests.items()
    }
    if hparams["soft_label_weight"]:
        for name in datasets.keys() & {"train", UNRATED}:
            use_raters(datasets[name], manifests[name], hparams["soft_label_points"])
    if hparams["emotion_weight"]:
        for name in datasets.keys() & {"train", UNRATED}:
            use_emotions(datasets[name], manifests[name])
    if targets:
        trust = _trust_rated(targets["train"], hparams, hparams["trust"])
        use_teacher(datasets["train"], manifests["train"], targets["train"], trust, hparams["taught"])
        if UNRATED in targets:
            share = hparams["unrated_keep"]
            if share is None:
                share = float(np.mean(_trust_rated(targets["train"], hparams, "cut").embedding))
            unrated, spread = datasets.pop(UNRATED), targets[UNRATED].spread
            assert spread is not None
            trust = trust_by_spread(spread, share, hparams["trust"])
            use_teacher(unrated, manifests[UNRATED], targets[UNRATED], trust, hparams["taught"])
            datasets["train"] = MixedDataset(datasets["train"], unrated)
    return datasets


def _trust_rated(targets, hparams, kind):
    assert targets.residual is not None
    return trust_by_residual(targets.residual, hparams["residual_threshold"], kind)


def make_training_dataset(
    manifest: "Manifest",
    encoders: "dict[str, Encoder]",
    hparams: dict[str, Any],
    run_opts: dict[str, Any],
    keeps_waveforms: bool = False,
) -> DynamicItemDataset:
    """Make a dataset that is read in each epoch; with ``feature_folder``, of what the frozen networks compute.

    Parameters
    ----------
    manifest
        One split.
    encoders
        The encoder of each item that the dataset is to give, ``speech`` or ``text``.
    hparams
        ``feature_folder``, ``feature_dtype``, ``batch_size``, ``num_workers``.
    run_opts
        SpeechBrain's run options: ``device``, ``noprogressbar``.
    keeps_waveforms
        As of `make_frozen_dataset`.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        See `make_dataset` and `make_frozen_dataset`.
    """
    if not hparams["feature_folder"]:
        text_encoder: Any = encoders.get("text")
        return make_dataset(manifest, text_encoder, hears="speech" in encoders)
    return make_frozen_dataset(
        manifest,
        encoders,
        hparams["feature_folder"],
        keeps_waveforms,
        dtype=hparams["feature_dtype"],
        device=device_of(run_opts),
        batch_size=hparams["batch_size"],
        num_workers=hparams["num_workers"],
        progressbar=not run_opts["noprogressbar"],
    )


def device_of(run_opts: dict[str, Any]) -> str:
    """Name the device that a run computes on: the one that was asked for, or the best that is there."""
    return str(run_opts["device"] or infer_device())


def use_raters(dataset: DynamicItemDataset, manifest: "Manifest", points: Sequence[float]) -> None:
    """Add the distribution of each utterance's raters over the scale.

    Parameters
    ----------
    dataset
        To be trained on; it gets the item ``soft_labels``, (3, K) float32, as of
        `ser_ts_lobes.data.ratings.soft_labels`.
    manifest
        The manifest that it was made from, with ``ratings``; without, nobody has rated anything.
    points
        K of the corpus's scale.
    """
    rows = {utterance: row for row, utterance in enumerate(manifest.utterances)}
    ratings = manifest.ratings or {}
    labels = soft_labels([ratings.get(utterance, ()) for utterance in rows], points)
    _add_rows(dataset, "soft_labels", torch.from_numpy(labels), rows)
    if ratings:
        logger.info(f"Raters' distributions are learnt of {len(ratings)} of {len(rows)} {manifest.name} utterances.")


def use_emotions(dataset: DynamicItemDataset, manifest: "Manifest") -> None:
    """Add the class of each utterance.

    Parameters
    ----------
    dataset
        To be trained on; it gets the item ``emotion_class``, int64, as of
        `ser_ts_lobes.data.manifests.Manifest.emotions`.
    manifest
        The manifest that it was made from.
    """
    rows = {utterance: row for row, utterance in enumerate(manifest.utterances)}
    emotions = torch.from_numpy(manifest.emotions())
    _add_rows(dataset, "emotion_class", emotions, rows)
    if manifest.emotion_classes:
        n_known = int((emotions >= 0).sum())
        logger.info(f"Emotion classes are learnt of {n_known} of {len(rows)} {manifest.name} utterances.")


def use_teacher(
    dataset: DynamicItemDataset, manifest: "Manifest", targets: TeacherTargets, trust: Trust, taught: str = "joint"
) -> None:
    """Add what the teacher says of each utterance, and how far it can be trusted there.

    Parameters
    ----------
    dataset
        To be trained on; it gets the items ``teacher_embedding``, (E,); ``keep``, bool or a weight;
        ``teacher_prediction``, (3,) on the corpus's scale; and ``prediction_trust``, (3,), bool or weights.
    manifest
        The manifest that it was made from.
    targets
        Of the same manifest.
    trust
        Of each row of the targets.
    taught
        Which embedding, as of `ser_ts_lobes.training.targets.TeacherTargets.taught`.
    """
    rows = dict(zip(manifest.utterances, targets.rows(list(manifest.utterances)), strict=True))
    items = {
        "teacher_embedding": targets.taught(taught),
        "keep": trust.embedding,
        "teacher_prediction": targets.prediction.astype(np.float32),
        "prediction_trust": trust.prediction,
    }
    for name, values in items.items():
        _add_rows(dataset, name, torch.from_numpy(values), rows)
    kind = "unrated" if manifest.name == UNRATED else "training"
    share = float(np.mean(trust.embedding))
    how = f"on {share:.1%} of" if trust.embedding.dtype == bool else f"with a mean weight of {share:.2f} on"
    logger.info(f"The student follows the teacher {how} {len(rows)} {kind} utterances.")


def _add_rows(dataset, name, tensor, rows):
    """Let a dataset give each utterance its row, too."""
    # No function of its own: a loader's processes may be sent the dataset, where they aren't forked (macOS).
    dataset.add_dynamic_item(functools.partial(_row, tensor, rows), "id", name)
    dataset.set_output_keys([*dataset.pipeline.output_mapping, name])


def _row(tensor, rows, utterance):
    return tensor[rows[utterance]]
