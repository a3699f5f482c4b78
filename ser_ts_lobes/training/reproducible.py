"""What all Brains here have in common: training that regenerates, and that does what its settings say."""

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger
from torch.nn.parallel import DistributedDataParallel

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing
from ser_ts_lobes.options import check_settings
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.seeds import derive_seed
from ser_ts_lobes.settings import Hparams
from ser_ts_lobes.training.checkpoints import BatchMeans
from ser_ts_lobes.training.distributed import GlobalBatches

if TYPE_CHECKING:
    from speechbrain.dataio.dataset import DynamicItemDataset
    from speechbrain.utils.run_opts import RunOptions

logger = get_logger(__name__)

# Of train_dataloader_opts, what says which items share a batch.
_BATCHING = ("batch_size", "shuffle", "drop_last", "batches", "max_batch_s")
_EPOCH = re.compile(r"epoch: (\d+)\b.*\n")  # a whole line


class ReproducibleBrain(sb.Brain):
    """A Brain whose runs give the same numbers when they are interrupted, and on any number of processes.

    - What is random in a step follows from the run's seed, the epoch and the step.
    - ``batch_size`` is of all processes together, and the order of the data is the seed's own.
    - Gradients are clipped at ``max_grad_norm`` over all parameters together, or (null) not at all. The log has the
      mean norm and, where it applies, the share of steps that were clipped.
    - A checkpoint knows the settings and the data that it was made from, and refuses others.

    Parameters
    ----------
    hparams
        From `ser_ts_lobes.experiment.load_experiment`; ``modules``, ``opt_class``, ``checkpointer``, ``seed``,
        ``epoch_counter``, ``train_dataloader_opts``, ``valid_dataloader_opts``, ``max_grad_norm``.
    run_opts
        From `ser_ts_lobes.experiment.parse_arguments`.
    **made_from
        Fingerprints of the data that training sees, by name.

    Raises
    ------
    InputError
        If a setting is out of range.
    """

    modules: Any

    def __init__(self, hparams: dict[str, Any], run_opts: "RunOptions | dict[str, Any]", **made_from: str) -> None:
        check_settings(hparams)
        super().__init__(hparams["modules"], hparams["opt_class"], hparams, run_opts, hparams["checkpointer"])
        if isinstance(hparams, Hparams):  # which says what is missing
            self.hparams = hparams.as_namespace()
        self.batch_means = BatchMeans()
        self.checkpointer.add_recoverable("batch_means", self.batch_means)
        # A resumed run or a test must not mix what was learnt from other data or otherwise.
        self.checkpointer.add_made_from(hparams["settings"], **made_from)

    def fit_datasets(self, datasets: "dict[str, DynamicItemDataset]") -> None:
        """Fit to ``train`` for all epochs that are left; watch ``valid``.

        Parameters
        ----------
        datasets
            By split; others are left alone.
        """
        self.fit(
            self.hparams.epoch_counter,
            datasets["train"],
            datasets["valid"],
            train_loader_kwargs=dict(self.hparams.train_dataloader_opts),
            valid_loader_kwargs=dict(self.hparams.valid_dataloader_opts),
        )

    def make_dataloader(
        self, dataset: "DynamicItemDataset", stage: Any, ckpt_prefix: str = "dataloader-", **loader_kwargs: Any
    ) -> Any:
        """Make the loader of a dataset, whose processes, if any, stay for all epochs with the files they have open.

        For a GPU, batches wait in memory that it can fetch from while it computes.
        """
        loader_kwargs.setdefault("pin_memory", torch.device(self.device).type == "cuda")
        loader_kwargs.setdefault("persistent_workers", loader_kwargs.get("num_workers", 0) > 0)
        return super().make_dataloader(dataset, stage, ckpt_prefix, **loader_kwargs)

    def _train_loader_specifics(self, dataset, loader_kwargs):
        """Share the batches out among the processes; SpeechBrain's own way multiplies the batch by their number."""
        rest = dict(loader_kwargs)
        batching = {name: rest.pop(name) for name in _BATCHING if name in rest}
        self.train_sampler = self._make_sampler(dataset, **batching)
        n_batches, factor = len(self.train_sampler), self.grad_accumulation_factor
        if n_batches < factor:  # SpeechBrain forgets at the end of an epoch what is accumulated
            raise InputError(
                f"An epoch has {n_batches} batches, and grad_accumulation_factor is {factor}, so no step would be "
                "made: choose a smaller factor, or a smaller --batch_size."
            )
        return {**rest, "batch_sampler": self.train_sampler}

    def _make_sampler(self, dataset, **batching):
        return make_batches(dataset, **batching, seed=self.hparams.seed)

    def on_fit_start(self) -> None:
        """Go on from the last checkpoint, if there is one; what came of a shorter or longer training is removed."""
        super().on_fit_start()
        counter = self.hparams.epoch_counter
        if counter.current > counter.limit:
            raise InputError(
                f"{self.checkpointer.checkpoints_dir} holds a model of {counter.current} epochs, and number_of_epochs "
                f"is {counter.limit}: give {counter.current} or more, or another output_folder."
            )
        is_done = counter.current == counter.limit or getattr(counter, "should_stop", False)
        if not is_done and sb.utils.distributed.if_main_process():
            RunFolder(self.hparams.output_folder).remove_results()
            keep_epochs(self.hparams.train_log, counter.current)

    def _wrap_distributed(self):
        batch_norm = torch.nn.modules.batchnorm._BatchNorm
        if self.distributed_launch and "cpu" in self.device:
            if any(isinstance(module, batch_norm) for module in self.modules.modules()):
                raise InputError(
                    f"{self.hparams.system} normalises over the global batch, which PyTorch does on GPUs alone: train "
                    "it by one process."
                )
        super()._wrap_distributed()

    def on_stage_start(self, stage: Any, epoch: int | None = None) -> None:
        """Remember the epoch; forget the means of the last one, unless this one goes on in its middle."""
        if stage == sb.Stage.TRAIN:
            self._epoch = epoch or 0  # which SpeechBrain counts from 1
            if self.step == 0:
                self.batch_means.take()

    def on_fit_batch_start(self, batch: Any, should_step: bool) -> None:
        """Seed what is random in the step (dropout, negatives), so that it does not depend on what ran before it."""
        torch.manual_seed(self.step_seed())

    def step_seed(self) -> int:
        """Give the seed of what is random in this step of the training, on this process."""
        return derive_seed(self.hparams.seed, self._epoch, self.step, int(os.environ.get("RANK", 0)))

    def evaluate_batch(self, batch: Any, stage: Any) -> torch.Tensor:
        """Evaluate past the wrappers of distributed training, whose talk would wait for processes without a batch."""
        wrapped = self.modules
        self.modules = torch.nn.ModuleDict({name: _unwrap(module) for name, module in wrapped.items()})
        try:
            return super().evaluate_batch(batch, stage)
        finally:
            self.modules = wrapped

    def optimizers_step(self) -> None:
        """Step, after clipping where that is wanted; SpeechBrain clips, and only the first group of parameters."""
        optimizers = self.freeze_optimizers(self.optimizers_dict).values()
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
        parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        limit = self.hparams.max_grad_norm
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.batch_means.add(grad_norm=norm)
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
            self.batch_means.add(clipped=norm > limit)
        if not self.scaler.is_enabled() and self.skip_nonfinite_grads:
            self.check_gradients()
        for optimizer in optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        self.optimizer_step += 1

    def load_best_to_export(self, what: str) -> dict[str, Any] | None:
        """Load the checkpoint of lowest validation loss, to write the network that it holds.

        Parameters
        ----------
        what
            Is to be written; for the log.

        Returns
        -------
        dict or None
            What the checkpoint says of itself; None where nothing is to be written: in debug mode, which saw a few
            batches only, and on processes other than the main one.

        Raises
        ------
        InputError
            If there is no checkpoint.
        """
        checkpoint = self.checkpointer.recover_if_possible(min_key="valid_loss")
        if checkpoint is None:
            raise InputError(f"{self.checkpointer.checkpoints_dir} holds no checkpoint: train for one epoch at least.")
        if self.debug:
            logger.info(f"Debug mode saw a few batches only: no {what} and metrics.json are written.")
        meta: dict[str, Any] = checkpoint.meta
        return meta if sb.utils.distributed.if_main_process() and not self.debug else None

    def _should_save_intra_epoch_ckpt(self, *args):
        # Between two steps of the optimizer there are gradients, which no checkpoint holds.
        return super()._should_save_intra_epoch_ckpt(*args) and self.step % self.grad_accumulation_factor == 0

    def _fit_train(self, train_set, epoch, enable):
        before, steps = self._traces(), self.optimizer_step
        super()._fit_train(train_set, epoch, enable)
        if self.optimizer_step > steps and torch.equal(before, self._traces()):
            raise InputError(
                f"No weight has changed in epoch {epoch}, so nothing is learnt: look at lr and encoder_lr, at "
                "max_grad_norm, and in train_log.txt at grad_norm."
            )

    @torch.no_grad()
    def _traces(self):
        """Two sums of each parameter that learns, (2 n,): enough to tell whether any has moved."""
        learning = (p.double() for p in self.modules.parameters() if p.requires_grad)
        return torch.stack([total for p in learning for total in (p.sum(), p.square().sum())])


