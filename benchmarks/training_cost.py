"""What it costs to train the systems of Table 2, beside stock SpeechBrain.

To run, from the repository's root: ``python -m benchmarks.training_cost`` (ten minutes; ``--clips 4``
takes half of it). Encoders have the real base and large sizes and random weights (no hub), clips are of
noise of 2.75 to 11 s. What an encoder costs is measured on a batch of these, what the rest of a frozen system costs on
a batch of 32 that they make up; both are scaled to the 34,280 training utterances of MSP-Podcast 1.6. All times are
those of one core, turn by turn.

- Stock: a Brain of SpeechBrain's on its own HuBERT and text lobes, shuffled and padded batches. In ``ft`` the upper
  half of the layers learns and the rest is frozen. With ``ts`` and ``cts`` the teacher listens to and reads each batch,
  too: what its encoders take is that of the rows ``hubert_large`` and ``bert_base``, and so is the row ``teacher``.
- Ours: the recipe's hparams and Brains. What is frozen is computed once for all epochs, seeds and systems, and so are
  the teacher's targets, with the passes that tell how sure it is. ``ts`` and ``cts`` differ in what counts, not in what
  is computed.
- By length: the same where clips of one length share a batch, as ``batches: by_length`` has it but for the 2 % that
  it pads. It is measured where layers learn, in pairs; what is frozen gains nothing by it on a CPU.

Validation and tests are left out on both sides.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.integrations.huggingface.hubert import HuBERT
from speechbrain.integrations.huggingface.textencoder import TextEncoder
from transformers import BertConfig, BertModel, BertTokenizerFast, HubertConfig, HubertModel, Wav2Vec2FeatureExtractor
from transformers.utils import logging as transformers_logging

from benchmarks.speech_encoder import SECONDS
from benchmarks.timing import interleave
from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data.manifests import Manifest
from ser_ts_lobes.lobes.emotion import EmotionModel
from ser_ts_lobes.lobes.pooling import GRUPooling
from ser_ts_lobes.lobes.speech import SAMPLE_RATE
from ser_ts_lobes.training.brains import StudentBrain, TeacherBrain
from ser_ts_lobes.training.datasets import make_dataset, make_datasets
from ser_ts_lobes.training.fitting import learn_from_training_set
from ser_ts_lobes.training.losses import ccc_loss
from ser_ts_lobes.training.targets import TeacherTargets

HPARAMS = Path(__file__).resolve().parents[1] / "recipes" / "MSP-Podcast" / "hparams"
N_UTTERANCES = 34_280  # of MSP-Podcast 1.6's training set
N_MSP_PODCAST_2 = 267_905  # all of 2.0
WORDS_A_SECOND = 2.5
N_EPOCHS = 50
BATCH_SIZE = 32
# Of each system: what hears, what reads, and whether there is a teacher.
SYSTEMS = {
    "hubert_base": ("base", None, False),
    "hubert_large": ("large", None, False),
    "bert_base": (None, "bert", False),
    "teacher": ("large", "bert", False),
    "ft": ("base", None, False),
    "ts": ("base", None, True),
    "cts": ("base", None, True),
}
# What each needs once, by the system that is the first to need it; `targets` is of a teacher's.
ONCE = {name: (name,) for name in ("hubert_base", "hubert_large", "bert_base", "ft")} | {
    "teacher": ("hubert_large", "bert_base"),
    "ts": ("ft", "targets"),
    "cts": ("ft", "targets"),
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}  # as in hubert-large-ll60k
REAL_SIZES = {
    "base": HubertConfig(),
    "large": HubertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, **LARGE
    ),
    "bert": BertConfig(),
}
OURS = ("ours", "by_length")
STAGE = sb.Stage.TRAIN
RUN_OPTS = {"device": "cpu", "noprogressbar": True}


def save_encoders(folder, sizes):
    """Save encoders of random weights, as downloads from the hub would be; return their folders by name."""
    folders = {name: str(Path(folder, name)) for name in sizes}
    for name, config in sizes.items():
        if isinstance(config, HubertConfig):
            HubertModel(config).save_pretrained(folders[name])
            Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folders[name])
        else:
            BertModel(config).save_pretrained(folders[name])
            words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
            words += [f"word{number}" for number in range(config.vocab_size - len(words))]
            BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folders[name])
    return folders


def make_manifest(folder, n_utterances, n_clips):
    """Write noise of the lengths in `SECONDS` and make a manifest of it, in which the clips return in turn."""
    random = np.random.default_rng(0)
    utterances = {}
    for number in range(n_utterances):
        clip = number % n_clips
        seconds = SECONDS[clip * max(1, len(SECONDS) // n_clips) % len(SECONDS)]
        wav = Path(folder, f"{clip}.wav")
        if clip == number:
            soundfile.write(wav, random.normal(0, 0.1, round(seconds * SAMPLE_RATE)), SAMPLE_RATE)
        words = " ".join(f"word{clip + i}" for i in range(round(seconds * WORDS_A_SECOND)))
        row = {"wav": str(wav), "duration": seconds, "spk_id": "Unknown", "transcript": words}
        row |= dict(zip(DIMENSIONS, random.uniform(1, 7, 3).tolist(), strict=True))
        utterances[str(number)] = row
    return Manifest("train", Path(folder, "train.csv"), "0" * 64, utterances, frozenset(), (1.0, 7.0), None)


class StockBrain(sb.Brain):
    """What one writes with SpeechBrain alone: frozen and other encoders compute in each step."""

    encoding_s = 0.0

    def compute_forward(self, batch, stage):
        """Encode and pool what there is; remember what the encoders took."""
        inputs, start = {}, time.process_time()
        if "hubert" in self.modules:
            inputs["frames"], inputs["frame_lens"] = self.modules.hubert(*batch.speech), batch.speech.lengths
        if "bert" in self.modules:
            tokens, inputs["tokens"] = self.modules.bert(batch.transcript, return_tokens=True)
            inputs["token_lens"] = tokens["attention_mask"].float().mean(1)
        self.encoding_s = time.process_time() - start
        return self.modules.model(**inputs).prediction

    def compute_objectives(self, predictions, batch, stage):
        """Compare with the labels."""
        return ccc_loss(predictions, batch.labels)


def make_stock(system, folders, manifest):
    """Make a stock Brain and its loader of a batch."""
    hears, reads, _ = SYSTEMS[system]
    modules, poolings = {}, {}
    if hears is not None:
        modules["hubert"] = hubert = HuBERT(folders[hears], folders[hears], freeze=system != "ft")
        poolings["speech_pooling"] = GRUPooling(hubert.model.config.hidden_size)
        if system == "ft":
            layers = hubert.model.encoder.layers
            hubert.model.requires_grad_(False)
            layers[len(layers) // 2 :].requires_grad_(True)
    if reads is not None:
        modules["bert"] = bert = TextEncoder(folders[reads], folders[reads], freeze=True)
        poolings["text_pooling"] = GRUPooling(bert.model.config.hidden_size)
    modules["model"] = EmotionModel(**poolings)
    brain = StockBrain(modules, torch.optim.Adam, run_opts=RUN_OPTS)
    dataset = make_dataset(manifest, hears=hears is not None)
    dataset.set_output_keys([*dataset.pipeline.output_mapping, "transcript"])
    collate = partial(PaddedBatch, padded_keys=["speech"])
    loader = start(brain, dataset, {"batch_size": len(dataset), "shuffle": True, "collate_fn": collate})
    for pooling in poolings.values():
        pooling.eval()  # PyTorch's own GRU
    return brain, loader


def start(brain, dataset, options):
    """Begin to train a Brain; return its loader."""
    loader = brain.make_dataloader(dataset, STAGE, **options)
    brain.on_fit_start()
    brain.modules.train()
    brain.on_stage_start(STAGE, 1)
    return loader


def learn(brain, loader):
    """Load what there is and learn from it."""
    for batch in loader:
        brain.fit_batch(batch)


def make_ours(system, folders, manifest, folder, run_opts=RUN_OPTS, **settings):
    """Make a Brain of the recipe and its loader; also return how long it took what is computed once, in seconds."""
    hears, reads, has_teacher = SYSTEMS[system]
    overrides = {
        "data_folder": "unused",
        "results_folder": str(folder),
        "feature_folder": str(Path(folder, "features")),
    }
    overrides |= {"batch_size": min(BATCH_SIZE, len(manifest.utterances)), "num_workers": 0}
    overrides |= {"speech_source": folders[hears]} if hears else {}
    overrides |= {"text_source": folders[reads]} if reads else {}
    if "ft" in ONCE[system]:
        overrides["trainable_layers"] = HubertConfig.from_pretrained(folders[hears]).num_hidden_layers // 2
    overrides |= settings
    hparams = load_hyperpyyaml((HPARAMS / f"{system}.yaml").read_text(encoding="utf-8"), overrides)
    hparams |= {"settings": {}}
    manifests = {"train": manifest, "valid": manifest}
    targets = {"train": make_targets(manifest)} if has_teacher else {}
    started = time.process_time()
    learn_from_training_set(manifest, hparams, run_opts)
    datasets = make_datasets(manifests, hparams, run_opts, targets)
    once_s = time.process_time() - started
    extra = [] if reads else [targets]
    brain = (TeacherBrain if reads else StudentBrain)(hparams, run_opts, manifests, *extra)
    return brain, start(brain, datasets["train"], hparams["train_dataloader_opts"]), once_s


def make_targets(manifest):
    """Make targets as a teacher's are."""
    n, random = len(manifest.utterances), np.random.default_rng(1)
    return TeacherTargets(
        ids=list(manifest.utterances),
        embedding=random.standard_normal((n, 128), dtype=np.float32),
        prediction=random.uniform(1, 7, (n, 3)),
        label=manifest.labels(),
        residual=random.normal(size=(n, 3)),
        made_from={"manifest": manifest.fingerprint, "teacher": "0"},
    )


