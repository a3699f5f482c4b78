"""A Brain of one layer on numbers: what all Brains have in common, without a corpus or a network."""

import os

import pytest
import speechbrain as sb
import torch
from speechbrain.utils.epoch_loop import EpochCounter

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.settings import Hparams
from ser_ts_lobes.training.brains import StudentBrain, TeacherBrain
from ser_ts_lobes.training.checkpoints import Checkpointer
from ser_ts_lobes.training.reproducible import ReproducibleBrain
from tests.unit.training.test_brains import Killed, kill_after

TRAIN, VALID = sb.Stage.TRAIN, sb.Stage.VALID


class Line(ReproducibleBrain):
    """Fits a line, under dropout."""

    def compute_forward(self, batch, stage):
        if stage == TRAIN:
            self.seen.append(batch[0])
        return self.modules.layer(torch.nn.functional.dropout(batch[0], 0.5, training=stage == TRAIN))

    def compute_objectives(self, output, batch, stage):
        loss = (output - batch[1]).square().mean() * self.hparams.loss_scale
        if stage == TRAIN:
            self.batch_means.add(loss=loss)
        return loss

    def on_stage_start(self, stage, epoch=None):
        super().on_stage_start(stage, epoch)
        if stage == TRAIN:
            self.seen = []

    def on_stage_end(self, stage, stage_loss, epoch=None):
        if stage == TRAIN:
            self.means = self.batch_means.take()
        else:
            self.checkpointer.save_and_keep_only(meta={"epoch": epoch})

    def evaluate_batch(self, batch, stage):
        self.validated.append(batch[0])
        return super().evaluate_batch(batch, stage)

    def init_optimizers(self):
        """Make two optimizers, each of one parameter."""
        layer = self.modules.layer
        self.optimizers_dict = {
            "weight": torch.optim.Adam([layer.weight], self.hparams.lr),
            "bias": torch.optim.SGD([layer.bias], self.hparams.lr),
        }
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(name, optimizer)


class WhoReads(torch.utils.data.Dataset):
    """Gives, for each item, the process that read it."""

    def __len__(self):
        return 8

    def __getitem__(self, item):
        return torch.full((4,), float(os.getpid())), torch.zeros(1)


@pytest.fixture
def make_brain(tmp_path):
    def make(run_opts=None, folder="run", epochs=2, made_from=None, **options):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 1)
        (tmp_path / folder).mkdir(exist_ok=True)
        hparams = {
            "modules": {"layer": layer},
            "opt_class": None,
            "checkpointer": Checkpointer(tmp_path / folder / "save", {"layer": layer}),
            "epoch_counter": EpochCounter(limit=epochs),
            "settings": {"lr": 0.01},
            "output_folder": str(tmp_path / folder),
            "train_log": str(tmp_path / folder / "train_log.txt"),
            "train_dataloader_opts": {"batch_size": 4, "shuffle": True, "drop_last": True},
            "valid_dataloader_opts": {"batch_size": 5},
            **{"seed": 7, "lr": 0.01, "loss_scale": 1.0, "max_grad_norm": None, "grad_accumulation_factor": 1},
            **{"precision": "fp32", "eval_precision": "fp32"},
            **options,
        }
        hparams["checkpointer"].add_recoverable("counter", hparams["epoch_counter"])
        run_opts = {"device": "cpu", "noprogressbar": True} | (run_opts or {})
        run_opts |= {name: hparams[name] for name in ("precision", "eval_precision", "grad_accumulation_factor")}
        brain = Line(Hparams(hparams, "my.yaml"), run_opts, **(made_from or {"train": "ab12"}))
        brain.validated = []
        return brain

    return make


def data(n=18):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 4, generator=generator)
    return torch.utils.data.TensorDataset(x, x.sum(dim=1, keepdim=True))


def fit(brain):
    brain.fit_datasets({"train": data(), "valid": data(6), "test": None})
    return brain


