import csv
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from scipy.special import softmax
from scipy.stats import entropy
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.augment.time_domain import DropFreq, SpeedPerturb

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.manifests import UNRATED, read_unrated
from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.lobes.emotion import LabelScale
from ser_ts_lobes.lobes.text import TextEncoder
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.results.text_tables import ccc_cell
from ser_ts_lobes.training.brains import Outputs, StudentBrain, TeacherBrain
from ser_ts_lobes.training.datasets import load_manifests, make_datasets
from ser_ts_lobes.training.distributed import GlobalBatches
from ser_ts_lobes.training.fitting import learn_from_training_set
from ser_ts_lobes.training.lexical import embed_sentences
from ser_ts_lobes.training.losses import ccc_loss, soft_label_loss
from ser_ts_lobes.training.residuals import fit_residuals
from ser_ts_lobes.training.targets import TeacherTargets
from ser_ts_lobes.training.uncertainty import DropoutSpread
from tests.fixtures_msp import write_msp_tree
from tests.ranks import on_each_rank
from tests.tiny_models import save_word_vectors
from tests.unit.training.test_datasets import msp_podcast_prepare
from tools.build_hparams import compose

RUN_OPTS = {"device": "cpu", "noprogressbar": True}
# Of each system, what makes it run on what is here.
SYSTEMS = {
    "attn": (StudentBrain, {}),
    "hubert_base": (StudentBrain, {}),
    "ft": (StudentBrain, {"trainable_layers": 1}),
    "cts": (StudentBrain, {"trainable_layers": 1, "pooling": "transformer"}),
    "cts_unrated": (
        StudentBrain,
        {"trainable_layers": 1, "taught": "sentence", "prediction_weight": 2, "trust": "soft"},
    ),
    "teacher": (TeacherBrain, {}),
    "atmaja": (TeacherBrain, {}),
}


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus = write_msp_tree(folder / "msp", {"Train": 24, "Development": 12, "Test1": 12})
    msp_podcast_prepare.prepare_msp_podcast(corpus, folder / "manifests")
    return load_manifests(folder / "manifests")


@pytest.fixture(scope="module")
def feature_folder(tmp_path_factory):
    """Give a folder of frozen features for all tests: they are found by what they are made from."""
    return str(tmp_path_factory.mktemp("features"))


@pytest.fixture
def make_brain(tmp_path, tiny_hubert, tiny_bert, manifests, feature_folder):
    def make(
        system, brain_class=StudentBrain, targets=None, manifests=manifests, settings=None, run_opts=None, **overrides
    ):
        run_opts = RUN_OPTS | (run_opts or {})
        overrides = {
            "data_folder": "unused",
            "results_folder": str(tmp_path / "results"),
            "feature_folder": feature_folder,
            "batch_size": 8,
            "num_workers": 0,
            "number_of_epochs": 2,
        } | overrides
        if system == "atmaja":
            overrides["word_vectors"] = save_word_vectors(tmp_path / "word_vectors.txt")
        elif system == "attn":
            overrides["model"] = {"n_chunks": 3, "chunk_size": 8}  # all 11 x 62 frames take half a minute
        else:
            overrides["speech_source"] = tiny_hubert
        if system == "teacher":
            overrides["text_source"] = tiny_bert
        hparams = load_hyperpyyaml(compose("MSP-Podcast", system), overrides) | {"settings": settings or {}}
        (tmp_path / "results" / system / "1986").mkdir(parents=True, exist_ok=True)
        targets = {"train": targets} if isinstance(targets, TeacherTargets) else targets
        extra = [targets] if brain_class is StudentBrain else []
        learn_from_training_set(manifests["train"], hparams, run_opts)
        brain = brain_class(hparams, run_opts, manifests, *extra)
        return brain, hparams, make_datasets(manifests, hparams, run_opts, targets)

    return make


def train(brain, hparams, datasets):
    brain.train(datasets)


def make_embeddings(n):
    """Give random embeddings of the teacher, by name, with sizes of their own."""
    random = np.random.default_rng(n)
    sentence = random.normal(size=(n, 24)).astype(np.float32)
    return {
        "text": random.normal(size=(n, 20)).astype(np.float32),
        "sentence": sentence / np.linalg.norm(sentence, axis=1, keepdims=True),
    }


def make_targets(manifest, embedding=0.0):
    n = len(manifest.utterances)
    residual = np.zeros((n, 3))
    residual[: n // 4] = 1.0  # beyond any threshold below sqrt(3) sigma
    return TeacherTargets(
        ids=list(manifest.utterances),
        embedding=np.full((n, 128), embedding, np.float32),
        prediction=manifest.labels(),
        label=manifest.labels(),
        residual=residual - residual.mean(),
        made_from={"manifest": manifest.fingerprint, "teacher": "t"},
        **make_embeddings(n),
    )


def test_training_learns_and_the_best_checkpoint_is_tested(make_brain, tmp_path, capsys):
    brain, hparams, datasets = make_brain("ft", trainable_layers=1, number_of_epochs=12, lr=0.003)
    brain.train(datasets)
    brain.test({"test1": datasets["test1"]})
    report = RunFolder(tmp_path / "results/ft/1986").report()
    *log, of_test = (tmp_path / "results/ft/1986/train_log.txt").read_text().splitlines()
    losses = [float(line.split("valid loss: ")[1].split(",")[0]) for line in log]
    assert losses[-1] < 0.8 * losses[0]  # the fixture's pitch and loudness say what the labels are
    assert report["best"]["epoch"] == 1 + int(np.argmin(losses))
    assert report["counts"] == {"train": 24, "valid": 12, "test1": 12}
    assert report["test"]["test1"]["activation"]["ccc"] == pytest.approx(
        metrics.ccc(brain.outputs.prediction, brain.outputs.label)[0]
    )
    cells = [ccc_cell(report["test"]["test1"][dimension]) for dimension in DIMENSIONS]
    told = ", ".join(f"test ccc_{name}: {cell}" for name, cell in zip(DIMENSIONS, cells, strict=True))
    assert of_test == f"epoch loaded: {report['best']['epoch']}, test set: test1 - {told}"
    printed = capsys.readouterr().out
    assert f"| ft | {' | '.join(cells)} |" in printed and "[95 % bootstrap interval over utterances]" in printed
    folder = Path(hparams["output_folder"])
    assert printed.endswith(f"Written: {folder / 'metrics.json'}, {folder / 'predictions.csv'}\n")


def test_a_test_takes_the_place_of_an_earlier_one_in_the_log(make_brain, tmp_path):
    train(*make_brain("ft", trainable_layers=0, number_of_epochs=1))
    for epochs in (1, 2):
        for _ in range(2):
            brain, _, datasets = make_brain("ft", trainable_layers=0, number_of_epochs=epochs)
            brain.train(datasets)
            brain.test({"test1": datasets["test1"]})
        log = (tmp_path / "results/ft/1986/train_log.txt").read_text().splitlines()
        assert [line.split(":")[0] for line in log] == ["epoch"] * epochs + ["epoch loaded"]
        assert RunFolder(tmp_path / "results/ft/1986").epochs == epochs


def end_epoch(brain, epoch, prediction, train_loss=1.0):
    """End an epoch as if these had been its predictions of three utterances, and its mean loss in training."""
    label = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 5.0, 4.0]])
    brain.train_stats = {"loss": train_loss}
    brain.outputs = Outputs(["a", "b", "c"], np.zeros((3, 1), np.float32), prediction(label), label)
    brain._end_epoch(epoch)
    return [group["lr"] for group in brain.optimizer.param_groups]


def ready(brain):
    """Give a Brain what it has when training begins, without any training."""
    brain.init_optimizers()
    brain.checkpointer.recover_if_possible()
    return brain


def test_the_rate_follows_the_validation_loss_alone(make_brain):
    brain = ready(make_brain("ft", trainable_layers=1, lr=0.001)[0])
    for epoch in range(1, 5):  # better in training, not in validation
        rates = end_epoch(brain, epoch, lambda label: 0.9 * label, train_loss=1 / epoch)
    assert rates == pytest.approx([0.00075, 0.00075 / 4])
    for epoch in range(5, 9):  # the other way round
        rates = end_epoch(brain, epoch, lambda label, epoch=epoch: (0.9 + epoch / 100) * label, train_loss=epoch)
    assert rates == pytest.approx([0.00075, 0.00075 / 4])


def test_training_goes_on_with_the_optimizer_and_the_schedule_of_the_checkpoint(make_brain):
    first = ready(make_brain("ft", trainable_layers=1, lr=0.001)[0])
    for parameter in first.modules.parameters():
        parameter.grad = torch.full_like(parameter, 0.3) if parameter.requires_grad else None
    first.optimizer.step()
    for epoch in (1, 2, 3):
        rates = end_epoch(first, epoch, lambda label: label + 1)
    assert rates == [0.001, 0.00025]
    second = ready(make_brain("ft", trainable_layers=1, lr=0.001)[0])
    states = [brain.optimizer.state_dict()["state"] for brain in (first, second)]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 20
    for number, state in states[0].items():
        for name, value in state.items():
            torch.testing.assert_close(states[1][number][name], value, rtol=0, atol=0)
    assert end_epoch(second, 4, lambda label: label + 1) == pytest.approx([0.00075, 0.00075 / 4])


def test_training_asks_for_the_step_before_it(make_brain):
    brain, hparams, datasets = make_brain("hubert_base")
    brain.modules.label_scale.fitted = LabelScale().fitted
    with pytest.raises(InputError) as error:
        brain.train(datasets)
    assert str(error.value) == (
        "The networks have not seen the training set: call learn_from_training_set before make_datasets."
    )


def test_constant_predictions_are_a_loss_of_1(make_brain, tmp_path):
    brain = ready(make_brain("hubert_base")[0])
    end_epoch(brain, 1, lambda label: np.full_like(label, 2.0))
    end_epoch(brain, 2, lambda label: 0.5 * label)
    assert [checkpoint.meta["valid_loss"] for checkpoint in brain.checkpointer.list_checkpoints()] != [1.0]
    lines = (tmp_path / "results/hubert_base/1986/train_log.txt").read_text().splitlines()
    assert "valid loss: 1.00" in lines[0] and "valid ccc_activation: nan" in lines[0]
    brain.on_evaluate_start()
    assert brain.best["epoch"] == 2 and 0 < brain.best["valid_loss"] < 1


