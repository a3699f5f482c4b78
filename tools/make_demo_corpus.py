"""Make a small, wholly synthetic corpus in the shape of MSP-Podcast, to try every step without a licence.

    python tools/make_demo_corpus.py OUT_FOLDER [--train 1600 --valid 300 --test 400 --seed 1986 --vocabulary large]

eSpeak NG speaks sentences of a small grammar. What the words mean sets valence, through the ratings people
gave those words in the VADER lexicon (Hutto & Gilbert, ICWSM 2014). How they are spoken (rate, pitch, pitch
range, loudness) follows activation and dominance. Five simulated raters score every utterance. A tenth of
the transcripts is misheard, as by a recogniser, while audio and labels stay: these are what conditional
teacher-student training should leave out.
"""

import argparse
import csv
import ctypes
import importlib
import importlib.metadata
import importlib.resources
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import fftconvolve, lfilter, resample_poly
from torchaudio.functional import edit_distance
from tqdm import tqdm

from ser_ts_lobes.errors import InputError, plain_errors

GENERATOR_VERSION = 3  #: Raise it with any change that alters the corpus a seed gives.
SAMPLE_RATE = 16000

# ---------------------------------------------------------------------------------------------- the grammar

#: Evaluative words by role; words the lexicon does not rate are neutral. In 800 utterances a word of the small
#: vocabulary is said about 85 times, one of the large about 35 times: too few for a small encoder to learn its sound,
#: so that a student lacks hearing there, which no teacher gives it (docs/demo.md).
VOCABULARIES = {
    "small": {
        "adjective": "wonderful fantastic happy perfect horrible terrible nasty miserable ordinary regular".split(),
        "verb": "loved enjoyed hated destroyed noticed visited".split(),
        "adverb": "happily perfectly sadly horribly usually".split(),
    },
    "large": {
        "adjective": (
            "wonderful excellent delightful fantastic generous cheerful pleasant happy perfect lovely "
            "horrible terrible frightful miserable disgusting nasty cruel unhappy pathetic ugly "
            "ordinary regular typical average"
        ).split(),
        "verb": (
            "loved enjoyed admired praised celebrated loathed destroyed hated blamed abandoned "
            "noticed visited described"
        ).split(),
        "adverb": (
            "beautifully brilliantly happily cheerfully perfectly "
            "miserably terribly painfully horribly sadly "
            "recently usually quietly"
        ).split(),
    },
}
#: The other words of a sentence, which the lexicon does not rate.
NEUTRAL_WORDS = {
    "noun": (
        "kitchen meeting window letter garden station teacher market doctor village river sister "
        "picture morning office building dinner table bridge neighbor"
    ).split(),
    "person": "we they everyone somebody people Peter Susan Martin".split(),
}
TEMPLATES = (
    "the {noun} was {adjective} and {adjective}",
    "{person} {verb} the {adjective} {noun}",
    "{person} {adverb} {verb} the {noun}",
    "my {noun} looked {adverb} {adjective}",
    "{person} {verb} that {adjective} {noun} {adverb}",
    "the {adjective} {noun} was {adverb} {verb}",
    "this {noun} was {verb} and {adjective}",
    "her {adjective} {noun} and the {adjective} {noun}",
    "{person} {verb} the {noun} and {verb} the {noun}",
    "it was {adjective} how {person} {verb} the {noun}",
    "our {noun} is {adverb} {adjective} and {adjective}",
    "{person} said the {noun} was {adjective} and {verb}",
)
TONE_AGREEMENT = 0.85  #: Share of the rated words whose sign is that of the sentence's tone.
NEUTRAL_SHARE = 0.15  #: Share of the evaluative slots filled with an unrated word.

# ---------------------------------------------------------------------------------------------- the speakers

#: eSpeak NG's plainer voice variants. Left out are robots, whispers and the Klatt voices, whose noise is the
#: C library's rand() and can't be repeated.
VARIANTS = {
    "Female": "f1 f2 f3 f4 f5 Annie steph anika belinda Andrea aunty grandma Alicia shelby".split(),
    "Male": "m1 m2 m3 m4 m5 m6 m7 m8 Andy Michael travis paul Mike robert".split(),
}
ACCENTS = "en-us en en-gb-scotland en-us-nyc en-gb-x-rp en-029 en-gb-x-gbclan en-gb-x-gbcwmd".split()
SPEAKERS_PER_GENDER = {"Train": 8, "Development": 3, "Test1": 3}  #: Speaker-disjoint splits.