def fit_until_killed(brain, steps):
    kill_after(brain, steps)
    with pytest.raises(Killed):
        fit(brain)


def test_a_key_that_a_brain_misses_is_one_sentence(make_brain):
    brain = make_brain()
    assert brain.hparams.seed == 7 and not hasattr(brain.hparams, "momentum")
    with pytest.raises(
        InputError, match="^my.yaml has no momentum, which is needed: copy it from .* files in hparams/"
    ):
        brain.hparams.momentum  # noqa: B018


@pytest.mark.parametrize(
    ("brain_class", "arguments", "key"),
    [(StudentBrain, ({"train": None},), "distance"), (TeacherBrain, (), "spread_passes")],
)
def test_a_file_of_ones_own_that_is_older_is_one_sentence(brain_class, arguments, key):
    with pytest.raises(InputError, match=f"^my.yaml has no {key}, which is needed: copy it from .* hparams/mine.yaml."):
        brain_class(Hparams({"system": "mine"}, "my.yaml"), {}, {}, *arguments)


@pytest.mark.parametrize("factor", [1, 2])
def test_an_interrupted_run_ends_as_one_that_was_not(make_brain, factor):
    options = {"run_opts": {"ckpt_interval_steps": 1}, "grad_accumulation_factor": factor}
    whole = fit(make_brain(folder="whole", **options))
    for steps in (1, 3 if factor == 1 else 2, 7 if factor == 1 else 3):
        torch.manual_seed(steps)
        fit_until_killed(make_brain(**options), steps)
    resumed = fit(make_brain(**options))
    assert resumed.modules.layer.weight.equal(whole.modules.layer.weight)
    assert resumed.modules.layer.bias.equal(whole.modules.layer.bias)
    assert resumed.means == whole.means and whole.means["loss"] > 0
    assert resumed.optimizer_step == whole.optimizer_step == 8 // factor


def test_no_checkpoint_is_made_between_two_steps_of_the_optimizer(make_brain):
    brain = make_brain(run_opts={"ckpt_interval_steps": 1}, grad_accumulation_factor=2)
    for step, wanted in [(1, False), (2, True), (3, False), (4, True)]:
        brain.step = step
        assert brain._should_save_intra_epoch_ckpt(0, 1) is wanted
    assert not brain._should_save_intra_epoch_ckpt(0, 0)


def test_training_and_validation_get_their_own_data_and_options(make_brain):
    brain = fit(make_brain(epochs=1))
    assert [len(batch) for batch in brain.seen] == [4] * 4  # of 18, the last two are dropped
    assert not torch.cat(brain.seen).equal(data().tensors[0][:16])  # shuffled
    assert [len(batch) for batch in brain.validated] == [5, 1]
    assert torch.cat(brain.validated).equal(data(6).tensors[0])


def test_each_epoch_is_told_its_number_and_shows_its_progress_where_that_is_wanted(make_brain, capsys):
    for wanted in (False, True):
        brain = fit(make_brain({"noprogressbar": not wanted}, folder=f"run{wanted}", epochs=3))
        assert brain._epoch == 3
        assert ("4/4" in capsys.readouterr().err) is wanted


def test_a_brain_has_its_optimizers_class_and_its_batch_means(make_brain):
    brain = make_brain(opt_class=torch.optim.SGD)
    assert brain.opt_class is torch.optim.SGD
    assert brain.checkpointer.recoverables["batch_means"] is brain.batch_means


def test_other_options_of_the_loader_reach_it(make_brain):
    options = {"batch_size": 5, "shuffle": False, "drop_last": False, "collate_fn": lambda items: [[items], 0]}
    loader = make_brain(train_dataloader_opts=options).make_dataloader(data(), TRAIN, **options)
    assert [len(batch[0][0]) for batch in loader] == [5, 5, 5, 3]


