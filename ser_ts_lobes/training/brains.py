"""Brains: how teachers and students are trained, chosen and tested."""

import copy
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.checkpoints import register_checkpoint_hooks
from speechbrain.utils.epoch_loop import EpochCounterWithStopper
from speechbrain.utils.logger import get_logger

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.manifests import UNRATED
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.fingerprint import fingerprint, fingerprint_tensors
from ser_ts_lobes.lobes.emotion import EmotionModel
from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.lobes.text import TextEncoder, embed_tokens
from ser_ts_lobes.options import AUGMENTATIONS
from ser_ts_lobes.processes import gather_in_turn, my_share
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.run_folder import Outputs, RunFolder, score_emotions
from ser_ts_lobes.results.text_tables import ccc_cell
from ser_ts_lobes.seeds import derive_seed
from ser_ts_lobes.training.augmentation import augment, take_rows
from ser_ts_lobes.training.datasets import MixedDataset
from ser_ts_lobes.training.distributed import MixedBatches, gather_batch
from ser_ts_lobes.training.losses import balance, ccc_loss, emotion_loss, make_distance_loss, soft_label_loss
from ser_ts_lobes.training.reproducible import ReproducibleBrain, keep_epochs, make_batches
from ser_ts_lobes.training.residuals import fit_residuals
from ser_ts_lobes.training.targets import TeacherTargets
from ser_ts_lobes.training.uncertainty import DropoutSpread

if TYPE_CHECKING:
    from speechbrain.dataio.dataset import DynamicItemDataset
    from speechbrain.utils.run_opts import RunOptions

    from ser_ts_lobes.data.manifests import Manifest

logger = get_logger(__name__)

# SpeechBrain 1.1 does not: a checkpoint would hold the epoch alone, and a resumed run would forget to stop.
register_checkpoint_hooks(EpochCounterWithStopper)


