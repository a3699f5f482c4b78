"""Pretraining of CPC on any folder of audio: manifests, windows, the Brain."""

import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import speechbrain as sb
import torch
import torchaudio.functional
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.logger import get_logger

from ser_ts_lobes.data.audio import AUDIO_SUFFIXES, inspect_audio
from ser_ts_lobes.data.preparation import choose_validating
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import make_folder, map_files, walk_files
from ser_ts_lobes.fingerprint import fingerprint_files
from ser_ts_lobes.lobes.cpc import save_cpc
from ser_ts_lobes.lobes.speech import SAMPLE_RATE
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.seeds import derive_seed
from ser_ts_lobes.text_files import parse_number, read_rows, write_csv
from ser_ts_lobes.training.reproducible import ReproducibleBrain

if TYPE_CHECKING:
    from speechbrain.utils.run_opts import RunOptions

logger = get_logger(__name__)

_COLUMNS = ("ID", "duration", "sample_rate", "wav")
_ROOT = "$data_root"
# What a checkpoint says of itself, and metrics.json of the best one.
_REPORTED = ("epoch", "valid_loss", "valid_loss_of_steps", "valid_accuracy_of_steps")


def prepare_audio_folder(
    data_folder: str | Path,
    manifest_folder: str | Path,
    min_duration_s: float,
    valid_share: float,
    skip_prep: bool = False,
) -> None:
    """Write ``train.csv`` and ``valid.csv`` of all audio files below a folder.

    Files that can't be used or are too short are left out, and counted in the log. Which files validate follows
    from their names alone: it stays the same when others are added.

    Parameters
    ----------
    data_folder
        Any folder of audio, such as LibriSpeech's ``train-clean-100``.
    manifest_folder
        Made when it isn't there.
    min_duration_s
        Shorter files are left out.
    valid_share
        Share of the files that validate, in 0-1; one at least does, and one at least does not.
    skip_prep
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
    paths = [root / name for name in sorted(names) if name.lower().endswith(AUDIO_SUFFIXES)]
    headers = map_files(inspect_audio, paths)
    rows = []
    for path, header in zip(paths, headers, strict=True):
        if header.problem is None and header.duration >= min_duration_s:
            name = path.relative_to(root).as_posix()
            rows.append((name, header.duration, header.sample_rate, f"{_ROOT}/{name}"))
    if len(rows) < 2:
        raise InputError(
            f"{root} has {len(rows)} audio files of {min_duration_s:g} s or more that can be read, and one to train "
            f"and one to validate are needed ({', '.join(AUDIO_SUFFIXES)}; {len(paths)} were found)."
        )
    if len(rows) < len(paths):
        logger.warning(f"{len(paths) - len(rows)} of {len(paths)} files in {root} are unreadable or too short.")
    validating = choose_validating((row[0] for row in rows), valid_share)
    make_folder(folder)
    for name, wanted in (("train", False), ("valid", True)):
        part = sorted(row for row in rows if (row[0] in validating) == wanted)
        write_csv(folder / f"{name}.csv", _COLUMNS, part)


class WindowDataset(DynamicItemDataset):
    """One window of each audio file, at a place that follows from the seed, the epoch and the file's name alone.

    So a run that was interrupted in the middle of an epoch hears the same as one that was not.

    Parameters
    ----------
    files
        By id: ``wav``, ``duration`` (seconds) and ``sample_rate``.
    window_samples
        Length of a window at 16 kHz.
    seed
        Of the run; None for the window in the middle, in each epoch.
    """

    def __init__(self, files: dict[str, dict[str, Any]], window_samples: int, seed: int | None = None) -> None:
        super().__init__(files, output_keys=["id", "window"])
        self._window_samples, self._seed, self._epoch = window_samples, seed, 0
        self.add_dynamic_item(self._read, ["id", "wav", "duration", "sample_rate"], "window")

    def set_epoch(self, epoch: int) -> None:
        """Choose the places of an epoch."""
        self._epoch = epoch

    def _read(self, name, path, duration_s, sample_rate):
        place = 0.5  # from 0, the first window that fits, to 1, the last
        if self._seed is not None:
            place = derive_seed(self._seed, self._epoch, zlib.crc32(name.encode())) / 2**63
        return _read_window(place, self._window_samples, path, duration_s, sample_rate)


def make_window_datasets(
    manifest_folder: str | Path, data_folder: str | Path, window_samples: int, seed: int
) -> dict[str, WindowDataset]:
    """Make the datasets: one window of each file, in training at another place in each epoch.

    Parameters
    ----------
    manifest_folder, data_folder
        As for `prepare_audio_folder`.
    window_samples
        Length of a window at 16 kHz.
    seed
        Of the run.

    Returns
    -------
    dict[str, WindowDataset]
        ``train`` and ``valid``, with the items ``id`` and ``window``: (window_samples,) float32.
    """
    datasets = {}
    for name, seed_of_places in (("train", seed), ("valid", None)):
        path = Path(manifest_folder) / f"{name}.csv"
        files = {}
        for line, row in read_rows(path, _COLUMNS, key="ID"):
            duration, sample_rate = (parse_number(row[column]) for column in ("duration", "sample_rate"))
            if duration is None or sample_rate is None:
                raise InputError(f"{path}, line {line}: duration or sample_rate of {row['ID']} is not a number.")
            wav = row["wav"].replace(_ROOT, str(data_folder), 1)
            files[row["ID"]] = {"wav": wav, "duration": duration, "sample_rate": round(sample_rate)}
        datasets[name] = WindowDataset(files, window_samples, seed_of_places)
    return datasets


def _read_window(place, window_samples, path, duration_s, sample_rate):
    n_read = math.ceil(window_samples * sample_rate / SAMPLE_RATE)
    n_free = max(0, round(duration_s * sample_rate) - n_read)
    try:
        channels, _ = audio_io.load(path, dtype=torch.float32, frame_offset=round(place * n_free), num_frames=n_read)
    except RuntimeError as error:
        raise InputError(f"The audio file {path} can't be read ({error}): restore it, or leave it out.") from error
    mono = channels.mean(dim=0)
    if sample_rate != SAMPLE_RATE:
        mono = torchaudio.functional.resample(mono, sample_rate, SAMPLE_RATE)
    if len(mono) < window_samples:
        raise InputError(f"The audio file {path} is shorter than it says: restore it, or leave it out.")
    return mono[:window_samples]


class CPCBrain(ReproducibleBrain):
    """Trains a CPC to predict its own future frames; keeps the checkpoint of lowest validation loss.

    Parameters
    ----------
    hparams
        As in ``recipes/LibriSpeech/CPC/hparams/cpc.yaml``. ``modules`` holds ``cpc`` (`ser_ts_lobes.lobes.cpc.CPC`)
        and ``prediction`` (`ser_ts_lobes.lobes.contrastive.FuturePrediction`).
    run_opts
        From `speechbrain.parse_arguments`.
    """

    def __init__(self, hparams: dict[str, Any], run_opts: "RunOptions | dict[str, Any]") -> None:
        folder = Path(hparams["manifest_folder"])
        made_from = {name: fingerprint_files([folder / f"{name}.csv"]) for name in ("train", "valid")}
        super().__init__(hparams, run_opts, **made_from)

    def train(self, datasets: dict[str, WindowDataset]) -> None:
        """Fit for all epochs that are left.

        Parameters
        ----------
        datasets
            From `make_window_datasets`.
        """
        self._windows = datasets["train"]
        self.fit_datasets(datasets)

    def compute_forward(self, batch: Any, stage: Any) -> Any:
        """Losses and accuracies of all steps, (n_steps,) each."""
        context, frames = self.modules.cpc(batch.to(self.device).window.data)
        # The first and the last frame have seen the convolutions' padding: easy to tell from what they sound like, and
        # hardly ever right, they would be learnt first and for long.
        return self.modules.prediction(context[:, 1:-1], frames[:, 1:-1])

    def compute_objectives(self, predictions: Any, batch: Any, stage: Any) -> torch.Tensor:
        """Take the mean loss over the steps; in validation, remember how well each did."""
        losses, accuracies = predictions
        if stage == sb.Stage.TRAIN:
            self.batch_means.add(accuracy=accuracies.mean())
        else:
            self._seen.append((len(batch), losses.cpu(), accuracies.cpu()))
        return losses.mean()

    def on_stage_start(self, stage: Any, epoch: int | None = None) -> None:
        """Forget the last stage; hear other windows than in the last epoch."""
        super().on_stage_start(stage, epoch)
        self._seen: list[Any] = []
        if stage == sb.Stage.TRAIN:
            self._windows.set_epoch(epoch or 0)  # which SpeechBrain counts from 1

    def on_stage_end(self, stage: Any, stage_loss: float, epoch: int | None = None) -> None:
        """Log; after validation also save."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss, **self.batch_means.take()}
            return
        sizes, losses, accuracies = zip(*self._seen, strict=True)
        weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
        losses, accuracies = (weights @ torch.stack(values).double() for values in (losses, accuracies))
        stats = {"loss": float(losses.mean()), "accuracy": float(accuracies.mean())}
        self.hparams.train_logger.log_stats({"epoch": epoch}, train_stats=self.train_stats, valid_stats=stats)
        values = (epoch, stats["loss"], losses.tolist(), accuracies.tolist())
        meta = dict(zip(_REPORTED, values, strict=True))
        self.checkpointer.save_and_keep_only(meta=meta, min_keys=["valid_loss"])

    def export(self) -> None:
        """Write the best network, ``cpc.pt`` (see `ser_ts_lobes.lobes.cpc.load_cpc`), and ``metrics.json``.

        Debug mode writes nothing.

        Raises
        ------
        InputError
            If there is no checkpoint.
        """
        best = self.load_best_to_export("cpc.pt")
        if best is None:
            return
        run = RunFolder(self.hparams.output_folder)
        save_cpc(self.hparams.cpc, run.path / "cpc.pt")
        report = {
            "system": self.hparams.system,
            "seed": self.hparams.seed,
            "settings": self.hparams.settings,
            **{key: best[key] for key in _REPORTED},
            "valid_loss_of_chance": math.log(1 + self.hparams.n_negatives),
        }
        run.write_report(report)
        print(
            f"\nValidation loss {best['valid_loss']:.3f} (chance: {report['valid_loss_of_chance']:.3f}) in epoch "
            f"{best['epoch']}. Written: {run.path / 'cpc.pt'}",
            flush=True,
        )