# ---------------------------------------------------------------------------------------------- the labels

LATENT_CORRELATION = 0.5  #: Between activation and dominance; they go together in real corpora too.
LATENT_LIMIT = 2.3  #: Standard deviations; keeps the voice within what eSpeak NG can speak plainly.
#: Label units a unit of the lexicon: so valence varies as much as activation and dominance (a standard deviation of 1),
#: and disagreement weighs as much in each.
VALENCE_PER_RATING = 0.45
VALENCE_PER_ACTIVATION = 0.25  #: Label units a standard deviation; about 6 % of the variance of valence.
RATERS = 5
#: Label units. More than a quarter of the variance of a label, a mean over raters, is theirs: labels so uncertain that
#: a teacher, who has seen many, can know an utterance better than its label does.
RATER_SD = 1.3
CORRUPTED_SHARE = 0.1
MISHEARD_NEIGHBOURS = 2  #: A word is misheard as one of this many nearest words.


def require(module):
    """Import a module of the optional `demo` requirements."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{module} is not installed and the demo corpus needs it: pip install -e .[demo]") from error


def read_lexicon():
    """Mean human rating of each VADER word.

    Returns
    -------
    dict
        Word → mean of ten raters, -4 (most negative) to 4 (most positive).
    """
    file = importlib.resources.files(require("vaderSentiment")) / "vader_lexicon.txt"
    rows = (line.split("\t") for line in file.read_text(encoding="utf-8").splitlines() if line)
    return {row[0]: float(row[1]) for row in rows}


def valence_of(ratings):
    """Valence on the corpus's scale of words with these ratings.

    Linear in the mean rating: -4 → 2.2, 0 → 4, 4 → 5.8.

    Parameters
    ----------
    ratings : sequence of float
        Ratings of the evaluative words, -4 to 4.

    Returns
    -------
    float
        2.2 to 5.8.

    Example
    -------
    >>> valence_of([3.0, 1.0]), valence_of([-4.0])
    (4.9, 2.2)
    """
    return float(4 + VALENCE_PER_RATING * np.mean(ratings))


class ESpeak:
    """eSpeak NG in this process.

    Each instance loads its own copy of the library: eSpeak NG carries state from one utterance to the next,
    and only a fresh copy speaks the same text with the same samples again.
    """

    _SYNCHRONOUS, _UTF8, _IPA_WITH_UNDERSCORES = 2, 1, 0x02 | ord("_") << 8
    _VOLUME = 40  # of 200: no voice clips
    _OPTIONS = 0
    _PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}

    def __init__(self):
        loader = require("espeakng_loader")
        with tempfile.TemporaryDirectory() as folder:
            self._library = ctypes.CDLL(shutil.copy(loader.get_library_path(), folder))
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._library.espeak_TextToPhonemes.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        self.sample_rate = self._library.espeak_Initialize(
            self._SYNCHRONOUS, 0, loader.get_data_path().encode(), self._OPTIONS
        )
        if self.sample_rate <= 0:
            raise RuntimeError(f"eSpeak NG can't be started with the data in {loader.get_data_path()}")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # it starts with the clock, for breath noise
        self._chunks = []
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback_type(self._collect)  # kept: the library holds only a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, count, _events):
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def _set_voice(self, voice):
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"eSpeak NG has no voice {voice}")

    def speak(self, text, voice, rate, pitch, pitch_range):
        """Speak a text.

        Parameters
        ----------
        text : str
            What to say.
        voice : str
            Accent and variant, such as `en-us+f3`.
        rate : float
            Words a minute, 80 to 450.
        pitch, pitch_range : float
            0 to 99, 50 is the voice's own.

        Returns
        -------
        numpy.ndarray
            (samples,) float32 in -1 to 1, at `self.sample_rate`.
        """
        self._set_voice(voice)
        settings = {"rate": rate, "volume": self._VOLUME, "pitch": pitch, "pitch_range": pitch_range}
        for name, value in settings.items():
            self._library.espeak_SetParameter(self._PARAMETERS[name], round(value), 0)
        self._chunks.clear()
        data = text.encode()
        if self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, self._UTF8, None, None) != 0:
            raise RuntimeError(f"eSpeak NG can't speak {text!r}")
        return np.frombuffer(b"".join(self._chunks), np.int16).astype(np.float32) / 32768

    def phonemes(self, word, voice="en-us"):
        """Phonemes of a word, without stress.

        Parameters
        ----------
        word : str
            One word.
        voice : str
            Whose pronunciation.

        Returns
        -------
        list of str
            IPA symbols.
        """
        self._set_voice(voice)
        text = ctypes.c_char_p(word.encode())
        ipa = self._library.espeak_TextToPhonemes(ctypes.byref(text), self._UTF8, self._IPA_WITH_UNDERSCORES).decode()
        return [symbol for symbol in ipa.translate(str.maketrans("", "", "ˈˌ")).split("_") if symbol]


@dataclass(frozen=True)
class Speaker:
    """A voice with habits and a room of its own."""

    number: int
    gender: str
    split: str
    voice: str
    rate: float  # words a minute
    pitch: float  # eSpeak NG's 0-99, as is the range
    pitch_range: float
    level_db: float  # of the whole utterance, re full scale
    snr_db: float
    noise_colour: float  # pole of a first-order low-pass, 0 is white
    reverberation_s: float


@dataclass(frozen=True)
class Utterance:
    """One row of the corpus: what is said, how, by whom, and how the raters heard it."""

    name: str
    speaker: Speaker
    said: str
    transcript: str
    activation: float  # latent, zero mean and unit variance
    dominance: float
    labels: tuple  # activation, valence, dominance on 1-7


def draw_speakers(rng):
    """Give every variant an accent, habits and a room; splits share no variant.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the habits.

    Returns
    -------
    dict
        Split → list of Speaker, genders in turn.
    """
    speakers = {split: [] for split in SPEAKERS_PER_GENDER}
    splits = [split for split, count in SPEAKERS_PER_GENDER.items() for _ in range(count)]
    variants = {gender: rng.permutation(names) for gender, names in VARIANTS.items()}
    for index, split in enumerate(splits):
        for gender, names in variants.items():
            number = 1 + sum(map(len, speakers.values()))
            speakers[split].append(
                Speaker(
                    number=number,
                    gender=gender,
                    split=split,
                    voice=f"{ACCENTS[(number + index) % len(ACCENTS)]}+{names[index]}",
                    **draw_habits(rng),
                )
            )
    return speakers


def draw_habits(rng):
    """Give a speaker habits and a room: what `Speaker` has besides number, gender, split and voice."""
    return {
        "rate": rng.uniform(170, 195),
        "pitch": rng.uniform(42, 54),
        "pitch_range": rng.uniform(42, 54),
        "level_db": rng.uniform(-33, -29),
        "snr_db": rng.uniform(20, 30),
        "noise_colour": rng.uniform(0.0, 0.9),
        "reverberation_s": rng.uniform(0.1, 0.3),
    }


def draw_sentence(rng, lexicon, vocabulary):
    """Fill a template with words.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the choices.
    lexicon : dict
        Word → rating.
    vocabulary : dict
        Evaluative role → words.

    Returns
    -------
    list of tuple
        (word, role) in order; the role is None for a template's own words.
    """
    tone = rng.choice([-1, 1])
    sentence = []
    for token in str(rng.choice(TEMPLATES)).split():
        role = token[1:-1] if token.startswith("{") else None
        if role is None:
            sentence.append((token, None))
            continue
        words = (NEUTRAL_WORDS | vocabulary)[role]
        if role in vocabulary:
            sign = tone if rng.random() < TONE_AGREEMENT else -tone
            wanted = 0 if rng.random() < NEUTRAL_SHARE else sign
            words = [word for word in words if np.sign(lexicon.get(word, 0)) == wanted]
        unused = [word for word in words if (word, role) not in sentence]
        sentence.append((str(rng.choice(unused)), role))
    return sentence


def confusions(espeak, lexicon, vocabulary):
    """Similar-sounding words of another meaning; a slip between words alike in meaning would harm nobody.

    Parameters
    ----------
    espeak : ESpeak
        Pronounces the words.
    lexicon : dict
        Word → rating.
    vocabulary : dict
        Evaluative role → words.

    Returns
    -------
    dict
        Evaluative word → the `MISHEARD_NEIGHBOURS` rated words of its role and another sign whose phonemes
        are nearest (edit distance), nearest first.
    """
    sign = {word: np.sign(lexicon.get(word, 0)) for words in vocabulary.values() for word in words}
    phonemes = {word: espeak.phonemes(word) for word in sign}
    neighbours = {}
    for words in vocabulary.values():
        for word in words:
            others = [other for other in words if sign[other] not in (0, sign[word])]
            others.sort(key=lambda other, said=word: edit_distance(phonemes[said], phonemes[other]))
            neighbours[word] = others[:MISHEARD_NEIGHBOURS]
    return neighbours


def mishear(sentence, neighbours, rng):
    """Err as a poor recogniser does: an evaluative word is replaced, another word dropped or doubled.

    Parameters
    ----------
    sentence : list of tuple
        (word, role) as of `draw_sentence`.
    neighbours : dict
        As of `confusions`.
    rng : numpy.random.Generator
        Source of the choices.

    Returns
    -------
    str
        The transcript.
    """
    words = [word for word, _ in sentence]
    evaluative = [index for index, (word, _) in enumerate(sentence) if word in neighbours]
    replaced = rng.choice(evaluative)
    words[replaced] = str(rng.choice(neighbours[words[replaced]]))
    index = rng.choice([index for index in range(len(words)) if index not in evaluative])
    words[index : index + 1] = [words[index]] * int(rng.choice([0, 2]))
    return " ".join(words)


def rate(truth, rng):
    """Mean of simulated raters, each of whom answers 1 to 7 in whole numbers.

    Parameters
    ----------
    truth : sequence of float
        What there is to hear, one value a dimension.
    rng : numpy.random.Generator
        Source of the raters' noise.

    Returns
    -------
    tuple of float
        One label a dimension, 1 to 7.
    """
    answers = np.asarray(truth) + RATER_SD * rng.standard_normal((RATERS, len(truth)))
    return tuple(float(label) for label in np.clip(np.rint(answers), 1, 7).mean(axis=0))


def plan(counts, seed, espeak, vocabulary="small"):
    """Decide everything about the corpus but its samples.

    Parameters
    ----------
    counts : dict
        Split → number of utterances.
    seed : int
        Of all choices.
    espeak : ESpeak
        Says which words sound alike.
    vocabulary : str
        One of `VOCABULARIES`.

    Returns
    -------
    list of Utterance
        In the order they are to be spoken. No sentence is said twice.
    """
    rng = np.random.default_rng(seed)
    lexicon = read_lexicon()
    vocabulary = VOCABULARIES[vocabulary]
    neighbours = confusions(espeak, lexicon, vocabulary)
    speakers = draw_speakers(rng)
    covariance = [[1, LATENT_CORRELATION], [LATENT_CORRELATION, 1]]
    utterances, known = [], set()
    for split, count in counts.items():
        corrupted = set(rng.choice(count, size=round(CORRUPTED_SHARE * count), replace=False))
        for index in range(count):
            said = None
            while said is None or said in known:
                sentence = draw_sentence(rng, lexicon, vocabulary)
                said = " ".join(word for word, _ in sentence)
            known.add(said)
            latent = rng.multivariate_normal([0, 0], covariance).clip(-LATENT_LIMIT, LATENT_LIMIT)
            activation, dominance = latent.tolist()
            ratings = [lexicon.get(word, 0) for word, role in sentence if role in vocabulary]
            valence = valence_of(ratings) + VALENCE_PER_ACTIVATION * activation
            utterances.append(
                Utterance(
                    name=f"DEMO_{len(utterances) + 1:04d}",
                    speaker=speakers[split][index % len(speakers[split])],
                    said=said,
                    transcript=mishear(sentence, neighbours, rng) if index in corrupted else said,
                    activation=activation,
                    dominance=dominance,
                    labels=rate([4 + activation, valence, 4 + dominance], rng),
                )
            )
    return utterances


def speak(said, speaker, activation, dominance, espeak, rng):
    """Say something in a speaker's room.

    Activation makes speech faster, higher, livelier and a little louder; dominance makes it louder and lower.

    Parameters
    ----------
    said : str
        What.
    speaker : Speaker
        Who.
    activation, dominance : float
        How, in standard deviations.
    espeak : ESpeak
        The synthesiser.
    rng : numpy.random.Generator
        Source of the room's echoes and noise.

    Returns
    -------
    numpy.ndarray
        (samples,) in -1 to 1 at `SAMPLE_RATE`.
    """
    dry = espeak.speak(
        said,
        speaker.voice,
        rate=speaker.rate * 2 ** (0.24 * activation),
        pitch=speaker.pitch + 10 * activation - 8 * dominance,
        pitch_range=speaker.pitch_range + 14 * activation,
    )
    common = np.gcd(SAMPLE_RATE, espeak.sample_rate)
    dry = resample_poly(dry, SAMPLE_RATE // common, espeak.sample_rate // common)
    # The level is set here: eSpeak NG's voices differ by more than 10 dB at the same volume.
    level_db = speaker.level_db + 1.0 * activation + 3.0 * dominance
    dry *= 10 ** (level_db / 20) / np.sqrt(np.mean(dry**2))
    # The room: exponentially decaying noise, 60 dB down after the reverberation time, 10 dB below the voice.
    time = np.arange(round(speaker.reverberation_s * SAMPLE_RATE)) / SAMPLE_RATE
    echo = rng.standard_normal(len(time)) * 10 ** (-3 * time / speaker.reverberation_s)
    echo *= 10 ** (-10 / 20) / np.linalg.norm(echo)
    echo[0] = 1.0
    voice = fftconvolve(dry, echo.astype(np.float32))
    noise = lfilter([1.0], [1.0, -speaker.noise_colour], rng.standard_normal(len(voice)))
    noise *= np.sqrt(np.mean(voice**2) / np.mean(noise**2)) * 10 ** (-speaker.snr_db / 20)
    return voice + noise


README = """\
Everything in this folder is synthetic: no person speaks here and no person rated anything.

