"""Speak sentences in many synthetic voices: transcribed speech for recipes/TranscribedSpeech, as much as there is text.

    python -m tools.speak_sentences SENTENCES.txt [MORE.txt ...] --out FOLDER [--copies 1 --seed 1986 --jobs 2]

Each line of a text is a sentence. eSpeak NG speaks each in `--copies` of 28 voices, drawn with an accent, habits, a
manner and a room for every clip as in the demo corpus, into FOLDER/a.wav with FOLDER/a.txt beside it. The same command
goes on where it was interrupted.
"""

import argparse
import multiprocessing
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.files import make_folder, replacing
from tools.make_demo_corpus import (
    ACCENTS,
    LATENT_LIMIT,
    SAMPLE_RATE,
    VARIANTS,
    ESpeak,
    Speaker,
    draw_habits,
    require,
    speak,
)

_CHUNK = 64  # clips that a process is handed at once


def read_sentences(paths: Iterable[str | Path]) -> list[str]:
    """Read sentences, one a line; lines that are empty or were there before don't count.

    Parameters
    ----------
    paths
        Text files in UTF-8.

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        If a file can't be read as text, or there is no sentence at all.
    """
    sentences: dict[str, None] = {}
    for path in map(Path, paths):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} can't be read as UTF-8 text ({error}).") from error
        sentences.update((line.strip(), None) for line in lines if line.strip())
    if not sentences:
        raise InputError("There is no sentence to speak: give files with a sentence on each line.")
    return list(sentences)


def draw_speaker(rng: np.random.Generator) -> Speaker:
    """Draw a voice, an accent, habits and a room for one clip."""
    gender = str(rng.choice(list(VARIANTS)))
    voice = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS[gender])}"
    return Speaker(number=0, gender=gender, split="Train", voice=voice, **draw_habits(rng))


def speak_sentences(
    sentences: list[str],
    folder: str | Path,
    copies: int = 1,
    seed: int = 1986,
    n_jobs: int = 1,
    progressbar: bool = True,
) -> int:
    """Speak sentences into a folder.

    Parameters
    ----------
    sentences
        What to say.
    folder
        Made when it isn't there; clips that are complete in it (their text is written last) are kept.
    copies
        How often each is said, in other voices.
    seed
        Of voices, manners and rooms.
    n_jobs
        Processes that speak.
    progressbar
        Whether to show progress.

    Returns
    -------
    int
        Clips that were spoken now.

    Raises
    ------
    InputError
        If a clip of that name says something else, or a number is out of range.
    """
    for name, value, least in (("copies", copies, 1), ("seed", seed, 0), ("jobs", n_jobs, 1)):
        if value < least:
            raise InputError(f"--{name} is {value}; it must be at least {least}.")
    require("espeakng_loader")
    folder = Path(folder)
    make_folder(folder)
    clips = []
    for copy in range(copies):
        for number, sentence in enumerate(sentences):
            path = folder / f"{number:06d}_{copy}.wav"
            text = path.with_suffix(".txt")
            if not text.exists():
                clips.append((path, sentence, [seed, copy, number]))
            elif text.read_text(encoding="utf-8").strip() != sentence:
                raise InputError(f"{text} doesn't say {sentence!r}: give the same texts, or another --out.")
    with (
        multiprocessing.get_context("spawn").Pool(n_jobs) as pool,
        tqdm(total=len(clips), desc="speaking", unit="clip", disable=not progressbar) as bar,
    ):
        for _ in pool.imap_unordered(_speak_clip, clips, _CHUNK):
            bar.update()
    return len(clips)


_espeak: ESpeak | None = None  # of this process


def _speak_clip(clip: tuple[Path, str, list[int]]) -> None:
    global _espeak
    _espeak = _espeak or ESpeak()
    path, sentence, seed = clip
    rng = np.random.default_rng(seed)
    activation, dominance = rng.standard_normal(2).clip(-LATENT_LIMIT, LATENT_LIMIT)
    samples = speak(sentence, draw_speaker(rng), activation, dominance, _espeak, rng)
    with replacing(path) as temporary:
        soundfile.write(temporary, samples, SAMPLE_RATE, "PCM_16", format="WAV")
    with replacing(path.with_suffix(".txt")) as temporary:
        temporary.write_text(sentence + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Speak the sentences of some files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+", help="text files with a sentence on each line")
    parser.add_argument("--out", required=True, help="folder of the clips")
    parser.add_argument("--copies", type=int, default=1, help="voices that say each sentence (1)")
    parser.add_argument("--seed", type=int, default=1986, help="of voices, manners and rooms (1986)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    options = parser.parse_args(arguments)
    sentences = read_sentences(options.texts)
    spoken = speak_sentences(sentences, options.out, options.copies, options.seed, options.jobs)
    print(f"{options.out}: {len(sentences)} sentences, {spoken} clips spoken now.")


if __name__ == "__main__":
    with plain_errors():
        main()