def test_the_order_of_the_data_is_the_seeds(make_brain):
    first, again, other = (
        torch.cat(fit(make_brain(folder=f"run{i}", seed=seed, epochs=1)).seen) for i, seed in enumerate((7, 7, 8))
    )
    assert first.equal(again) and not first.equal(other)


def test_what_is_random_follows_from_seed_epoch_step_and_process(make_brain, monkeypatch):
    def draw(seed=7, epoch=1, step=1, rank=None):
        if rank is not None:
            monkeypatch.setenv("RANK", rank)
        brain = brains.setdefault(seed, make_brain(seed=seed))
        brain.on_stage_start(TRAIN, epoch)
        brain.step = step
        brain.on_fit_batch_start(None, True)
        return float(torch.rand(()))

    brains = {}
    monkeypatch.delenv("RANK", raising=False)
    first = draw()
    assert draw() == first
    assert len({first, draw(seed=8), draw(epoch=2), draw(step=2)}) == 4
    assert draw(rank="0") == first != draw(rank="1")


def test_means_are_kept_over_a_validation_and_in_the_middle_of_an_epoch(make_brain):
    brain = make_brain()
    brain.on_stage_start(TRAIN, 1)
    brain.batch_means.add(loss=1.0)
    brain.on_stage_start(VALID, 5)
    assert brain._epoch == 1
    brain.step = 1
    brain.on_stage_start(TRAIN, 2)
    assert brain._epoch == 2 and brain.batch_means.take() == {"loss": 1.0}
    brain.batch_means.add(loss=1.0)
    brain.step = 0
    brain.on_stage_start(TRAIN, 3)
    assert brain.batch_means.take() == {}


def step(brain, weight=(3.0, 0.0, 0.0, 0.0), bias=4.0):
    """Make one step along known gradients; return how weight and bias have moved, and the log."""
    layer = brain.modules.layer
    brain.init_optimizers()
    brain.optimizers_dict["weight"] = torch.optim.SGD([layer.weight], 1.0)
    brain.optimizers_dict["bias"] = torch.optim.SGD([layer.bias], 1.0)
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer.weight.grad = None if weight is None else torch.tensor([weight])
    layer.bias.grad = None if bias is None else torch.tensor([bias])
    brain.optimizers_step()
    assert layer.weight.grad is None and layer.bias.grad is None
    assert brain.optimizer_step == 1
    moved = [before[0] - layer.weight.detach(), before[1] - layer.bias.detach()]
    return moved[0][0].tolist(), moved[1].item(), brain.batch_means.take()


@pytest.mark.parametrize(
    ("limit", "scale", "clipped"),
    [(None, 1, {}), (6, 1, {"clipped": 0}), (5, 1, {"clipped": 0}), (1, 0.2, {"clipped": 1})],
)
def test_gradients_are_clipped_where_that_is_wanted(make_brain, limit, scale, clipped):
    weight, bias, log = step(make_brain(max_grad_norm=limit))
    assert weight == pytest.approx([3 * scale, 0, 0, 0], abs=1e-5) and bias == pytest.approx(4 * scale, abs=1e-5)
    assert log == pytest.approx({"grad_norm": 5.0, **clipped})


def test_parameters_without_a_gradient_stay(make_brain):
    weight, bias, log = step(make_brain(max_grad_norm=1), weight=None)
    assert weight == [0, 0, 0, 0] and bias == pytest.approx(1, abs=1e-5) and log["grad_norm"] == 4


def test_frozen_optimizers_do_not_step(make_brain, monkeypatch):
    brain = make_brain()
    monkeypatch.setattr(brain, "freeze_optimizers", lambda optimizers: {"weight": optimizers["weight"]})
    brain.init_optimizers()
    before = brain.modules.layer.bias.detach().clone()
    brain.modules.layer.weight.grad = torch.ones(1, 4)
    brain.modules.layer.bias.grad = torch.ones(1)
    brain.optimizers_step()
    assert brain.modules.layer.bias.equal(before) and brain.batch_means.take() == {"grad_norm": 2.0}


