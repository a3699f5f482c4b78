"""Corpora with the layout of MSP-Podcast, synthetic audio and invented text."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16000
HEADER = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
WORDS = "so I said we could take the late train and nobody was happy about it".split()


def write_msp_tree(
    folder,
    counts=None,
    transcripts=True,
    labels_file="Labels/labels_consensus.csv",
    audio_folder="Audios",
    seed=0,
):
    """Write a small corpus with the layout of MSP-Podcast and none of its oddities.

    An utterance is a 0.4 to 1.2 s harmonic tone in PCM16 at 16 kHz whose loudness rises with activation,
    pitch with valence and brightness with dominance, so that there is something to learn. Each speaker has up
    to four utterances and is in one split.

    Parameters
    ----------
    folder : str or Path
        The corpus folder, made when it does not exist.
    counts : dict of str to int, optional
        Utterances of each ``Split_Set``; by default 8 Train, 4 Development, 4 Test1.
    transcripts : bool
        Whether ``Transcripts/<id>.txt`` exist.
    labels_file, audio_folder : str
        Where the labels and the audio are, relative to ``folder``.
    seed : int
        Of everything that is random.

    Returns
    -------
    Path
        ``folder``.
    """
    folder = Path(folder)
    random = np.random.default_rng(seed)
    labels_path = folder / labels_file
    for needed in (labels_path.parent, folder / audio_folder, folder / "Transcripts"):
        needed.mkdir(parents=True, exist_ok=True)

    rows = []
    speaker = 0
    for split, count in (counts or {"Train": 8, "Development": 4, "Test1": 4}).items():
        for index in range(count):
            speaker += index % 4 == 0
            labels = random.uniform(1, 7, 3).round(4)
            id = f"MSP-PODCAST_{speaker:04d}_{len(rows) + 1:04d}"
            soundfile.write(folder / audio_folder / f"{id}.wav", _tone(labels, random), SAMPLE_RATE, "PCM_16")
            if transcripts:
                words = random.choice(WORDS, random.integers(2, 8))
                (folder / "Transcripts" / f"{id}.txt").write_text(" ".join(words) + "\n")
            rows.append((f"{id}.wav", "NHSA"[index % 4], *labels, speaker, ("Male", "Female")[speaker % 2], split))
    with open(labels_path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return folder


@dataclass
class Layout:
    """What tells one release's folder from another's."""

    labels: str
    splits: tuple[str, ...]
    partitions: str = "Partitions.txt"
    audio: str = "Audios"
    transcripts: bool = True


_LATER_SPLITS = ("Train", "Development", "Test1", "Test2", "Test3")
LAYOUTS = {
    "1.6": Layout("Labels/labels_concensus", ("Train", "Validation", "Test"), audio="Audio", transcripts=False),
    "1.8": Layout("label/labels_concensus", ("Train", "Validation", "Test1", "Test2"), transcripts=False),
    "1.11": Layout("Labels/labels_consensus", _LATER_SPLITS),
    "1.12": Layout("Labels/labels_consensus", _LATER_SPLITS, partitions="Partition.txt"),
    "2.0": Layout("labels_consensus", _LATER_SPLITS),
}
#: Of release 2.0; labelled, but there is no such file.
ABSENT = "MSP-PODCAST_1909_1017.wav"
#: Of release 2.0; in Train and in Test2.
SHARED_SPEAKERS = ("8001", "8002")
#: Of release 1.8; 44.1 kHz, two channels.
STEREO = "MSP-PODCAST_1023_0235.wav"


@dataclass
class Rating:
    """One rater's line of labels.txt; ``secondary`` is None where the line has none."""

    worker: str
    primary: str
    secondary: str | None
    labels: tuple[int, int, int]


@dataclass
class MspUtterance:
    """What a written release says of one utterance; Test3 has neither labels nor ratings, speaker nor gender."""

    file_name: str
    split: str | None
    labels: tuple[float, float, float] | None
    emotion: str
    spk_id: str
    gender: str
    transcript: str | None
    ratings: list[Rating]