tools/make_demo_corpus.py of ser_ts_lobes made it, with the settings in demo.json: seed {seed}; {train}
utterances to train, {valid} to validate, {test} to test; {speakers} synthetic speakers, none in two splits,
both genders in each.

- Audios: eSpeak NG (package espeakng-loader {espeak}) speaks sentences of a small grammar; 16 kHz, mono,
  16 bit. Each speaker is a voice variant with an accent, habits of rate, pitch and loudness, and a small room
  with noise at 20-30 dB SNR.
- Labels/labels_consensus.csv has the columns of MSP-Podcast; scales are 1-7, EmoClass is always X. Valence
  is 4 + {valence_per_rating} times the mean rating of the sentence's evaluative words (a {vocabulary} vocabulary)
  in the VADER lexicon (Hutto & Gilbert 2014; package vaderSentiment {vader}), plus a trace of activation.
  Activation (faster, higher, livelier, a little louder) and dominance (louder, lower) are drawn with correlation
  {correlation} and set how the sentence is spoken. A label is the mean of {raters} simulated raters with a standard
  deviation of {rater_sd}, who answer in whole numbers.
- Transcripts: what was said, but for {corrupted} misheard ones, listed in corrupted_transcripts.csv, where an
  evaluative word is replaced by a similar-sounding one of another meaning and another word is dropped or
  doubled. Their audio and labels are those of what was said.

