import contextlib
import errno
import fcntl
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from speechbrain.dataio.dataset import DynamicItemDataset

import ser_ts_lobes.training.feature_store
import ser_ts_lobes.training.features
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing
from ser_ts_lobes.lobes.descriptors import ShortTermStatistics
from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.lobes.speech import load_speech_encoder
from ser_ts_lobes.training.feature_store import find_networks, prune
from ser_ts_lobes.training.features import FrozenFeatures
from tests.ranks import on_each_rank
from tests.tiny_models import save_tiny_whisper


@pytest.fixture
def wavs():
    return make_wavs()


def make_wavs():
    torch.manual_seed(0)
    return {f"utt{i}": 0.1 * torch.randn(4000 + 1500 * i) for i in range(5)}


def dataset(wavs):
    rows = {name: {"duration": len(wav) / 16000, "speech": wav} for name, wav in wavs.items()}
    return DynamicItemDataset(rows, [], ["id", "speech"])


def contents_of(wavs):
    """Give the function from utterances to digests of these waveforms, as they are when it is called."""
    return lambda utterances: [sha256(wavs[utterance].numpy().tobytes()).hexdigest() for utterance in utterances]


def compute(folder, encoder, wavs, progressbar=False, contents=None, **options):
    return FrozenFeatures.compute(
        folder, encoder, dataset(wavs), "speech", contents or contents_of(wavs), progressbar=progressbar, **options
    )


def count_utterances(monkeypatch, encoder):
    """Let an encoder note how many utterances each call has."""
    forward, calls = encoder.frozen_forward, []
    monkeypatch.setattr(encoder, "frozen_forward", lambda *inputs: calls.append(len(inputs[0])) or forward(*inputs))
    return calls


@pytest.mark.parametrize("progressbar", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 5e-3), ("bfloat16", 0.15)])
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


def test_only_what_is_new_is_computed_whatever_it_is_called(tmp_path, wavs, monkeypatch):
    encoder = ShortTermStatistics()
    first = compute(tmp_path, encoder, {name: wavs[name] for name in ("utt0", "utt1", "utt2")})
    calls = count_utterances(monkeypatch, encoder)
    renamed = {"other4": wavs["utt4"], "other1": wavs["utt1"], "other3": wavs["utt3"], "other0": wavs["utt0"]}
    features = compute(tmp_path, encoder, renamed)
    assert sum(calls) == 2
    assert features["other1"].equal(first["utt1"]) and features["other0"].equal(first["utt0"])
    assert_whole(tmp_path, wavs)  # of both, together


def test_other_audio_under_the_same_name_is_computed(tmp_path, wavs):
    before = compute(tmp_path, ShortTermStatistics(), wavs)["utt0"]
    wavs["utt0"] = wavs["utt0"].flip(0) * 0.5
    after = compute(tmp_path, ShortTermStatistics(), wavs)["utt0"]
    assert not after.allclose(before)
    assert_whole(tmp_path, wavs)


def test_of_utterances_that_are_the_same_one_is_computed(tmp_path, wavs, monkeypatch):
    encoder = ShortTermStatistics()
    calls = count_utterances(monkeypatch, encoder)
    features = compute(tmp_path, encoder, {"a": wavs["utt0"], "b": wavs["utt0"], "c": wavs["utt1"]})
    assert sum(calls) == 2
    assert features["a"].equal(features["b"]) and not features["a"].equal(features["c"])


@pytest.mark.parametrize("change", ["weights", "layer", "dtype"])
def test_a_change_of_what_made_them_makes_new_ones(tmp_path, tiny_hubert, wavs, change):
    compute(tmp_path, load_speech_encoder(tiny_hubert), wavs)
    encoder = load_speech_encoder(tiny_hubert, trainable_layers=int(change == "layer"))
    if change == "weights":
        with torch.no_grad():
            encoder.layers[0].final_layer_norm.bias.add_(0.1)
    compute(tmp_path, encoder, wavs, dtype="float32" if change == "dtype" else "float16")
    assert len(list(tmp_path.glob("*/"))) == 2


