"""A lexical warm start: a listener learns what is said, from transcribed speech that nobody rated."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.logger import get_logger
from speechbrain.utils.metric_stats import ErrorRateStats
from tqdm import tqdm

from ser_ts_lobes.data.manifests import read_manifest
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing
from ser_ts_lobes.fingerprint import fingerprint_files
from ser_ts_lobes.lobes.encoder import valid_mask
from ser_ts_lobes.lobes.lexical import Heard, greedy_pieces
from ser_ts_lobes.lobes.listener import (
    LISTENER_FOLDER,
    LISTENER_WEIGHTS_FILE,
    READER_FOLDER,
    read_listener_weights,
    save_listener,
)
from ser_ts_lobes.lobes.parallel import compute_frozen
from ser_ts_lobes.lobes.pieces import BLANK, Pieces, plain_words
from ser_ts_lobes.lobes.reader import can_read, make_reader
from ser_ts_lobes.lobes.text import TextEncoder, embed_tokens
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.training.datasets import device_of, make_training_dataset
from ser_ts_lobes.training.losses import sentence_loss
from ser_ts_lobes.training.reproducible import ReproducibleBrain

if TYPE_CHECKING:
    from speechbrain.dataio.dataset import DynamicItemDataset
    from speechbrain.utils.run_opts import RunOptions

logger = get_logger(__name__)

_SPLITS = ("train", "valid")
_HEADS_FILE, _PIECES_FILE = "heads.safetensors", "pieces.model"
# What a checkpoint says of itself, and metrics.json of the best one.
_REPORTED = ("epoch", "valid_loss", "word_error_rate", "recall_1", "recall_10")


@torch.no_grad()
def embed_sentences(
    encoder: "TextEncoder",
    sentences: Sequence[str],
    batch_size: int = 64,
    device: str = "cpu",
    progressbar: bool = True,
) -> torch.Tensor:
    """Embed sentences as sentence-transformers do (`ser_ts_lobes.lobes.text.embed_tokens`).

    Parameters
    ----------
    encoder
        A text encoder, frozen.
    sentences
        N texts.
    batch_size
        Sentences at once, sorted by length.
    device
        Where to compute.
    progressbar
        Whether to show progress.

    Returns
    -------
    torch.Tensor
        (N, D) float32, on the CPU.

    Example
    -------
    >>> from ser_ts_lobes.lobes.text import TextEncoder
    >>> embed_sentences(TextEncoder(getfixture("tiny_bert")), ["it was good", "a bad day"], progressbar=False).shape
    torch.Size([2, 24])
    """
    encoder = encoder.to(device).eval()
    tokens = [encoder.tokenize(text) for text in sentences]
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    embedded = torch.empty(len(sentences), encoder.output_size)
    with tqdm(total=len(sentences), desc="sentences", unit="sentence", disable=not progressbar) as bar:
        for start in range(0, len(order), batch_size):
            rows = torch.from_numpy(order[start : start + batch_size])
            batch = [tokens[row] for row in rows.tolist()]
            n_tokens = torch.tensor([len(ids) for ids in batch], device=device)
            padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True).to(device)
            vectors, lens = encoder(padded, n_tokens / padded.shape[1])
            embedded[rows] = embed_tokens(vectors, lens).float().cpu()
            bar.update(len(batch))
    return embedded


class Sentences:
    """What is said in a corpus: each sentence once, its embedding, and who says it.

    Parameters
    ----------
    transcripts
        By utterance.
    text_encoder
        Embeds them; see `embed_sentences` for `options`.
    """

    def __init__(self, transcripts: dict[str, str], text_encoder: "TextEncoder", **options: Any) -> None:
        texts = sorted(set(transcripts.values()))
        row_of = {text: row for row, text in enumerate(texts)}
        self.row_of = {utterance: row_of[text] for utterance, text in transcripts.items()}
        self.embeddings = embed_sentences(text_encoder, texts, **options)


def make_lexical_datasets(
    hparams: dict[str, Any], run_opts: dict[str, Any]
) -> "tuple[dict[str, DynamicItemDataset], Pieces]":
    """Make the datasets of transcribed speech, and learn the pieces of words from the training set.

    With ``start_from``, a finished run, the networks get its weights first, and the pieces are that run's.

    Parameters
    ----------
    hparams
        ``manifest_folder`` (see `ser_ts_lobes.data.transcribed.prepare_transcribed_speech`), ``start_from``,
        ``n_pieces``, ``modules`` and those of `ser_ts_lobes.training.datasets.make_training_dataset`.
    run_opts
        SpeechBrain's run options: ``device``, ``noprogressbar``.

    Returns
    -------
    datasets : dict[str, speechbrain.dataio.dataset.DynamicItemDataset]
        ``train`` and ``valid``, with the items ``id``, ``speech`` ((N,) float32 at 16 kHz, or what the frozen part of
        the encoder makes of it), ``pieces`` ((U,) int64) and ``words`` (list of str).
    pieces : ser_ts_lobes.lobes.pieces.Pieces
        What the words are spelt with.

    Raises
    ------
    InputError
        If ``start_from`` is no run of networks of the same sizes.
    """
    manifests = {name: read_manifest(Path(hparams["manifest_folder"]) / f"{name}.csv") for name in _SPLITS}
    if hparams["start_from"]:
        pieces = _take_over(hparams["modules"], Path(hparams["start_from"]))
    else:
        pieces = Pieces.fit((row["transcript"] for row in manifests["train"].utterances.values()), hparams["n_pieces"])
    datasets = {}
    for name, manifest in manifests.items():
        dataset = make_training_dataset(manifest, {"speech": hparams["speech_encoder"]}, hparams, run_opts)
        dataset.add_dynamic_item(pieces.encode, "transcript", "pieces")
        dataset.add_dynamic_item(lambda text: plain_words(text).split(), "transcript", "words")
        dataset.set_output_keys(["id", "speech", "pieces", "words"])
        datasets[name] = dataset
    return datasets, pieces


def _take_over(modules, run):
    """Give networks the weights of a finished run, and return its pieces."""
    lacking = [name for name in (LISTENER_FOLDER, _HEADS_FILE, _PIECES_FILE) if not (run / name).exists()]
    if lacking:
        raise InputError(
            f"start_from: {run} has no {lacking[0]}: name the folder of a finished run of the same script."
        )
    parts = torch.nn.ModuleDict({"speech": modules["speech_encoder"], "listener": modules["listener"]})
    try:
        read_listener_weights(parts, run / LISTENER_FOLDER)
        modules["heads"].load_state_dict(safetensors.torch.load_file(run / _HEADS_FILE))
    except (InputError, RuntimeError) as error:
        raise InputError(
            f"start_from: {run} has networks of other sizes ({' '.join(str(error).split())[:300]}): give the same "
            "speech_source, hidden_size, num_layers, num_heads, stack and n_pieces as there."
        ) from error
    return Pieces((run / _PIECES_FILE).read_bytes())


class LexicalBrain(ReproducibleBrain):
    """Teaches a listener what is said: the pieces of words (CTC), and where the text encoder puts the sentence.

    L = ctc_weight * CTC / U + contrast_weight * InfoNCE + distance_weight * (1 - cosine). InfoNCE tells the sentence
    from ``n_others`` sentences of the training set, drawn anew for each step. The learning rate rises and falls once
    over all epochs, with the cosine (Smith 2018). It keeps the checkpoint of lowest validation loss.

    Parameters
    ----------
    hparams
        As in ``recipes/TranscribedSpeech/Words/hparams/words.yaml``. ``modules`` holds ``speech_encoder``, ``listener``
        (`ser_ts_lobes.lobes.listener.Listener`) and ``heads`` (`ser_ts_lobes.lobes.lexical.LexicalHeads`).
    run_opts
        From `speechbrain.parse_arguments`.
    datasets, pieces
        From `make_lexical_datasets`.
    """

    def __init__(
        self,
        hparams: dict[str, Any],
        run_opts: "RunOptions | dict[str, Any]",
        datasets: "dict[str, DynamicItemDataset]",
        pieces: Pieces,
    ) -> None:
        folder = Path(hparams["manifest_folder"])
        made_from = {name: fingerprint_files([folder / f"{name}.csv"]) for name in _SPLITS}
        if hparams["start_from"]:
            made_from["start"] = fingerprint_files(
                [Path(hparams["start_from"]) / LISTENER_FOLDER / LISTENER_WEIGHTS_FILE]
            )
        super().__init__(hparams, run_opts, **made_from)
        self.datasets, self.pieces = datasets, pieces
        transcripts = {name: _transcripts(dataset) for name, dataset in datasets.items()}
        options = {"device": device_of(run_opts), "progressbar": not run_opts["noprogressbar"]}
        self.sentences = {
            name: Sentences(texts, hparams["text_encoder"], **options) for name, texts in transcripts.items()
        }

    def train(self) -> None:
        """Fit for all epochs that are left."""
        self.fit_datasets(self.datasets)

    def make_dataloader(
        self, dataset: "DynamicItemDataset", stage: Any, ckpt_prefix: str = "dataloader-", **loader_kwargs: Any
    ) -> Any:
        """Make the loader of a dataset; validation is sorted by length."""
        loader_kwargs["collate_fn"] = PaddedBatch
        if stage != sb.Stage.TRAIN:
            dataset = dataset.filtered_sorted(sort_key="duration")
        return super().make_dataloader(dataset, stage, ckpt_prefix, **loader_kwargs)

    def init_optimizers(self) -> None:
        """Make one optimizer, with the layers of the speech encoder that learn as a group of their own."""
        groups = [{"params": [*self.modules.listener.parameters(), *self.modules.heads.parameters()]}]
        rates = [self.hparams.lr]
        encoder = [parameter for parameter in self.modules.speech_encoder.parameters() if parameter.requires_grad]
        if encoder:
            groups.append({"params": encoder})
            rates.append(self.hparams.encoder_lr)
        self.optimizer = self.opt_class(groups)
        self.optimizers_dict = {"opt_class": self.optimizer}
        n_steps = len(self.train_sampler) // self.hparams.grad_accumulation_factor * self.hparams.epoch_counter.limit
        if n_steps < 3:  # up, at the top, down
            raise InputError(f"Training would be of {n_steps} steps: choose a smaller batch_size, or more speech.")
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rates, total_steps=n_steps, pct_start=max(0.1, 2 / n_steps), cycle_momentum=False
        )
        self._n_steps = n_steps
        self.checkpointer.add_recoverable("optimizer", self.optimizer)
        self.checkpointer.add_recoverable("schedule", self.schedule)

    def on_fit_start(self) -> None:
        """Go on from the last checkpoint, whose learning rate must have been meant for as many epochs."""
        super().on_fit_start()
        if self.schedule.total_steps != self._n_steps:
            raise InputError(
                f"{self.checkpointer.checkpoints_dir} holds a model whose learning rate falls to 0 after "
                f"{self.schedule.total_steps} steps, and {self._n_steps} are wanted now: give the number_of_epochs "
                "that it was started with, or another output_folder."
            )

    def optimizers_step(self) -> None:
        """Step, and go on in the schedule of the learning rate."""
        super().optimizers_step()
        self.schedule.step()

    def compute_forward(self, batch: Any, stage: Any) -> Heard:
        """Listen to a batch."""
        batch = batch.to(self.device, non_blocking=True)
        frozen = compute_frozen(self.hparams.modules["speech_encoder"], *batch.speech)
        heard: Heard = self.modules.heads(self.modules.listener(*self.modules.speech_encoder(*frozen)))
        return heard

    def compute_objectives(self, heard: Heard, batch: Any, stage: Any) -> torch.Tensor:
        """Compute the loss; in validation, also remember what was heard."""
        ctc = self._ctc_loss(heard, batch.pieces)
        contrast, distance = self._sentence_loss(heard, batch.id, stage)
        if stage == sb.Stage.TRAIN:
            self.batch_means.add(ctc=ctc, contrast=contrast, distance=distance)
        else:
            self._words.append(
                batch.id,
                predict=[self.pieces.decode(ids).split() for ids in greedy_pieces(heard, BLANK)],
                target=batch.words,
            )
            self._heard.append((batch.id, heard.sentence.cpu()))
        hparams = self.hparams
        return hparams.ctc_weight * ctc + hparams.contrast_weight * contrast + hparams.distance_weight * distance

    def _ctc_loss(self, heard, pieces):
        n_frames, n_pieces = (
            valid_mask(lens, size).sum(dim=1)
            for lens, size in ((heard.lens, heard.log_probs.shape[1]), (pieces.lengths, pieces.data.shape[1]))
        )
        # Said faster than there are frames: nothing can be learnt of such an utterance.
        losses = torch.nn.functional.ctc_loss(
            heard.log_probs.transpose(0, 1), pieces.data, n_frames, n_pieces, BLANK, "none", zero_infinity=True
        )
        return (losses / n_pieces).mean()

    def _sentence_loss(self, heard, utterances, stage):
        sentences = self.sentences["train" if stage == sb.Stage.TRAIN else "valid"]
        rows = torch.tensor([sentences.row_of[utterance] for utterance in utterances])
        n_sentences = len(sentences.embeddings)
        if n_sentences > self.hparams.n_others:
            others = torch.randint(n_sentences, (self.hparams.n_others,))
        else:
            others = torch.arange(n_sentences)
        read, wrong, is_other = (
            tensor.to(self.device)
            for tensor in (sentences.embeddings[rows], sentences.embeddings[others], rows.unsqueeze(1) != others)
        )
        return sentence_loss(heard.sentence, read, wrong, is_other, heard.scale)

    def on_stage_start(self, stage: Any, epoch: int | None = None) -> None:
        """Forget the last stage."""
        super().on_stage_start(stage, epoch)
        self._words = ErrorRateStats()
        self._heard: list[Any] = []

    def on_stage_end(self, stage: Any, stage_loss: float, epoch: int | None = None) -> None:
        """Log; after validation also save."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss, **self.batch_means.take()}
            return
        ids = [utterance for utterances, _ in self._heard for utterance in utterances]
        heard = torch.cat([sentence for _, sentence in self._heard])
        sentences = self.sentences["valid"]
        recall = recall_at(heard, sentences.embeddings, [sentences.row_of[id] for id in ids], (1, 10))
        error_rate = self._words.summarize("error_rate") / 100
        meta = dict(zip(_REPORTED, (epoch, stage_loss, error_rate, *recall), strict=True))
        stats = {("loss" if name == "valid_loss" else name): meta[name] for name in _REPORTED[1:]}
        rate = self.optimizer.param_groups[0]["lr"]
        self.hparams.train_logger.log_stats({"epoch": epoch, "lr": rate}, self.train_stats, stats)
        self.checkpointer.save_and_keep_only(meta=meta, min_keys=["valid_loss"])

    def export(self) -> None:
        """Write the best listener and ``metrics.json``; debug mode writes nothing.

        Other systems take ``listener`` as their ``speech_source``, or ``reader``, which is the same listener with a
        text encoder (``reader_source``), to read the words that it hears. ``heads.safetensors`` and ``pieces.model``
        are what it was taught with, to look at what it hears.

        Raises
        ------
        InputError
            If there is no checkpoint.
        """
        best = self.load_best_to_export("listener")
        if best is None:
            return
        run = RunFolder(self.hparams.output_folder)
        modules = self.hparams.modules
        heard = modules["speech_encoder"], modules["listener"]
        if self.hparams.reader_source == self.hparams.text_source:
            text_encoder = self.hparams.text_encoder
        else:
            text_encoder = TextEncoder(self.hparams.reader_source)
        save_listener(run.path / LISTENER_FOLDER, *heard)
        if can_read(text_encoder):
            save_listener(
                run.path / READER_FOLDER, *heard, make_reader(modules["heads"].pieces, self.pieces, text_encoder)
            )
        else:
            logger.info(f"No {READER_FOLDER} is written: {text_encoder.source!r} is no BERT with WordPiece tokens.")
        with replacing(run.path / _HEADS_FILE) as temporary:
            temporary.write_bytes(safetensors.torch.save(modules["heads"].state_dict()))
        with replacing(run.path / _PIECES_FILE) as temporary:
            temporary.write_bytes(self.pieces.model)
        report = {
            "system": self.hparams.system,
            "seed": self.hparams.seed,
            "settings": self.hparams.settings,
            **{key: best[key] for key in _REPORTED},
            "sentences": {name: len(sentences.embeddings) for name, sentences in self.sentences.items()},
        }
        run.write_report(report)


def _transcripts(dataset):
    return {utterance: dataset.data[utterance]["transcript"] for utterance in dataset.data_ids}


def recall_at(
    heard: torch.Tensor, sentences: torch.Tensor, right: Sequence[int], ranks: Sequence[int]
) -> tuple[float, ...]:
    """Tell how often the right sentence is among the nearest to what was heard.

    Parameters
    ----------
    heard
        (B, E), of unit length.
    sentences
        (N, E), of unit length.
    right
        B rows of `sentences`.
    ranks
        How many of the nearest count.

    Returns
    -------
    tuple of float
        One a rank, in 0-1. A tie is a miss, or else sentences that all sound alike would seem to be told apart.

    Example
    -------
    >>> sentences = torch.eye(3)
    >>> heard = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    >>> recall_at(heard, sentences, [0, 0], (1, 2))
    (0.5, 1.0)
    """
    scores = heard @ sentences.T
    rows = torch.as_tensor(right).unsqueeze(1)
    own = scores.gather(1, rows)
    ahead = (scores >= own).sum(dim=1) - 1  # not counting itself
    return tuple(float((ahead < rank).double().mean()) for rank in ranks)
