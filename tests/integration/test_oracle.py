"""The recipe's own scripts against the paper's equations: the same losses, gradients, mask and predictions.

A teacher and a cts student whose encoder learns too are trained by the scripts, and by `tests.oracle` from the same
weights on the same batches, both in double precision.
"""

import copy
import csv
import json
import runpy
import shutil
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import soundfile
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedData
from transformers import BertModel, BertTokenizerFast, HubertConfig, HubertModel

from ser_ts_lobes.training import brains, residuals, trust
from ser_ts_lobes.training.reproducible import ReproducibleBrain
from ser_ts_lobes.training.targets import TeacherTargets
from tests import oracle
from tests.fixtures_msp import write_msp_tree
from tests.integration.programs import ROOT
from tests.tiny_models import save_tiny_bert, save_tiny_ssl

RECIPE = ROOT / "recipes" / "MSP-Podcast"
TOLERANCE = 1e-5


@dataclass
class Record:
    """What a script's Brain did."""

    initial: dict = None
    batches: list = field(default_factory=list)  # of each epoch: the ids of each batch
    losses: list = field(default_factory=list)
    gradients: list = field(default_factory=list)  # of each step, as the optimizer gets them
    rates: list = field(default_factory=list)  # of each epoch
    keep: dict = field(default_factory=dict)


def recorded(brain_class, record):
    """Make a Brain that computes in double precision and remembers its steps; all else is the package's own."""

    class Recorded(brain_class):
        def __init__(self, *args):
            super().__init__(*args)
            self.modules.double()
            record.initial = copy.deepcopy(self.modules.model.state_dict())

        def init_optimizers(self):
            super().init_optimizers()
            self.optimizer.register_step_pre_hook(self.remember_gradients)

        def remember_gradients(self, optimizer, *_):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            record.gradients.append([parameter.grad.clone() for parameter in parameters])

        def on_stage_start(self, stage, epoch=None):
            super().on_stage_start(stage, epoch)
            if stage == sb.Stage.TRAIN:
                record.batches.append([])
                record.rates.append([group["lr"] for group in self.optimizer.param_groups])

        def compute_forward(self, batch, stage):
            batch.speech = PaddedData(batch.speech.data.double(), batch.speech.lengths)
            batch.labels = batch.labels.double()
            if stage == sb.Stage.TRAIN:
                record.batches[-1].append(list(batch.id))
                if hasattr(batch, "keep"):
                    batch.teacher_embedding = batch.teacher_embedding.double()
                    record.keep.update(zip(batch.id, batch.keep.tolist(), strict=True))
            return super().compute_forward(batch, stage)

        def compute_objectives(self, output, batch, stage):
            loss = super().compute_objectives(output, batch, stage)
            if stage == sb.Stage.TRAIN:
                record.losses.append(loss.item())
            return loss

    return Recorded


