"""Pretraining of CPC on any folder of audio: manifests, windows, the Brain."""

import functools
import hashlib
import json
import math
from pathlib import Path

import speechbrain as sb
import torch
import torchaudio.functional
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.logger import get_logger

from ser_ts_lobes.audio import inspect_audio
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import map_files, replacing
from ser_ts_lobes.fingerprint import MadeFrom
from ser_ts_lobes.lobes.cpc import save_cpc
from ser_ts_lobes.lobes.speech import SAMPLE_RATE
from ser_ts_lobes.manifests import (
    fingerprint_files,
    make_folder,
    parse_number,
    read_rows,
    walk_files,
    write_csv,
)

logger = get_logger(__name__)

_AUDIO_SUFFIXES = (".flac", ".mp3", ".ogg", ".opus", ".wav")
_COLUMNS = ("ID", "duration", "sample_rate", "wav")
_ROOT = "$data_root"
# What a checkpoint says of itself, and metrics.json of the best one.
_REPORTED = ("epoch", "valid_loss", "valid_loss_of_steps", "valid_accuracy_of_steps")


def prepare_audio_folder(data_folder, manifest_folder, min_duration_s, valid_share, skip_prep=False):
    """Write ``train.csv`` and ``valid.csv`` of all audio files below a folder.

    Files that can't be used or are too short are left out, and counted in the log. Which files validate follows
    from their names alone: it stays the same when others are added.

    Parameters
    ----------
    data_folder : str or pathlib.Path
        Any folder of audio, such as LibriSpeech's ``train-clean-100``.
    manifest_folder : str or pathlib.Path
        Made when it isn't there.
    min_duration_s : float
        Shorter files are left out.
    valid_share : float
        Share of the files that validate, in 0-1; one at least does, and one at least does not.
    skip_prep : bool
        Whether to leave everything as it is.

    Raises
    ------
    InputError
        If there is no such folder, or there are fewer than two files to use.

    Example
    -------
    >>> import numpy, soundfile
    >>> folder = getfixture("tmp_path")
    >>> for name in ("a", "b", "c"):
    ...     soundfile.write(folder / f"{name}.wav", numpy.zeros(32000), 16000)
    >>> prepare_audio_folder(folder, folder / "manifests", min_duration_s=1.28, valid_share=0.01)
    >>> len((folder / "manifests" / "train.csv").read_text().splitlines())  # with the header
    3
    """
    if skip_prep:
        return
    root, folder = Path(data_folder), Path(manifest_folder)
    if not root.is_dir():
        raise InputError(f"{root} is no folder: name one with audio files, at any depth, as --data_folder.")
    names = (name for name, _ in walk_files(root))
    paths = [root / name for name in sorted(names) if name.lower().endswith(_AUDIO_SUFFIXES)]
    headers = map_files(inspect_audio, paths)
    rows = []
    for path, header in zip(paths, headers, strict=True):
        if header.problem is None and header.duration >= min_duration_s:
            name = path.relative_to(root).as_posix()
            rows.append((name, header.duration, header.sample_rate, f"{_ROOT}/{name}"))
    if len(rows) < 2:
        raise InputError(
            f"{root} has {len(rows)} audio files of {min_duration_s:g} s or more that can be read, and one to train "
            f"and one to validate are needed ({', '.join(_AUDIO_SUFFIXES)}; {len(paths)} were found)."
        )
    if len(rows) < len(paths):
        logger.warning(f"{len(paths) - len(rows)} of {len(paths)} files in {root} are unreadable or too short.")
    rows.sort(key=lambda row: hashlib.sha256(row[0].encode()).digest())
    n_valid = min(max(1, math.ceil(valid_share * len(rows))), len(rows) - 1)
    make_folder(folder)
    for name, part in (("train", rows[n_valid:]), ("valid", rows[:n_valid])):
        write_csv(folder / f"{name}.csv", _COLUMNS, sorted(part))


def make_window_datasets(manifest_folder, data_folder, window_samples):
    """Make the datasets: one window of each file, in training at a new place each time.

    Parameters
    ----------
    manifest_folder, data_folder
        As for `prepare_audio_folder`.
    window_samples : int
        Length of a window at 16 kHz.

    Returns
    -------
    dict[str, speechbrain.dataio.dataset.DynamicItemDataset]
        ``train`` and ``valid``, with the items ``id`` and ``window``: (window_samples,) float32.
    """
    datasets = {}
    for name, place in (("train", _anywhere), ("valid", _in_the_middle)):
        path = Path(manifest_folder) / f"{name}.csv"
        files = {}
        for line, row in read_rows(path, _COLUMNS, key="ID"):
            duration, sample_rate = (parse_number(row[column]) for column in ("duration", "sample_rate"))
            if duration is None or sample_rate is None:
                raise InputError(f"{path}, line {line}: duration or sample_rate of {row['ID']} is not a number.")
            wav = row["wav"].replace(_ROOT, str(data_folder), 1)
            files[row["ID"]] = {"wav": wav, "duration": duration, "sample_rate": round(sample_rate)}
        datasets[name] = DynamicItemDataset(files, output_keys=["id", "window"])
        read = functools.partial(_read_window, place, window_samples)
        datasets[name].add_dynamic_item(read, ["wav", "duration", "sample_rate"], "window")
    return datasets