class EmotionBrain(ReproducibleBrain):
    """Trains with the CCC loss; keeps the checkpoint of lowest validation loss.

    The validation loss is the mean of 1 - CCC_j, weighted like the training loss, over the whole validation set, of
    the CCC alone for every system: a student is chosen by how well it hears emotion, not by how well it imitates.

    Parameters
    ----------
    hparams
        As in the recipes' YAML files and for `ReproducibleBrain`. ``modules`` holds ``model``
        (`ser_ts_lobes.lobes.emotion.EmotionModel` or one of `ser_ts_lobes.lobes.baselines`), ``label_scale`` and, as
        the model needs them, ``speech_encoder`` and ``text_encoder``; ``ccc_weights`` are those of
        `ser_ts_lobes.training.losses.ccc_loss`; without ``lr_annealing`` (null) the rates stay as they are. Where
        ``soft_label_weight`` is not 0, that times the divergence from the raters' distributions
        (`ser_ts_lobes.training.losses.soft_label_loss`) is added to the training loss, and where ``emotion_weight`` is
        not 0, that times the cross-entropy of the manifests' emotion classes
        (`ser_ts_lobes.training.losses.emotion_loss`), each of which counts as much as any other. ``wav_augment`` and
        ``fea_augment`` are augmenters of SpeechBrain's, of waveforms and of the encoder's frames in training, or None.
    run_opts
        From `speechbrain.parse_arguments`.
    manifests
        Of all splits, ``train`` and ``valid`` among them.
    """

    def __init__(
        self, hparams: dict[str, Any], run_opts: "RunOptions | dict[str, Any]", manifests: "dict[str, Manifest]"
    ) -> None:
        self.manifests = manifests
        self.reads = "text_encoder" in hparams["modules"]
        layers = self.make_layers(hparams)
        hparams = copy.copy(hparams)
        hparams["modules"] = {**hparams["modules"], **layers}
        super().__init__(hparams, run_opts, **self.made_from())
        if "emotions" in layers:
            train = manifests["train"]
            weights = balance(torch.from_numpy(train.emotions()), len(train.emotion_classes))
            self.emotion_class_weights = weights.to(self.device)
        for name, layer in layers.items():
            self.checkpointer.add_recoverable(name, layer)

    def make_layers(self, hparams: dict[str, Any]) -> dict[str, torch.nn.Linear]:
        """Make what learns from the embedding beside the dimensions: it is in the checkpoints, and not exported.

        Returns
        -------
        dict[str, torch.nn.Linear]
            By its name among the modules.
        """
        layers = {}
        embedding_size = hparams["modules"]["model"].embedding_size
        if hparams["soft_label_weight"]:
            size = len(DIMENSIONS) * len(hparams["soft_label_points"])
            layers["soft_labels"] = _make_layer(embedding_size, size, hparams["seed"], 3)
        if hparams["emotion_weight"]:
            size = len(self.manifests["train"].emotion_classes)
            layers["emotions"] = _make_layer(embedding_size, size, hparams["seed"], 4)
        return layers

    def made_from(self) -> dict[str, str]:
        """Fingerprints of the data that training sees.

        Returns
        -------
        dict[str, str]
        """
        return self.manifests["train"].fingerprints(self.reads) | self.manifests["valid"].fingerprints(self.reads)

    def train(self, datasets: "dict[str, DynamicItemDataset]") -> None:
        """Fit to the training set for all epochs that are left; watch the validation set.

        Parameters
        ----------
        datasets
            ``train``, ``valid``; others are left alone.

        Raises
        ------
        InputError
            If `ser_ts_lobes.training.fitting.learn_from_training_set` has not been called.
        """
        if not self.modules.label_scale.fitted:
            raise InputError(
                "The networks have not seen the training set: call learn_from_training_set before make_datasets."
            )
        self.fit_datasets(datasets)

    def make_dataloader(
        self, dataset: "DynamicItemDataset", stage: Any, ckpt_prefix: str = "dataloader-", **loader_kwargs: Any
    ) -> Any:
        """Make the loader of a dataset: padded inputs; outside training sorted by length, of which it is a share."""
        loader_kwargs["collate_fn"] = functools.partial(PaddedBatch, padded_keys=["speech", "text"])
        if stage != sb.Stage.TRAIN:
            dataset = dataset.filtered_sorted(sort_key="duration")
            dataset.data_ids = my_share(dataset.data_ids)
        return super().make_dataloader(dataset, stage, ckpt_prefix, **loader_kwargs)

    def init_optimizers(self) -> None:
        """Make one optimizer of two groups, the encoder layers that learn and all else, and the schedule, if any."""
        encoder: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, module in self.modules.items():
            group = encoder if name.endswith("_encoder") else others
            group += (parameter for parameter in module.parameters() if parameter.requires_grad)
        groups: list[dict[str, Any]] = [{"params": others}]
        if encoder:
            groups.append({"params": encoder, "lr": self.hparams.encoder_lr})
        self.optimizer = self.opt_class(groups)
        self.optimizers_dict = {"opt_class": self.optimizer}
        self.checkpointer.add_recoverable("optimizer", self.optimizer)
        if self.hparams.lr_annealing is not None:
            self.lr_annealing = self.hparams.lr_annealing(self.optimizer)
            self.checkpointer.add_recoverable("lr_annealing", self.lr_annealing)

    def compute_forward(self, batch: Any, stage: Any) -> Any:
        """Embed and predict a batch, with as much speech and text as the model takes."""
        return self.modules.model(**self.encode(batch, stage))

    def encode(self, batch: Any, stage: Any = sb.Stage.TEST) -> dict[str, torch.Tensor]:
        """Encode a batch: what the model takes, as of `ser_ts_lobes.lobes.emotion.EmotionModel.forward`.

        In training, where that is wanted, the waveforms or the frames are augmented, and the batch becomes one of as
        many rows as they then have.
        """
        batch = batch.to(self.device, non_blocking=True)
        inputs = {}
        if "speech_encoder" in self.modules:
            speech = self._augment("wav_augment", batch, stage, *batch.speech)
            frozen = compute_frozen(self.hparams.modules["speech_encoder"], *speech)
            frames = self._augment("fea_augment", batch, stage, *self.modules.speech_encoder(*frozen))
            inputs["frames"], inputs["frame_lens"] = frames
        if "text_encoder" in self.modules:
            inputs["tokens"], inputs["token_lens"] = self.modules.text_encoder(*batch.text)
        return inputs

    def _augment(self, name, batch, stage, signals, lens):
        """Augment waveforms or frames as the setting of that name says; the rest of the batch follows."""
        augmenter = getattr(self.hparams, name)
        if augmenter is None or stage != sb.Stage.TRAIN:
            return signals, lens
        seed = derive_seed(self.step_seed(), AUGMENTATIONS.index(name))
        signals, lens, rows = augment(augmenter, signals, lens, seed)
        take_rows(batch, rows)
        return signals, lens

    def compute_objectives(self, output: Any, batch: Any, stage: Any) -> torch.Tensor:
        """Compute L_CCC and, where wanted, how far raters and classes are; outside training, remember what was said."""
        rated = self._rated(batch, stage)
        labels = self.modules.label_scale.standardise(batch.labels[rated])
        loss = ccc_loss(output.prediction[rated], labels, self.hparams.ccc_weights)
        if stage == sb.Stage.TRAIN:
            self.batch_means.add(ccc_loss=loss)
            if self.hparams.soft_label_weight:
                logits = self.modules.soft_labels(output.embedding).unflatten(1, batch.soft_labels.shape[1:])
                divergence = soft_label_loss(logits, batch.soft_labels, self.hparams.ccc_weights)
                self.batch_means.add(soft_label_loss=divergence)
                loss = loss + self.hparams.soft_label_weight * divergence
            if self.hparams.emotion_weight:
                logits = self.modules.emotions(output.embedding)
                surprise = emotion_loss(logits, batch.emotion_class, self.emotion_class_weights)
                self.batch_means.add(emotion_loss=surprise)
                loss = loss + self.hparams.emotion_weight * surprise
        else:
            said = (
                output.embedding.float(),
                self.modules.label_scale.restore(output.prediction.double()),
                batch.labels.double(),
                *self._likeliest_emotions(output.embedding),
            )
            self._collected += zip(batch.id, *(rows.cpu().numpy() for rows in said), strict=True)
        return loss

    def _likeliest_emotions(self, embedding):
        """Give the place of the class of each utterance of a batch that is most likely, if classes are learnt."""
        return [self.modules.emotions(embedding).argmax(dim=1)] if "emotions" in self.modules else []

    def _rated(self, batch: Any, stage: Any) -> slice | torch.Tensor:
        """Give the rows of a batch that L_CCC is of."""
        del batch, stage
        return slice(None)

    def on_stage_start(self, stage: Any, epoch: int | None = None) -> None:
        """Forget the last stage."""
        super().on_stage_start(stage, epoch)
        self._collected: list[Any] = []

    def on_stage_end(self, stage: Any, stage_loss: float, epoch: int | None = None) -> None:
        """Put together what all processes have said of the set; after validation, anneal, log and save."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss, **self.batch_means.take()}
            return
        ids, *said = zip(*gather_in_turn(self._collected), strict=True)
        embedding, prediction, label, *emotion = map(np.stack, said)
        classes = [self.manifests["train"].emotion_classes[place] for places in emotion for place in places]
        self.outputs = Outputs(list(ids), embedding, prediction, label, classes)
        if stage == sb.Stage.VALID:
            self._end_epoch(epoch)

    def _end_epoch(self, epoch):
        ccc = metrics.ccc(self.outputs.prediction, self.outputs.label)
        # Constant predictions have no CCC; for the loss, as in training, that is no concordance: 0.
        valid_loss = float(np.average(1 - np.nan_to_num(ccc), weights=self.hparams.ccc_weights))
        learning_rates = [group["lr"] for group in self.optimizer.param_groups]
        if self.hparams.lr_annealing is not None:
            self.lr_annealing.step(valid_loss)
        if isinstance(self.hparams.epoch_counter, EpochCounterWithStopper):
            self.hparams.epoch_counter.update_metric(valid_loss)
        # On all processes: it writes on the main one, and waits for the others.
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, **dict(zip(("lr", "encoder_lr"), learning_rates, strict=False))},
            train_stats=self.train_stats,
            valid_stats={"loss": valid_loss, **dict(zip(_CCC_NAMES, ccc, strict=True)), **self._valid_emotions()},
        )
        self.checkpointer.save_and_keep_only(meta={"valid_loss": valid_loss, "epoch": epoch}, min_keys=["valid_loss"])

    def _valid_emotions(self):
        """Say how well the classes of the validation set are told, if they are learnt and it has some."""
        scores = score_emotions(self.outputs, self.manifests["valid"])
        return {"emotion_uar": scores["uar"]} if scores else {}

    def on_evaluate_start(self, max_key: str | None = None, min_key: str | None = None) -> None:
        """Load the best checkpoint; an untrained model is not tested."""
        checkpoint = self.checkpointer.recover_if_possible(min_key="valid_loss")
        if checkpoint is None:
            raise InputError(f"{self.checkpointer.checkpoints_dir} holds no checkpoint: train this system first.")
        self.best = {"epoch": checkpoint.meta["epoch"], "valid_loss": checkpoint.meta["valid_loss"]}

    def predict(self, dataset: "DynamicItemDataset") -> Outputs:
        """Run the best checkpoint over a dataset.

        Parameters
        ----------
        dataset
            From `ser_ts_lobes.training.datasets.make_dataset`.

        Returns
        -------
        Outputs
            Of each utterance, but in debug mode.
        """
        self.evaluate(dataset, test_loader_kwargs=dict(self.hparams.test_dataloader_opts))
        if not self.debug and sorted(self.outputs.ids) != sorted(dataset.data_ids):
            raise RuntimeError(f"{len(self.outputs.ids)} predictions for {len(dataset)} utterances")
        return self.outputs

    def fingerprint(self) -> str:
        """Fingerprint of the loaded model: what has learnt, and what it stands on.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        learnt = {}
        frozen = {}
        for name, module in self.modules.items():
            module = getattr(module, "module", module)  # out of DistributedDataParallel
            if name.endswith("_encoder"):
                frozen[name] = module.frozen_fingerprint()
                state = module.trainable_state()
            else:
                state = module.state_dict()
            learnt.update({f"{name}.{key}": tensor for key, tensor in state.items()})
        return fingerprint(learnt=fingerprint_tensors(learnt), **frozen)

    def test(self, datasets: "dict[str, DynamicItemDataset]") -> None:
        """Test the best checkpoint; write and print how it did, but in debug mode.

        ``predictions.csv`` and ``metrics.json`` are written, and a line a test set in ``train_log.txt``.

        Parameters
        ----------
        datasets
            Sets by name; those whose name begins with ``test`` are tested.
        """
        outputs = {name: self.predict(dataset) for name, dataset in datasets.items() if name.startswith("test")}
        if self.debug:
            logger.info("Debug mode saw a few batches only: no metrics.json and predictions.csv are written.")
        else:
            sb.utils.distributed.run_on_main(self._report, [outputs])

    def _report(self, outputs):
        """Write and print how well the test sets are predicted."""
        run = RunFolder(self.hparams.output_folder)
        run.write(
            outputs,
            self.manifests,
            self.reads,
            system=self.hparams.system,
            run=self.hparams.run,
            seed=self.hparams.seed,
            settings=self.hparams.settings,
            best=self.best,
            fingerprint=self.fingerprint(),
        )
        self._log_test(run.report()["test"])
        print(f"\n{run.describe_scores()}", flush=True)

    def _log_test(self, scores):
        """Write what `RunFolder` has in numbers into the log that people read, in place of an earlier test's."""
        keep_epochs(self.hparams.train_log)
        for split, of_split in scores.items():
            cells = (ccc_cell(of_split[dimension]) for dimension in DIMENSIONS)
            self.hparams.train_logger.log_stats(
                {"epoch loaded": self.best["epoch"], "test set": split},
                test_stats=dict(zip(_CCC_NAMES, cells, strict=True)),
                verbose=False,  # what is printed then says it
            )