def test_gradients_are_unscaled_before_they_are_measured(make_brain):
    brain, calls = make_brain(), []

    class Scaler:
        def unscale_(self, optimizer):
            calls.append("unscale")
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad /= 8

        def step(self, optimizer):
            calls.append("step")
            optimizer.step()

        def update(self):
            calls.append("update")

        def is_enabled(self):
            return True

    brain.scaler = Scaler()
    weight, bias, log = step(brain, weight=(24.0, 0, 0, 0), bias=32.0)
    assert calls == ["unscale", "unscale", "step", "step", "update"]
    assert (weight, bias, log) == (pytest.approx([3, 0, 0, 0], abs=1e-5), pytest.approx(4), {"grad_norm": 5.0})


@pytest.mark.parametrize(("skip", "scaled", "checked"), [(True, False, 1), (False, False, 0), (True, True, 0)])
def test_gradients_that_are_not_finite_are_left_out_where_that_is_wanted(
    make_brain, monkeypatch, skip, scaled, checked
):
    brain, calls = make_brain(run_opts={"skip_nonfinite_grads": skip}), []
    monkeypatch.setattr(brain, "check_gradients", lambda: calls.append(1))
    monkeypatch.setattr(brain.scaler, "is_enabled", lambda: scaled)
    monkeypatch.setattr(brain.scaler, "unscale_", lambda optimizer: None)
    monkeypatch.setattr(brain.scaler, "step", lambda optimizer: optimizer.step())
    monkeypatch.setattr(brain.scaler, "update", lambda: None)
    step(brain)
    assert len(calls) == checked


def test_a_run_whose_weights_do_not_move_says_so(make_brain):
    with pytest.raises(InputError) as error:
        fit(make_brain(lr=0.0))
    assert str(error.value) == (
        "No weight has changed in epoch 1, so nothing is learnt: look at lr and encoder_lr, at max_grad_norm, and in "
        "train_log.txt at grad_norm."
    )
    fit(make_brain(folder="tiny", lr=1e-5))


def test_an_epoch_whose_steps_were_made_before_the_interruption_is_no_reproach(make_brain):
    options = {"run_opts": {"ckpt_interval_steps": 1}, "epochs": 1}
    brain = make_brain(**options)

    def die(batch, stage):
        raise Killed

    brain.evaluate_batch = die
    with pytest.raises(Killed):
        fit(brain)
    resumed = fit(make_brain(**options))
    assert (
        resumed.seen == []
        and resumed.optimizer_step == 4
        and resumed.modules.layer.weight.equal(brain.modules.layer.weight)
    )


def test_fewer_batches_than_a_step_takes_are_refused(make_brain):
    fit(make_brain(grad_accumulation_factor=4))  # an epoch has four
    with pytest.raises(InputError) as error:
        fit(make_brain(folder="another", grad_accumulation_factor=5))
    assert str(error.value) == (
        "An epoch has 4 batches, and grad_accumulation_factor is 5, so no step would be made: choose a smaller factor, "
        "or a smaller --batch_size."
    )


def test_traces_are_of_each_parameter_that_learns(make_brain):
    brain = make_brain()
    layer = brain.modules.layer
    before = brain._traces()
    assert before.shape == (4,) and before.dtype == torch.float64 and not before.requires_grad
    with torch.no_grad():
        layer.weight.data = layer.weight.flip(1) + torch.tensor([0.5, -0.5, 0, 0])  # the sum stays
    assert not before.equal(brain._traces())
    layer.bias.requires_grad_(False)
    assert brain._traces().shape == (2,)


def left_of_results(brain, folder):
    """Let a Brain begin where results lie; say which it leaves."""
    names = ("metrics.json", "predictions.csv", "train_log.txt")
    for name in names:
        (folder / name).touch()
    brain.on_fit_start()
    return [name for name in names if (folder / name).exists()]