def test_the_log_has_rates_losses_and_ccc_by_their_names(make_brain, tmp_path):
    brain = ready(make_brain("ft", trainable_layers=1, lr=0.001)[0])
    end_epoch(brain, 7, lambda label: label * [1, 1, -1] + [0, 1, 0], train_loss=0.25)
    ccc = metrics.ccc(brain.outputs.prediction, brain.outputs.label)
    [line] = (tmp_path / "results/ft/1986/train_log.txt").read_text().splitlines()
    head, training, validation = line.split(" - ")
    assert head == "epoch: 7, lr: 1.00e-03, encoder_lr: 2.50e-04" and training == "train loss: 2.50e-01"
    read = dict(part.removeprefix("valid ").split(": ") for part in validation.split(", "))
    expected = dict(zip(("ccc_activation", "ccc_valence", "ccc_dominance"), ccc, strict=True))
    assert {name: float(value) for name, value in read.items()} == pytest.approx(
        {"loss": 1 - ccc.mean(), **expected}, rel=0.01
    )


def test_a_student_of_another_teacher_does_not_go_on(make_brain, manifests):
    targets = make_targets(manifests["train"])
    first = ready(make_brain("ts", targets=targets, trainable_layers=0)[0])
    assert first.made_from().keys() == {"train", "valid", "teacher"} and first.made_from()["teacher"] == "t"
    end_epoch(first, 1, lambda label: label + 1)
    targets.made_from["teacher"] = "another"
    with pytest.raises(InputError, match=r"made from other data than today's \(teacher changed\)"):
        ready(make_brain("ts", targets=targets, trainable_layers=0)[0])


def test_what_is_said_of_a_set_is_put_together(make_brain, manifests):
    brain, hparams, datasets = make_brain("hubert_base")
    manifest = manifests["valid"]
    brain.modules.eval()
    brain.on_stage_start(torch_stage("TEST"))
    for batch in brain.make_dataloader(datasets["valid"], torch_stage("TEST"), batch_size=5):
        with torch.no_grad():
            output = brain.compute_forward(batch, torch_stage("TEST"))
            brain.compute_objectives(output, batch, torch_stage("TEST"))
    brain.on_stage_end(torch_stage("TEST"), 0.0)
    said = brain.outputs
    durations = [float(manifest.utterances[utterance]["duration"]) for utterance in said.ids]
    assert durations == sorted(durations) and sorted(said.ids) == sorted(manifest.utterances)
    rows = [list(manifest.utterances).index(utterance) for utterance in said.ids]
    np.testing.assert_allclose(said.label, manifest.labels()[rows], atol=1e-6)
    assert (said.embedding.dtype, said.prediction.dtype, said.label.dtype) == (np.float32, np.float64, np.float64)
    assert said.embedding.shape == (12, 128)
    np.testing.assert_allclose(said.embedding[-2:], output.embedding, atol=1e-6)
    restored = hparams["label_scale"].restore(output.prediction.double())
    np.testing.assert_allclose(said.prediction[-2:], restored, atol=1e-6)
    brain.on_stage_start(torch_stage("TEST"))
    assert brain._collected == []


def test_the_training_loss_of_an_epoch_goes_with_the_means_of_its_batches(make_brain):
    brain, _, _ = make_brain("hubert_base")
    brain.batch_means.add(kept=0.5)
    brain.on_stage_end(torch_stage("TRAIN"), 0.75, 1)
    assert brain.train_stats == {"loss": 0.75, "kept": 0.5} and brain.batch_means.take() == {}


def test_a_prediction_must_be_of_each_utterance(make_brain, monkeypatch):
    brain, _, datasets = make_brain("hubert_base")
    said, asked = Outputs(["a"], None, None, None), []

    def evaluate(dataset, test_loader_kwargs):
        asked.append((dataset, test_loader_kwargs))
        brain.outputs = said

    monkeypatch.setattr(brain, "evaluate", evaluate)
    with pytest.raises(RuntimeError, match="^1 predictions for 12 utterances$"):
        brain.predict(datasets["test1"])
    assert asked == [(datasets["test1"], {"batch_size": 8, "num_workers": 0})]
    brain.debug = True
    assert brain.predict(datasets["test1"]) is said


def test_the_report_says_of_which_run_it_is(make_brain, manifests, monkeypatch):
    brain, hparams, datasets = make_brain("hubert_base", number_of_epochs=1, settings={"lr": 3}, seed=5, run="r")
    brain.train(datasets)
    monkeypatch.setattr("speechbrain.utils.distributed.if_main_process", lambda: False)
    (run := RunFolder(hparams["output_folder"])).path.mkdir(exist_ok=True)
    brain.test({"test1": datasets["test1"]})
    assert not run.finished
    monkeypatch.undo()
    brain.test(datasets)
    report = run.report()
    assert (report["system"], report["run"], report["seed"]) == ("hubert_base", "r", 5)
    assert report["settings"] == {"lr": 3} and report["fingerprint"] == brain.fingerprint()
    assert report["best"] == {"epoch": 1, "valid_loss": brain.best["valid_loss"]} == brain.best
    assert set(report["test"]) == {"test1"} and set(report["manifests"]) == {"train", "valid", "test1"}


def test_the_best_checkpoint_outlives_later_ones(make_brain):
    brain, _, datasets = make_brain("hubert_base", number_of_epochs=1)
    brain.train(datasets)
    brain.outputs.prediction = 8 - brain.outputs.label  # as wrong as can be
    for epoch in (2, 3):
        brain._end_epoch(epoch)
    brain.predict(datasets["test1"])
    assert brain.best["epoch"] == 1


def test_predictions_do_not_depend_on_the_batch(make_brain):
    brain, hparams, datasets = make_brain("ft", trainable_layers=1)
    brain.train(datasets)
    together = brain.predict(datasets["test1"])
    brain.hparams.test_dataloader_opts["batch_size"] = 1
    alone = brain.predict(datasets["test1"])
    assert alone.ids == together.ids
    np.testing.assert_allclose(alone.prediction, together.prediction, atol=1e-4)


def test_validation_loss_is_of_the_whole_set(make_brain):
    brain, hparams, datasets = make_brain("hubert_base", number_of_epochs=1, batch_size=5)
    brain.train(datasets)
    brain.predict(datasets["valid"])
    expected = np.mean(1 - metrics.ccc(brain.outputs.prediction, brain.outputs.label))
    assert brain.best["valid_loss"] == pytest.approx(expected, abs=1e-5)


def test_encoder_layers_learn_at_a_quarter_of_the_rate(make_brain):
    brain, hparams, datasets = make_brain("ft", trainable_layers=1, lr=0.002)
    brain.init_optimizers()
    model, encoder = brain.optimizer.param_groups
    assert (model["lr"], encoder["lr"]) == (0.002, 0.0005)
    assert {id(p) for p in encoder["params"]} == {id(p) for p in hparams["speech_encoder"].layers[-1].parameters()}
    assert {id(p) for p in model["params"]} == {id(p) for p in hparams["model"].parameters()}


def test_the_rate_falls_by_a_quarter_after_more_than_two_epochs_without_progress(make_brain):
    brain, _, _ = make_brain("ft", trainable_layers=1, lr=0.001)
    brain.init_optimizers()
    rates = []
    for loss in (1.0, 1.0, 1.0, 1.0, 0.9999, 0.9999, 0.9999, 0.9999):
        brain.lr_annealing.step(loss)
        rates.append([group["lr"] for group in brain.optimizer.param_groups])
    once, twice = [0.00075, 0.00075 / 4], [0.0005625, 0.0005625 / 4]
    np.testing.assert_allclose(rates, [[0.001, 0.00025]] * 3 + [once] * 4 + [twice])


def test_a_teacher_writes_the_text_encoder_that_has_learnt(make_brain, tmp_path):
    for layers in (0, 1):
        (tmp_path / f"results/teacher/with{layers}").mkdir(parents=True)
        brain, hparams, datasets = make_brain(
            "teacher", TeacherBrain, number_of_epochs=1, text_trainable_layers=layers, run=f"with{layers}"
        )
        brain.train(datasets)
        brain.test(datasets)
        folder = Path(hparams["output_folder"]) / "text_encoder"
        assert folder.exists() == bool(layers)
    written, learnt = TextEncoder(folder).model.state_dict(), hparams["text_encoder"].model.state_dict()
    assert all(weight.equal(written[name]) for name, weight in learnt.items())
    before = TextEncoder(hparams["text_source"]).model.state_dict()
    changed = {name for name, weight in learnt.items() if not weight.equal(before[name])}
    assert changed and all(name.startswith("encoder.layer.1.") for name in changed)


def test_a_teachers_epoch_encodes_neither_audio_nor_text(make_brain, monkeypatch):
    brain, hparams, datasets = make_brain("teacher", TeacherBrain, number_of_epochs=1)
    for encoder in (hparams["speech_encoder"], hparams["text_encoder"]):
        monkeypatch.setattr(encoder, "frozen_forward", None)
    brain.train(datasets)
    assert brain.predict(datasets["valid"]).prediction.std() > 0