_CCC_NAMES = ("ccc_activation", "ccc_valence", "ccc_dominance")


class TeacherBrain(EmotionBrain):
    """Trains whatever reads text, and says what a trained teacher knows of each utterance.

    Parameters
    ----------
    hparams, run_opts, manifests
        As in `EmotionBrain`; also ``spread_passes`` and ``spread_dropout``, as of
        `ser_ts_lobes.training.uncertainty.DropoutSpread`.
    """

    def __init__(
        self, hparams: dict[str, Any], run_opts: "RunOptions | dict[str, Any]", manifests: "dict[str, Manifest]"
    ) -> None:
        self.spread = DropoutSpread(hparams["spread_passes"], hparams["spread_dropout"], hparams["seed"])
        self._told: list[dict[str, np.ndarray]] | None = None  # of the utterances so far, while targets are made
        self._tells_spread = False  # which takes most of their time
        super().__init__(hparams, run_opts, manifests)

    def compute_forward(self, batch: Any, stage: Any) -> Any:
        """Embed and predict a batch; while targets are made, tell the rest of them, too."""
        inputs = self.encode(batch, stage)
        if self._told is not None:
            told = {name: rows.cpu().numpy() for name, rows in self._tell(inputs, batch.id).items()}
            self._told += ({name: rows[row] for name, rows in told.items()} for row in range(len(batch)))
        return self.modules.model(**inputs)

    def _tell(self, inputs, utterances):
        """Give what targets hold of a batch besides the model's output, by their names."""
        model = self.hparams.modules["model"]
        told = {"spread": self.spread.of(model, inputs, utterances)} if self._tells_spread else {}
        if isinstance(model, EmotionModel) and model.text_pooling is not None:
            read = inputs["tokens"], inputs["token_lens"]
            told |= {"text": model.text_pooling(*read).float(), "sentence": embed_tokens(*read).float()}
        return told

    def test(self, datasets: "dict[str, DynamicItemDataset]") -> None:
        """Test the best checkpoint; also write the text encoder, for others to read with, if it has learnt."""
        super().test(datasets)
        encoder = self.hparams.modules["text_encoder"]
        if not self.debug and isinstance(encoder, TextEncoder) and encoder.n_frozen < len(encoder.layers):
            sb.utils.distributed.run_on_main(encoder.save, [RunFolder(self.hparams.output_folder).text_encoder_folder])

    def make_targets(self, datasets: "dict[str, DynamicItemDataset]") -> dict[str, TeacherTargets]:
        """Compute embeddings, prediction and residual (paper, Eq. 8) of each utterance.

        The line from prediction to label is fitted on the training set alone. Where there is speech that nobody rated,
        its spread is computed, too, and that of the training set, to which it is compared.

        Parameters
        ----------
        datasets
            Sets by name, ``train`` among them.

        Returns
        -------
        dict[str, ser_ts_lobes.training.targets.TeacherTargets]
            By the same names; without residuals of `ser_ts_lobes.data.manifests.UNRATED`. Test sets without labels are
            left out.

        Raises
        ------
        InputError
            In debug mode, which sees a few batches only.
        """
        if self.debug:
            raise InputError("Debug mode sees a few batches only, of which no targets are made: leave --debug out.")
        taught = {name: set for name, set in datasets.items() if self.manifests[name].labelled or name == UNRATED}
        outputs, told = {}, {}
        for name, dataset in taught.items():
            self._told = []
            self._tells_spread = UNRATED in taught and name in ("train", UNRATED)
            outputs[name] = self.predict(dataset)
            rows = gather_in_turn(self._told)
            told[name] = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        self._told = None
        fitted = fit_residuals(outputs["train"].prediction, outputs["train"].label)
        teacher = self.fingerprint()
        return {
            name: TeacherTargets(
                ids=output.ids,
                embedding=output.embedding,
                prediction=output.prediction,
                label=None if name == UNRATED else output.label,
                residual=None if name == UNRATED else fitted.apply(output.prediction, output.label),
                made_from={
                    "manifest": self.manifests[name].fingerprint,
                    "teacher": teacher,
                    **({"spread": str(self.spread)} if "spread" in told[name] else {}),
                },
                spread=told[name].get("spread"),
                text=told[name].get("text"),
                sentence=told[name].get("sentence"),
            )
            for name, output in outputs.items()
        }


