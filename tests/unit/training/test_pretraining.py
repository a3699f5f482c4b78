import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.batch import PaddedBatch

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.cpc import load_cpc
from ser_ts_lobes.seals import SEAL, is_intact
from ser_ts_lobes.training.pretraining import CPCBrain, make_window_datasets, prepare_audio_folder
from tests.unit.training.test_brains import Killed, kill_after
from tools.build_hparams import ROOT

OPTIONS = {"min_duration_s": 1.28, "valid_share": 0.2}


def ramp(path, seconds=2.0, sample_rate=16000):
    """Write a file whose samples say where in it they are: 0 to 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n_samples = round(seconds * sample_rate)
    soundfile.write(path, np.arange(n_samples) / n_samples, sample_rate, subtype="PCM_16")


@pytest.fixture
def corpus(tmp_path):
    for index in range(8):
        ramp(tmp_path / "audio" / f"speaker{index % 3}" / f"{index}.{'wav' if index % 2 else 'FLAC'}")
    return tmp_path / "audio"


def read(folder):
    rows = {}
    for name in ("train", "valid"):
        with open(folder / f"{name}.csv", encoding="utf-8") as file:
            rows[name] = list(csv.DictReader(file))
    return rows


def test_all_files_below_the_folder_are_found_and_split(corpus, tmp_path):
    prepare_audio_folder(corpus, tmp_path / "manifests", **OPTIONS)
    rows = read(tmp_path / "manifests")
    assert [len(rows[name]) for name in ("train", "valid")] == [6, 2]
    found = {row["ID"] for row in rows["train"] + rows["valid"]}
    assert found == {path.relative_to(corpus).as_posix() for path in corpus.rglob("*.*")}
    first = rows["train"][0]
    assert first["wav"] == f"$data_root/{first['ID']}" and float(first["duration"]) == 2.0


def test_files_that_validate_do_so_when_others_are_added(corpus, tmp_path):
    prepare_audio_folder(corpus, tmp_path / "before", **OPTIONS)
    for index in range(8):
        ramp(corpus / "speaker9" / f"{index}.wav")
    prepare_audio_folder(corpus, tmp_path / "after", **(OPTIONS | {"valid_share": 0.5}))
    before, after = ({row["ID"] for row in read(tmp_path / name)["valid"]} for name in ("before", "after"))
    assert len(before) == 2 and len(after) == 8
    old = {row for row in after if "speaker9" not in row}
    assert before <= old or old <= before


def test_useless_files_are_left_out_and_counted(corpus, tmp_path, caplog):
    ramp(corpus / "short.wav", seconds=1.27)
    (corpus / "broken.flac").write_bytes(b"fLaC")
    (corpus / "notes.txt").write_text("not audio")
    prepare_audio_folder(corpus, tmp_path / "manifests", **OPTIONS)
    assert sum(map(len, read(tmp_path / "manifests").values())) == 8
    assert "2 of 10 files" in caplog.text


def test_odd_files_are_left_out_or_one_sentence(corpus, tmp_path, caplog):
    (corpus / "nowhere.wav").symlink_to("nowhere")
    (corpus / "itself.wav").symlink_to("itself.wav")
    (corpus / "circle").symlink_to("..")
    prepare_audio_folder(corpus, tmp_path / "manifests", **OPTIONS)
    assert sum(map(len, read(tmp_path / "manifests").values())) == 8
    assert "2 of 10 files" in caplog.text
    with pytest.raises(InputError, match=r"train\.csv can't be made"):
        prepare_audio_folder(corpus, tmp_path / "manifests" / "train.csv", **OPTIONS)
    Path(os.fsdecode(os.fsencode(corpus) + b"/\xe9.wav")).write_text("one")
    with pytest.raises(InputError, match="audio has a file whose name is not UTF-8"):
        prepare_audio_folder(corpus, tmp_path / "manifests", **OPTIONS)


def test_a_folder_without_audio_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty has 0 audio files of 1.28 s or more.*0 were found"):
        prepare_audio_folder(tmp_path / "empty", tmp_path / "manifests", **OPTIONS)
    with pytest.raises(InputError, match="nowhere is no folder"):
        prepare_audio_folder(tmp_path / "nowhere", tmp_path / "manifests", **OPTIONS)


def test_manifests_can_be_left_as_they_are(tmp_path):
    prepare_audio_folder(tmp_path / "nowhere", tmp_path / "manifests", **OPTIONS, skip_prep=True)
    assert not (tmp_path / "manifests").exists()


def test_training_windows_move_and_validation_windows_stay(corpus, tmp_path):
    prepare_audio_folder(corpus, tmp_path / "manifests", **OPTIONS)
    datasets = make_window_datasets(tmp_path / "manifests", corpus, window_samples=8000, seed=1986)
    windows = []
    for epoch in range(40):
        datasets["train"].set_epoch(epoch)
        windows.append(datasets["train"][0]["window"])
        assert datasets["train"][0]["window"].equal(windows[-1])
    windows = torch.stack(windows)
    assert windows.shape == (40, 8000)
    starts = windows[:, 0]
    assert starts.unique().numel() > 30 and starts.min() < 0.1 and 0.65 < starts.max() <= 0.75
    torch.testing.assert_close(windows[:, -1] - starts, torch.full((40,), 7999 / 32000), atol=1e-4, rtol=0)
    valid = [datasets["valid"][0]["window"] for _ in range(2)]
    assert valid[0].equal(valid[1])
    assert float(valid[0][0]) == pytest.approx(12000 / 32000, abs=1e-4)


@pytest.mark.parametrize("duration", ["nan", "2_0", "9" * 5000])
def test_an_edited_manifest_says_where(corpus, tmp_path, duration):
    prepare_audio_folder(corpus, tmp_path / "manifests", **OPTIONS)
    path = tmp_path / "manifests" / "train.csv"
    path.write_text(path.read_text().replace("2.0", duration, 1))
    with pytest.raises(InputError, match=r"train\.csv, line 2: duration or sample_rate of .* is not a number"):
        make_window_datasets(tmp_path / "manifests", corpus, window_samples=8000, seed=1986)


@pytest.mark.parametrize("valid_share", [0, 1])
def test_one_file_at_least_trains_and_one_validates(corpus, tmp_path, valid_share):
    prepare_audio_folder(corpus, tmp_path / "manifests", **(OPTIONS | {"valid_share": valid_share}))
    rows = read(tmp_path / "manifests")
    assert len(rows["valid"]) == [1, 7][valid_share] and len(rows["train"]) == [7, 1][valid_share]


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100])
def test_another_sampling_rate_is_converted(tmp_path, sample_rate):
    # A third of a second more, so that the duration is no short decimal.
    for name in ("a", "b"):
        ramp(tmp_path / "audio" / f"{name}.wav", seconds=1.28 + 1 / 3, sample_rate=sample_rate)
    prepare_audio_folder(tmp_path / "audio", tmp_path / "manifests", **OPTIONS)
    datasets = make_window_datasets(tmp_path / "manifests", tmp_path / "audio", window_samples=20480, seed=1986)
    window = datasets["valid"][0]["window"]
    assert window.shape == (20480,)
    n_samples = (1.28 + 1 / 3) * 16000
    expected = ((n_samples - 20480) / 2 + torch.arange(20480)) / n_samples
    inner = slice(500, -500)  # the resampler's edges
    torch.testing.assert_close(window[inner], expected[inner], atol=2e-3, rtol=0)


def test_a_file_that_changed_since_is_one_sentence(corpus, tmp_path):
    prepare_audio_folder(corpus, tmp_path / "manifests", **OPTIONS)
    datasets = make_window_datasets(tmp_path / "manifests", corpus, window_samples=20480, seed=1986)
    path = Path(corpus / datasets["valid"].data_ids[0])
    ramp(path.with_suffix(".wav"), seconds=0.5)
    path.with_suffix(".wav").rename(path)
    with pytest.raises(InputError, match=f"{path.name} is shorter than it says"):
        datasets["valid"][0]
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=f"{path.name} can't be read"):
        datasets["valid"][0]


YAML = ROOT / "recipes" / "LibriSpeech" / "CPC" / "hparams" / "cpc.yaml"


def make_brain(corpus, results, run_opts=frozenset(), **overrides):
    """Do what train_cpc.py does before it trains; return the Brain and the datasets."""
    small = {"channels": 8, "context_size": 8, "n_steps": 2, "batch_size": 2, "num_workers": 0, "valid_share": 0.25}
    overrides = {"data_folder": str(corpus), "results_folder": str(results)} | small | overrides
    hparams = load_hyperpyyaml(YAML.read_text(encoding="utf-8"), overrides) | {"settings": {}}
    prepare_audio_folder(**hparams["prepare_opts"])
    places = (hparams["manifest_folder"], hparams["data_folder"])
    datasets = make_window_datasets(*places, hparams["window_samples"], hparams["seed"])
    return CPCBrain(hparams, {"device": "cpu", "noprogressbar": True} | dict(run_opts)), datasets


def logged_epochs(brain):
    log = Path(brain.hparams.output_folder) / "train_log.txt"
    return [line.split(" ")[1] for line in log.read_text(encoding="utf-8").splitlines()]


def test_training_goes_on_where_it_stopped(corpus, tmp_path):
    brain, datasets = make_brain(corpus, tmp_path / "results", number_of_epochs=2)
    brain.train(datasets)
    weight = brain.hparams.cpc.context.weight_hh_l0
    again, datasets = make_brain(corpus, tmp_path / "results", number_of_epochs=2)
    assert not again.hparams.cpc.context.weight_hh_l0.equal(weight)
    again.train(datasets)  # nothing is left to do
    assert again.hparams.cpc.context.weight_hh_l0.equal(weight)
    more, datasets = make_brain(corpus, tmp_path / "results", number_of_epochs=3)
    more.train(datasets)
    assert not more.hparams.cpc.context.weight_hh_l0.equal(weight)
    assert logged_epochs(more) == ["1", "2", "3"]


def test_an_interrupted_training_ends_as_one_that_was_not(corpus, tmp_path):
    whole, datasets = make_brain(corpus, tmp_path / "whole", number_of_epochs=2)
    whole.train(datasets)
    for steps in (2, 4):
        brain, datasets = make_brain(
            corpus, tmp_path / "results", run_opts={"ckpt_interval_steps": 1}, number_of_epochs=2
        )
        kill_after(brain, steps)
        with pytest.raises(Killed):
            brain.train(datasets)
    brain, datasets = make_brain(corpus, tmp_path / "results", number_of_epochs=2)
    brain.train(datasets)
    weights = [resumed.hparams.cpc.state_dict() for resumed in (whole, brain)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    logs = [Path(resumed.hparams.output_folder, "train_log.txt").read_text() for resumed in (whole, brain)]
    assert logs[0] == logs[1]


def test_the_best_network_is_exported(corpus, tmp_path, capsys):
    brain, _ = make_brain(corpus, tmp_path / "results")
    weight = brain.hparams.cpc.context.weight_hh_l0
    for epoch, loss in ((1, 4.5), (2, 4.25), (3, 5.0)):
        with torch.no_grad():
            weight.fill_(epoch)
        steps = {"valid_loss_of_steps": [loss, loss], "valid_accuracy_of_steps": [0.5, 0.25]}
        brain.checkpointer.save_checkpoint(meta={"epoch": epoch, "valid_loss": loss, **steps})
    brain.export()
    folder = tmp_path / "results" / "cpc" / "1986"
    said = f"Validation loss 4.250 (chance: 4.860) in epoch 2. Written: {folder / 'cpc.pt'}"
    assert said in capsys.readouterr().out
    exported = load_cpc(folder / "cpc.pt")
    assert isinstance(exported.context, torch.nn.GRU) and (exported.context.weight_hh_l0 == 2).all()
    report = json.loads((folder / "metrics.json").read_text())
    assert is_intact(report) and report.pop(SEAL)
    assert report == {
        "system": "cpc",
        "seed": 1986,
        "settings": {},
        "epoch": 2,
        "valid_loss": 4.25,
        "valid_loss_of_steps": [4.25, 4.25],
        "valid_accuracy_of_steps": [0.5, 0.25],
        "valid_loss_of_chance": pytest.approx(np.log(129)),
    }


def test_frames_that_saw_padding_are_not_learnt_from(corpus, tmp_path):
    brain, _ = make_brain(corpus, tmp_path / "results")
    brain.modules["prediction"] = torch.nn.Identity()
    brain.modules.prediction.forward = lambda context, frames: (context, frames)
    silence = torch.zeros(2, 20480)
    batch = PaddedBatch([{"window": window} for window in silence])
    context, frames = brain.compute_forward(batch, None)
    assert context.shape == frames.shape == (2, 126, 8)
    # In silence only padding makes a difference.
    assert not brain.modules.cpc(silence)[1].std(dim=1).max() == 0
    torch.testing.assert_close(frames, frames[:, :1].expand_as(frames))


def test_other_audio_is_refused_on_resuming(corpus, tmp_path):
    brain, datasets = make_brain(corpus, tmp_path / "results", number_of_epochs=1)
    brain.train(datasets)
    ramp(corpus / "speaker9" / "new.wav")
    brain, datasets = make_brain(corpus, tmp_path / "results", number_of_epochs=2)
    with pytest.raises(InputError, match="made from other data than today's"):
        brain.train(datasets)


def test_too_few_files_for_a_batch_and_an_untrained_network_are_one_sentence(corpus, tmp_path):
    brain, datasets = make_brain(corpus, tmp_path / "results", batch_size=7)
    with pytest.raises(InputError, match="The training set has 6 recordings, fewer than one batch of 7"):
        brain.train(datasets)
    with pytest.raises(InputError, match="holds no checkpoint: train for one epoch at least"):
        brain.export()