def run_script(folder, script, system, *flags):
    """Run a script of the recipe in this process; return what its Brain did."""
    record = Record()
    arguments = [
        RECIPE / "hparams" / f"{system}.yaml",
        *(f"--data_folder={folder / 'msp'}", f"--results_folder={folder / 'results'}"),
        *(f"--speech_source={folder / 'hubert'}", "--feature_folder=null", "--batch_size=8", "--num_workers=0"),
        *("--device=cpu", "--noprogressbar", *flags),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(RECIPE)
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        # It would take logging away from pytest, and ask pip for the list of all packages.
        patch.setattr(sb, "create_experiment_directory", lambda *_: None)
        for name in ("TeacherBrain", "StudentBrain"):
            patch.setattr(brains, name, recorded(getattr(brains, name), record))
        runpy.run_path(str(RECIPE / script), run_name="__main__")
    return record


def run_teacher_script(folder, script, *flags):
    return run_script(folder, script, "teacher", f"--text_source={folder / 'bert'}", *flags)


def run_student_script(folder, *flags):
    return run_script(folder, "train_student.py", "cts", "--trainable_layers=1", *flags)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give the folder of a corpus and of encoders without dropout."""
    folder = tmp_path_factory.mktemp("oracle")
    write_msp_tree(folder / "msp", {"Train": 24, "Development": 8, "Test1": 8})
    spread_labels(folder / "msp" / "Labels" / "labels_consensus.csv")
    save_tiny_bert(folder / "bert")
    save_tiny_ssl(folder / "hubert")
    dropouts = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop")
    HubertConfig.from_pretrained(folder / "hubert", **dict.fromkeys(dropouts, 0.0)).save_pretrained(folder / "hubert")
    return folder


def spread_labels(path):
    """Gather most labels about the middle, for of uniform ones none is beyond 2 standard deviations."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    for row in rows:
        for column in (2, 3, 4):
            from_middle = (float(row[column]) - 4) / 3
            row[column] = 4 + round(64 * 3 * from_middle * abs(from_middle)) / 64  # exact in single precision too
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@dataclass
class Utterance:
    """What the networks get of an utterance, through `transformers` alone."""

    split: str
    label: np.ndarray
    tokens: torch.Tensor
    frames_below: torch.Tensor  # what goes into the encoder's top layer
    frames: torch.Tensor


@pytest.fixture(scope="module")
def utterances(folder):
    hubert = HubertModel.from_pretrained(folder / "hubert").double().eval()
    bert = BertModel.from_pretrained(folder / "bert").double().eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder / "bert")
    heard = {}
    with open(folder / "msp" / "Labels" / "labels_consensus.csv", encoding="utf-8") as file, torch.no_grad():
        for row in csv.DictReader(file):
            name = row["FileName"].removesuffix(".wav")
            wav, _ = soundfile.read(folder / "msp" / "Audios" / row["FileName"])
            wav = (wav - wav.mean()) / np.sqrt(wav.var() + 1e-7)  # as the model's feature extractor does
            transcript = (folder / "msp" / "Transcripts" / f"{name}.txt").read_text()
            heard[name] = Utterance(
                row["Split_Set"],
                np.array([float(row[f"Emo{dimension}"]) for dimension in ("Act", "Val", "Dom")]),
                bert(torch.tensor([tokenizer(transcript)["input_ids"]])).last_hidden_state[0],
                *(f[0] for f in hubert(torch.tensor(wav[None]), output_hidden_states=True).hidden_states[-2:]),
            )
    return heard


@dataclass
class Truth:
    """What the oracle says of a system."""

    losses: list
    gradients: list
    rates: list
    valid_losses: list
    embedding: dict  # by utterance
    prediction: dict  # on the corpus's scale
    residual: dict = None  # of a teacher
    keep: dict = field(default_factory=dict)  # of a student: whether it follows the teacher


def ask_oracle(utterances, record, n_inputs, inputs, layer=None, teacher=None):
    """Train from a script's initial weights on its batches; embed and predict all utterances."""
    train_labels = np.stack([u.label for u in utterances.values() if u.split == "Train"])
    labels = {name: torch.tensor(oracle.standardise(u.label, train_labels)) for name, u in utterances.items()}
    data = {name: (inputs(u), labels[name]) for name, u in utterances.items()}
    train_set, valid_set = (
        {name: data[name] for name, u in utterances.items() if u.split == split} for split in ("Train", "Development")
    )
    network = oracle.Network(*n_inputs).double()
    network.load_state_dict(dict(zip(network.state_dict(), record.initial.values(), strict=True)))
    happened = oracle.train(network, layer, record.batches, train_set, valid_set, teacher)
    with torch.no_grad():
        embeddings, predictions = oracle.run(network, layer, data, data)
    predictions = predictions.numpy() * np.std(train_labels, axis=0) + np.mean(train_labels, axis=0)
    by_utterance = (dict(zip(data, values, strict=True)) for values in (embeddings, predictions))
    return Truth(**happened, **dict(zip(("embedding", "prediction"), by_utterance, strict=True)))