class StudentBrain(EmotionBrain):
    """Trains whatever only hears; with a teacher's targets, L = L_CCC + ts_weight * L_TS (paper, Eq. 7).

    With ``prediction_weight``, that times the CCC loss between student's and teacher's prediction is added. Where
    another embedding than the joint one is ``taught``, a linear layer, ``projector`` of `modules`, maps the student's
    to it.

    With targets of speech that nobody rated, too, each batch has ``unrated_batch_size`` utterances of it behind the
    rated ones: what is taught is of all, L_CCC of the labels of the rated ones. An epoch is one pass of these.

    Parameters
    ----------
    hparams, run_opts, manifests
        As in `EmotionBrain`; with a teacher also ``ts_weight``, ``distance`` and ``distance_temperature``, as of
        `ser_ts_lobes.training.losses.make_distance_loss`, ``taught``, ``prediction_weight`` and
        ``unrated_batch_size``.
    targets
        From `ser_ts_lobes.training.datasets.load_teacher`; None to learn alone.
    """

    def __init__(
        self,
        hparams: dict[str, Any],
        run_opts: "RunOptions | dict[str, Any]",
        manifests: "dict[str, Manifest]",
        targets: dict[str, TeacherTargets] | None = None,
    ) -> None:
        self.targets = targets or {}
        if self.targets:
            self.distance_loss = make_distance_loss(hparams["distance"], hparams["distance_temperature"])
        super().__init__(hparams, run_opts, manifests)

    def make_layers(self, hparams: dict[str, Any]) -> dict[str, torch.nn.Linear]:
        """Make what learns for the losses alone; also what maps to another embedding of the teacher than the joint."""
        layers = super().make_layers(hparams)
        if self.targets and hparams["taught"] != "joint":
            size = self.targets["train"].taught(hparams["taught"]).shape[1]
            layers["projector"] = _make_layer(hparams["modules"]["model"].embedding_size, size, hparams["seed"], 2)
        return layers

    def made_from(self) -> dict[str, str]:
        """Fingerprints of the data that training sees, the teacher included, and what it has read of unrated speech.

        Returns
        -------
        dict[str, str]
        """
        data = super().made_from()
        if self.targets:
            data["teacher"] = self.targets["train"].made_from["teacher"]
        if UNRATED in self.targets:
            data |= self.manifests[UNRATED].fingerprints(reads=True)
            data["spread"] = self.targets[UNRATED].made_from["spread"]
        return data

    def _make_sampler(self, dataset, **batching):
        if not isinstance(dataset, MixedDataset):
            return super()._make_sampler(dataset, **batching)
        options = {
            "batch_size": self.hparams.unrated_batch_size,
            "drop_last": True,
            "seed": derive_seed(self.hparams.seed, 1),  # in no step with the rated ones
            "set_name": "unrated speech",
            "option": "unrated_batch_size",
        }
        rated = super()._make_sampler(dataset.rated, **batching)
        return MixedBatches(rated, make_batches(dataset.unrated, **batching | options), len(dataset.rated))

    def _rated(self, batch: Any, stage: Any) -> slice | torch.Tensor:
        """Give the rows of a batch that have labels."""
        if stage != sb.Stage.TRAIN or UNRATED not in self.targets:
            return super()._rated(batch, stage)
        return ~batch.labels.isnan().any(dim=1)

    def compute_objectives(self, output: Any, batch: Any, stage: Any) -> torch.Tensor:
        """Compute L_CCC; in training with a teacher, add what it teaches."""
        loss = super().compute_objectives(output, batch, stage)
        if stage != sb.Stage.TRAIN or not self.targets:
            return loss
        embedding = self.modules.projector(output.embedding) if "projector" in self.modules else output.embedding
        distance = self.distance_loss(embedding, batch.teacher_embedding, batch.keep)
        self.batch_means.add(ts_distance=distance, kept=gather_batch(batch.keep.float()).mean())
        loss = loss + self.hparams.ts_weight * distance
        if self.hparams.prediction_weight:
            taught = self.modules.label_scale.standardise(batch.teacher_prediction)
            difference = ccc_loss(output.prediction, taught, self.hparams.ccc_weights, batch.prediction_trust)
            self.batch_means.add(ts_ccc_loss=difference)
            loss = loss + self.hparams.prediction_weight * difference
        return loss


def _make_layer(input_size: int, output_size: int, seed: int, number: int) -> torch.nn.Linear:
    """Make a layer whose weights are the seed's and its number's alone, whatever was random before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, number))
        return torch.nn.Linear(input_size, output_size)
