import contextlib
import errno
import fcntl
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from speechbrain.dataio.dataset import DynamicItemDataset

import ser_ts_lobes.training.features
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.descriptors import ShortTermStatistics
from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.lobes.words import WordEncoder
from ser_ts_lobes.training.features import FrozenFeatures
from tests.tiny_models import save_word_vectors


@pytest.fixture
def wavs():
    return make_wavs()


def make_wavs():
    torch.manual_seed(0)
    return {f"utt{i}": 0.1 * torch.randn(4000 + 1500 * i) for i in range(5)}


def dataset(wavs):
    rows = {name: {"duration": len(wav) / 16000, "speech": wav} for name, wav in wavs.items()}
    return DynamicItemDataset(rows, [], ["id", "speech"])


def compute(folder, encoder, wavs, progressbar=False, **options):
    return FrozenFeatures.compute(
        folder, encoder, dataset(wavs), "speech", "manifest", progressbar=progressbar, **options
    )


@pytest.mark.parametrize("progressbar", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 5e-3)])
def test_each_utterance_gets_its_own_features(tmp_path, tiny_hubert, wavs, dtype, tolerance, progressbar):
    encoder = load_speech_encoder(tiny_hubert, trainable_layers=1)
    features = compute(tmp_path, encoder, wavs, progressbar, dtype=dtype, batch_size=2)
    for name, wav in wavs.items():
        expected, _ = encoder.frozen_forward(wav.unsqueeze(0), torch.ones(1))
        torch.testing.assert_close(features[name], expected[0], rtol=0, atol=tolerance)


def test_what_is_there_is_not_computed_again(tmp_path, tiny_hubert, wavs, monkeypatch, caplog):
    encoder = load_speech_encoder(tiny_hubert)
    first = compute(tmp_path, encoder, wavs)
    monkeypatch.setattr(encoder, "frozen_forward", None)
    caplog.clear()
    again = compute(tmp_path, encoder, wavs)
    assert again["utt0"].equal(first["utt0"])
    assert compute(tmp_path, encoder, {"utt3": wavs["utt3"]})["utt3"].equal(first["utt3"])  # of some of them, too
    assert caplog.messages == []