@dataclass
class MspRelease:
    """A written release, and the names of the files that make it odd."""

    utterances: list[MspUtterance]
    without_audio: str
    without_label: str
    without_split: str


def write_msp_release(folder, release, counts=None, seconds=(0.05, 0.1), seed=0):
    """Write a folder as a release of MSP-Podcast has it, oddities included.

    One label has no audio, one audio file no label and one label row the split NA; a seventh of the speakers is
    unknown; secondary emotions are sometimes empty or absent; Partitions.txt has lines without content and genders have
    trailing blanks. Release 1.8 has a stereo file at 44.1 kHz; 1.11 and later have transcripts (one of them empty),
    an unlabelled Test3 and force-aligned words; 2.0 has two speakers in Train and in Test2.

    Parameters
    ----------
    folder : str or Path
        The corpus folder, made when it does not exist.
    release : str
        A key of `LAYOUTS`.
    counts : dict of str to int, optional
        Utterances of each split; by default 9, and 3 in Test3.
    seconds : tuple of float
        The shortest and the longest audio.
    seed : int
        Of everything that is random.

    Returns
    -------
    MspRelease
    """
    folder, layout, random = Path(folder), LAYOUTS[release], np.random.default_rng(seed)
    counts = counts or {split: 3 if split == "Test3" else 9 for split in layout.splits}
    utterances = _invent(counts, layout, random)
    if release == "1.8":
        utterances[5].file_name = STEREO
    if release == "2.0":
        utterances[2].file_name = ABSENT
        test2 = [utterance for utterance in utterances if utterance.split == "Test2"]
        for index, speaker in enumerate(SHARED_SPEAKERS):
            for utterance in (utterances[index], test2[index]):
                utterance.spk_id, utterance.gender = speaker, "Male"
    splitless = _invent({"NA": 1}, layout, random, first_speaker=9999)[0]
    splitless.split = None
    labelled = [utterance for utterance in [*utterances, splitless] if utterance.labels]
    written = MspRelease(utterances, utterances[2].file_name, "MSP-PODCAST_9999_0002.wav", splitless.file_name)

    labels_path = folder / layout.labels
    audio_folder, transcript_folder = folder / layout.audio, folder / "Transcripts"
    for needed in (labels_path.parent, audio_folder):
        needed.mkdir(parents=True, exist_ok=True)
    _write_consensus(labels_path, labelled)
    blocks = "\n".join(format_block(utterance) for utterance in labelled)
    labels_path.with_name("labels.txt").write_text(blocks, encoding="utf-8")
    _write_partitions(folder / layout.partitions, utterances)
    _write_speakers(folder / "Speaker_ids.txt", labelled)
    for utterance in [*utterances, splitless]:
        if utterance.file_name != written.without_audio:
            tone = _tone(np.array(utterance.labels or (4, 4, 4)), random, seconds)
            stereo = utterance.file_name == STEREO
            audio, rate = (np.stack([tone, tone], axis=1), 44100) if stereo else (tone, SAMPLE_RATE)
            _write_wav(audio_folder / utterance.file_name, audio, rate)
    _write_wav(audio_folder / written.without_label, np.zeros(800), SAMPLE_RATE)
    if layout.transcripts:
        transcript_folder.mkdir(exist_ok=True)
        (folder / "ForceAligned").mkdir(exist_ok=True)
        for utterance in utterances:
            if utterance.transcript is not None:
                name = Path(utterance.file_name).stem
                (transcript_folder / f"{name}.txt").write_text(utterance.transcript + "\n")
                (folder / "ForceAligned" / f"{name}.TextGrid").write_text('File type = "ooTextFile"\n')
    return written


def format_rating(rating):
    """Write a rater's line of labels.txt."""
    texts = [rating.worker, rating.primary, *([] if rating.secondary is None else [rating.secondary])]
    activation, valence, dominance = rating.labels
    return f"{'; '.join(texts)}; A:{activation}; V:{valence}; D:{dominance};\n"


