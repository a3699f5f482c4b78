"""Trees with the layout of IEMOCAP_full_release, its oddities included, with synthetic audio and invented text."""

import os
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16000
WORDS = "so I said we could take the late train and nobody was happy about it".split()
CATEGORIES = ("Neutral state", "Anger", "Happiness", "Sadness", "Frustration", "Excited", "Other")
HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"

# The labels of the release outside its scale: valence 5.5 and dominance 0.5.
OUTSIDE = {
    **{f"Ses03M_impro07_M{turn}": (4.5, 5.5, 3.5) for turn in ("003", "010", "013", "021")},
    **dict.fromkeys(("Ses01M_script03_1_F026", "Ses02M_script02_2_F046", "Ses04M_script03_2_M009"), (2.5, 2.0, 0.5)),
}

#: Dialogue → number of turns of the woman and of the man.
SMALL = {
    name: (2, 2)
    for name in (
        "Ses01F_impro01",
        "Ses01M_script03_1",
        "Ses02F_impro02",
        "Ses02M_script02_2",
        "Ses03F_script01_3",
        "Ses03M_impro05a",
        "Ses04F_impro04",
        "Ses04M_script03_2",
        "Ses05F_impro05",
        "Ses05M_script01_1b",
    )
}


def full_release():
    """Give the dialogues of the full release by their names, with as many turns a session as it has.

    Every dialogue has 20 turns of either speaker; one of each session has all others.
    """
    scripts = [f"script{part}" for part in ("01_1", "01_2", "01_3", "02_1", "02_2", "03_1", "03_2")]
    improvised = [f"impro{number:02d}" for number in range(1, 9)]
    split = [f"impro{part}" for part in ("01", "02", "03", "04", "05a", "05b", "06", "07", "08a", "08b")]
    sessions = {  # women's and men's scenes, turns of the woman and of the man, the longest dialogue
        1: (improvised[:7], improvised[:7], 869, 950, "Ses01M_script03_1"),
        2: (improvised, improvised, 866, 945, "Ses02M_script02_2"),
        3: (improvised, split, 1021, 1115, "Ses03M_impro07"),
        4: (improvised, improvised, 1005, 1098, "Ses04M_script03_2"),
        5: (improvised, [*improvised, "script01_1b"], 1039, 1131, "Ses05M_script01_1b"),
    }
    dialogues = {}
    for session, (womens, mens, women, men, longest) in sessions.items():
        names = [f"Ses0{session}F_{scene}" for scene in [*womens, *scripts]]
        names += [f"Ses0{session}M_{scene}" for scene in [*mens, *scripts]]
        rest = 20 * (len(names) - 1)
        dialogues |= dict.fromkeys(names, (20, 20)) | {longest: (women - rest, men - rest)}
    return dialogues


