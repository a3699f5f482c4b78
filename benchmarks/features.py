"""Kept features: how fast they are read, beside HDF5 and LMDB, and how fast training uses them up.

To run, from the repository's root, after ``pip install h5py lmdb``: ``python -m benchmarks.features`` (a minute;
2.5 GB on the disk for as long as it runs). 2,000 utterances of 280 frames of 384 numbers in half precision (5.6 s, as
the small encoder has them), read one by one in random order from the cache of the file system, each as a float32
tensor; what is in memory already, and only converted, is the bound. Then a loader makes batches of them as training
does, and a network of the student's form learns from such batches. Memory is that of reading 1,000 and 50,000
utterances of a tenth of that length. Last, as many features as MSP-Podcast 2.0 has
recordings, of one number each, are found in the shards that they would fill, and so are the digests of as many files.
All times are those on a processor.
"""

import argparse
import json
import math
import random
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import h5py
import lmdb
import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.dataset import DynamicItemDataset

from benchmarks.training_cost import N_MSP_PODCAST_2
from ser_ts_lobes.file_digests import FileDigests
from ser_ts_lobes.lobes.emotion import EmotionModel
from ser_ts_lobes.lobes.pooling import GRUPooling
from ser_ts_lobes.training.feature_store import find_shards, write_shard
from ser_ts_lobes.training.features import FrozenFeatures
from ser_ts_lobes.training.losses import ccc_loss

N_UTTERANCES, N_FRAMES, SIZE = 2000, 280, 384
SHORT_FRAMES = 28  # where there are many
BATCH_SIZE = 32
SHARD_UTTERANCES = 2**28 // (N_FRAMES * SIZE * 2)
N_BYTES = N_FRAMES * 640 + 44  # of an audio file
ENTRY = [N_BYTES, 10**18, 10**18, "0" * 64]  # of the side file


def make_features():
    """Make as many features, by name."""
    values = np.random.default_rng(0).standard_normal((N_UTTERANCES, N_FRAMES, SIZE), dtype=np.float32)
    return {f"{number:064x}": value for number, value in enumerate(values.astype(np.float16))}


def write_ours(folder, features):
    """Write shards as `FrozenFeatures.compute` does."""
    folder.mkdir()
    names = list(features)
    for start in range(0, len(names), SHARD_UTTERANCES):
        part = names[start : start + SHARD_UTTERANCES]
        write_shard(folder, {name: torch.from_numpy(features[name]) for name in part}, {})


def open_ours(folder):
    """Open them; an utterance has the name of its content here."""
    return FrozenFeatures(folder, {content: content for content in find_shards(folder)}).__getitem__


def write_hdf5(path, features):
    """Write a data set an utterance."""
    with h5py.File(path, "w") as file:
        for name, value in features.items():
            file.create_dataset(name, data=value)


def open_hdf5(path):
    """Open them."""
    file = h5py.File(path, "r")
    return lambda name: torch.from_numpy(file[name][:]).float()


def write_lmdb(path, features):
    """Write an entry an utterance."""
    with lmdb.open(str(path), map_size=2**31) as environment, environment.begin(write=True) as transaction:
        for name, value in features.items():
            transaction.put(name.encode(), value.tobytes())


def open_lmdb(path):
    """Open them; shapes would have to be kept beside."""
    transaction = lmdb.open(str(path), readonly=True, lock=False).begin(buffers=True)

    def read(name):
        # PyTorch's conversion, as for the others: NumPy's takes several times as long.
        return torch.frombuffer(transaction.get(name.encode()), dtype=torch.float16).view(N_FRAMES, SIZE).float()

    return read


