"""From a finished run to a folder that anyone can load."""

import contextlib
import io
import json
import math
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.checkpoints import Checkpointer

import ser_ts_lobes
from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.manifests import Manifest, read_manifest
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import find_abandoned, temporary_path
from ser_ts_lobes.fingerprint import fingerprint_file
from ser_ts_lobes.lobes.pooling import GRUPooling, TransformerPooling
from ser_ts_lobes.lobes.speech import SAMPLE_RATE, ListenerEncoder, SpeechEncoder, WhisperEncoder
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.seals import seal
from ser_ts_lobes.student.config import CONFIG_FILE, FORMAT, MAX_CELLS, WEIGHTS_DIGEST, WEIGHTS_FILE, read_config
from ser_ts_lobes.student.hub import print_files
from ser_ts_lobes.student.model_card import RESIDUALS_FILE, make_card
from ser_ts_lobes.student.modeling import FOR_TRANSFORMERS, MODELING_FILE
from ser_ts_lobes.student.network import StudentNetwork, describe_network, load_network, save_weights
from ser_ts_lobes.student.onnx import INT8_FILE, ONNX_FILE, LabelledSet, cost_table, read_test_sets, write_onnx
from ser_ts_lobes.student.single_file import compose
from ser_ts_lobes.student.space import APP_FILE, REQUIREMENTS_FILE, write_space

_CARD_FILE, _HPARAMS_FILE, _INTERFACE_FILE = "README.md", "hyperparams.yaml", "custom_interface.py"
# All that `export` may write; whatever else stands in a student's folder is its owner's.
_FILES = {
    CONFIG_FILE,
    WEIGHTS_FILE,
    _CARD_FILE,
    _HPARAMS_FILE,
    _INTERFACE_FILE,
    APP_FILE,
    REQUIREMENTS_FILE,
    RESIDUALS_FILE,
    ONNX_FILE,
    INT8_FILE,
    MODELING_FILE,
}
_HISTOGRAM_STEP = 0.5  # of the label scale
# What the model card says of the training, where a system has it.
_TRAINING_KEYS = (
    "seed",
    "fold",
    "number_of_epochs",
    "batch_size",
    "lr",
    "encoder_lr",
    "trainable_layers",
    "lora_rank",
    "ts_weight",
    "taught",
    "prediction_weight",
    "residual_threshold",
)
_HYPERPARAMS = f"""\
# A student, for SpeechBrain; written by `ser-ts export`.
# What it is made from stands in {CONFIG_FILE}, its weights in {WEIGHTS_FILE}; README.md shows how to load it.
sample_rate: {SAMPLE_RATE}
modules: {{}}  # EmotionRegressor makes them
pretrainer: !new:custom_interface.StudentFiles
"""
_WRITTEN = f"""\
Written by `ser-ts export`. These are definitions of ser_ts_lobes {ser_ts_lobes.__version__}, word for word, licensed
under Apache 2.0."""
_INTERFACE_DOCSTRING = f"""An audio-only student of dimensional speech emotion, for SpeechBrain.

Load it with::

    from speechbrain.inference.interfaces import foreign_class

    student = foreign_class(source, pymodule_file="custom_interface.py", classname="EmotionRegressor")
    print(student.predict_file("speech.wav"))

{_WRITTEN} They need torch, torchaudio, transformers 5, safetensors, soundfile, tqdm and speechbrain 1.1.
"""
_MODELING_DOCSTRING = f"""An audio-only student of dimensional speech emotion, for transformers.

Load it with::

    from transformers import AutoModel

    student = AutoModel.from_pretrained(source, trust_remote_code=True)
    print(student(wavs).prediction)  # (B, N) at 16 kHz in -1..1 -> (B, 3): activation, valence, dominance

{_WRITTEN} They need torch, transformers 5, safetensors and speechbrain 1.1.
"""