@pytest.mark.parametrize(("system", "kept"), [("ts", 1.0), ("cts", 0.75)])
def test_the_student_adds_the_distance_to_the_teacher_where_it_is_trusted(make_brain, manifests, system, kept):
    targets = make_targets(manifests["train"])
    threshold = {"residual_threshold": 1.5} if system == "cts" else {}
    brain, hparams, datasets = make_brain(
        system, targets=targets, trainable_layers=0, feature_folder=None, batch_size=24, ts_weight=7, **threshold
    )
    [batch] = brain.make_dataloader(datasets["train"], stage=torch_stage("TRAIN"), batch_size=24)
    brain.on_stage_start(torch_stage("TRAIN"))
    output = brain.compute_forward(batch, torch_stage("TRAIN"))
    loss = brain.compute_objectives(output, batch, torch_stage("TRAIN"))
    labels = hparams["label_scale"].standardise(batch.labels)
    norms = output.embedding.norm(dim=1)  # the teacher's embedding is zero
    trusted = torch.tensor([i not in targets.ids[: len(targets.ids) // 4] or system == "ts" for i in batch.id])
    expected = ccc_loss(output.prediction, labels) + 7 * norms[trusted].mean()
    torch.testing.assert_close(loss, expected)
    assert brain.batch_means.take()["kept"] == kept


def test_the_distance_is_the_one_that_was_asked_for(make_brain, manifests):
    targets = make_targets(manifests["train"], embedding=0.1)
    options = {"targets": targets, "trainable_layers": 0, "distance": "infonce", "distance_temperature": 0.5}
    brain, hparams, datasets = make_brain("ts", batch_size=24, ts_weight=7, **options)
    batch = first_batch(brain, datasets, hparams)
    brain.on_stage_start(torch_stage("TRAIN"))
    output = brain.compute_forward(batch, torch_stage("TRAIN"))
    loss = brain.compute_objectives(output, batch, torch_stage("TRAIN"))
    means = brain.batch_means.take()
    assert means["ts_distance"] == pytest.approx(np.log(24), rel=1e-5)  # of teachers that are all alike
    assert loss.item() == pytest.approx(means["ccc_loss"] + 7 * means["ts_distance"], rel=1e-5)
    with pytest.raises(InputError, match="distance is 'l1'"):
        make_brain("ts", **options | {"distance": "l1"})


def make_unrated_targets(manifest, embedding=0.0):
    n = len(manifest.utterances)
    return TeacherTargets(
        ids=list(manifest.utterances),
        embedding=np.full((n, 128), embedding, np.float32),
        prediction=np.ones((n, 3)),
        label=None,
        residual=None,
        made_from={"manifest": manifest.fingerprint, "teacher": "t", "spread": "s"},
        spread=np.linspace(0, 1, 3 * n).reshape(n, 3),
        **make_embeddings(n),
    )


@pytest.fixture
def unrated_options(with_unrated):
    """Give what makes a student that is taught on unrated speech, too, where the teacher is sure of half of it."""
    unrated = make_unrated_targets(with_unrated[UNRATED], embedding=0.2)
    targets = {"train": make_targets(with_unrated["train"], embedding=0.1), UNRATED: unrated}
    return {
        "manifests": with_unrated,
        "targets": targets,
        "unrated_batch_size": 6,
        "unrated_keep": 0.5,
        "residual_threshold": 1.5,
    }


def test_unrated_utterances_are_in_the_distance_alone(make_brain, with_unrated, unrated_options):
    brain, hparams, datasets = make_brain("cts_unrated", trainable_layers=0, ts_weight=7, **unrated_options)
    batch = first_batch(brain, datasets, hparams)
    brain.on_stage_start(torch_stage("TRAIN"))
    output = brain.compute_forward(batch, torch_stage("TRAIN"))
    loss = brain.compute_objectives(output, batch, torch_stage("TRAIN"))
    assert [utterance in with_unrated["train"].utterances for utterance in batch.id] == [True] * 8 + [False] * 6
    labels = hparams["label_scale"].standardise(batch.labels[:8])
    train, unrated = (unrated_options["targets"][name].ids for name in ("train", UNRATED))
    kept = torch.tensor([i not in train[:6] and i not in unrated[10:] for i in batch.id])
    assert kept[:8].any() and kept[8:].any() and not kept[8:].all()
    teachers = torch.tensor([[0.1]] * 8 + [[0.2]] * 6)
    norms = (output.embedding - teachers).norm(dim=1)
    expected = ccc_loss(output.prediction[:8], labels) + 7 * norms[kept].mean()
    torch.testing.assert_close(loss, expected)
    assert brain.batch_means.take()["kept"] == pytest.approx(kept.float().mean().item())


def one_step(brain, datasets, hparams):
    """Give the first batch, what the Brain says of it, its loss, and what it logs."""
    batch = first_batch(brain, datasets, hparams)
    brain.on_stage_start(torch_stage("TRAIN"))
    output = brain.compute_forward(batch, torch_stage("TRAIN"))
    return batch, output, brain.compute_objectives(output, batch, torch_stage("TRAIN")), brain.batch_means.take()


@pytest.mark.parametrize("kind", ["text", "sentence"])
def test_another_embedding_is_taught_through_a_layer_of_the_students_own(make_brain, manifests, kind):
    targets = make_targets(manifests["train"])
    options = {"taught": kind, "residual_threshold": 1.5, "batch_size": 24, "ts_weight": 7, "trainable_layers": 0}
    brain, hparams, datasets = make_brain("cts", targets=targets, **options)
    _, _, loss, means = one_step(brain, datasets, hparams)
    batch, output, _, _ = one_step(brain, datasets, hparams)
    layer = brain.modules.projector
    mapped = output.embedding.detach().double().numpy() @ layer.weight.detach().double().numpy().T
    rows = targets.rows(batch.id)
    distances = np.linalg.norm(mapped + layer.bias.detach().double().numpy() - getattr(targets, kind)[rows], axis=1)
    trusted = rows >= 6
    assert means["ts_distance"] == pytest.approx(distances[trusted].mean(), rel=1e-5) and means["kept"] == 0.75
    assert loss.item() == pytest.approx(means["ccc_loss"] + 7 * means["ts_distance"], rel=1e-5)
    loss.backward()
    brain.init_optimizers()
    [group] = brain.optimizer.param_groups
    assert {id(p) for p in layer.parameters()} < {id(p) for p in group["params"]}
    assert all((p.grad != 0).any() for p in [*layer.parameters(), *hparams["model"].projection.parameters()])


def test_the_projector_is_the_seeds_own_and_in_the_checkpoint(make_brain, manifests, tmp_path):
    targets = make_targets(manifests["train"])
    layers = []
    for noise, seed in ((1, 1986), (2, 1986), (1, 7)):
        torch.manual_seed(noise)
        options = {"taught": "text", "trainable_layers": 0, "seed": seed, "run": 1986, "number_of_epochs": 1}
        brain, _, datasets = make_brain("ts", targets=targets, **options)
        layers.append(brain.modules.projector.weight.detach().clone())
    assert layers[0].shape == (20, 128) and layers[0].equal(layers[1]) and not layers[0].equal(layers[2])
    brain.train(datasets)
    learnt = brain.modules.projector.weight.detach().clone()
    assert not learnt.equal(layers[2])
    [path] = (tmp_path / "results/ts/1986/save").glob("*/projector.ckpt")
    assert torch.load(path)["weight"].equal(learnt)
    joint, _, _ = make_brain("ts", targets=targets, trainable_layers=0, run="joint")
    assert "projector" not in joint.modules and "projector" not in joint.checkpointer.recoverables


@pytest.mark.parametrize(("then", "now"), [("joint", "text"), ("text", "joint"), ("text", "sentence")])
def test_a_student_that_is_taught_something_else_does_not_go_on(make_brain, manifests, then, now):
    def make(taught):
        options = {"settings": {"taught": taught}, "taught": taught, "trainable_layers": 0}
        return ready(make_brain("ts", targets=make_targets(manifests["train"]), **options)[0])

    end_epoch(make(then), 1, lambda label: label + 1)
    with pytest.raises(InputError, match=f"was trained with taught {then}, not {now}: give the old value"):
        make(now)


def weighted_ccc(p, y, weights):
    """Lin's CCC with weighted population moments, in float64, a value a dimension."""
    mean_p, mean_y = (np.average(x, axis=0, weights=weights) for x in (p, y))
    var_p, var_y, cov = (
        np.average((a - m) * (b - n), axis=0, weights=weights)
        for a, m, b, n in ((p, mean_p, p, mean_p), (y, mean_y, y, mean_y), (p, mean_p, y, mean_y))
    )
    return 2 * cov / (var_p + var_y + (mean_p - mean_y) ** 2)


@pytest.mark.parametrize("trust", ["cut", "soft", "per_dimension"])
def test_the_teachers_prediction_is_taught_where_it_is_trusted(make_brain, with_unrated, unrated_options, trust):
    targets = unrated_options["targets"]
    random = np.random.default_rng(3)
    for of_split in targets.values():
        of_split.prediction = random.normal(4, 1, of_split.prediction.shape)
    rated = targets["train"]
    rated.residual = random.normal(size=rated.residual.shape)
    targets[UNRATED].spread = random.uniform(size=targets[UNRATED].spread.shape)
    options = unrated_options | {"trust": trust, "prediction_weight": 5, "ts_weight": 7, "trainable_layers": 0}
    brain, hparams, datasets = make_brain("cts_unrated", ccc_weights=[0.5, 0.3, 0.2], **options)
    batch, output, loss, means = one_step(brain, datasets, hparams)

    excess = np.abs(rated.residual) / (1.5 * rated.residual.std(axis=0))
    largest = targets[UNRATED].spread.max(axis=1)
    beyond = {
        "train": excess,
        UNRATED: targets[UNRATED].spread / np.sort(largest)[9],  # that of the surest half of 20
    }
    if trust == "per_dimension":
        beyond[UNRATED] = targets[UNRATED].spread / np.sort(targets[UNRATED].spread, axis=0)[9]
    weights, taught = [], []
    for utterance in batch.id:
        split = "train" if utterance in rated.ids else UNRATED
        row = targets[split].ids.index(utterance)
        ratio = beyond[split][row]
        whole = np.full(3, ratio.max())
        weights.append({"cut": whole <= 1, "soft": np.exp(-(whole**2)), "per_dimension": ratio <= 1}[trust])
        taught.append(targets[split].prediction[row])
    labels = with_unrated["train"].labels()
    standardised = (np.array(taught) - labels.mean(axis=0)) / labels.std(axis=0)
    ccc = weighted_ccc(output.prediction.detach().double().numpy(), standardised, np.array(weights, float))
    assert len(weights) == 14 and np.isfinite(ccc).all()
    assert means["ts_ccc_loss"] == pytest.approx((1 - ccc) @ [0.5, 0.3, 0.2], rel=1e-4)
    expected = means["ccc_loss"] + 7 * means["ts_distance"] + 5 * means["ts_ccc_loss"]
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    if trust == "soft":
        norms = (output.embedding - batch.teacher_embedding).norm(dim=1).detach().double().numpy()
        first = np.array(weights)[:, 0]
        assert means["ts_distance"] == pytest.approx(np.average(norms, weights=first), rel=1e-4)
        assert means["kept"] == pytest.approx(first.mean(), rel=1e-5)


def draw_ratings(manifest, n_raters=5):
    """Let raters say of each utterance what its labels are, give or take one."""
    random = np.random.default_rng(3)
    numbers = np.clip(np.round(manifest.labels()[..., None] + random.normal(size=(1, 3, n_raters))), 1, 7)
    return {id: tuple(map(tuple, said)) for id, said in zip(manifest.utterances, numbers.tolist(), strict=True)}


@pytest.fixture
def with_raters(manifests):
    """Give the manifests with five raters of each training utterance but the first."""
    ratings = draw_ratings(manifests["train"])
    ratings.pop(next(iter(ratings)))
    return manifests | {"train": replace(manifests["train"], ratings=ratings)}


@pytest.mark.parametrize(
    ("system", "brain_class", "options"),
    [
        ("ft", StudentBrain, {"trainable_layers": 0}),
        ("attn", StudentBrain, {}),
        ("teacher", TeacherBrain, {}),
        ("atmaja", TeacherBrain, {}),
    ],
)
def test_raters_are_learnt_beside_their_mean(make_brain, with_raters, system, brain_class, options):
    options = {"soft_label_weight": 2, "ccc_weights": [0.5, 0.3, 0.2], "batch_size": 24, **options}
    brain, hparams, datasets = make_brain(system, brain_class, manifests=with_raters, **options)
    brain.modules.eval()  # without dropout
    batch, output, loss, means = one_step(brain, datasets, hparams)
    layer = brain.modules.soft_labels
    logits = output.embedding.detach() @ layer.weight.detach().T + layer.bias.detach()
    logits = logits.double().reshape(24, 3, 7).numpy()
    ratings = with_raters["train"].ratings
    divergences = []
    for utterance, scores in zip(batch.id, logits, strict=True):
        if utterance in ratings:
            said = np.array(ratings[utterance], dtype=int)
            p = np.array([np.bincount(numbers, minlength=8)[1:] / 5 for numbers in said])
            divergences.append(entropy(p, softmax(scores, axis=1), axis=1))
    assert len(divergences) == 23
    assert means["soft_label_loss"] == pytest.approx(np.mean(divergences, axis=0) @ [0.5, 0.3, 0.2], rel=1e-4)
    assert loss.item() == pytest.approx(means["ccc_loss"] + 2 * means["soft_label_loss"], rel=1e-5)
    loss.backward()
    brain.init_optimizers()
    learning = {id(p) for group in brain.optimizer.param_groups for p in group["params"]}
    assert all(id(p) in learning and (p.grad != 0).any() for p in layer.parameters())


def test_raters_of_rated_speech_are_learnt_beside_unrated_speech(make_brain, with_unrated, unrated_options):
    train = replace(with_unrated["train"], ratings=draw_ratings(with_unrated["train"]))
    unrated_options["manifests"] = with_unrated | {"train": train}
    brain, hparams, datasets = make_brain("cts_unrated", **unrated_options, trainable_layers=0, soft_label_weight=2)
    batch, _, loss, means = one_step(brain, datasets, hparams)
    assert batch.soft_labels.isnan().all(dim=(1, 2)).tolist() == [False] * 8 + [True] * 6
    expected = means["ccc_loss"] + 30 * means["ts_distance"] + 2 * means["soft_label_loss"]
    assert 0 < means["soft_label_loss"] < 3 and loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_network_learns_what_the_raters_said(make_brain, with_raters):
    """Its layer tells the utterances apart: better than the distribution of all raters together."""
    options = {"soft_label_weight": 1, "trainable_layers": 1, "number_of_epochs": 20, "lr": 0.003}
    brain, hparams, datasets = make_brain("ft", manifests=with_raters, **options)
    brain.train(datasets)
    brain.on_evaluate_start()
    brain.modules.eval()
    batch = first_batch(brain, datasets, hparams)
    with torch.no_grad():
        output = brain.compute_forward(batch, torch_stage("VALID"))
        logits = brain.modules.soft_labels(output.embedding).unflatten(1, (3, 7))
    overall = batch.soft_labels.nanmean(dim=0).clamp(min=1e-6).log().expand_as(logits)
    assert soft_label_loss(logits, batch.soft_labels) < 0.8 * soft_label_loss(overall, batch.soft_labels)


def test_without_a_weight_raters_change_nothing(make_brain, manifests, with_raters, tmp_path):
    outputs = []
    for name, of_which in (("none", manifests), ("unread", with_raters)):
        options = {"run": name, "trainable_layers": 0, "number_of_epochs": 1}
        brain, _, datasets = make_brain("ft", manifests=of_which, **options)
        assert "soft_labels" not in brain.modules and "soft_labels" not in brain.checkpointer.recoverables
        brain.train(datasets)
        outputs.append(brain.predict(datasets["test1"]).prediction)
    np.testing.assert_array_equal(*outputs)
    logs = [(tmp_path / f"results/ft/{name}/train_log.txt").read_text() for name in ("none", "unread")]
    assert logs[0] == logs[1] and "soft_label" not in logs[0]


def test_a_model_of_other_raters_does_not_go_on(make_brain, with_raters):
    options = {"trainable_layers": 0, "soft_label_weight": 1}
    end_epoch(ready(make_brain("ft", manifests=with_raters, **options)[0]), 1, lambda label: label + 1)
    ready(make_brain("ft", manifests=with_raters, **options)[0])
    others = replace(with_raters["train"], ratings=draw_ratings(with_raters["train"], n_raters=4))
    with pytest.raises(InputError, match=r"made from other data than today's \(train_ratings changed\)"):
        ready(make_brain("ft", manifests=with_raters | {"train": others}, **options)[0])


def test_without_a_weight_the_teachers_prediction_is_not_looked_at(make_brain, manifests):
    brain, hparams, datasets = make_brain("ts", targets=make_targets(manifests["train"]), trainable_layers=0)
    _, _, loss, means = one_step(brain, datasets, hparams)
    assert means.keys() == {"ccc_loss", "ts_distance", "kept"}
    assert loss.item() == pytest.approx(means["ccc_loss"] + 30 * means["ts_distance"], rel=1e-6)


def test_an_epoch_on_both_is_one_pass_of_the_rated_ones(make_brain, with_unrated, unrated_options):
    brain, hparams, datasets = make_brain("cts_unrated", **unrated_options, trainable_layers=0)
    loader = brain.make_dataloader(datasets["train"], torch_stage("TRAIN"), **hparams["train_dataloader_opts"])
    brain.train_sampler.set_epoch(1)
    heard = [batch.id for batch in loader]
    rated = [utterance for batch in heard for utterance in batch[:8]]
    assert sorted(rated) == sorted(with_unrated["train"].utterances)
    assert all(len(batch) == 14 and set(batch[8:]) <= with_unrated[UNRATED].utterances.keys() for batch in heard)
    brain, hparams, datasets = make_brain("cts", targets=make_targets(with_unrated["train"]), trainable_layers=0)
    alone = brain.make_dataloader(datasets["train"], torch_stage("TRAIN"), **hparams["train_dataloader_opts"])
    brain.train_sampler.set_epoch(1)
    assert rated == [utterance for batch in alone for utterance in batch.id]


def test_both_can_be_batched_by_length(make_brain, unrated_options):
    brain, hparams, datasets = make_brain("cts_unrated", **unrated_options, trainable_layers=0)
    options = hparams["train_dataloader_opts"] | {"batches": "by_length"}
    [batch, *_] = brain.make_dataloader(datasets["train"], torch_stage("TRAIN"), **options)
    assert len(batch.id) == 14 and brain.train_sampler._first._lengths is not None
    assert brain.train_sampler._second._lengths is not None


def test_batches_of_a_length_are_of_as_many_seconds(make_brain, manifests):
    options = {"batches": "by_length", "max_batch_s": 6.0, "trainable_layers": 0}
    brain, hparams, datasets = make_brain("ft", **options)
    rows, sizes = manifests["train"].utterances, set()
    for epoch in (1, 2, 3):
        loader = brain.make_dataloader(datasets["train"], torch_stage("TRAIN"), **hparams["train_dataloader_opts"])
        brain.train_sampler.set_epoch(epoch)
        for batch in loader:
            durations = [rows[utterance]["duration"] for utterance in batch.id]
            assert 2 * max(durations) <= len(batch.id) * max(durations) <= 6.0
            sizes.add(len(batch.id))
    assert len(sizes) > 1  # and not batch_size


def test_without_unrated_speech_the_student_is_that_of_the_paper(make_brain, manifests, tmp_path):
    targets = make_targets(manifests["train"], embedding=0.1)
    outputs = []
    for system in ("cts", "cts_unrated"):
        brain, _, datasets = make_brain(system, targets=targets, trainable_layers=1)
        brain.train(datasets)
        outputs.append(brain.predict(datasets["test1"]))
    assert outputs[0].ids == outputs[1].ids
    np.testing.assert_array_equal(outputs[0].prediction, outputs[1].prediction)
    logs = [(tmp_path / "results" / system / "1986" / "train_log.txt").read_text() for system in ("cts", "cts_unrated")]
    assert logs[0] == logs[1]


def test_unrated_speech_moves_the_student(make_brain, unrated_options):
    outputs = []
    for embedding in (0.2, 0.9):
        unrated_options["targets"][UNRATED].embedding[:] = embedding
        folder = f"{unrated_options['targets'][UNRATED].embedding[0, 0]}"
        brain, _, datasets = make_brain("cts_unrated", **unrated_options, trainable_layers=0, run=folder)
        brain.train(datasets)
        outputs.append(brain.predict(datasets["valid"]))
    assert not np.allclose(outputs[0].embedding, outputs[1].embedding, atol=1e-3)
    assert np.isfinite(outputs[0].prediction).all()


def test_a_student_of_other_unrated_speech_does_not_go_on(make_brain, with_unrated, unrated_options):
    first = ready(make_brain("cts_unrated", **unrated_options, trainable_layers=0)[0])
    made_from = first.made_from()
    assert made_from.keys() == {"train", "valid", "teacher", "unrated", "unrated_transcripts", "spread"}
    end_epoch(first, 1, lambda label: label + 1)
    ready(make_brain("cts_unrated", **unrated_options, trainable_layers=0)[0])
    unrated_options["targets"][UNRATED].made_from["spread"] = "another"
    with pytest.raises(InputError, match=r"made from other data than today's \(spread changed\)"):
        ready(make_brain("cts_unrated", **unrated_options, trainable_layers=0)[0])
    targets = unrated_options["targets"]["train"]
    with pytest.raises(InputError, match=r"\(spread, unrated, unrated_transcripts changed\)"):
        ready(make_brain("cts_unrated", targets=targets, trainable_layers=0)[0])


def test_too_little_unrated_speech_is_one_sentence(make_brain, unrated_options):
    options = unrated_options | {"unrated_batch_size": 21}
    with pytest.raises(InputError, match="unrated speech has 20 recordings, .* a smaller --unrated_batch_size"):
        train(*make_brain("cts_unrated", **options, trainable_layers=0))


def test_the_report_counts_unrated_speech(make_brain, with_unrated, unrated_options):
    brain, hparams, datasets = make_brain("cts_unrated", **unrated_options, trainable_layers=0, number_of_epochs=1)
    brain.train(datasets)
    brain.test(datasets)
    report = RunFolder(hparams["output_folder"]).report()
    assert report["counts"] == {"train": 24, "valid": 12, "test1": 12, "unrated": 20}
    assert report["manifests"]["unrated"] == with_unrated[UNRATED].audio_fingerprint


def torch_stage(name):
    import speechbrain

    return speechbrain.Stage[name]


def test_the_log_shows_both_losses_and_the_share_kept(make_brain, manifests, tmp_path):
    run = make_brain("cts", targets=make_targets(manifests["train"]), trainable_layers=0, number_of_epochs=1)
    train(*run)
    log = (tmp_path / "results/cts/1986/train_log.txt").read_text()
    for name in ("train ccc_loss: ", "train ts_distance: ", "train kept: ", "valid loss: ", "valid ccc_valence: "):
        assert name in log


@pytest.mark.parametrize(
    ("system", "brain_class", "options"),
    [
        ("ft", StudentBrain, {"trainable_layers": 1}),
        ("atmaja", TeacherBrain, {"feature_folder": None}),
    ],
)
def test_a_run_goes_on_where_it_was(make_brain, tmp_path, system, brain_class, options):
    log = tmp_path / "results" / system / "1986" / "train_log.txt"
    train(*make_brain(system, brain_class, number_of_epochs=1, **options))
    train(*make_brain(system, brain_class, number_of_epochs=3, **options))
    assert [line.split(",")[0] for line in log.read_text().splitlines()] == ["epoch: 1", "epoch: 2", "epoch: 3"]


def test_a_checkpoint_of_other_data_is_refused(make_brain, tmp_path, manifests):
    train(*make_brain("hubert_base", number_of_epochs=1))
    corpus = write_msp_tree(tmp_path / "other", {"Train": 24, "Development": 12, "Test1": 12}, seed=1)
    msp_podcast_prepare.prepare_msp_podcast(corpus, tmp_path / "manifests")
    other = load_manifests(tmp_path / "manifests")
    with pytest.raises(InputError, match=r"train, valid changed.*another output_folder"):
        train(*make_brain("hubert_base", manifests=other))


def test_an_untrained_system_is_not_tested(make_brain):
    brain, _, datasets = make_brain("hubert_base")
    with pytest.raises(InputError, match="holds no checkpoint: train this system first.$"):
        brain.test({"test1": datasets["test1"]})


def test_a_training_set_smaller_than_a_batch_is_refused(make_brain):
    with pytest.raises(InputError, match="24 recordings, fewer than one batch of 32: choose a smaller --batch_size"):
        train(*make_brain("hubert_base", batch_size=32))


def test_two_processes_train_and_predict_as_one_even_where_one_keeps_nothing(make_brain, manifests, tmp_path):
    """Of 24 utterances in batches of 7: shares of 4 and 3, and of a last batch of 2 and 1."""
    batches, of_first = GlobalBatches(24, 7, shuffle=True, seed=1986), set(range(24))
    for epoch in (1, 2):
        batches.set_epoch(epoch)
        of_first &= {item for batch in batches for item in batch[::2]}
    assert len(of_first) > 2
    targets = make_targets(manifests["train"], embedding=0.1)
    targets.residual = np.tile((-1.0) ** np.arange(24), (3, 1)).T
    targets.residual[list(of_first)] = 0

    def follow(run, run_opts=None):
        options = {"results_folder": str(tmp_path / run), "batch_size": 7, "residual_threshold": 0.5}
        options |= {"trainable_layers": 0, "train_dataloader_opts": {"drop_last": False}}
        brain, hparams, datasets = make_brain("cts", targets=targets, run_opts=run_opts, **options)
        brain.train(datasets)
        validated, learning_rate = brain.outputs, brain.optimizer.param_groups[0]["lr"]
        one = datasets["test1"].filtered_sorted(select_n=1)
        outputs = [validated, brain.predict(datasets["test1"]), brain.predict(one)]
        brain.test(datasets)
        log = (tmp_path / run / "cts" / "1986" / "train_log.txt").read_text()
        said = [(output.ids, output.embedding, output.prediction, output.label) for output in outputs]
        return said, brain.best, learning_rate, log, brain.modules.model.state_dict()

    (tmp_path / "ranks").mkdir()
    first, second = on_each_rank(lambda _: follow("two", {"distributed_backend": "gloo"}), tmp_path / "ranks", 2)
    *alone, log, model = follow("one")
    assert 0 < float(re.search(r"kept: ([\d.e+-]+)", log)[1]) < 0.5
    assert repr(first[:3]) == repr(second[:3])  # they choose alike
    np.testing.assert_equal(first[0], second[0])
    for of_two, of_one in zip(first[0], alone[0], strict=True):
        assert of_two[0] == of_one[0]
        for two, one in zip(of_two[1:], of_one[1:], strict=True):
            np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    assert first[1]["epoch"] == alone[1]["epoch"]
    assert first[1]["valid_loss"] == pytest.approx(alone[1]["valid_loss"], abs=1e-5)
    for name, parameter in model.items():
        torch.testing.assert_close(first[4][f"module.{name}"], parameter, rtol=0, atol=1e-5)


def test_a_process_that_has_nothing_to_validate_waits_for_nobody(make_brain, tmp_path):
    def task(_):
        options = {"text_trainable_layers": 1, "run_opts": {"distributed_backend": "gloo"}}
        brain, _, datasets = make_brain("teacher", TeacherBrain, **options)  # with buffers, which DDP sends around
        brain.train(datasets | {"valid": datasets["valid"].filtered_sorted(select_n=2)})
        return brain.outputs.ids, brain.optimizer_step

    (tmp_path / "ranks").mkdir()
    said = on_each_rank(task, tmp_path / "ranks", 3)
    assert said == [said[0]] * 3 and len(said[0][0]) == 2 and said[0][1] == 6


def test_batch_norms_of_several_processes_are_for_gpus(make_brain, tmp_path):
    def task(_):
        brain, _, datasets = make_brain("attn", run_opts={"distributed_backend": "gloo"})
        with plain_errors():
            brain.train(datasets)

    (tmp_path / "ranks").mkdir()
    said = "error: attn normalises over the global batch, which PyTorch does on GPUs alone: train it by one process."
    assert on_each_rank(task, tmp_path / "ranks", 2) == [said, said]


def test_targets_are_the_teachers_embeddings_predictions_and_residuals(make_brain, manifests):
    brain, hparams, datasets = make_brain("teacher", TeacherBrain, number_of_epochs=1)
    brain.train(datasets)
    targets = brain.make_targets(datasets)
    assert set(targets) == {"train", "valid", "test1"}
    fitted = fit_residuals(targets["train"].prediction, targets["train"].label)
    np.testing.assert_allclose(targets["train"].residual, fitted.residual, atol=1e-9)
    row = targets["test1"].ids.index(next(iter(manifests["test1"].utterances)))
    np.testing.assert_allclose(
        targets["test1"].residual[row],
        fitted.weight * targets["test1"].prediction[row] + fitted.offset - manifests["test1"].labels()[0],
        atol=1e-5,
    )
    assert sorted(targets["test1"].ids) == sorted(manifests["test1"].utterances)
    np.testing.assert_allclose(targets["test1"].label[row], manifests["test1"].labels()[0], atol=1e-6)
    restored = hparams["label_scale"].restore(hparams["model"].output(torch.tensor(targets["train"].embedding)))
    np.testing.assert_allclose(restored.detach(), targets["train"].prediction, atol=1e-4)
    check_what_is_read(targets["test1"], manifests["test1"], hparams, atol=1e-5)  # whole, from audio and text
    check_what_is_read(targets["train"], manifests["train"], hparams, atol=0.002)  # from features kept in float16
    brain.test({"test1": datasets["test1"]})
    report = RunFolder(hparams["output_folder"]).report()
    assert targets["train"].made_from == {
        "manifest": manifests["train"].fingerprint,
        "teacher": report["fingerprint"],
    }
    assert all(of_split.spread is None for of_split in targets.values())  # nobody asks how sure the teacher is
    # The words have made a teacher's numbers, too.
    assert set(report["manifests"]) == {*manifests, *(f"{name}_transcripts" for name in manifests)}


def check_what_is_read(targets, manifest, hparams, atol):
    """Compare the embeddings of text and sentence with those of each transcript on its own."""
    encoder, gru = hparams["text_encoder"], hparams["model"].text_pooling.gru
    transcripts = [manifest.utterances[utterance]["transcript"] for utterance in targets.ids]
    sentences = embed_sentences(encoder, transcripts, progressbar=False)
    np.testing.assert_allclose(targets.sentence, sentences, atol=atol)
    np.testing.assert_allclose(np.linalg.norm(targets.sentence, axis=1), 1, atol=1e-5)
    with torch.no_grad():
        tokens = [encoder(encoder.tokenize(text).unsqueeze(0), torch.ones(1))[0] for text in transcripts]
        text = torch.cat([gru(vectors)[0][:, -1] for vectors in tokens])
    np.testing.assert_allclose(targets.text, text, atol=atol)
    assert targets.text.std(axis=0).max() > 10 * atol and targets.text.shape[1] == 128


def test_a_teacher_without_a_text_branch_of_its_own_has_no_embedding_of_it(make_brain):
    brain, _, datasets = make_brain("atmaja", TeacherBrain, number_of_epochs=1)
    brain.train(datasets)
    targets = brain.make_targets(datasets)["train"]
    assert targets.text is None and targets.sentence is None and targets.embedding.shape == (24, 32)


@pytest.fixture(scope="module")
def unrated_manifest(tmp_path_factory):
    """Name a manifest of 20 utterances of another corpus, whose ratings nobody is to read."""
    folder = tmp_path_factory.mktemp("unrated")
    corpus = write_msp_tree(folder / "msp", {"Train": 20, "Development": 4, "Test1": 4}, seed=5)
    msp_podcast_prepare.prepare_msp_podcast(corpus, folder / "manifests")
    text = (folder / "manifests" / "train.csv").read_text().replace("\nMSP-", "\nunrated-")
    path = folder / "train.csv"
    path.write_text(text.replace("$data_root", str(corpus)))
    return path


@pytest.fixture
def with_unrated(manifests, unrated_manifest):
    """Give the manifests with one of speech that nobody rated."""
    return manifests | {UNRATED: read_unrated(unrated_manifest)}


def test_targets_are_made_of_unrated_speech_too(make_brain, manifests, with_unrated):
    brain, _, datasets = make_brain("teacher", TeacherBrain, number_of_epochs=1)
    brain.train(datasets)
    without = brain.make_targets(datasets)
    brain, hparams, datasets = make_brain("teacher", TeacherBrain, number_of_epochs=1, manifests=with_unrated)
    item = datasets[UNRATED][0]
    assert item["speech"].dim() == item["text"].dim() == 2  # its frozen features are kept like others'
    targets = brain.make_targets(datasets)
    unrated = targets.pop(UNRATED)
    assert unrated.label is None and unrated.residual is None and unrated.embedding.shape == (20, 128)
    assert sorted(unrated.ids) == sorted(with_unrated[UNRATED].utterances)
    how = {"spread": "10 passes, dropout 0.2, seed 1986"}
    assert unrated.made_from == without["train"].made_from | {"manifest": with_unrated[UNRATED].fingerprint} | how
    assert targets["train"].made_from == without["train"].made_from | how
    for of_set in (unrated, targets["train"]):  # with which the spread is compared
        assert of_set.spread.shape == (len(of_set.ids), 3) and (of_set.spread > 0).all()
    assert targets["valid"].spread is None and targets["test1"].spread is None
    restored = hparams["label_scale"].restore(hparams["model"].output(torch.tensor(unrated.embedding)))
    np.testing.assert_allclose(restored.detach(), unrated.prediction, atol=1e-4)
    assert targets.keys() == without.keys()
    for split, of_split in without.items():  # rated ones are as they were
        for name in ("embedding", "prediction", "label", "residual", "text", "sentence"):
            np.testing.assert_array_equal(getattr(targets[split], name), getattr(of_split, name))


def test_how_sure_a_teacher_is_does_not_depend_on_the_batch(make_brain, with_unrated):
    brain, hparams, datasets = make_brain("teacher", TeacherBrain, manifests=with_unrated, number_of_epochs=1)
    brain.train(datasets)
    together = brain.make_targets(datasets)[UNRATED]
    assert brain.predict(datasets[UNRATED]).ids == together.ids
    brain.hparams.test_dataloader_opts["batch_size"] = 1
    alone = brain.make_targets(datasets)[UNRATED]
    assert alone.ids == together.ids and (together.spread > 0).all()
    np.testing.assert_allclose(alone.spread, together.spread, rtol=1e-3, atol=1e-6)
    batch = next(iter(brain.make_dataloader(datasets[UNRATED], torch_stage("TEST"), batch_size=20)))
    brain.modules.eval()
    with torch.no_grad():
        spread = DropoutSpread(10, 0.2, 1986).of(hparams["model"], brain.encode(batch, torch_stage("VALID")), batch.id)
    np.testing.assert_allclose(together.spread, spread, rtol=1e-3, atol=1e-6)


def test_a_spread_of_one_pass_is_refused(make_brain):
    with pytest.raises(InputError, match="spread_passes is 1"):
        make_brain("teacher", TeacherBrain, spread_passes=1)
    with pytest.raises(InputError, match="spread_dropout is 0"):
        make_brain("teacher", TeacherBrain, spread_dropout=0)


def test_the_fingerprint_is_of_what_has_learnt(make_brain):
    brain, hparams, _ = make_brain("ft", trainable_layers=1)
    before = brain.fingerprint()
    assert brain.fingerprint() == before
    with torch.no_grad():
        hparams["speech_encoder"].layers[-1].final_layer_norm.bias.add_(1e-3)
    assert brain.fingerprint() != before


def test_the_fingerprint_is_of_what_is_frozen_too(make_brain):
    def fingerprint(change=None):
        brain, hparams, _ = make_brain("ft", trainable_layers=1, feature_folder=None)  # which would read it before
        if change is not None:
            with torch.no_grad():
                change(hparams)
        return brain.fingerprint()

    parts = [
        None,
        lambda hparams: hparams["speech_encoder"].layers[0].final_layer_norm.bias.add_(1e-3),
        lambda hparams: hparams["speech_encoder"].layers[-1].final_layer_norm.bias.add_(1e-3),
        lambda hparams: next(hparams["model"].parameters()).add_(1e-3),
        lambda hparams: hparams["label_scale"].fit(np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])),
    ]
    assert len({fingerprint(part) for part in parts}) == len(parts)


@pytest.mark.parametrize(
    ("system", "brain_class"),
    [("attn", StudentBrain), ("atmaja", TeacherBrain), ("ft", StudentBrain), ("teacher", TeacherBrain)],
)
def test_a_system_says_the_same_from_audio_and_text_as_from_kept_features(make_brain, manifests, system, brain_class):
    layers = {"trainable_layers": 1} if system == "ft" else {}
    brain, hparams, datasets = make_brain(system, brain_class, number_of_epochs=1, feature_dtype="float32", **layers)
    brain.train(datasets)
    kept = brain.predict(datasets["valid"])
    anew = make_datasets(manifests, hparams | {"feature_folder": None}, RUN_OPTS)
    from_audio = brain.predict(anew["valid"])
    assert from_audio.ids == kept.ids
    np.testing.assert_allclose(from_audio.prediction, kept.prediction, atol=1e-5)
    assert (kept.prediction.std(axis=0) > 0).all()


def test_a_cpu_hears_the_clips_of_a_batch_one_by_one(make_brain, monkeypatch):
    brain, hparams, datasets = make_brain("ft", trainable_layers=1, feature_folder=None)
    encoder, sizes = hparams["speech_encoder"], []
    forward = encoder.frozen_forward
    monkeypatch.setattr(encoder, "frozen_forward", lambda wavs, lens: sizes.append(len(wavs)) or forward(wavs, lens))
    brain.compute_forward(first_batch(brain, datasets, hparams), torch_stage("TRAIN"))
    assert sizes == [1] * 8


def test_the_loss_weighs_the_dimensions(make_brain):
    brain, hparams, datasets = make_brain("hubert_base", number_of_epochs=1, ccc_weights=[0.2, 0.7, 0.1])
    brain.train(datasets)
    brain.predict(datasets["valid"])
    ccc = metrics.ccc(brain.outputs.prediction, brain.outputs.label)
    assert brain.best["valid_loss"] == pytest.approx(np.dot([0.2, 0.7, 0.1], 1 - ccc), abs=1e-5)
    [batch] = brain.make_dataloader(datasets["train"], stage=torch_stage("TRAIN"), batch_size=24)
    brain.on_stage_start(torch_stage("TRAIN"))
    output = brain.compute_forward(batch, torch_stage("TRAIN"))
    labels = hparams["label_scale"].standardise(batch.labels)
    expected = ccc_loss(output.prediction, labels, weights=[0.2, 0.7, 0.1])
    torch.testing.assert_close(brain.compute_objectives(output, batch, torch_stage("TRAIN")), expected)
    assert not torch.isclose(expected, ccc_loss(output.prediction, labels))


def test_without_annealing_the_rate_stays(make_brain):
    brain, _, datasets = make_brain("hubert_base", lr_annealing=None, lr=0.001, number_of_epochs=1)
    brain.train(datasets)
    brain.outputs.prediction = 8 - brain.outputs.label  # as wrong as can be
    for epoch in range(2, 7):
        brain._end_epoch(epoch)
    assert [group["lr"] for group in brain.optimizer.param_groups] == [0.001]


def test_training_stops_when_the_validation_loss_no_longer_falls(make_brain, tmp_path):
    options = {"brain_class": TeacherBrain, "number_of_epochs": 20, "patience": 2}
    brain, hparams, datasets = make_brain("atmaja", **options)
    end_epoch, losses = brain._end_epoch, iter([1.0, 0.5, 0.6, 0.55])

    def end_epoch_of_known_loss(epoch):
        offset = next(losses)
        brain.outputs.prediction = brain.outputs.label + offset
        end_epoch(epoch)

    brain._end_epoch = end_epoch_of_known_loss
    brain.train(datasets)
    log = tmp_path / "results/atmaja/1986/train_log.txt"
    assert [line.split(",")[0] for line in log.read_text().splitlines()] == [f"epoch: {i}" for i in (1, 2, 3, 4)]
    brain, hparams, datasets = make_brain("atmaja", **options)
    brain.train(datasets)  # resumed, it knows that it is done
    assert len(log.read_text().splitlines()) == 4
    brain.predict(datasets["valid"])
    assert brain.best["epoch"] == 2


@pytest.mark.parametrize("system", SYSTEMS)
def test_in_bfloat16_losses_labels_and_what_is_standardised_stay_in_float32(
    make_brain, manifests, unrated_options, system
):
    brain_class, options = SYSTEMS[system]
    if system == "cts_unrated":
        options = options | unrated_options
    if system == "cts":
        options = options | {"targets": make_targets(manifests["train"], embedding=0.1)}
    options = options | {"precision": "bf16", "eval_precision": "bf16", "number_of_epochs": 1}
    brain, hparams, datasets = make_brain(system, brain_class, **options)
    batch = first_batch(brain, datasets, hparams)
    brain.modules.eval()  # no dropout
    exact = brain.encode(batch, torch_stage("VALID"))
    brain.on_stage_start(torch_stage("TRAIN"))
    with brain.training_ctx:
        inputs = brain.encode(batch, torch_stage("VALID"))
        output = brain.modules.model(**inputs)
        loss = brain.compute_objectives(output, batch, torch_stage("TRAIN"))
    assert output.prediction.dtype == torch.bfloat16  # it is on
    if system in ("attn", "atmaja"):
        assert inputs["frames"].dtype == torch.float32 and inputs["frames"].equal(exact["frames"])
    rated = ~batch.labels.isnan().any(dim=1)
    labels = brain.modules.label_scale.standardise(batch.labels[rated])
    assert loss.dtype == labels.dtype == batch.labels.dtype == torch.float32
    ccc = metrics.ccc(output.prediction[rated].detach().double().numpy(), labels.double().numpy())
    assert brain.batch_means.take()["ccc_loss"] == pytest.approx(np.mean(1 - np.nan_to_num(ccc)), abs=1e-5)
    brain.train(datasets)
    outputs = brain.predict(datasets["valid"])
    assert outputs.prediction.dtype == np.float64 and np.isfinite(outputs.prediction).all()
    np.testing.assert_allclose(
        outputs.label, manifests["valid"].labels()[rows_of(outputs, manifests["valid"])], rtol=1e-6
    )


def rows_of(outputs, manifest):
    return [list(manifest.utterances).index(utterance) for utterance in outputs.ids]


class Killed(Exception):
    pass


def kill_after(brain, steps):
    """Let a Brain end as if it was killed, after some steps."""
    fit_batch = brain.fit_batch

    def fit_batch_or_die(batch):
        if brain.optimizer_step == steps:
            raise Killed
        return fit_batch(batch)

    brain.fit_batch = fit_batch_or_die


def last_epoch(log):
    """Give the lines of the last epoch, which a run that goes on writes anew."""
    return log.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("system", "batching"),
    [
        *((system, {}) for system in SYSTEMS),
        ("teacher", {"batches": "by_length"}),
        ("cts_unrated", {"batches": "by_length"}),
        ("hubert_base", {"batches": "by_length", "max_batch_s": 6}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.keys()),
)
def test_an_interrupted_run_ends_as_one_that_was_not(
    make_brain, manifests, with_raters, unrated_options, tmp_path, system, batching
):
    brain_class, options = SYSTEMS[system]
    options = options | batching
    if system == "cts_unrated":
        options = options | unrated_options
    if system == "cts":
        options = options | {"targets": make_targets(manifests["train"], embedding=0.1)}
        options |= {"manifests": with_raters, "soft_label_weight": 0.5}
    brain, _, datasets = make_brain(system, brain_class, results_folder=str(tmp_path / "whole"), **options)
    brain.train(datasets)
    whole = brain.predict(datasets["test1"])

    for steps in (2, 4):  # in the first and in the second epoch, of about three batches each
        brain, _, datasets = make_brain(system, brain_class, run_opts={"ckpt_interval_steps": 1}, **options)
        kill_after(brain, steps)
        torch.manual_seed(steps)  # what ran before must not matter
        with pytest.raises(Killed):
            brain.train(datasets)
    brain, _, datasets = make_brain(system, brain_class, **options)
    brain.train(datasets)
    resumed = brain.predict(datasets["test1"])
    assert resumed.ids == whole.ids
    np.testing.assert_array_equal(resumed.prediction, whole.prediction)
    logs = [tmp_path / folder / system / "1986" / "train_log.txt" for folder in ("whole", "results")]
    assert last_epoch(logs[0]) == last_epoch(logs[1])
    assert brain.best["epoch"] and len(logs[1].read_text().splitlines()) == 2


def first_batch(brain, datasets, hparams):
    return next(
        iter(brain.make_dataloader(datasets["train"], torch_stage("TRAIN"), **hparams["train_dataloader_opts"]))
    )


@pytest.fixture
def with_classes(manifests):
    """Give the manifests with a class of each utterance but some: what the pitch and loudness are like."""
    classed = {}
    for name, manifest in manifests.items():
        kinds = np.where(manifest.labels()[:, 2] > 4, "loud", "quiet")
        rows = {
            id: row | {"emotion": "X" if place % 5 == 4 else str(kind)}
            for place, ((id, row), kind) in enumerate(zip(manifest.utterances.items(), kinds, strict=True))
        }
        classed[name] = replace(manifest, utterances=rows, emotion_classes=("quiet", "loud"))
    return classed


@pytest.mark.parametrize(("system", "brain_class"), [("attn", StudentBrain), ("teacher", TeacherBrain)])
def test_classes_are_learnt_beside_the_dimensions(make_brain, with_classes, system, brain_class):
    options = {"emotion_weight": 3, "batch_size": 24, "manifests": with_classes}
    brain, hparams, datasets = make_brain(system, brain_class, **options)
    brain.modules.eval()
    batch, output, loss, means = one_step(brain, datasets, hparams)
    layer = brain.modules.emotions
    logits = (output.embedding.detach() @ layer.weight.detach().T + layer.bias.detach()).double().numpy()
    surprise = -np.log(softmax(logits, axis=1))
    classes = [with_classes["train"].utterances[utterance]["emotion"] for utterance in batch.id]
    counts = {name: classes.count(name) for name in ("quiet", "loud")}
    of_class = [
        np.mean([surprise[row, place] for row, name in enumerate(classes) if name == kind])
        for place, kind in enumerate(counts)
    ]
    assert counts["quiet"] != counts["loud"] and sum(counts.values()) == 20
    assert means["emotion_loss"] == pytest.approx(np.mean(of_class), rel=1e-4)  # of the whole set each class is half
    assert loss.item() == pytest.approx(means["ccc_loss"] + 3 * means["emotion_loss"], rel=1e-5)


def test_classes_are_told_and_the_same_without_them(make_brain, manifests, with_classes, tmp_path, capsys):
    options = {"trainable_layers": 1, "number_of_epochs": 12, "lr": 0.003}
    brain, hparams, datasets = make_brain("ft", manifests=with_classes, emotion_weight=1, **options)
    brain.train(datasets)
    brain.test({"test1": datasets["test1"]})
    run = RunFolder(hparams["output_folder"])
    scores = run.report()["test"]["test1"]["emotion"]
    assert scores["utterances"] == 10 and "Emotion classes of 10" in capsys.readouterr().out
    with open(run.predictions_file) as file:
        rows = {row["ID"]: row for row in csv.DictReader(file)}
    known = [row for row in rows.values() if row["label_emotion"]]
    assert np.mean([row["emotion"] == row["label_emotion"] for row in known]) == scores["accuracy"]
    for id, row in with_classes["test1"].utterances.items():
        assert rows[id]["label_emotion"] == row["emotion"].replace("X", "")
    log = run.train_log_file.read_text()
    losses = [float(loss) for loss in re.findall(r"train emotion_loss: ([\d.e+-]+)", log)]
    assert losses[-1] < 0.8 * np.log(2) and log.count("valid emotion_uar") == len(run.learning_curve()) == 12
    assert {"train_emotions", "valid_emotions"} < brain.made_from().keys()
    outputs = []
    for name, of_which in (("none", manifests), ("unread", with_classes)):
        plain, _, datasets = make_brain("hubert_base", manifests=of_which, run=name, number_of_epochs=1)
        assert "emotions" not in plain.modules
        plain.train(datasets)
        outputs.append(plain.predict(datasets["test1"]))
        assert outputs[-1].emotion == []
    np.testing.assert_array_equal(outputs[0].prediction, outputs[1].prediction)


def test_unrated_speech_has_no_class(make_brain, with_unrated, unrated_options):
    train = replace(with_unrated["train"], emotion_classes=("N", "X"))
    unrated_options["manifests"] = with_unrated | {"train": train}
    brain, hparams, datasets = make_brain("cts_unrated", **unrated_options, trainable_layers=0, emotion_weight=2)
    batch, _, loss, means = one_step(brain, datasets, hparams)
    assert batch.emotion_class[8:].eq(-1).all() and batch.emotion_class[:8].ge(0).any()
    expected = means["ccc_loss"] + 30 * means["ts_distance"] + 2 * means["emotion_loss"]
    assert 0 < means["emotion_loss"] < 3 and loss.item() == pytest.approx(expected, rel=1e-5)


def fail_outside_training(signals, lens):
    raise AssertionError("augmented outside of training")


def test_augmented_speech_is_learnt_and_nothing_else_is_augmented(make_brain, monkeypatch):
    predicted = {}
    for system in ("ft", "ft_augmented"):
        brain, _, datasets = make_brain(system, trainable_layers=1, number_of_epochs=1)
        brain.train(datasets)
        if system == "ft_augmented":
            for name in ("wav_augment", "fea_augment"):
                monkeypatch.setattr(getattr(brain.hparams, name), "forward", fail_outside_training)
        predicted[system] = brain.predict(datasets["test1"]).prediction
    assert np.abs(predicted["ft"] - predicted["ft_augmented"]).max() > 1e-3


def test_augmentation_goes_on_where_it_was(make_brain, tmp_path):
    predicted, logs = [], []
    for run, epochs in (("once", [2]), ("twice", [1, 2])):
        for number in epochs:
            options = {"trainable_layers": 1, "number_of_epochs": number, "run": run}
            brain, _, datasets = make_brain("ft_augmented", **options)
            brain.train(datasets)
        predicted.append(brain.predict(datasets["test1"]).prediction)
        logs.append((tmp_path / f"results/ft_augmented/{run}/train_log.txt").read_text())
    np.testing.assert_array_equal(*predicted)
    assert logs[0] == logs[1]


def test_waveforms_that_are_augmented_are_heard_anew(make_brain, manifests, unrated_options):
    wavs = {"wav_augment": Augmenter(augmentations=[DropFreq()])}
    brain, hparams, datasets = make_brain("cts_unrated", **unrated_options, trainable_layers=0)
    assert datasets["train"].rated[0]["speech"].dim() == datasets["train"].unrated[0]["speech"].dim() == 2
    datasets = make_datasets(brain.manifests, hparams | wavs, RUN_OPTS, unrated_options["targets"])
    assert datasets["train"].rated[0]["speech"].dim() == datasets["train"].unrated[0]["speech"].dim() == 1
    assert datasets["valid"][0]["speech"].dim() == 2


def test_all_that_a_batch_holds_follows_the_originals_beside_what_is_augmented(make_brain, manifests):
    """Labels, ids, the teacher's embedding and where it is trusted: of twice the rows, then three times."""
    targets = make_targets(manifests["train"])
    targets.embedding[:] = np.random.default_rng(1).normal(size=targets.embedding.shape)
    options = {"residual_threshold": 1.5, "ts_weight": 7, "trainable_layers": 0}
    brain, hparams, datasets = make_brain("cts", targets=targets, **options)
    brain.modules.eval()
    brain.step_seed = lambda: 5
    brain.hparams.wav_augment = Augmenter(concat_original=True, augmentations=[SpeedPerturb(16000, [90])])
    datasets = make_datasets(manifests, hparams | {"wav_augment": True}, RUN_OPTS, {"train": targets})
    brain.hparams.fea_augment = Augmenter(
        concat_original=True,
        parallel_augment=True,
        min_augmentations=2,
        augmentations=[SpectrogramDrop(dim=1), SpectrogramDrop(dim=2)],
    )
    batch, output, loss, means = one_step(brain, datasets, hparams)
    assert len(batch.id) == len(output.prediction) == 48 and batch.id == batch.id[:8] * 6
    rows = [list(manifests["train"].utterances).index(utterance) for utterance in batch.id]
    labels = manifests["train"].labels()
    np.testing.assert_allclose(batch.labels, labels[rows], rtol=1e-6)
    standardised = (labels[rows] - labels.mean(axis=0)) / labels.std(axis=0)
    ccc = metrics.ccc(output.prediction.detach().double().numpy(), standardised)
    assert means["ccc_loss"] == pytest.approx(np.mean(1 - ccc), rel=1e-4)
    norms = np.linalg.norm(output.embedding.detach().double().numpy() - targets.embedding[rows], axis=1)
    assert means["ts_distance"] == pytest.approx(norms[np.array(rows) >= 6].mean(), rel=1e-5)
    assert loss.item() == pytest.approx(means["ccc_loss"] + 7 * means["ts_distance"], rel=1e-5)
    plain, hparams, datasets = make_brain("cts", targets=targets, run="plain", **options)
    plain.modules.eval()
    plain.modules.load_state_dict(brain.modules.state_dict())
    _, expected, _, _ = one_step(plain, datasets, hparams)
    torch.testing.assert_close(output.embedding[:8], expected.embedding, rtol=0, atol=1e-4)
    assert (output.embedding[8:16] - expected.embedding).abs().max() > 1e-3


def test_what_a_teacher_reads_follows_what_it_hears(make_brain):
    brain, hparams, datasets = make_brain("teacher", TeacherBrain)
    brain.modules.eval()
    brain.step_seed = lambda: 5
    batch = first_batch(brain, datasets, hparams)
    expected = brain.compute_forward(batch, torch_stage("TRAIN"))
    silent = Augmenter(concat_original=True, augmentations=[SpectrogramDrop(drop_count_low=0, drop_count_high=0)])
    brain.hparams.fea_augment = silent
    output = brain.compute_forward(batch, torch_stage("TRAIN"))
    torch.testing.assert_close(output.embedding, expected.embedding.repeat(2, 1))


def test_dropout_is_not_the_same_in_each_step(make_brain):
    brain, hparams, datasets = make_brain("ft", trainable_layers=1)
    brain.modules.train()
    batch = next(
        iter(brain.make_dataloader(datasets["train"], torch_stage("TRAIN"), **hparams["train_dataloader_opts"]))
    )
    outputs = []
    for epoch, step in ((1, 1), (1, 1), (1, 2), (2, 1)):
        brain.on_stage_start(torch_stage("TRAIN"), epoch)
        brain.step = step
        brain.on_fit_batch_start(batch, True)
        outputs.append(brain.compute_forward(batch, torch_stage("TRAIN")).prediction)
    assert outputs[0].equal(outputs[1]) and not any(outputs[0].equal(output) for output in outputs[2:])


def gradients(brain, datasets, hparams):
    """Make one step; return the gradients before and after what the Brain does to them, and its log."""
    brain.init_optimizers()
    brain.on_stage_start(torch_stage("TRAIN"), epoch=1)
    batch = next(
        iter(brain.make_dataloader(datasets["train"], torch_stage("TRAIN"), **hparams["train_dataloader_opts"]))
    )
    loss = brain.compute_objectives(brain.compute_forward(batch, torch_stage("TRAIN")), batch, torch_stage("TRAIN"))
    parameters = [p for group in brain.optimizer.param_groups for p in group["params"]]
    (1000 * loss).backward()
    before = [p.grad.clone() for p in parameters]
    after = []
    brain.optimizer.step = lambda: after.extend(p.grad.clone() for p in parameters)
    brain.optimizers_step()
    return before, after, brain.batch_means.take()


def norm(tensors):
    return float(torch.cat([tensor.flatten() for tensor in tensors]).double().norm())


def test_gradients_are_not_clipped_unless_asked_for(make_brain):
    brain, hparams, datasets = make_brain("ft", trainable_layers=1)
    before, after, means = gradients(brain, datasets, hparams)
    assert norm(before) > 5  # at which SpeechBrain clips
    assert all(a.equal(b) for a, b in zip(before, after, strict=True))
    assert means["grad_norm"] == pytest.approx(norm(before), rel=1e-5) and "clipped" not in means


def test_gradients_are_clipped_over_all_groups_together(make_brain):
    brain, hparams, datasets = make_brain("ft", trainable_layers=1, max_grad_norm=0.5)
    before, after, means = gradients(brain, datasets, hparams)
    assert norm(after) == pytest.approx(0.5, rel=1e-4) and norm(before) > 5
    for a, b in zip(before, after, strict=True):  # the encoder's group, too
        torch.testing.assert_close(b, a * 0.5 / norm(before), rtol=1e-4, atol=1e-8)
    assert means["clipped"] == 1 and means["grad_norm"] == pytest.approx(norm(before), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_grad_norm": 0}, "max_grad_norm is 0: give a number above 0, or null"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
        ({"precision": "fp8"}, "precision is fp8: choose one of fp32, fp16, bf16"),
        ({"grad_accumulation_factor": 0}, "grad_accumulation_factor is 0"),
    ],
)
def test_a_setting_out_of_range_is_one_sentence(make_brain, options, message):
    with pytest.raises(InputError, match=message):
        make_brain("hubert_base", **options)