@pytest.fixture(scope="module")
def teacher(folder, utterances):
    """Give what the scripts did to train a teacher and to make its targets, and the truth about it."""
    record = run_teacher_script(folder, "train_teacher.py", "--number_of_epochs=3")
    run_teacher_script(folder, "precompute_targets.py", "--number_of_epochs=3")
    truth = ask_oracle(utterances, record, (32, 24), lambda u: (u.frames, u.tokens))
    train_names = [name for name, u in utterances.items() if u.split == "Train"]
    residual = oracle.residuals(
        [truth.prediction[name] for name in train_names], [utterances[name].label for name in train_names]
    )
    truth.residual = dict(zip(train_names, residual, strict=True))
    return record, truth


@pytest.fixture(scope="module")
def student(folder, utterances, teacher):
    """Give what the script did to train a student, and the truth about it."""
    record = run_student_script(folder, "--number_of_epochs=6")
    _, teacher_truth = teacher
    names, residual = zip(*teacher_truth.residual.items(), strict=True)
    keep = dict(zip(names, oracle.trusted(residual).tolist(), strict=True))
    taught = {name: (teacher_truth.embedding[name], keep[name]) for name in names}
    layer = HubertModel.from_pretrained(folder / "hubert").double().encoder.layers[-1].train()
    truth = ask_oracle(utterances, record, (32,), lambda u: (u.frames_below,), layer, taught)
    truth.keep = keep
    return record, truth


def compare_training(record, truth):
    """Compare as many steps as the script has made."""
    assert record.keep == truth.keep, "mask"
    for step, (loss, expected) in enumerate(zip(record.losses, truth.losses, strict=False), start=1):
        assert loss == pytest.approx(expected, rel=TOLERANCE), f"loss of step {step}"
        gradients = zip(record.gradients[step - 1], truth.gradients[step - 1], strict=True)
        for number, (gradient, expected) in enumerate(gradients):
            distance = torch.linalg.vector_norm(gradient - expected)
            # That of a key's bias is 0 but for rounding: attention's softmax ignores it.
            allowed = TOLERANCE * max(torch.linalg.vector_norm(expected), 1e-6)
            assert distance <= allowed, f"gradient {number} of step {step}"
    for epoch, (rates, expected) in enumerate(zip(record.rates, truth.rates, strict=False), start=1):
        assert rates == pytest.approx(expected), f"rates of epoch {epoch}"


def compare_targets(folder, truth):
    targets = TeacherTargets.load(folder / "results" / "teacher" / "1986" / "targets" / "train.safetensors")
    assert set(targets.ids) == set(truth.residual)
    for kind in ("prediction", "embedding", "residual"):
        expected = np.stack([getattr(truth, kind)[name] for name in targets.ids])
        assert getattr(targets, kind) == pytest.approx(expected, abs=TOLERANCE), kind