@torch.no_grad()
def tell(brain, loader):
    """Do what makes the targets of a batch: the teacher's output, and how sure it is."""
    brain.modules.eval()
    for batch in loader:
        inputs = brain.encode(batch, sb.Stage.VALID)
        brain.modules.model(**inputs)
        brain.spread.of(brain.hparams.modules["model"], inputs, batch.id)


def measure(folder, sizes, n_clips, repeats):
    """Measure all systems.

    Parameters
    ----------
    folder : str
        For what is written.
    sizes : dict[str, transformers.PretrainedConfig]
        ``base``, ``large``, ``bert``.
    n_clips, repeats : int
        Clips that encoders are measured on; turns, of which the median counts. If there is more than one, another comes
        before them to warm up.

    Returns
    -------
    dict[str, dict[str, float]]
        Seconds an utterance by system: ``stock``, ``ours`` and ``by_length``, a step; and under ``once`` what is
        computed once, by the names in `ONCE`.
    """

    def time_of(*calls):
        return np.median(interleave(calls, repeats, time.process_time, warm_up=repeats > 1), axis=0).tolist()

    folders = save_encoders(folder, sizes)
    clips, batch, pairs = (make_manifest(folder, n, n_clips) for n in (n_clips, BATCH_SIZE, 2 * n_clips))
    stock_s, ours_s, by_length_s, once_s, encoding_s = {}, {}, {}, {}, {}
    for system in SYSTEMS:
        if system == "ts":
            continue
        manifest = clips if "ft" in ONCE[system] else batch
        ours, loader, seconds = make_ours(system, folders, manifest, folder)
        calls = [partial(learn, ours, loader)]
        stock = None
        if ONCE[system] == (system,):
            once_s[system] = seconds / n_clips
            stock, loader_of_stock = make_stock(system, folders, clips)
            calls.append(partial(learn, stock, loader_of_stock))
        our_step_s, *stock_step_s = time_of(*calls)
        ours_s[system] = our_step_s / len(manifest.utterances)
        if stock is not None:
            stock_s[system], encoding_s[system] = stock_step_s[0] / n_clips, stock.encoding_s / n_clips
        if system == "teacher":
            once_s["targets"] = time_of(partial(tell, ours, loader))[0] / BATCH_SIZE
        if "ft" in ONCE[system]:
            ours, loader, _ = make_ours(system, folders, pairs, folder, batches="by_length", batch_size=2)
            by_length_s[system] = time_of(partial(learn, ours, loader))[0] / len(pairs.utterances)
        print(describe(system, stock=stock_s, ours=ours_s, once=once_s), file=sys.stderr, flush=True)
        del ours, loader, calls
        stock = loader_of_stock = None
        gc.collect()
    ours_s["ts"], by_length_s["ts"] = ours_s["cts"], by_length_s["cts"]
    by_length_s = ours_s | by_length_s
    stock_s["teacher"] = stock_s["hubert_large"] + stock_s["bert_base"]
    stock_s["ts"] = stock_s["cts"] = stock_s["ft"] + encoding_s["hubert_large"] + encoding_s["bert_base"]
    return {"stock": stock_s, "ours": ours_s, "by_length": by_length_s, "once": once_s}