Results on this corpus show that the programs work. They say nothing about emotion in real speech.
"""


def write_corpus(folder, settings):
    """Write the corpus into a new folder.

    Parameters
    ----------
    folder : pathlib.Path
        To be made.
    settings : dict
        As of `make_demo_corpus`, kept in demo.json.
    """
    counts = {"Train": settings["train"], "Development": settings["valid"], "Test1": settings["test"]}
    espeak = ESpeak()
    utterances = plan(counts, settings["seed"], espeak, settings["vocabulary"])
    for name in ("Audios", "Labels", "Transcripts"):
        (folder / name).mkdir(parents=True)
    for index, utterance in enumerate(tqdm(utterances, desc="speaking", unit="utterance")):
        rng = np.random.default_rng([settings["seed"], index])
        samples = speak(utterance.said, utterance.speaker, utterance.activation, utterance.dominance, espeak, rng)
        soundfile.write(folder / "Audios" / f"{utterance.name}.wav", samples, SAMPLE_RATE, "PCM_16")
        (folder / "Transcripts" / f"{utterance.name}.txt").write_text(utterance.transcript + "\n", encoding="utf-8")
    _write_csv(
        folder / "Labels" / "labels_consensus.csv",
        "FileName EmoClass EmoAct EmoVal EmoDom SpkrID Gender Split_Set".split(),
        (
            [f"{u.name}.wav", "X", *(f"{label:.4f}" for label in u.labels)]
            + [u.speaker.number, u.speaker.gender, u.speaker.split]
            for u in utterances
        ),
    )
    corrupted = [u for u in utterances if u.transcript != u.said]
    _write_csv(
        folder / "corrupted_transcripts.csv",
        ["ID", "said", "transcript"],
        ([u.name, u.said, u.transcript] for u in corrupted),
    )
    readme = README.format(
        **settings,
        speakers=2 * sum(SPEAKERS_PER_GENDER.values()),
        correlation=LATENT_CORRELATION,
        valence_per_rating=VALENCE_PER_RATING,
        raters=RATERS,
        rater_sd=RATER_SD,
        corrupted=len(corrupted),
    )
    (folder / "README.txt").write_text(readme, encoding="utf-8")
    (folder / "demo.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def make_demo_corpus(folder, n_train=1600, n_valid=300, n_test=400, seed=1986, vocabulary="small"):
    """Make the corpus, or keep the one that is there with the same settings.

    Parameters
    ----------
    folder : str or pathlib.Path
        Where to; made, appears only when complete.
    n_train, n_valid, n_test : int
        Utterances in each split, at least 2 (one of each gender).
    seed : int
        Of all choices, at least 0. The same settings give the same bytes on the same machine.
    vocabulary : str
        One of `VOCABULARIES`.

    Returns
    -------
    bool
        True when made, False when kept.

    Raises
    ------
    InputError
        When a setting is out of range, a library is missing, or the folder holds anything else.
    """
    folder = Path(folder)
    settings = {"train": n_train, "valid": n_valid, "test": n_test, "seed": seed}
    for name, least in {"train": 2, "valid": 2, "test": 2, "seed": 0}.items():
        if settings[name] < least:
            raise InputError(f"--{name} is {settings[name]}; it must be at least {least}.")
    for module in ("espeakng_loader", "vaderSentiment"):
        require(module)
    if vocabulary not in VOCABULARIES:
        raise InputError(f"The vocabulary is {vocabulary!r}; choose {' or '.join(VOCABULARIES)}.")
    settings |= {
        "vocabulary": vocabulary,
        "generator": GENERATOR_VERSION,
        "espeak": importlib.metadata.version("espeakng-loader"),
        "vader": importlib.metadata.version("vaderSentiment"),
    }
    if folder.exists():
        _check_same(folder, settings)
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        complete = Path(temporary) / folder.name
        write_corpus(complete, settings)
        os.replace(complete, folder)
    return True


def _check_same(folder, settings):
    try:
        found = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{folder} exists and holds no readable demo.json; delete it or name another folder.")
    if found != settings:
        differing = ", ".join(
            f"{key} {found.get(key)} instead of {value}" for key, value in settings.items() if found.get(key) != value
        )
        raise InputError(f"{folder} was made with other settings ({differing}); delete it or name another folder.")


def main(arguments=None):
    """Make the corpus the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder to make")
    parser.add_argument("--train", type=int, default=1600, help="training utterances (%(default)s)")
    parser.add_argument("--valid", type=int, default=300, help="validation utterances (%(default)s)")
    parser.add_argument("--test", type=int, default=400, help="test utterances (%(default)s)")
    parser.add_argument("--seed", type=int, default=1986, help="of all choices (%(default)s)")
    parser.add_argument("--vocabulary", default="small", help=f"{' or '.join(VOCABULARIES)} (%(default)s)")
    options = parser.parse_args(arguments)
    with plain_errors():
        counts = (options.train, options.valid, options.test)
        made = make_demo_corpus(options.folder, *counts, options.seed, options.vocabulary)
        print(f"{options.folder}: " + ("made." if made else "is there already with these settings, kept."))


if __name__ == "__main__":
    main()