def test_what_changes_while_it_is_computed_is_not_kept(tmp_path, wavs, monkeypatch):
    monkeypatch.setattr(ser_ts_lobes.training.features, "_SHARD_BYTES", 0)  # a shard a batch
    encoder = ShortTermStatistics()
    forward = encoder.frozen_forward

    def replaced_meanwhile(*inputs):
        wavs["utt3"] = wavs["utt3"] * 0.5
        return forward(*inputs)

    monkeypatch.setattr(encoder, "frozen_forward", replaced_meanwhile)
    with pytest.raises(InputError) as error:
        compute(tmp_path, encoder, wavs, batch_size=1)
    assert str(error.value) == (
        "The audio or the text of utt3 changed while features were computed: run the same command again when nobody "
        "changes the corpus any more."
    )
    monkeypatch.undo()
    compute(tmp_path, ShortTermStatistics(), wavs)
    assert_whole(tmp_path, wavs)


def test_an_interrupted_run_goes_on(tmp_path, tiny_hubert, wavs, monkeypatch):
    monkeypatch.setattr(ser_ts_lobes.training.features, "_SHARD_BYTES", 0)  # a shard a batch
    encoder = load_speech_encoder(tiny_hubert)
    forward, calls = encoder.frozen_forward, []

    def interrupted(*inputs):
        calls.append(len(inputs[0]))
        if len(calls) == 4:  # one by one, on a CPU
            raise KeyboardInterrupt
        return forward(*inputs)

    monkeypatch.setattr(encoder, "frozen_forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path, encoder, wavs, batch_size=2)
    features = compute(tmp_path, encoder, wavs, batch_size=2)
    assert sum(calls) == 2 + 2 + 3  # a batch, the one that was interrupted, all but the first
    expected, _ = forward(wavs["utt0"].unsqueeze(0), torch.ones(1))
    torch.testing.assert_close(features["utt0"], expected[0], rtol=0, atol=5e-3)
    [folder] = tmp_path.glob("*/")
    kept = [key for path in folder.glob("*.safetensors") for key in safe_open(path, "pt").keys()]
    assert sorted(kept) == sorted(contents_of(wavs)(list(wavs)))


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

    @contextlib.contextmanager
    def write_half(path):
        with replacing(path) as temporary:
            temporary.write_bytes(b"half of it")
            print("writes", flush=True)
            time.sleep(600)
            yield temporary

    encoder.frozen_forward = slow
    if not locks:
        fcntl.flock = no_locks
    if half:
        ser_ts_lobes.training.feature_store.replacing = write_half
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
        # Between taking a lock and signing it, nobody can tell whose it is.
        assert f"is in use by process {writers[first].pid} on " in waits or "is in use by another process:" in waits
    else:
        assert all("has no locks" in output for output in outputs)


@pytest.mark.parametrize("n_new", [3, 1])  # of one, the second process gets nothing
def test_processes_of_a_run_compute_a_share_each(tmp_path, wavs, monkeypatch, n_new):
    (tmp_path / "ranks").mkdir()
    encoder = ShortTermStatistics()
    old = compute(tmp_path / "features", encoder, dict(list(wavs.items())[n_new:]))
    calls = count_utterances(monkeypatch, encoder)

    def task(_):
        features = compute(tmp_path / "features", encoder, wavs, batch_size=2)
        return len(calls), {name: features[name] for name in wavs}

    ranks = on_each_rank(task, tmp_path / "ranks", 2)
    assert [n_calls for n_calls, _ in ranks] == [n_new - n_new // 2, n_new // 2]
    alone = compute(tmp_path / "alone", encoder, wavs)
    for _, features in ranks:
        for name in wavs:
            torch.testing.assert_close(features[name], alone[name], rtol=0, atol=1e-5)
    assert all(old[name].equal(features[name]) for name in list(wavs)[n_new:])
    assert_whole(tmp_path / "features", wavs)


def test_the_disk_must_have_room_for_what_all_processes_write(tmp_path, wavs, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=4.9 * 68 * 2))

    def task(_):
        with pytest.raises(InputError, match=r"of 5 utterances take about 0.00 GB"):
            compute(tmp_path / "features", ShortTermStatistics(), wavs)
        return len(list(tmp_path.glob("features/*/*.safetensors")))

    assert on_each_rank(task, tmp_path, 2) == [0, 0]


def test_features_that_another_machine_has_kept_to_itself_are_missed(tmp_path, wavs):
    folder = compute(tmp_path, ShortTermStatistics(), wavs).folder
    with pytest.raises(InputError, match=f"{folder} lacks the features of utt9, .* --feature_folder that all machines"):
        FrozenFeatures(folder, {"utt9": "never computed"})


def test_what_a_killed_writer_left_is_removed(tmp_path, wavs):
    writer = start_writer(str(tmp_path), 2, True, True)
    let_go(writer)
    while writer.stdout.readline() != "writes\n":
        assert writer.poll() is None
    writer.kill()
    writer.communicate()
    [folder] = tmp_path.glob("*/")
    assert len(list(folder.glob(".*.tmp"))) == 1
    compute(tmp_path, ShortTermStatistics(), wavs)
    assert not list(folder.glob("*.tmp"))
    assert_whole(tmp_path, wavs)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def change_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last number
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "n_missing", "noticed"),
    [
        (lambda one, other: one.unlink(), 2, False),
        (lambda one, other: cut(one), 2, True),
        (lambda one, other: one.write_bytes(b""), 2, True),
        (lambda one, other: one.write_bytes(other.read_bytes()), 2, True),
        (lambda one, other: change_a_bit(one), 2, True),
    ],
    ids=["deleted", "cut", "empty", "overwritten", "a bit"],
)
def test_a_damaged_shard_is_noticed_and_computed_again(tmp_path, wavs, monkeypatch, caplog, damage, n_missing, noticed):
    monkeypatch.setattr(ser_ts_lobes.training.features, "_SHARD_BYTES", 0)
    compute(tmp_path, ShortTermStatistics(), wavs, batch_size=2)
    pairs = [path for path in tmp_path.glob("*/*.safetensors") if len(safe_open(path, "pt").keys()) == 2]
    damage(*pairs)
    encoder = ShortTermStatistics()
    calls = count_utterances(monkeypatch, encoder)
    compute(tmp_path, encoder, wavs)
    assert sum(calls) == n_missing
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"{pairs[0]} is damaged: what was in it is computed again."] * noticed
    assert_whole(tmp_path, wavs)