def fastest(function, repeats):
    """Call a function some times; return the fewest seconds on a processor, of which others may want their part."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


def keep_in_memory(_, features):
    """Write nothing."""
    IN_MEMORY.update({name: torch.from_numpy(value) for name, value in features.items()})


def open_memory(_):
    """Read what `keep_in_memory` was given."""
    return lambda name: IN_MEMORY[name].float()


IN_MEMORY: dict[str, torch.Tensor] = {}
STORES = {
    "safetensors shards (ours)": (write_ours, open_ours),
    "HDF5": (write_hdf5, open_hdf5),
    "LMDB": (write_lmdb, open_lmdb),
    "memory (the bound)": (keep_in_memory, open_memory),
}


def read_all(read, names):
    """Read one after another; keep none, as training does not."""
    for name in names:
        read(name)


def compare_stores(folder, features, repeats):
    """Print how fast each store is written, opened and read."""
    order = random.Random(0).sample(list(features), len(features))
    written_s, opened_s, read_s, readers = {}, {}, {}, {}
    for number, (store, (write, open_store)) in enumerate(STORES.items()):
        path = folder / str(number)
        written_s[store] = fastest(partial(write, path, features), 1)
        opened_s[store] = fastest(lambda: open_store(path)(order[0]), repeats)  # noqa: B023
        readers[store] = open_store(path)
        assert all(torch.equal(readers[store](name), torch.from_numpy(features[name]).float()) for name in order)
    for _ in range(repeats):  # in turns, for whatever else the machine does
        for store, read in readers.items():
            read_s[store] = min(read_s.get(store, math.inf), fastest(partial(read_all, read, order), 1))
    print("| store | written, s | opened, ms | utterances a second | GB a second |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for store in STORES:
        rate = len(order) / read_s[store]
        gigabytes = rate * N_FRAMES * SIZE * 2 / 1e9
        print(f"| {store} | {written_s[store]:.1f} | {1000 * opened_s[store]:.1f} | {rate:.0f} | {gigabytes:.2f} |")
    return open_ours(folder / "0")


def compare_with_training(read, names, repeats):
    """Print how fast a loader gives batches, and how fast a network learns from them."""
    data = DynamicItemDataset({name: {} for name in names}, output_keys=["id", "speech"])
    data.add_dynamic_item(read, "id", "speech")
    loader = make_dataloader(data, collate_fn=PaddedBatch, batch_size=BATCH_SIZE, shuffle=True)
    loaded = len(names) / fastest(lambda: [batch.speech for batch in loader], repeats)

    frames = torch.stack([read(name) for name in list(names)[:BATCH_SIZE]])
    labels, lens = torch.randn(BATCH_SIZE, 3), torch.ones(BATCH_SIZE)
    model = EmotionModel(speech_pooling=GRUPooling(SIZE))
    optimizer = torch.optim.Adam(model.parameters())

    def step():
        optimizer.zero_grad()
        ccc_loss(model(frames, lens).prediction, labels).backward()
        optimizer.step()

    step()
    learnt = BATCH_SIZE / fastest(step, repeats)
    print(f"\nUtterances a second: {loaded:.0f} in batches from one loader process, {learnt:.0f} used up by training")
    print(f"on this CPU ({torch.get_num_threads()} threads); ratio {loaded / learnt:.1f}")


def write_alike(folder, n_utterances, features):
    """Write shards of so many utterances, all of the same features."""
    folder.mkdir()
    for start in range(0, n_utterances, SHARD_UTTERANCES):
        part = range(start, min(start + SHARD_UTTERANCES, n_utterances))
        write_shard(folder, {f"{number:064x}": features.clone() for number in part}, {})


def memory_of_reading(folder, n_utterances):
    """Write so many short utterances, and read all in random order; give the memory that takes, in MB.

    What is counted is what the process has for itself: pages of the shards are the file system's, which takes them
    back when others need them.
    """
    write_alike(folder, n_utterances, torch.zeros(SHORT_FRAMES, SIZE, dtype=torch.float16))
    names = list(find_shards(folder))
    random.Random(0).shuffle(names)
    read_all(open_ours(folder), names)
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def compare_memory(folder):
    """Print what reading takes of small and of many."""
    print("\n| utterances read | memory, MB |\n| ---: | ---: |")
    for n_utterances in (1_000, 50_000):
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            megabytes = alone.submit(memory_of_reading, folder / f"{n_utterances}", n_utterances).result()
        print(f"| {n_utterances} | {megabytes:.0f} |")


def find_many(folder):
    """Print how long it takes to find as many features as a large corpus has."""
    write_alike(folder, N_MSP_PODCAST_2, torch.zeros(1, dtype=torch.float16))
    seconds = fastest(lambda: find_shards(folder), 2)
    print(f"\n{len(find_shards(folder))} features in {len(list(folder.iterdir()))} shards are found in {seconds:.1f} s")


def digest_many(folder):
    """Print how long it takes to read audio for its digests, and to find those of a large corpus."""
    folder.mkdir()
    paths = [folder / f"{number}.wav" for number in range(N_UTTERANCES)]
    for path in paths:
        path.write_bytes(random.randbytes(N_BYTES))
    first_s = fastest(lambda: FileDigests(folder / "none.json").of(paths), 1)
    gigabytes = N_UTTERANCES * N_BYTES / 1e9
    entries = {f"/data/MSP-Podcast/Audios/MSP-PODCAST_{number:06}.wav": ENTRY for number in range(N_MSP_PODCAST_2)}
    (folder / "many.json").write_text(json.dumps(entries))
    again_s = fastest(lambda: FileDigests(folder / "many.json"), 2)
    print(
        f"Digests of {gigabytes:.2f} GB in {N_UTTERANCES} files take {first_s:.2f} s, {first_s / gigabytes:.2f} s a GB;"
    )
    print(f"those of {N_MSP_PODCAST_2} files are found in {again_s:.1f} s")


def main():
    """Print all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # LMDB's memory can't be written to, and nobody does.
    warnings.filterwarnings("ignore", "The given buffer is not writable")
    parser.add_argument("--repeats", type=int, default=5, help="the fastest counts (5)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    features = make_features()
    with tempfile.TemporaryDirectory() as temporary:
        read = compare_stores(Path(temporary), features, arguments.repeats)
        compare_with_training(read, features, arguments.repeats)
        compare_memory(Path(temporary))
        find_many(Path(temporary, "many"))
        digest_many(Path(temporary, "audio"))


if __name__ == "__main__":
    main()