def describe(system, **measured):
    """Say what is known of a system."""
    known = (f"{name} {of[system]:.3f} s" for name, of in measured.items() if system in of)
    return f"{system}, an utterance: {', '.join(known)}"


def total(measured, systems, n_epochs, n_seeds=1, ours="ours"):
    """Sum up, in seconds an utterance, what systems cost: stock and ours, or ``by_length``.

    Example
    -------
    >>> measured = {"stock": {"ft": 2.0}, "ours": {"ft": 1.0}, "once": {"ft": 3.0}}
    >>> total(measured, ["ft"], n_epochs=10, n_seeds=2)
    (40.0, 23.0)
    """
    steps = [n_epochs * n_seeds * sum(measured[whose][system] for system in systems) for whose in ("stock", ours)]
    parts = {part for system in systems for part in ONCE[system]}
    return steps[0], steps[1] + sum(measured["once"][part] for part in parts)


def report(measured):
    """Give the table and the sums as text."""
    hours = N_UTTERANCES / 3600
    lines = [
        "| system | stock, h an epoch | ours | ratio | by length | ratio | ours, once, h "
        f"| {N_EPOCHS} epochs, ratio | by length |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for system in SYSTEMS:
        stock, *ours = (hours * measured[whose][system] for whose in ("stock", *OURS))
        once = hours * sum(measured["once"][part] for part in ONCE[system])
        whole = (total(measured, [system], N_EPOCHS, ours=whose) for whose in OURS)
        cells = [f"{stock:.2f}", *(f"{own:.2f} | {stock / own:.1f}" for own in ours), f"{once:.2f}"]
        lines.append(f"| {system} | {' | '.join(cells)} | {' | '.join(f'{s / own:.1f}' for s, own in whole)} |")
    lines.append("")
    for n_seeds in (1, 3):
        totals = [total(measured, SYSTEMS, N_EPOCHS, n_seeds, whose) for whose in OURS]
        said = (f"{name} {hours * own:.0f} h, ratio {s / own:.1f}" for name, (s, own) in zip(OURS, totals, strict=True))
        lines.append(f"All of it, {n_seeds} seed(s): stock {hours * totals[0][0]:.0f} h, {', '.join(said)}")
    return "\n".join(lines)


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=8, help="that encoders are measured on (8)")
    parser.add_argument("--repeats", type=int, default=1, help="the median counts (1)")
    parser.add_argument("--json", help="a file for the numbers: seconds an utterance")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # so that what a processor spends is work, and not waiting
    torch.manual_seed(0)
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(folder, REAL_SIZES, arguments.clips, arguments.repeats)
    print(f"Hours of one core, from {arguments.clips} clips\n")
    print(report(measured))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