def test_a_run_that_learns_nothing_says_so(make_brain):
    with pytest.raises(InputError, match="No weight has changed in epoch 1, so nothing is learnt"):
        train(*make_brain("hubert_base", lr=0.0))


def test_a_model_of_other_settings_is_refused(make_brain):
    settings = {"lr": 0.0005, "number_of_epochs": 1}
    train(*make_brain("hubert_base", settings=settings, number_of_epochs=1))
    train(*make_brain("hubert_base", settings=settings | {"number_of_epochs": 2}, number_of_epochs=2))
    with pytest.raises(InputError, match=r"was trained with lr 0.0005, not 0.001: give the old value"):
        train(*make_brain("hubert_base", settings={"lr": 0.001}, lr=0.001))
    brain, _, datasets = make_brain("hubert_base", settings={"lr": 0.001}, lr=0.001)
    with pytest.raises(InputError, match=r"lr 0.0005, not 0.001"):
        brain.predict(datasets["test1"])


def test_fewer_epochs_than_were_trained_are_refused(make_brain):
    train(*make_brain("hubert_base", number_of_epochs=2))
    with pytest.raises(InputError, match="holds a model of 2 epochs, and number_of_epochs is 1: give 2 or more"):
        train(*make_brain("hubert_base", number_of_epochs=1))