def write_iemocap_tree(folder, dialogues=None, one_sound=False, seed=0):
    """Write a corpus with the layout and the line formats of IEMOCAP_full_release.

    An utterance is a 0.4 to 1.2 s tone in PCM16 at 16 kHz whose loudness rises with activation, pitch with valence and
    brightness with dominance, so that there is something to learn. Two external raters and the speaker rate each
    utterance in halves; the labels are the external raters' means. Of the oddities of the release there are: every
    fifth utterance has a rater without dominance, one without a category and one with two; each dialogue has a
    transcribed and recorded turn without a number, a line for what overlaps a turn, and macOS files.

    Parameters
    ----------
    folder : str or Path
        The corpus folder, made when it does not exist.
    dialogues : dict of str to (int, int), optional
        Dialogue → number of turns of the woman and of the man; `SMALL` by default.
    one_sound : bool
        Whether all utterances are links to a hundredth of a second of silence, which is fast.
    seed : int
        Of everything that is random.

    Returns
    -------
    Path
        ``folder``.
    """
    folder = Path(folder)
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    silence = folder / "silence.wav"
    soundfile.write(silence, np.zeros(SAMPLE_RATE // 100), SAMPLE_RATE, "PCM_16")
    for dialogue, turns in (dialogues or SMALL).items():
        session = folder / f"Session{dialogue[4]}"
        labels_file = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
        transcript_file = session / "dialog" / "transcriptions" / f"{dialogue}.txt"
        audio_folder = session / "sentences" / "wav" / dialogue
        for needed in (labels_file.parent / "Attribute", transcript_file.parent, audio_folder):
            needed.mkdir(parents=True, exist_ok=True)

        blocks, transcript, start = [HEADER, ""], [], 6.0
        for gender, count in zip("FM", turns, strict=True):
            for turn in range(count):
                id, end = f"{dialogue}_{gender}{turn:03d}", start + random.uniform(0.4, 1.2)
                labels, ratings, categories = _rate(random, f"{gender}1", odd=turn % 5 == 1)
                if id in OUTSIDE:
                    labels = OUTSIDE[id]
                    ratings |= {"E3": np.floor(labels).astype(int).tolist(), "E4": np.ceil(labels).astype(int).tolist()}
                blocks.append(block(id, "xxx", labels, ratings, categories, start=start, end=end))
                words = " ".join(random.choice(WORDS, random.integers(2, 8)))
                transcript.append(f"{id} [{start:08.4f}-{end:08.4f}]: {words}")
                wav = audio_folder / f"{id}.wav"
                if one_sound:
                    os.link(silence, wav)
                else:
                    soundfile.write(wav, _tone(labels, end - start, random), SAMPLE_RATE, "PCM_16")
                start = end
        unrated = f"{dialogue}_MXX0"
        os.link(silence, audio_folder / f"{unrated}.wav")
        transcript += [f"{unrated} [{start:08.4f}-{start + 1:08.4f}]: well", "M: [LAUGHTER]"]
        transcript_file.write_text("\n".join([*transcript, ""]))
        labels_file.write_text("\n".join([*blocks, ""]))
        (labels_file.parent / "Attribute" / f"{dialogue}_e2_atr.txt").write_text(f"{dialogue}_F000 :act 4; :val 3;\n")
        for file in (labels_file, transcript_file, audio_folder / f"{dialogue}_F000.wav"):
            file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        \xa2\xff")
    return folder


def block(id, emotion, labels, ratings, categories, comment="", start=0.0, end=1.0):
    """Write an utterance's lines in an EmoEvaluation file; everything is in the order activation, valence, dominance.

    Parameters
    ----------
    id, emotion : str
        As in the file.
    labels : sequence of float
        The printed means.
    ratings : dict of str to sequence of (int or None)
        Rater → numbers; None is left out.
    categories : dict of str to sequence of str
        Rater → emotion categories.
    comment : str
        What each rater wrote.
    start, end : float
        Seconds.

    Returns
    -------
    str
        Several lines, the last one ended.
    """
    activation, valence, dominance = labels
    lines = [f"[{start:.4f} - {end:.4f}]\t{id}\t{emotion}\t[{valence:.4f}, {activation:.4f}, {dominance:.4f}]"]
    for rater, named in categories.items():
        lines.append(f"C-{rater}:\t{' '.join(f'{category};' for category in named) or ';'}\t({comment})")
    for rater, rating in ratings.items():
        activation, valence, dominance = ("" if number is None else number for number in rating)
        lines.append(f"A-{rater}:\tval {valence}; act {activation}; dom  {dominance};\t({comment})")
    return "\n".join([*lines, ""])


def _rate(random, speaker, odd):
    """Make labels, ratings and categories by two or three external raters and the speaker."""
    ratings = {rater: random.integers(1, 6, 3).tolist() for rater in ("E3", "E4", speaker)}
    labels = np.mean([ratings["E3"], ratings["E4"]], axis=0)
    first, second = random.choice(CATEGORIES, 2, replace=False).tolist()
    categories = {"E2": [first], "E3": [second], "E4": [first], speaker: [second]}
    if odd:
        ratings["E4"][2] = None
        labels[2] = ratings["E3"][2]
        categories |= {"E3": [], "E4": [first, second]}
    return tuple(labels), ratings, categories


def _tone(labels, seconds, random):
    """Make a sound that says what its labels are."""
    activation, valence, dominance = (np.array(labels) - 1) / 4
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * 120 * 2**valence * time
    tone = (0.05 + 0.4 * activation) * (np.sin(phase) + dominance * np.sin(3 * phase))
    return tone + 0.02 * random.standard_normal(len(time))
