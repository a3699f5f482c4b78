"""Frozen features: what a frozen network computes, kept by utterance id.

A frozen encoder says the same of an utterance in every epoch, so it needs to be asked once. With HuBERT
base that is nearly all of the work of an epoch.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import locked, remove_leftovers, replacing
from ser_ts_lobes.fingerprint import fingerprint
from ser_ts_lobes.lobes.encoder import n_valid
from ser_ts_lobes.lobes.parallel import compute_frozen

if TYPE_CHECKING:
    from speechbrain.dataio.dataset import DynamicItemDataset

    from ser_ts_lobes.lobes.encoder import Encoder

logger = get_logger(__name__)

_SHARD_BYTES = 2**28
_SHARDS = "shard-*.safetensors"
_INDEX = "index.json"
_LOCK = ".lock"


class FrozenFeatures:
    """Features of a set of utterances, read from disk one utterance at a time.

    `compute` makes them. On disk they are safetensors shards with the utterance ids as keys and an
    ``index.json`` written last, in a folder named by the fingerprint of all that made them: the manifest,
    the encoder's frozen part, the number type, the code version. Of processes that want the same features, one computes
    them and the others wait.

    Parameters
    ----------
    folder
        A folder that `compute` has finished.

    Example
    -------
    >>> from ser_ts_lobes.lobes.speech import load_speech_encoder
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> encoder = load_speech_encoder(getfixture("tiny_hubert"))
    >>> data = DynamicItemDataset({"a": {"duration": 1.0, "speech": torch.randn(16000)}}, [], ["id", "speech"])
    >>> folder = getfixture("tmp_path")
    >>> features = FrozenFeatures.compute(folder, encoder, data, "speech", manifest_fingerprint="ab12")
    >>> features["a"].shape
    torch.Size([49, 32])
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._shard_of = json.loads((self.folder / _INDEX).read_text())
        self._shards: dict[str, Any] = {}

    @classmethod
    def compute(
        cls,
        cache_folder: str | Path,
        encoder: "Encoder",
        dataset: "DynamicItemDataset",
        key: str,
        manifest_fingerprint: str,
        dtype: str = "float16",
        batch_size: int = 16,
        num_workers: int = 0,
        device: str = "cpu",
        progressbar: bool = True,
    ) -> "FrozenFeatures":
        """Compute what is not there (yet, or any more), and open it.

        Parameters
        ----------
        cache_folder
            Where features of all encoders and manifests are kept.
        encoder
            Its `frozen_forward` makes the features.
        dataset
            Utterances with a ``duration``, and the encoder's input under `key`.
        key
            Name of the dataset's item that the encoder takes.
        manifest_fingerprint
            Of the manifest that the dataset was made from.
        dtype
            Number type on disk, ``float16`` or ``float32``; whole numbers stay what they are.
        batch_size
            Utterances computed at once, sorted by length.
        num_workers
            Processes that read the inputs.
        device
            Where to compute.
        progressbar
            Whether to show progress.

        Returns
        -------
        FrozenFeatures

        Raises
        ------
        InputError
            If a value can't be held in `dtype`.
        """
        encoder_fingerprint = encoder.frozen_fingerprint()
        name = fingerprint(manifest=manifest_fingerprint, encoder=encoder_fingerprint, dtype=dtype, key=key)
        folder = Path(cache_folder) / name[:16]
        if not _is_whole(folder, dataset.data_ids):
            folder.mkdir(parents=True, exist_ok=True)
            loader_options = {"batch_size": batch_size, "num_workers": num_workers}
            with locked(folder / _LOCK) as alone, dataset.output_keys_as(["id", key]):
                if not _is_whole(folder, dataset.data_ids):  # nor has whoever had the lock made it so
                    _clean(folder, alone)
                    _write_shards(folder, encoder.to(device), dataset, key, dtype, device, progressbar, loader_options)
        return cls(folder)

    def __getitem__(self, utterance):
        """Return the features of an utterance, (T, D) float32 or (T,) int64."""
        name = self._shard_of[utterance]
        if name not in self._shards:
            self._shards[name] = safe_open(self.folder / name, framework="pt")
        features = self._shards[name].get_tensor(utterance)
        return features.float() if features.is_floating_point() else features

    def __getstate__(self):
        # Open files do not travel to the workers of a data loader.
        return {**self.__dict__, "_shards": {}}


def _is_whole(folder, utterances):
    """Say whether the index tells what is in the shards, and that is all utterances."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return False
    return index == _read_shards(folder) and index.keys() >= set(utterances)


def _read_shards(folder):
    """Read which shard has each utterance, from the shards themselves."""
    return {utterance: path.name for path in sorted(folder.glob(_SHARDS)) for utterance in _read_utterances(path)}


def _read_utterances(path):
    """Read whose features a shard has; a damaged one has nobody's."""
    try:
        with safe_open(path, framework="pt") as shard:
            return list(shard.keys())
    except (SafetensorError, FileNotFoundError):  # not found: just removed by another process, for it is damaged
        return []


def _clean(folder, alone):
    """Remove what was left by a writer that was killed and what is damaged, unless another may be writing it."""
    if (folder / _INDEX).exists():
        logger.warning(f"{folder / _INDEX} names other features than are there: what is missing is computed again.")
    if alone:
        remove_leftovers(folder)
        for path in folder.glob(_SHARDS):
            if not _read_utterances(path):
                path.unlink()


def _write_shards(folder, encoder, dataset, key, dtype, device, progressbar, loader_options):
    """Compute the utterances that no finished shard has; then write the index."""
    shard_of = _read_shards(folder)
    done = frozenset(shard_of)
    rest = dataset.filtered_sorted(key_test={"id": lambda utterance: utterance not in done}, sort_key="duration")
    loader = make_dataloader(rest, collate_fn=PaddedBatch, **loader_options)
    shard = {}
    encoder.eval()
    bar = tqdm(total=len(rest), desc=f"frozen features ({key})", unit="utt", disable=not progressbar)
    for batch in loader:
        hidden, lens = compute_frozen(encoder, *batch.to(device)[key])
        for utterance, row, n in zip(batch.id, hidden.cpu(), n_valid(lens, hidden.shape[1]).tolist(), strict=True):
            features = row[:n].to(getattr(torch, dtype) if row.is_floating_point() else row.dtype).clone()
            if not features.isfinite().all():
                raise InputError(
                    f"A feature of utterance {utterance!r} can't be held as {dtype}: check the audio, or use "
                    "--feature_dtype float32."
                )
            shard[utterance] = features
        if sum(features.nbytes for features in shard.values()) > _SHARD_BYTES:
            _write_shard(folder, shard, shard_of)
            shard = {}
        bar.update(len(batch))
    bar.close()
    if shard:
        _write_shard(folder, shard, shard_of)
    with replacing(folder / _INDEX) as temporary:
        temporary.write_text(json.dumps(shard_of))
    used, free = sum(path.stat().st_size for path in folder.iterdir()), shutil.disk_usage(folder).free
    logger.info(
        f"Frozen features ({key}) of {len(shard_of)} utterances: {used / 1e9:.2f} GB in {folder}, "
        f"{free / 1e9:.0f} GB left on the disk."
    )


def _write_shard(folder, shard, shard_of):
    # Named by what it has: no other writer can put other utterances in its place, with locks or without.
    path = folder / _SHARDS.replace("*", fingerprint(utterances=sorted(shard))[:16])
    with replacing(path) as temporary:
        save_file(shard, temporary)
    shard_of.update(dict.fromkeys(shard, path.name))