def test_results_do_not_outlive_the_training_that_they_are_of(make_brain):
    brain, hparams, datasets = make_brain("hubert_base", number_of_epochs=1)
    brain.train(datasets)
    brain.test(datasets)
    run = RunFolder(hparams["output_folder"])
    train(*make_brain("hubert_base", number_of_epochs=1))  # nothing to do
    assert run.finished
    brain, _, datasets = make_brain("hubert_base", number_of_epochs=2)
    kill_after(brain, 4)
    with pytest.raises(Killed):
        brain.train(datasets)
    assert not run.finished and not (run.path / "predictions.csv").exists()


def test_an_epoch_that_was_logged_but_not_saved_is_logged_once(make_brain):
    brain, hparams, datasets = make_brain("hubert_base", number_of_epochs=2)
    save, saved = brain.checkpointer.save_and_keep_only, []

    def save_or_die(*args, **kwargs):
        if saved:
            raise Killed
        saved.append(save(*args, **kwargs))

    brain.checkpointer.save_and_keep_only = save_or_die
    with pytest.raises(Killed):
        brain.train(datasets)
    log = Path(hparams["train_log"])
    before = log.read_text()
    train(*make_brain("hubert_base", number_of_epochs=2))
    assert log.read_text() == before and before.count("epoch:") == 2