def test_results_do_not_outlive_the_training_that_they_are_of(make_brain, tmp_path):
    assert left_of_results(make_brain(), tmp_path / "run") == ["train_log.txt"]
    fit(make_brain(epochs=1))
    assert left_of_results(make_brain(epochs=2), tmp_path / "run") == ["train_log.txt"]
    everything = ["metrics.json", "predictions.csv", "train_log.txt"]
    assert left_of_results(make_brain(epochs=1), tmp_path / "run") == everything  # nothing to do
    stopped = make_brain(epochs=2)
    stopped.hparams.epoch_counter.should_stop = True  # as when the loss no longer falls
    assert left_of_results(stopped, tmp_path / "run") == everything


def test_epochs_that_were_logged_but_not_saved_are_forgotten(make_brain, tmp_path):
    log = tmp_path / "run" / "train_log.txt"
    fit(make_brain(epochs=2))
    log.write_text("epoch: 1, lr: 0.1\nepoch: 2, lr: 0.1\nepoch: 3, lr: 0.1\nepoch: 12, lr: 0.1\nepoch: 1")  # of 13
    make_brain(epochs=3).on_fit_start()
    assert log.read_text() == "epoch: 1, lr: 0.1\nepoch: 2, lr: 0.1\n"


def test_results_are_the_main_processs_to_remove(make_brain, tmp_path, monkeypatch):
    monkeypatch.setattr(sb.utils.distributed, "if_main_process", lambda: False)
    brain = make_brain()
    (tmp_path / "run" / "metrics.json").touch()
    brain.on_fit_start()
    assert (tmp_path / "run" / "metrics.json").exists()


def test_fewer_epochs_than_were_trained_are_refused(make_brain):
    fit(make_brain(epochs=2))
    with pytest.raises(InputError, match="save holds a model of 2 epochs, and number_of_epochs is 1: give 2 or more"):
        fit(make_brain(epochs=1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {"lr": 0.02}}, "was trained with lr 0.01, not 0.02"),
        ({"made_from": {"train": "cd34"}}, r"made from other data than today's \(train changed\)"),
    ],
)
def test_a_checkpoint_made_otherwise_is_refused(make_brain, changed, message):
    fit(make_brain(epochs=1))
    with pytest.raises(InputError, match=message):
        fit(make_brain(**changed))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_grad_norm": 0}, "^max_grad_norm is 0: give a number above 0, or null to clip nothing.$"),
        ({"max_grad_norm": -1}, "max_grad_norm is -1"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan"),
        ({"grad_accumulation_factor": 0}, "^grad_accumulation_factor is 0: give a whole number from 1 on.$"),
        ({"grad_accumulation_factor": 2.0}, "grad_accumulation_factor is 2.0"),
        ({"precision": "fp8"}, "^precision is fp8: choose one of fp32, fp16, bf16.$"),
        ({"eval_precision": "int8"}, "eval_precision is int8"),
    ],
)
def test_a_setting_out_of_range_is_one_sentence(make_brain, options, message):
    with pytest.raises(InputError, match=message):
        make_brain(**options)


@pytest.mark.parametrize("options", [{"max_grad_norm": 0.1}, {"grad_accumulation_factor": 3}, {"precision": "bf16"}])
def test_settings_in_range_are_taken(make_brain, options):
    make_brain(**options)


def test_the_processes_that_read_stay_for_all_epochs(make_brain):
    brain = make_brain()
    loader = brain.make_dataloader(WhoReads(), VALID, num_workers=1, batch_size=4)
    readers = {int(pid) for _ in range(2) for wavs, _ in loader for pid in wavs[:, 0]}
    assert len(readers) == 1 and os.getpid() not in readers


def test_batches_wait_in_pinned_memory_for_a_gpu_alone(make_brain):
    brain = make_brain()
    assert not brain.make_dataloader(WhoReads(), VALID, batch_size=4).pin_memory
    brain.device = "cuda:0"
    assert brain.make_dataloader(WhoReads(), VALID, batch_size=4).pin_memory
