"""Frozen features: what a frozen network computes, kept by the content of what it was given.

A frozen encoder says the same of an utterance in every epoch, fold and run, so it needs to be asked once. With HuBERT
base that is nearly all of the work of an epoch.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.utils.distributed import ddp_barrier, if_main_process, run_on_main
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from ser_ts_lobes.errors import InputError, first_few
from ser_ts_lobes.files import locked, make_folder, share_lock
from ser_ts_lobes.fingerprint import fingerprint
from ser_ts_lobes.lobes.encoder import n_valid
from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.processes import gather, my_share, share_out
from ser_ts_lobes.training.feature_store import (
    IN_USE,
    LOCK,
    find_shards,
    network_folder,
    remove_damaged,
    write_shard,
)

if TYPE_CHECKING:
    from speechbrain.dataio.dataset import DynamicItemDataset

    from ser_ts_lobes.lobes.encoder import Encoder

logger = get_logger(__name__)

_SHARD_BYTES = 2**28


class FrozenFeatures:
    """Features of a set of utterances, read from disk one utterance at a time.

    `compute` makes them. They are kept by network and by content (`ser_ts_lobes.training.feature_store`), so all that
    hears or reads the same with the same frozen network shares them: folds, runs, systems, releases, corpora.

    Parameters
    ----------
    folder
        Of the network.
    content_of
        Digest of what the network is given, by utterance; `compute` has seen to it that all are there.

    Example
    -------
    >>> from ser_ts_lobes.lobes.speech import load_speech_encoder
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> encoder = load_speech_encoder(getfixture("tiny_hubert"))
    >>> data = DynamicItemDataset({"a": {"duration": 1.0, "speech": torch.randn(16000)}}, [], ["id", "speech"])
    >>> digests = {"a": "ab12"}  # such as `ser_ts_lobes.file_digests.FileDigests` gives them
    >>> folder = getfixture("tmp_path")
    >>> features = FrozenFeatures.compute(folder, encoder, data, "speech", lambda names: [digests[n] for n in names])
    >>> features["a"].shape
    torch.Size([49, 32])
    """

    def __init__(self, folder: str | Path, content_of: dict[str, str]) -> None:
        self.folder = Path(folder)
        self._lock: Any = share_lock(self.folder / IN_USE)  # nobody prunes what is being read
        shards = find_shards(self.folder)
        if unseen := [utterance for utterance, content in content_of.items() if content not in shards]:
            raise InputError(
                f"{self.folder} lacks the features of {first_few(unseen)}, which another process has computed: name a "
                "--feature_folder that all machines of the run share."
            )
        self._content_of = content_of
        self._shard_of = {content: shards[content] for content in content_of.values()}
        self._open_shards: dict[str, Any] = {}

    @classmethod
    def compute(
        cls,
        cache_folder: str | Path,
        encoder: "Encoder",
        dataset: "DynamicItemDataset",
        key: str,
        contents: Callable[[Sequence[str]], list[str]],
        dtype: str = "float16",
        batch_size: int = 16,
        num_workers: int = 0,
        device: str = "cpu",
        progressbar: bool = True,
    ) -> "FrozenFeatures":
        """Compute what is not there (yet, or any more), and open it.

        The processes of a run (`ser_ts_lobes.processes`) do it together, each a share. Of runs that want features of
        the same network, one computes at a time; the others wait, and compute what is still missing then. What is
        finished is kept when a process ends, but the shard that it was about to write.

        Parameters
        ----------
        cache_folder
            Where features of all networks are kept.
        encoder
            Its `frozen_forward` makes the features.
        dataset
            Utterances with a ``duration``, and the encoder's input under `key`.
        key
            Name of the dataset's item that the encoder takes.
        contents
            Gives the digests of what some utterances' items are made from, as that is now; of equal ones, one is
            computed. It is asked again when features are about to be kept under a digest.
        dtype
            Number type on disk: ``float16`` or ``float32``, which are computed in float32, or ``bfloat16``, which is
            computed under autocast to it. That is less exact (8 bits) and, where a processor knows the type, several
            times as fast.
        batch_size
            Utterances that a process computes at once, sorted by length.
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
            If a value can't be held in `dtype`, the disk has too little room, or what an utterance is made from
            changes meanwhile.
        """
        folder = network_folder(cache_folder, fingerprint(encoder=encoder.frozen_fingerprint(), dtype=dtype))
        utterances = list(dataset.data_ids)
        content_of = dict(zip(utterances, share_out(contents, utterances), strict=True))
        if run_on_main(_missing, [folder, content_of]):
            make_folder(folder)
            with _filling(folder), dataset.output_keys_as(["id", key]):
                # Whoever had the lock may have computed it.
                if missing := run_on_main(_missing, [folder, content_of]):
                    part = _in_order(dataset, missing, batch_size)
                    loader = make_dataloader(
                        part, collate_fn=PaddedBatch, batch_size=batch_size, num_workers=num_workers
                    )
                    batches = _encode(encoder.to(device), loader, key, dtype, device)
                    batches = _refuse_full_disk(batches, folder, key, len(missing))
                    batches = _show_progress(batches, key, len(part), progressbar and if_main_process())
                    for shard in _join(batches):
                        _refuse_changed(shard, content_of, contents)
                        write_shard(folder, {content_of[id]: shard[id] for id in shard}, _describe(encoder, dtype))
                run_on_main(find_shards, [folder])  # one process reads what is new, for all
        return cls(folder, content_of)

    def __getitem__(self, utterance: str) -> torch.Tensor:
        """Return the features of an utterance, (T, D) float32."""
        content = self._content_of[utterance]
        name = self._shard_of[content]
        if name not in self._open_shards:
            self._open_shards[name] = safe_open(self.folder / name, framework="pt")
        return self._open_shards[name].get_tensor(content).float()

    def __getstate__(self):
        # Open files do not travel to the workers of a data loader.
        return {**self.__dict__, "_open_shards": {}, "_lock": None}


def _missing(folder, content_of):
    """Give an utterance of each content that no shard has the features of."""
    there = find_shards(folder)
    return list({content: utterance for utterance, content in content_of.items() if content not in there}.values())


@contextmanager
def _filling(folder):
    """Keep other runs out of a network's folder while the processes of this one fill it."""
    with locked(folder / LOCK) if if_main_process() else nullcontext() as alone:
        if alone:
            remove_damaged(folder)
        yield
        ddp_barrier()  # all is there, and nobody writes any more