def test_debug_mode_leaves_no_results(make_brain, caplog):
    brain, hparams, datasets = make_brain("hubert_base", run_opts={"debug": True, "debug_batches": 1})
    brain.train(datasets)
    with caplog.at_level(logging.INFO):
        brain.test(datasets)
    assert caplog.messages[-1] == (
        "Debug mode saw a few batches only: no metrics.json and predictions.csv are written."
    )
    assert len(brain.outputs.ids) < 12  # it has not seen the whole test set
    run = RunFolder(hparams["output_folder"])
    assert not run.finished and not (run.path / "predictions.csv").exists()
    teacher, _, datasets = make_brain("teacher", TeacherBrain, run_opts={"debug": True})
    with pytest.raises(InputError) as error:
        teacher.make_targets(datasets)
    assert str(error.value) == ("Debug mode sees a few batches only, of which no targets are made: leave --debug out.")


def test_transcripts_do_not_concern_systems_that_only_hear(make_brain, manifests):
    brain, _, _ = make_brain("hubert_base")
    teacher, _, _ = make_brain("teacher", TeacherBrain)
    assert set(brain.made_from()) == {"train", "valid"}
    assert set(teacher.made_from()) == {"train", "valid", "train_transcripts", "valid_transcripts"}
    assert teacher.made_from()["train"] == brain.made_from()["train"] != teacher.made_from()["train_transcripts"]