def test_without_options_16_of_one_length_go_together_in_half_precision(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=7.4e9))
    lengths = [16000 - 250 * (7 * i % 33) for i in range(33)]
    wavs = {f"utt{i}": 0.1 * torch.randn(length) for i, length in enumerate(lengths)}
    data = dataset(wavs)
    read_by = set()
    data.add_dynamic_item(lambda wav: read_by.add(os.getpid()) or wav, "speech", "heard")
    batches = []

    def noting(encoder, wavs, lens):
        batches.append((lens * wavs.shape[1]).round().int().tolist())
        return compute_frozen(encoder, wavs, lens)

    monkeypatch.setattr(ser_ts_lobes.training.features, "compute_frozen", noting)
    with caplog.at_level(logging.INFO):
        FrozenFeatures.compute(tmp_path, ShortTermStatistics(), data, "heard", contents_of(wavs))
    lengths.sort()
    assert batches[0] == lengths[1::2]  # of all lengths, to foretell the size; then from the shortest to the longest
    assert batches[1:] == [lengths[0:32:2], lengths[32:]]
    assert read_by == {os.getpid()}
    [folder] = tmp_path.glob("*/")
    [path] = folder.glob("*.safetensors")
    with safe_open(path, "pt") as shard:
        assert {shard.get_tensor(key).dtype for key in shard.keys()} == {torch.float16}
    bar = capsys.readouterr().err.splitlines()[-1].split("\r")[-1]
    assert bar.startswith("frozen features (heard): 100%") and "33/33" in bar and "utt/s" in bar
    [message] = [message for message in caplog.messages if message.startswith("Frozen")]
    assert message == (
        f"Frozen features (heard) of 33 utterances take about 0.00 GB, and 7.40 GB are free in {folder}."
    )


@pytest.mark.parametrize(("share_free", "fits"), [(0.95, False), (1.05, True)])
def test_too_little_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch, share_free, fits):
    n_frames = [1 + 7 * i % 50 for i in range(50)]
    wavs = {f"utt{i}": torch.randn(160 * n) for i, n in enumerate(n_frames)}
    encoder = ShortTermStatistics()
    encoder.frozen_forward = lambda wavs, lens: (torch.ones(1, wavs.shape[1] // 160, 2), lens)
    n_bytes = sum(n_frames) * 2 * 2
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=share_free * n_bytes))
    with contextlib.nullcontext() if fits else pytest.raises(InputError) as error:
        compute(tmp_path, encoder, wavs, batch_size=5)
    [folder] = tmp_path.glob("*/")
    if fits:
        assert len(find_networks(tmp_path)[0].made_by) == 4
    else:
        assert str(error.value) == (
            f"Frozen features (speech) of 50 utterances take about 0.00 GB, and 0.00 GB are free in {folder}: make "
            f"room (`ser-ts features {tmp_path}` tells what is kept), name a --feature_folder on another disk, or "
            "compute them in each epoch (--feature_folder null)."
        )
        assert not list(folder.glob("*.safetensors"))