@pytest.mark.parametrize("change", ["weights", "layer", "dtype", "manifest"])
def test_a_change_of_what_made_them_makes_new_ones(tmp_path, tiny_hubert, wavs, change):
    compute(tmp_path, load_speech_encoder(tiny_hubert), wavs)
    encoder = load_speech_encoder(tiny_hubert, trainable_layers=int(change == "layer"))
    if change == "weights":
        with torch.no_grad():
            encoder.layers[0].final_layer_norm.bias.add_(0.1)
    FrozenFeatures.compute(
        tmp_path,
        encoder,
        dataset(wavs),
        "speech",
        "another manifest" if change == "manifest" else "manifest",
        dtype="float32" if change == "dtype" else "float16",
        progressbar=False,
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_run_goes_on(tmp_path, tiny_hubert, wavs, monkeypatch):
    monkeypatch.setattr(ser_ts_lobes.training.features, "_SHARD_BYTES", 0)  # a shard a batch
    encoder = load_speech_encoder(tiny_hubert)
    forward, calls = encoder.frozen_forward, []

    def interrupted(*inputs):
        calls.append(len(inputs[0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(*inputs)

    monkeypatch.setattr(encoder, "frozen_forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path, encoder, wavs, batch_size=2)
    features = compute(tmp_path, encoder, wavs, batch_size=2)
    assert sum(calls) == 2 + 2 + 3  # one batch, the interrupted one, the rest
    expected, _ = forward(wavs["utt0"].unsqueeze(0), torch.ones(1))
    torch.testing.assert_close(features["utt0"], expected[0], rtol=0, atol=5e-3)
    [folder] = tmp_path.iterdir()
    kept = [key for path in folder.glob("*.safetensors") for key in safe_open(path, "pt").keys()]
    assert sorted(kept) == sorted(wavs)


def test_what_overflows_the_number_type_is_named(tmp_path, tiny_hubert, wavs):
    encoder = load_speech_encoder(tiny_hubert)
    with torch.no_grad():
        encoder.layers[-1].final_layer_norm.bias.fill_(1e5)  # float16 ends at 65504
    with pytest.raises(InputError) as error:
        compute(tmp_path, encoder, wavs)
    assert str(error.value) == (
        "A feature of utterance 'utt0' can't be held as float16: check the audio, or use --feature_dtype float32."
    )
    assert compute(tmp_path, encoder, wavs, dtype="float32")["utt0"].isfinite().all()


def test_whole_numbers_stay_what_they_are(tmp_path):
    encoder = WordEncoder(save_word_vectors(tmp_path / "vectors.txt", size=2), size=2)
    encoder.fit([" ".join(["it was", *(f"word{i}" for i in range(3000))])])
    ids = {"utt0": encoder.tokenize("it was word2049 word2999"), "utt1": encoder.tokenize("word7")}
    rows = {name: {"duration": 1.0, "text": value} for name, value in ids.items()}
    data = DynamicItemDataset(rows, [], ["id", "text"])
    features = FrozenFeatures.compute(tmp_path / "features", encoder, data, "text", "manifest", progressbar=False)
    for name, value in ids.items():  # float16 could not tell 2049 from 2048
        assert features[name].equal(value)


def write_slowly(folder, batch_size, locks=True, half=False):
    """Fill a feature folder, and say so; in a process of its own."""
    ser_ts_lobes.training.features._SHARD_BYTES = 0  # a shard a batch
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    encoder = ShortTermStatistics()
    forward = encoder.frozen_forward

    def slow(wavs, lens):
        print(f"computes {len(wavs)}", flush=True)
        time.sleep(0.3)
        return forward(wavs, lens)

    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "no locks")

    def save_half(shard, path):
        path.write_bytes(b"half of it")
        print("writes", flush=True)
        time.sleep(600)

    encoder.frozen_forward = slow
    if not locks:
        fcntl.flock = no_locks
    if half:
        ser_ts_lobes.training.features.save_file = save_half
    print("ready", flush=True)
    sys.stdin.readline()
    compute(folder, encoder, make_wavs(), batch_size=batch_size)


def start_writer(*arguments):
    program = f"from tests.unit.training.test_features import write_slowly; write_slowly(*{arguments!r})"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def let_go(*writers):
    for writer in writers:
        while writer.stdout.readline() != "ready\n":
            assert writer.poll() is None
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()


def assert_whole(cache_folder, wavs):
    """Check that all features are there and right, and that nothing need be computed."""
    encoder = ShortTermStatistics()
    expected = {name: encoder.frozen_forward(wav.unsqueeze(0), torch.ones(1))[0][0] for name, wav in wavs.items()}
    encoder.frozen_forward = None
    features = compute(cache_folder, encoder, wavs)
    for name in wavs:
        torch.testing.assert_close(features[name], expected[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_two_processes_may_fill_one_folder(tmp_path, wavs, locks):
    writers = [start_writer(str(tmp_path), batch_size, locks) for batch_size in (1, 2)]
    let_go(*writers)
    outputs = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert_whole(tmp_path, wavs)
    if locks:
        first = 0 if "computes" in outputs[0] else 1
        assert "computes" not in outputs[1 - first]
        [waits] = [line for line in outputs[1 - first].splitlines() if "waiting" in line]
        assert f"is in use by process {writers[first].pid} on " in waits
    else:
        assert all("has no locks" in output for output in outputs)


def test_what_a_killed_writer_left_is_removed(tmp_path, wavs):
    writer = start_writer(str(tmp_path), 2, True, True)
    let_go(writer)
    while writer.stdout.readline() != "writes\n":
        assert writer.poll() is None
    writer.kill()
    writer.communicate()
    [folder] = tmp_path.iterdir()
    assert len(list(folder.glob(".*.tmp"))) == 1
    compute(tmp_path, ShortTermStatistics(), wavs)
    assert not list(folder.glob("*.tmp"))
    assert_whole(tmp_path, wavs)


def swap_two_rows(folder):
    index = json.loads((folder / "index.json").read_text())
    index["utt0"], index["utt4"] = index["utt4"], index["utt0"]
    (folder / "index.json").write_text(json.dumps(index))


def leave_a_row_out(folder):
    index = json.loads((folder / "index.json").read_text())
    del index["utt3"]
    (folder / "index.json").write_text(json.dumps(index))


def shard_of(folder, utterance):
    return folder / json.loads((folder / "index.json").read_text())[utterance]


def write_index(text):
    return lambda folder: (folder / "index.json").write_text(text)


def cut_a_shard(folder):
    path = shard_of(folder, "utt0")
    path.write_bytes(path.read_bytes()[:-1])


def overwrite_a_shard(folder):
    shard_of(folder, "utt0").write_bytes(shard_of(folder, "utt2").read_bytes())


@pytest.mark.parametrize(
    ("damage", "n_missing"),
    [
        (swap_two_rows, 0),
        (leave_a_row_out, 0),
        (write_index('{"utt0":'), 0),
        (write_index("[" * 100_000), 0),
        (write_index('["utt0"]'), 0),
        (write_index('{"utt0": ["shard"]}'), 0),
        (lambda folder: shard_of(folder, "utt0").unlink(), 2),
        (cut_a_shard, 2),
        (overwrite_a_shard, 2),
    ],
    ids=[
        "rows swapped",
        "row left out",
        "index cut",
        "index deep",
        "index a list",
        "index of lists",
        "shard deleted",
        "shard cut",
        "shard overwritten",
    ],
)
def test_a_damaged_folder_is_noticed_and_repaired(tmp_path, wavs, monkeypatch, caplog, damage, n_missing):
    monkeypatch.setattr(ser_ts_lobes.training.features, "_SHARD_BYTES", 0)
    compute(tmp_path, ShortTermStatistics(), wavs, batch_size=2)
    [folder] = tmp_path.iterdir()
    damage(folder)
    encoder, calls = ShortTermStatistics(), []
    forward = encoder.frozen_forward
    monkeypatch.setattr(encoder, "frozen_forward", lambda *inputs: calls.append(len(inputs[0])) or forward(*inputs))
    with caplog.at_level(logging.WARNING):
        compute(tmp_path, encoder, wavs)
    assert sum(calls) == n_missing
    assert "index.json names other features than are there" in caplog.text
    assert_whole(tmp_path, wavs)


def test_without_options_16_of_one_length_go_together_in_half_precision(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=7.4e9))
    lengths = [16000 - 500 * (7 * i % 17) for i in range(17)]
    data = dataset({f"utt{i}": 0.1 * torch.randn(length) for i, length in enumerate(lengths)})
    read_by = set()
    data.add_dynamic_item(lambda wav: read_by.add(os.getpid()) or wav, "speech", "heard")
    batches = []

    def noting(encoder, wavs, lens):
        batches.append((lens * wavs.shape[1]).round().int().tolist())
        return compute_frozen(encoder, wavs, lens)

    monkeypatch.setattr(ser_ts_lobes.training.features, "compute_frozen", noting)
    with caplog.at_level(logging.INFO):
        FrozenFeatures.compute(tmp_path, ShortTermStatistics(), data, "heard", "manifest")
    assert batches == [sorted(lengths)[:16], sorted(lengths)[16:]]
    assert read_by == {os.getpid()}
    [folder] = tmp_path.iterdir()
    [path] = folder.glob("*.safetensors")
    with safe_open(path, "pt") as shard:
        assert shard.get_tensor("utt3").dtype == torch.float16
    bar = capsys.readouterr().err.splitlines()[-1].split("\r")[-1]
    assert bar.startswith("frozen features (heard): 100%") and "17/17" in bar and "utt/s" in bar
    [message] = caplog.messages
    assert message == f"Frozen features (heard) of 17 utterances: 0.00 GB in {folder}, 7 GB left on the disk."


def test_no_progress_is_shown_where_none_is_wanted(tmp_path, wavs, capsys):
    compute(tmp_path, ShortTermStatistics(), wavs)
    assert capsys.readouterr().err == ""


def test_a_shard_ends_with_the_batch_that_fills_it(tmp_path, wavs, monkeypatch):
    # Two utterances of 68 float16 do not fill it yet.
    monkeypatch.setattr(ser_ts_lobes.training.features, "_SHARD_BYTES", 2 * 68 * 2)
    compute(tmp_path, ShortTermStatistics(), wavs, batch_size=1)
    sizes = [len(safe_open(path, "pt").keys()) for path in tmp_path.glob("*/*.safetensors")]
    assert sorted(sizes) == [2, 3]


def test_two_items_of_one_dataset_have_features_of_their_own(tmp_path, wavs):
    data = dataset(wavs)
    data.add_dynamic_item(lambda wav: wav.square(), "speech", "squared")
    as_they_are, squared = (
        FrozenFeatures.compute(tmp_path, ShortTermStatistics(), data, key, "manifest", progressbar=False)
        for key in ("speech", "squared")
    )
    assert len(list(tmp_path.iterdir())) == 2
    assert not squared["utt0"].equal(as_they_are["utt0"])


def test_the_encoder_and_its_input_are_on_the_device(tmp_path, tiny_hubert, wavs):
    encoder, devices = load_speech_encoder(tiny_hubert), []

    def forward(wavs, lens):
        devices.extend(tensor.device.type for tensor in (wavs, lens, next(encoder.parameters())))
        return torch.zeros(len(wavs), 1, 1), torch.ones(len(wavs))

    encoder.frozen_forward = forward
    compute(tmp_path, encoder, wavs, device="meta")
    assert devices == ["meta"] * 3


def test_features_that_were_read_travel_to_another_process(tmp_path, wavs):
    features = compute(tmp_path, ShortTermStatistics(), wavs)
    expected = features["utt0"]
    assert pickle.loads(pickle.dumps(features))["utt0"].equal(expected)


def test_without_locks_nothing_of_another_writer_is_removed(tmp_path, wavs, monkeypatch):
    compute(tmp_path, ShortTermStatistics(), wavs)
    [folder] = tmp_path.iterdir()
    others = [folder / ".shard-0.safetensors.1.tmp", folder / "shard-0.safetensors"]
    for path in others:
        path.write_bytes(b"half of it")
    (folder / "index.json").unlink()
    with monkeypatch.context() as no_locks:
        no_locks.setattr(ser_ts_lobes.training.features, "locked", lambda path: contextlib.nullcontext(False))
        compute(tmp_path, ShortTermStatistics(), wavs)
    assert all(path.exists() for path in others)
    (folder / "index.json").unlink()
    compute(tmp_path, ShortTermStatistics(), wavs)
    assert not any(path.exists() for path in others)