def format_block(utterance):
    """Write an utterance's block of labels.txt."""
    activation, valence, dominance = utterance.labels
    first = f"{utterance.file_name}; {utterance.emotion}; A:{activation}; V:{valence}; D:{dominance};\n"
    return first + "".join(map(format_rating, utterance.ratings))


def _invent(counts, layout, random, first_speaker=1):
    """Invent the utterances of each split; a speaker is in one split and has up to 47, as 1.6 has on average."""
    utterances = []
    speaker = first_speaker - 1
    for split, count in counts.items():
        for index in range(count):
            speaker += index % 47 == 0
            if split == "Test3":
                name = f"MSP-PODCAST_test3_{index + 1:04d}.wav"
                utterances.append(MspUtterance(name, split, None, "", "Unknown", "Unknown", None, []))
                continue
            ratings = [
                Rating(
                    worker=f"WORKER{random.integers(1, 2000):08d}",
                    primary=("Neutral", "Happy", "Sad", "Angry", "Other-bored; tired")[random.integers(5)],
                    secondary=("Neutral", "Happy,Excited", "", None)[random.integers(4)],
                    labels=tuple(random.integers(1, 8, 3).tolist()),
                )
                for _ in range(random.integers(5, 8))
            ]
            known = index % 7 != 3
            utterances.append(
                MspUtterance(
                    file_name=f"MSP-PODCAST_{speaker:04d}_{index + 1:04d}.wav",
                    split=split,
                    labels=tuple(np.mean([rating.labels for rating in ratings], axis=0).round(6).tolist()),
                    emotion="NHSAX"[random.integers(5)],
                    spk_id=str(speaker) if known else "Unknown",
                    gender=("Male", "Female")[speaker % 2] if known else "Unknown",
                    transcript=" ".join(random.choice(WORDS, index % 5)) if layout.transcripts else None,
                    ratings=ratings,
                )
            )
    return utterances


def _write_consensus(path, labelled):
    """Write the labels as CSV and as JSON."""
    rows = [
        dict(zip(HEADER, (u.file_name, u.emotion, *u.labels, u.spk_id, u.gender, u.split or "NA"), strict=True))
        for u in labelled
    ]
    with open(path.with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)
    content = {row["FileName"]: {column: row[column] for column in HEADER[1:]} for row in rows}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _write_partitions(path, utterances):
    """Write Partitions.txt with a line without content at its head, in its midst and at its end."""
    lines = [f"{utterance.split}; {utterance.file_name}" for utterance in utterances]
    lines = ["", *lines[:4], " ", *lines[4:], ";"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_speakers(path, labelled):
    """Write Speaker_ids.txt."""
    genders = {u.spk_id: u.gender for u in labelled if u.spk_id != "Unknown"}
    lines = [f"Speaker_{number}; {gender}  " for number, gender in genders.items()]
    lines += ["*" * 40, *(f"{u.file_name};{u.spk_id}" for u in labelled)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_wav(path, audio, rate):
    """Write a WAV by way of memory: soundfile waits for the disk after each file, minutes for a whole release."""
    content = io.BytesIO()
    soundfile.write(content, audio, rate, "PCM_16", format="WAV")
    path.write_bytes(content.getvalue())


def _tone(labels, random, seconds=(0.4, 1.2)):
    """Make a harmonic tone that says what its labels are."""
    activation, valence, dominance = (labels - 1) / 6
    time = np.arange(int(random.uniform(*seconds) * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 90 * 2 ** (1.5 * valence)
    tone = sum((0.2 + 0.6 * dominance) ** k * np.sin(2 * np.pi * k * pitch * time) for k in range(1, 8))
    noise = 0.02 * random.standard_normal(len(time))
    return (0.05 + 0.5 * activation) * tone / np.abs(tone).max() + 0.1 * noise