def _anywhere():
    return float(torch.rand(()))  # of torch, whose generator the data loader seeds anew in each worker and epoch


def _in_the_middle():
    return 0.5


def _read_window(place, window_samples, path, duration_s, sample_rate):
    """Read a window; `place` says where, from 0 (the first that fits) to 1 (the last)."""
    n_read = math.ceil(window_samples * sample_rate / SAMPLE_RATE)
    n_free = max(0, round(duration_s * sample_rate) - n_read)
    try:
        channels, _ = audio_io.load(path, dtype=torch.float32, frame_offset=round(place() * n_free), num_frames=n_read)
    except RuntimeError as error:
        raise InputError(f"The audio file {path} can't be read ({error}): restore it, or leave it out.") from error
    mono = channels.mean(dim=0)
    if sample_rate != SAMPLE_RATE:
        mono = torchaudio.functional.resample(mono, sample_rate, SAMPLE_RATE)
    if len(mono) < window_samples:
        raise InputError(f"The audio file {path} is shorter than it says: restore it, or leave it out.")
    return mono[:window_samples]


class CPCBrain(sb.Brain):
    """Trains a CPC to predict its own future frames; keeps the checkpoint of lowest validation loss.

    Parameters
    ----------
    hparams : dict
        As in ``recipes/LibriSpeech/CPC/hparams/cpc.yaml``. ``modules`` holds ``cpc`` (`ser_ts_lobes.lobes.cpc.CPC`)
        and ``prediction`` (`ser_ts_lobes.contrastive.FuturePrediction`).
    run_opts : speechbrain.utils.run_opts.RunOptions or dict
        From `speechbrain.parse_arguments`.
    """

    def __init__(self, hparams, run_opts):
        super().__init__(hparams["modules"], hparams["opt_class"], hparams, run_opts, hparams["checkpointer"])
        folder = Path(hparams["manifest_folder"])
        made_from = {name: fingerprint_files([folder / f"{name}.csv"]) for name in ("train", "valid")}
        self.checkpointer.add_recoverable("made_from", MadeFrom(**made_from))

    def train(self, datasets):
        """Fit for all epochs that are left.

        Parameters
        ----------
        datasets : dict[str, speechbrain.dataio.dataset.DynamicItemDataset]
            From `make_window_datasets`.

        Raises
        ------
        InputError
            If the training set is smaller than a batch.
        """
        batch_size = self.hparams.train_dataloader_opts["batch_size"]
        if len(datasets["train"]) < batch_size:
            raise InputError(
                f"There are {len(datasets['train'])} audio files to train on, fewer than one batch of {batch_size}: "
                "choose a smaller --batch_size."
            )
        self.fit(
            self.hparams.epoch_counter,
            datasets["train"],
            datasets["valid"],
            train_loader_kwargs=dict(self.hparams.train_dataloader_opts),
            valid_loader_kwargs=dict(self.hparams.valid_dataloader_opts),
        )

    def compute_forward(self, batch, stage):
        """Losses and accuracies of all steps, (n_steps,) each."""
        context, frames = self.modules.cpc(batch.to(self.device).window.data)
        # The first and the last frame have seen the convolutions' padding: easy to tell from what they sound like, and
        # hardly ever right, they would be learnt first and for long.
        return self.modules.prediction(context[:, 1:-1], frames[:, 1:-1])

    def compute_objectives(self, predictions, batch, stage):
        """Take the mean loss over the steps; remember how well each did."""
        losses, accuracies = predictions
        self._seen.append((len(batch), losses.detach().cpu(), accuracies.cpu()))
        return losses.mean()

    def on_stage_start(self, stage, epoch=None):
        """Forget the last stage."""
        self._seen = []

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log; after validation also save."""
        sizes, losses, accuracies = zip(*self._seen, strict=True)
        weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
        losses, accuracies = (weights @ torch.stack(values).double() for values in (losses, accuracies))
        stats = {"loss": float(losses.mean()), "accuracy": float(accuracies.mean())}
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        self.hparams.train_logger.log_stats({"epoch": epoch}, train_stats=self.train_stats, valid_stats=stats)
        values = (epoch, stats["loss"], losses.tolist(), accuracies.tolist())
        meta = dict(zip(_REPORTED, values, strict=True))
        self.checkpointer.save_and_keep_only(meta=meta, min_keys=["valid_loss"])

    def export(self):
        """Write the best network, ``cpc.pt`` (see `ser_ts_lobes.lobes.cpc.load_cpc`), and ``metrics.json``.

        Raises
        ------
        InputError
            If there is no checkpoint.
        """
        checkpoint = self.checkpointer.recover_if_possible(min_key="valid_loss")
        if checkpoint is None:
            raise InputError(f"{self.checkpointer.checkpoints_dir} holds no checkpoint: train for one epoch at least.")
        if not sb.utils.distributed.if_main_process():
            return
        folder = Path(self.hparams.output_folder)
        save_cpc(self.hparams.cpc, folder / "cpc.pt")
        report = {
            "system": self.hparams.system,
            "seed": self.hparams.seed,
            **{key: checkpoint.meta[key] for key in _REPORTED},
            "valid_loss_of_chance": math.log(1 + self.hparams.n_negatives),
        }
        with replacing(folder / "metrics.json") as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