def _in_order(dataset, utterances, batch_size):
    """Give this process's share of some utterances, sorted by length, for little padding.

    But the first batch is of all lengths, for it tells what all will take.
    """
    wanted = set(utterances)
    part = dataset.filtered_sorted(key_test={"id": wanted.__contains__}, sort_key="duration")
    part.data_ids = my_share(part.data_ids)
    n, n_first = len(part), min(batch_size, len(part))
    first = [part.data_ids[(2 * i + 1) * n // (2 * n_first)] for i in range(n_first)]
    in_first = set(first)
    part.data_ids = [*first, *(utterance for utterance in part.data_ids if utterance not in in_first)]
    return part


def _describe(encoder, dtype):
    """Say of a network what people want to know of it; see `ser_ts_lobes.training.feature_store.Network`."""
    return {
        "encoder": type(encoder).__name__,
        "source": str(encoder.source),
        "frozen_layers": str(encoder.n_frozen),
        "dtype": dtype,
    }


def _encode(encoder, loader, key, dtype, device):
    """Give the features of each batch, by utterance."""
    encoder.eval()
    for batch in loader:
        autocast = torch.autocast(torch.device(device).type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
        with autocast:
            hidden, lens = compute_frozen(encoder, *batch.to(device)[key])
        rows = zip(batch.id, hidden.cpu(), n_valid(lens, hidden.shape[1]).tolist(), strict=True)
        yield {utterance: _convert(row[:n], dtype, utterance) for utterance, row, n in rows}


def _convert(row, dtype, utterance):
    # Apart from the rest of the batch, and row by row, as files need it.
    features = row.to(getattr(torch, dtype)).clone(memory_format=torch.contiguous_format)
    if not features.isfinite().all():
        raise InputError(
            f"A feature of utterance {utterance!r} can't be held as {dtype}: check the audio, or use "
            "--feature_dtype float32."
        )
    return features


def _refuse_full_disk(batches, folder, key, n_utterances):
    """Say after the first batch, of each process, how much all take; go on if there is room."""
    first: dict[str, torch.Tensor] = next(batches, {})
    tried = gather((len(first), _n_bytes(first)))
    n_tried, n_bytes_tried = (sum(numbers) for numbers in zip(*tried, strict=True))
    n_bytes, free = n_bytes_tried / n_tried * n_utterances, shutil.disk_usage(folder).free
    needs = (
        f"Frozen features ({key}) of {n_utterances} utterances take about {n_bytes / 1e9:.2f} GB, and "
        f"{free / 1e9:.2f} GB are free in {folder}"
    )
    if n_bytes > free:
        raise InputError(
            f"{needs}: make room (`ser-ts features {folder.parent}` tells what is kept), name a --feature_folder on "
            "another disk, or compute them in each epoch (--feature_folder null)."
        )
    logger.info(f"{needs}.")
    if first:
        yield first
    yield from batches


def _show_progress(batches, key, n_utterances, wanted):
    with tqdm(total=n_utterances, desc=f"frozen features ({key})", unit="utt", disable=not wanted) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def _join(batches):
    """Join batches to shards."""
    shard: dict[str, torch.Tensor] = {}
    for batch in batches:
        shard |= batch
        if _n_bytes(shard) > _SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


def _n_bytes(features):
    return sum(tensor.nbytes for tensor in features.values())


def _refuse_changed(utterances, content_of, contents):
    """Refuse to keep features under the digest of what may be something else than was heard or read."""
    now = contents(list(utterances))
    changed = [
        utterance for utterance, content in zip(utterances, now, strict=True) if content != content_of[utterance]
    ]
    if changed:
        raise InputError(
            f"The audio or the text of {first_few(changed)} changed while features were computed: run the same command "
            "again when nobody changes the corpus any more."
        )