def test_a_disk_that_just_has_room_is_enough(tmp_path, wavs, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 * 68 * 2))
    compute(tmp_path, ShortTermStatistics(), wavs)
    assert_whole(tmp_path, wavs)


def test_each_utterance_needs_its_digest(tmp_path, wavs):
    with pytest.raises(ValueError, match="shorter"):
        compute(tmp_path, ShortTermStatistics(), wavs, contents=lambda utterances: ["only one"])


def test_workers_read_the_inputs(tmp_path, wavs):
    def read(wav):
        with open(tmp_path / "readers", "a") as file:
            file.write(f"{os.getpid()}\n")
        return wav

    data = dataset(wavs)
    data.add_dynamic_item(read, "speech", "heard")
    FrozenFeatures.compute(
        tmp_path, ShortTermStatistics(), data, "heard", contents_of(wavs), num_workers=1, progressbar=False
    )
    readers = (tmp_path / "readers").read_text().split()
    assert len(readers) == len(wavs) and str(os.getpid()) not in readers


def test_no_progress_is_shown_where_none_is_wanted(tmp_path, wavs, capsys):
    compute(tmp_path, ShortTermStatistics(), wavs)
    assert capsys.readouterr().err == ""


def test_a_shard_ends_with_the_batch_that_fills_it(tmp_path, wavs, monkeypatch):
    # Two utterances of 68 float16 do not fill it yet.
    monkeypatch.setattr(ser_ts_lobes.training.features, "_SHARD_BYTES", 2 * 68 * 2)
    compute(tmp_path, ShortTermStatistics(), wavs, batch_size=1)
    sizes = [len(safe_open(path, "pt").keys()) for path in tmp_path.glob("*/*.safetensors")]
    assert sorted(sizes) == [2, 3]


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
    some = {name: wavs[name] for name in ("utt0", "utt1")}
    compute(tmp_path, ShortTermStatistics(), some)
    [folder] = tmp_path.glob("*/")
    others = [folder / ".shard-0.safetensors.1.tmp", folder / "shard-0.safetensors"]
    for path in others:
        path.write_bytes(b"half of it")
    with monkeypatch.context() as no_locks:
        no_locks.setattr(ser_ts_lobes.training.features, "locked", lambda path: contextlib.nullcontext(False))
        compute(tmp_path, ShortTermStatistics(), some | {"utt2": wavs["utt2"]})
    assert all(path.exists() for path in others)
    compute(tmp_path, ShortTermStatistics(), wavs)
    assert not any(path.exists() for path in others)
    assert_whole(tmp_path, wavs)


def test_nobody_prunes_what_is_being_read(tmp_path, wavs):
    features = compute(tmp_path, ShortTermStatistics(), wavs)
    [network] = find_networks(tmp_path)
    with pytest.raises(InputError, match=f"{network.folder} is in use: wait until"):
        prune(network)
    assert features["utt0"].isfinite().all()
    del features
    prune(network)
    assert find_networks(tmp_path) == []
    compute(tmp_path, ShortTermStatistics(), wavs)
    assert_whole(tmp_path, wavs)


def test_shards_alone_are_enough(tmp_path, wavs):
    features = compute(tmp_path / "there", ShortTermStatistics(), wavs)
    copy = tmp_path / "here" / features.folder.name
    copy.mkdir(parents=True)
    for path in features.folder.glob("*.safetensors"):
        shutil.copy(path, copy)
    assert_whole(tmp_path / "here", wavs)


def test_features_say_what_made_them(tmp_path, tiny_hubert, wavs):
    compute(tmp_path, load_speech_encoder(tiny_hubert, trainable_layers=1), wavs, dtype="float32")
    [network] = find_networks(tmp_path)
    assert network.made_by == {
        "encoder": "SpeechEncoder",
        "source": tiny_hubert,
        "frozen_layers": "2",
        "dtype": "float32",
    }
    assert network.n_features == len(wavs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_goes_into_the_first_layer_can_be_kept_too(tmp_path, wavs, dtype):
    encoder = load_speech_encoder(save_tiny_whisper(tmp_path / "whisper"), trainable_layers=2)  # of two
    features = compute(tmp_path / "features", encoder, wavs, dtype=dtype, batch_size=2)
    for name, wav in wavs.items():
        expected, _ = encoder.frozen_forward(wav.unsqueeze(0), torch.ones(1))
        torch.testing.assert_close(features[name], expected[0], rtol=0, atol=0.05)