def test_all_inputs_are_on_the_brains_device(make_brain, monkeypatch):
    brain, hparams, datasets = make_brain("teacher", TeacherBrain)
    brain.device = torch.device("meta")
    heard = []
    for key in ("speech", "text"):
        encoder = hparams[f"{key}_encoder"]
        monkeypatch.setattr(encoder, "forward", lambda *inputs: (heard.extend(x.device.type for x in inputs), None))
    monkeypatch.setattr(hparams["model"], "forward", lambda **inputs: None)
    brain.compute_forward(first_batch(brain, datasets, hparams), torch_stage("TRAIN"))
    assert heard == ["meta"] * 4


def test_a_checkpoint_has_the_names_that_those_of_before_have(make_brain):
    brain, hparams, datasets = make_brain("ft", trainable_layers=1)
    ready(brain)
    first_batch(brain, datasets, hparams)
    assert {"optimizer", "lr_annealing", "dataloader-TRAIN", "batch_means"} <= brain.checkpointer.recoverables.keys()
    end_epoch(brain, 1, lambda label: label + 1)
    names = {path.name for path in Path(brain.checkpointer.checkpoints_dir).glob("*/*")}
    assert {"optimizer.ckpt", "lr_annealing.ckpt", "dataloader-TRAIN.ckpt"} <= names


def test_the_fingerprint_is_of_how_a_frozen_encoder_reads_and_not_only_of_its_weights(make_brain, monkeypatch):
    brain, hparams, _ = make_brain("ft", trainable_layers=1)
    before, encoder = brain.fingerprint(), hparams["speech_encoder"]
    frozen = encoder.frozen_fingerprint()
    monkeypatch.setattr(encoder, "frozen_fingerprint", lambda: frozen)
    assert brain.fingerprint() == before
    monkeypatch.setattr(encoder, "frozen_fingerprint", lambda: "as with another normalisation")
    assert brain.fingerprint() != before


def test_the_fingerprint_of_a_model_that_is_trained_on_several_devices_is_the_same(make_brain):
    brain, _, _ = make_brain("ft", trainable_layers=1)
    before = brain.fingerprint()
    for name in ("speech_encoder", "model"):
        brain.modules[name] = torch.nn.DataParallel(brain.modules[name])
    assert brain.fingerprint() == before