def compare_test(folder, system, truth, utterances):
    run = folder / "results" / system / "1986"
    with open(run / "predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tested = sorted(name for name, u in utterances.items() if u.split == "Test1")
    assert [row["ID"] for row in rows] == tested
    expected = np.stack([truth.prediction[name] for name in tested])
    dimensions = ("activation", "valence", "dominance")
    assert np.array([[float(row[d]) for d in dimensions] for row in rows]) == pytest.approx(expected, abs=TOLERANCE)
    report = json.loads((run / "metrics.json").read_text())
    labels = np.stack([utterances[name].label for name in tested])
    ccc = oracle.concordance(torch.tensor(expected), torch.tensor(labels))
    assert [report["test"]["test1"][d]["ccc"] for d in dimensions] == pytest.approx(ccc.tolist(), abs=TOLERANCE)
    best = {"epoch": int(np.argmin(truth.valid_losses)) + 1, "valid_loss": min(truth.valid_losses)}
    assert report["best"] == pytest.approx(best, abs=TOLERANCE)


def check_run(record, truth, utterances):
    """Check that the steps of a whole run are the oracle's, and that they see all training utterances."""
    assert len(record.losses) == len(truth.losses)
    train_names = sorted(name for name, u in utterances.items() if u.split == "Train")
    for epoch in record.batches:
        assert sorted(name for batch in epoch for name in batch) == train_names
    assert record.batches[0] != record.batches[1]
    compare_training(record, truth)


def test_a_teacher_is_what_the_equations_say(folder, utterances, teacher):
    record, truth = teacher
    check_run(record, truth, utterances)
    compare_targets(folder, truth)
    compare_test(folder, "teacher", truth, utterances)


def test_a_student_is_what_the_equations_say(folder, utterances, student):
    record, truth = student
    assert 0 < sum(truth.keep.values()) < len(truth.keep)
    assert len(record.rates[0]) == 2 and record.rates[-1] < record.rates[0]  # a layer learns; the plateau was met
    check_run(record, truth, utterances)
    compare_test(folder, "cts", truth, utterances)


def clip_first_group(patch, folder):
    """Clip as SpeechBrain does."""
    step = ReproducibleBrain.optimizers_step

    def clip_and_step(brain):
        torch.nn.utils.clip_grad_norm_(brain.optimizer.param_groups[0]["params"], 5.0)
        step(brain)

    patch.setattr(ReproducibleBrain, "optimizers_step", clip_and_step)


def square_the_norm(patch, folder):
    patch.setattr(
        brains,
        "make_distance_loss",
        lambda *_: lambda student, teacher, keep: (teacher[keep] - student[keep]).square().sum(dim=1).mean(),
    )


def divide_by_all(patch, folder):
    patch.setattr(
        brains,
        "make_distance_loss",
        lambda *_: (
            lambda student, teacher, keep: (
                torch.linalg.vector_norm(teacher[keep] - student[keep], dim=1).sum() / len(keep)
            )
        ),
    )


def measure_on_validation(patch, folder):
    """Take the standard deviations of the validation residuals."""
    targets = TeacherTargets.load(folder / "results" / "teacher" / "1986" / "targets" / "valid.safetensors")
    patch.setattr(
        trust,
        "keep_mask",
        lambda residual, threshold: (np.abs(residual) <= threshold * targets.residual.std(axis=0)).all(axis=1),
    )


@pytest.mark.parametrize(
    ("change", "flags", "difference"),
    [
        pytest.param(None, ["--max_grad_norm=5"], "gradient 0 of step 1", id="clipping"),
        pytest.param(clip_first_group, [], "gradient 0 of step 1", id="SpeechBrain's clipping"),
        pytest.param(square_the_norm, [], "loss of step 1", id="squared norm"),
        pytest.param(measure_on_validation, [], "mask", id="mask by validation residuals"),
        pytest.param(divide_by_all, [], "loss of step 1", id="mean over all"),
        pytest.param(None, ["--residual_threshold=null"], "mask", id="nobody left out"),
        pytest.param(None, ["--encoder_lr=0.0005"], "of step 2", id="encoder at the full rate"),
    ],
)
def test_a_wrong_student_is_found_out(change, flags, difference, folder, student, monkeypatch, tmp_path):
    if change is not None:
        change(monkeypatch, folder)
    record = run_student_script(folder, "--number_of_epochs=1", f"--output_folder={tmp_path}", *flags)
    assert len(record.losses) == 3
    with pytest.raises(AssertionError, match=difference):
        compare_training(record, student[1])


def test_a_line_fitted_on_validation_is_found_out(folder, teacher, monkeypatch, tmp_path):
    run = tmp_path / "results" / "teacher" / "1986"
    shutil.copytree(folder / "results" / "teacher" / "1986", run)
    valid = TeacherTargets.load(run / "targets" / "valid.safetensors")
    fitted = residuals.fit_residuals(valid.prediction, valid.label)
    monkeypatch.setattr(brains, "fit_residuals", lambda *_: fitted)
    run_teacher_script(folder, "precompute_targets.py", "--number_of_epochs=3", f"--output_folder={run}")
    with pytest.raises(AssertionError, match="residual"):
        compare_targets(tmp_path, teacher[1])