def export(
    run: str | Path,
    out: str | Path,
    corpus: str | None = None,
    half: bool = False,
    force: bool = False,
    onnx: bool = False,
    int8: bool = False,
) -> None:
    """Write a trained student as a folder that loads without this package, the run, or a download; print what is in it.

    Parameters
    ----------
    run
        ``results/<system>/<seed>`` of a system that only hears.
    out
        The folder to write, whole or not at all. What is there besides a student, such as ``.git``, stays.
    corpus
        Name of what it was trained on; None takes the name of the run's ``data_folder``.
    half
        Whether to round the weights to float16, which halves the file. They are used in float32.
    force
        Whether to replace a student that is there.
    onnx
        Whether to write ``model.onnx`` too; see `ser_ts_lobes.student.onnx`.
    int8
        Whether to write ``model.onnx`` and ``model.int8.onnx``, and to measure what 8-bit integers cost on the run's
        test sets, if their audio is there.

    Raises
    ------
    InputError
        If the run isn't finished, isn't a student that can travel, or `out` is taken.
    """
    run_folder, out = RunFolder(Path(run).resolve()), Path(out).resolve()
    _recover(out)
    _check_free(out, force)
    report, hparams = run_folder.report(), _load_hparams(run_folder)
    network = _load_network(run_folder, hparams["modules"])
    data_folder = run_folder.working_folder / run_folder.settings["data_folder"]
    manifest_folder = run_folder.working_folder / run_folder.settings["manifest_folder"]
    manifest = _read_train_manifest(manifest_folder, data_folder, report)
    residuals = _find_residuals(run_folder)
    test_sets = _find_test_sets(run_folder, manifest_folder, data_folder) if int8 else None
    assert manifest.label_range is not None  # else it has been refused
    config: dict[str, Any] = {
        "format": FORMAT,
        **FOR_TRANSFORMERS,
        "system": report["system"],
        "corpus": corpus or data_folder.name,
        "dimensions": DIMENSIONS,
        "sample_rate": SAMPLE_RATE,
        **describe_network(network),
        "weights": "float16" if half else "float32",
        "label_range": manifest.label_range,
        "label_mean": network.label_scale.mean.tolist(),
        "label_std": network.label_scale.std.tolist(),
        "label_histogram": _histogram(manifest.labels(), manifest.label_range),
        "training_durations_s": _durations(manifest),
        "test": _without_nan(report["test"]),
        "training": {key: hparams[key] for key in _TRAINING_KEYS if key in hparams},
        "best": report["best"],
        "counts": report["counts"],
        "versions": report["versions"],
        "fingerprint": report["fingerprint"],
    }
    with _replacing_folder(out) as folder:
        save_weights(network, folder / WEIGHTS_FILE, half)
        if onnx or int8:
            # Of the weights that travel, for they may have been rounded.
            config["onnx"] = write_onnx(folder, load_network(config, folder / WEIGHTS_FILE), test_sets)
        config[WEIGHTS_DIGEST] = fingerprint_file(folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(seal(config), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (folder / _HPARAMS_FILE).write_text(_HYPERPARAMS, encoding="utf-8")
        interface = compose("ser_ts_lobes.student.inference", "EmotionRegressor", _INTERFACE_DOCSTRING)
        (folder / _INTERFACE_FILE).write_text(interface, encoding="utf-8")
        modeling = compose("ser_ts_lobes.student.modeling", "StudentModel", _MODELING_DOCSTRING)
        (folder / MODELING_FILE).write_text(modeling, encoding="utf-8")
        write_space(folder)
        if residuals:
            shutil.copyfile(residuals, folder / RESIDUALS_FILE)
        card = make_card(config, out.name, has_residuals=residuals is not None)
        (folder / _CARD_FILE).write_text(str(card), encoding="utf-8")
        load_network(read_config(folder / CONFIG_FILE), folder / WEIGHTS_FILE)  # what can't be loaded isn't shared
    if test_sets is not None:
        print("\n\n".join(cost_table(config["onnx"], split) for split in test_sets))
    print_files(out, sorted(name for name in _FILES if (out / name).is_file()))
    print(f"Written: {out}. Next: ser-ts predict {shlex.quote(os.path.relpath(out))} RECORDING")


def _check_free(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / CONFIG_FILE).is_file():
        raise InputError(f"{out} holds something else than a student: choose another folder.")
    read_config(out / CONFIG_FILE)
    if not force:
        raise InputError(f"{out} already holds a student: --force replaces it.")


def _load_hparams(run: RunFolder) -> dict[str, Any]:
    """Load the hyper-parameters of a run that a student is made from, and no others.

    Others may name what an earlier version had, or look where the run was when it was trained.
    """
    yaml = ruamel.yaml.YAML()
    written = yaml.load(run.hyperparams_file)  # nothing is made yet
    if "speech_encoder" not in written["modules"] or "text_encoder" in written["modules"]:
        raise InputError(
            f"{run.path}: the system {written['system']} reads text; only those that hear alone can be exported."
        )
    _resolve_sources(written["modules"], run.working_folder)
    text = io.StringIO()
    yaml.dump({key: written[key] for key in ("modules", *_TRAINING_KEYS) if key in written}, text)
    hparams: dict[str, Any] = load_hyperpyyaml(text.getvalue())
    return hparams


def _resolve_sources(settings: dict[str, Any], folder: Path) -> None:
    """Let pretrained networks be found that are files or folders on disk, relative to a folder."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _resolve_sources(value, folder)
        elif key == "source" and isinstance(value, str) and (folder / value).exists():
            settings[key] = str(folder / value)


def _load_network(run: RunFolder, modules: dict[str, Any]) -> StudentNetwork:
    """Make the network with the weights that were tested."""
    report = run.report()
    encoder, pooling = modules["speech_encoder"], getattr(modules["model"], "speech_pooling", modules["model"])
    encoders, poolings = (SpeechEncoder, WhisperEncoder, ListenerEncoder), (GRUPooling, TransformerPooling)
    for part, kinds in (encoder, encoders), (pooling, poolings):
        if not isinstance(part, kinds):
            raise InputError(
                f"{run.path}: the {type(part).__name__} of the system {report['system']} can't travel; students with a "
                "HuBERT, wav2vec 2.0, WavLM or Whisper encoder, with or without a listener, and GRU or transformer "
                "pooling can be exported."
            )
    checkpoint = Checkpointer(run.checkpoints, modules).recover_if_possible(min_key="valid_loss")
    if checkpoint is None:
        raise InputError(f"{run.checkpoints} holds no checkpoint: train this system again.")
    if checkpoint.meta["epoch"] != report["best"]["epoch"]:
        raise InputError(
            f"{run.path}: metrics.json is of epoch {report['best']['epoch']}, the best checkpoint now of epoch "
            f"{checkpoint.meta['epoch']}: run the training command again, which tests it."
        )
    encoder.merge_adapters()  # who loads it needs none
    return StudentNetwork(**modules).eval()


def _read_train_manifest(manifest_folder: Path, data_folder: Path, report: dict[str, Any]) -> Manifest:
    path = manifest_folder / "train.csv"
    manifest = read_manifest(path, data_folder)
    if manifest.audio_fingerprint != report["manifests"]["train"]:
        raise InputError(f"{path} is no longer what the student was trained on: train it again.")
    if manifest.label_range is None:
        raise InputError(f"{path} does not say the range of its labels: prepare the corpus again.")
    return manifest


def _find_residuals(run: RunFolder) -> Path | None:
    """Find the plot of the teacher's residuals; None for a student that learnt alone, or whose teacher is gone."""
    if "teacher_folder" not in run.settings:
        return None
    path = RunFolder(run.working_folder / run.settings["teacher_folder"]).residuals_plot
    return path if path.is_file() else None


def _find_test_sets(run: RunFolder, manifest_folder: Path, data_folder: Path) -> dict[str, LabelledSet]:
    """Find the labelled test sets, to measure what 8-bit integers cost; none if they are gone."""
    try:
        test_sets = read_test_sets(run, manifest_folder, data_folder)
        gone = [path for test_set in test_sets.values() for path in test_set.paths if not path.is_file()]
        if gone:
            raise InputError(f"{gone[0]} does not exist")
    except InputError as error:
        print(f"What 8-bit integers cost can't be measured here: {error}")
        return {}
    return test_sets


def _histogram(labels: np.ndarray, label_range: tuple[float, float]) -> dict[str, list[Any]]:
    """Count the labels in cells of the valence-activation plane: ``counts[valence][activation]``."""
    low, high = label_range
    n_cells = min(max(round((high - low) / _HISTOGRAM_STEP), 1), MAX_CELLS)
    edges = np.linspace(low, high, n_cells + 1)
    activation, valence = (labels[:, DIMENSIONS.index(name)] for name in ("activation", "valence"))
    counts, _, _ = np.histogram2d(valence, activation, bins=(edges, edges))
    return {
        "valence_edges": edges.tolist(),
        "activation_edges": edges.tolist(),
        "counts": counts.astype(int).tolist(),
    }


def _durations(manifest: Manifest) -> dict[str, float]:
    """Say how long clips are, but for the hundredth of them at either end."""
    seconds = [row["duration"] for row in manifest.utterances.values()]
    return dict(zip(("shortest", "median", "longest"), np.percentile(seconds, [1, 50, 99]).tolist(), strict=True))


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON hasn't, by None: scores of a test set too small for them."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# Where the files of a student are while they are written, while they come into their folder, and those of the one
# before.
_NEW, _INCOMING, _OLD = "new", "incoming", "old"


@contextlib.contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """Write the files of a student whole or not at all; what else is in its folder is never touched.

    An error takes everything back; what is killed amid the renames is finished or taken back by the next export
    (`_recover`). The configuration is the first to go and the last to come, so that files of two students are never
    taken for one; what is not in the folder lies in the hidden one beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    for name in (_NEW, _OLD):
        (temporary / name).mkdir(parents=True)
    replaced = False
    try:
        yield temporary / _NEW
        if path.exists():
            _replace_files(path, temporary)
        else:
            (temporary / _NEW).rename(path)
        replaced = True
    finally:
        if replaced or not any((temporary / _OLD).iterdir()):  # else not even the way back was free
            shutil.rmtree(temporary)


def _replace_files(path: Path, temporary: Path) -> None:
    """Move a student's files out of its folder, and those of another one in; or, upon an error, back."""
    try:
        _move(_student_files(path, config_first=True), temporary / _OLD)
        (temporary / _NEW).rename(temporary / _INCOMING)
        _move(_student_files(temporary / _INCOMING), path)
    except BaseException:
        if (temporary / _INCOMING).exists():  # all of the old one was out
            _move(_student_files(path, config_first=True), temporary / _INCOMING)
            (temporary / _INCOMING).rename(temporary / _NEW)
        _move(_student_files(temporary / _OLD), path)
        raise


def _recover(path: Path) -> None:
    """Finish or take back an export that was killed: the folder holds a whole student, or what it held before."""
    for temporary in find_abandoned(path):
        for name in (_INCOMING, _OLD):
            if (temporary / name).is_dir():
                _move(_student_files(temporary / name), path)
                break
        shutil.rmtree(temporary)


def _student_files(folder: Path, config_first: bool = False) -> list[Path]:
    """Give the files of a student that are in a folder; the configuration is the last, or the first."""
    mine = (file for file in folder.iterdir() if file.name in _FILES and not file.is_dir())
    return sorted(mine, key=lambda file: file.name == CONFIG_FILE, reverse=config_first)


def _move(files: list[Path], folder: Path) -> None:
    for file in files:
        file.rename(folder / file.name)