def _unwrap(module):
    return module.module if isinstance(module, DistributedDataParallel) else module


def make_batches(
    dataset: "DynamicItemDataset", *, batches: str = "shuffled", max_batch_s: float | None = None, **options: Any
) -> GlobalBatches:
    """Make the batches of a dataset.

    Parameters
    ----------
    dataset
        With a ``duration`` in seconds of each item, if batches are made by it.
    batches
        ``shuffled``, or ``by_length``: items of about the same length share a batch.
    max_batch_s
        Seconds that a batch by length has at most, padding included, in place of ``batch_size``; None: ``batch_size``.
    **options
        Of `ser_ts_lobes.training.distributed.GlobalBatches`.

    Returns
    -------
    ser_ts_lobes.training.distributed.GlobalBatches
    """
    if batches == "by_length":
        options["lengths"] = [dataset.data[utterance]["duration"] for utterance in dataset.data_ids]
    return GlobalBatches(len(dataset), **options, max_length=max_batch_s)


def keep_epochs(train_log: str | Path, last: float = math.inf) -> None:
    r"""Leave the epochs up to `last` in a log, and no line of a test.

    A process that was killed may have logged an epoch that it did not save, or, on a full disk, the beginning of a
    line; a test is of a training that has ended.

    Parameters
    ----------
    train_log
        ``train_log.txt``; it need not be there.
    last
        Epoch; infinity for all.

    Example
    -------
    >>> log = getfixture("tmp_path") / "train_log.txt"
    >>> _ = log.write_text("epoch: 1 - ...\nepoch: 2 - ...\nepoch loaded: 2 - ...\n")
    >>> keep_epochs(log, 1)
    >>> log.read_text()
    'epoch: 1 - ...\n'
    """
    log = Path(train_log)
    if log.is_file():
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        epochs = [_EPOCH.fullmatch(line) for line in lines]
        kept = [epoch[0] for epoch in epochs if epoch and int(epoch[1]) <= last]
        with replacing(log) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
