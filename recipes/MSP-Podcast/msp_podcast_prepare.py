"""Prepare MSP-Podcast: read a release's folder and write one CSV manifest a split.

    python msp_podcast_prepare.py DATA_FOLDER MANIFEST_FOLDER [--release 1.11] [--transcripts FILE]

DATA_FOLDER is the unpacked corpus, of release 1.6, 1.8, 1.11, 1.12 or 2.0:

    Labels/labels_consensus.csv   FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set, in any order and
                                  with any others; or labels_consensus.json, by file name; or labels.txt
    Labels/labels.txt             each rater's answers, for raters.csv and ratings.csv, where there is one; or
                                  labels_detailed.csv (a line a rater) or labels_detailed.json (by file name and rater)
    Partitions.txt                "Train; <id>.wav": the splits, Test3 among them, which has no labels
    Speaker_ids.txt               speakers and genders, where the label file has none
    Audios/<id>.wav               (or Audio/)
    Transcripts/<id>.txt          where there are any

The training scripts call `prepare_msp_podcast` themselves; run this one to see what a corpus holds before
training.
"""

import argparse
import json
import logging
import math
import os
import re
import reprlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser_ts_lobes import DIMENSIONS, UNKNOWN_SPEAKER
from ser_ts_lobes.data import manifests, preparation
from ser_ts_lobes.data.preparation import inspect_files, list_utterances, spelt_otherwise, warn_contradicted
from ser_ts_lobes.data.ratings import RATINGS_FILE, write_ratings
from ser_ts_lobes.errors import InputError, first_few, plain_errors
from ser_ts_lobes.files import make_folder, map_files
from ser_ts_lobes.fingerprint import fingerprint_files
from ser_ts_lobes.text_files import parse_json, parse_number, read_lines, read_rows, write_csv

logger = logging.getLogger(__name__)

# Utterances a split, as published with each release (2.0: Busso et al., arXiv 2509.09791, table VI). Of 1.12 only
# the total and the size of Test3 are.
RELEASES = {
    "1.6": {"train": 34280, "valid": 5958, "test": 10124},
    "1.8": {"train": 44879, "valid": 7800, "test1": 15326, "test2": 5037},
    "1.11": {"train": 84030, "valid": 19815, "test1": 30647, "test2": 14815, "test3": 2347},
    "1.12": {"test3": 3200, "all splits": 207136},
    # Known of 2.0: 1 of the listed files, MSP-PODCAST_1909_1017.wav, is absent and becomes a row of excluded.csv;
    # 2 speakers are both in Train and in Test2, which is a warning. The splits stay as they were published.
    "2.0": {"train": 169190, "valid": 34399, "test1": 46294, "test2": 14822, "test3": 3200},
}
SPLITS = {
    "Train": "train",
    "Development": "valid",
    "Validation": "valid",
    "Test": "test",
    "Test1": "test1",
    "Test2": "test2",
    "Test3": "test3",
}
NO_SPLIT = "NA"
SECRET_SPLIT = "test3"

LABEL_FOLDERS = ("Labels", "label", "")
# Some releases misspell the name. The consensus files come before the raw one, which 1.6 could do with alone.
LABEL_FILES = (
    "labels_consensus.csv",
    "labels_concensus.csv",
    "labels_consensus.json",
    "labels_concensus.json",
    "labels.txt",
)
RATING_FILE = "labels.txt"
# Of these only what each rater said of the dimensions is read.
RATING_FILES = (RATING_FILE, "labels_detailed.csv", "labels_detailed.json")
PARTITION_FILES = ("Partitions.txt", "Partition.txt")
SPEAKER_FILE = "Speaker_ids.txt"
AUDIO_FOLDERS = ("Audios", "Audio")
TRANSCRIPT_FOLDER = "Transcripts"

# In the manifests' order of the dimensions; labels.txt calls them A, V and D.
LABEL_COLUMNS = ("EmoAct", "EmoVal", "EmoDom")
SPEAKER_COLUMNS = ("SpkrID", "Gender")
LABEL_RANGE = (1.0, 7.0)
# The last semicolon tells that no digit is missing.
LABEL_LINE = re.compile(r"(.*);\s*A:([^;]*);\s*V:([^;]*);\s*D:([^;]*);\s*", re.DOTALL)
SAMPLE_RATE = 16000


@dataclass
class CorpusFiles:
    """Where a release keeps what; None for a file that it lacks."""

    labels: Path
    ratings: Path | None
    partitions: Path | None
    speakers: Path | None
    audio: Path
    transcripts: Path | None


@dataclass(slots=True)
class Entry:
    """What the corpus says of one audio file.

    ``split`` names a manifest and is None where no split has it; ``labels`` are in the order of `DIMENSIONS`, and
    None where there are none.
    """

    file_name: str
    split: str | None
    labels: tuple[float, float, float] | None = None
    spk_id: str = UNKNOWN_SPEAKER
    gender: str = "Unknown"
    emotion: str = ""

    @property
    def id(self):
        """The file name without its suffix."""
        return stem(self.file_name)


@dataclass(slots=True)
class Block:
    """One utterance of labels.txt.

    ``line`` is where it begins; ``labels`` is the consensus as it stands there, ``ratings`` has three labels a rater,
    all in the order of `DIMENSIONS`.
    """

    line: int
    file_name: str
    emotion: str
    labels: tuple[str, str, str]
    ratings: list[tuple[float, float, float]]


def prepare_msp_podcast(data_folder, manifest_folder, transcripts=None, release=None, skip_prep=False):
    """Write the manifests of MSP-Podcast, unless they are up to date.

    Test3 is unlabelled: ``test3.csv`` can be predicted, not scored. Utterances without label, split or usable
    audio are left out, with a warning and a row in ``excluded.csv``; those that are not 16 kHz mono are kept
    (loading mixes down and resamples), with a warning and a row in ``converted.csv``. Where the corpus has each
    rater's answers, ``raters.csv`` has their number, mean and standard deviation, and ``ratings.csv`` all of them.

    Parameters
    ----------
    data_folder : str or Path
        The unpacked corpus.
    manifest_folder : str or Path
        Where the manifests go.
    transcripts : str or Path, optional
        CSV of ``ID, transcript, model, revision``, which `ser-ts transcribe` writes, for utterances without
        ``Transcripts/<id>.txt``. By default ``transcripts.csv`` in ``manifest_folder``, where there is one.
    release : str or float, optional
        ``"1.6"``, ``"1.8"``, ``"1.11"``, ``"1.12"`` or ``"2.0"``: check that the splits are as large as there. By
        default any size is fine; every release is read in the same way.
    skip_prep : bool
        Take the manifests that are there, unchecked.

    Returns
    -------
    dict of str to Path
        The manifest of each split.

    Raises
    ------
    InputError
        When the corpus is not as described above, is not the named release, or none of its audio can be used.
    """
    data_folder, manifest_folder = Path(data_folder).absolute(), Path(manifest_folder)
    if skip_prep:
        return manifests.find_manifests(manifest_folder)
    release = None if release is None else str(release)  # YAML reads 1.11 as a number
    if release not in (None, *RELEASES):
        raise InputError(
            f"The release '{release}' is not known; give {', '.join(RELEASES)}, or none to check no sizes."
        )
    files = find_files(data_folder)
    if transcripts and not Path(transcripts).is_file():
        raise InputError(f"The transcripts {transcripts} do not exist. Name a file that `ser-ts transcribe` wrote.")
    transcripts = Path(transcripts or manifest_folder / "transcripts.csv")

    # This script is among the inputs: another reading of the corpus must not pass for an up-to-date one.
    inputs = [__file__, *vars(files).values(), transcripts if transcripts.is_file() else None]
    fingerprint = fingerprint_files(filter(None, inputs), data_folder=str(data_folder), release=release)
    if manifests.is_prepared(manifest_folder, fingerprint):
        logger.info(f"{manifest_folder} is up to date: nothing has changed since it was prepared.")
        return manifests.find_manifests(manifest_folder)

    entries = read_entries(files)
    if release:
        check_sizes(entries, release)
    texts = read_transcripts(transcripts, files.transcripts, {entry.id for entry in entries})
    paths = [os.path.join(files.audio, entry.file_name) for entry in entries]
    audio = inspect_files(paths)
    make_folder(manifest_folder)
    kept = exclude(entries, audio, files.audio, manifest_folder)
    report_converted(kept, manifest_folder)
    side_files = [manifest_folder / "excluded.csv", manifest_folder / "converted.csv"]
    rater_files = [manifest_folder / name for name in ("raters.csv", RATINGS_FILE)]
    if files.ratings:
        write_raters(files.ratings, manifest_folder, {entry.id: entry.labels for entry in entries if entry.labels})
        side_files += rater_files
    else:
        for file in rater_files:  # an earlier preparation's
            file.unlink(missing_ok=True)

    splits = {}
    for entry, info in kept:
        utterance = manifests.Utterance(
            id=entry.id,
            duration=info.duration,
            wav=os.path.join(files.audio, entry.file_name),
            spk_id=entry.spk_id,
            gender=entry.gender,
            labels=entry.labels,
            transcript=texts.get(entry.id),
            emotion=entry.emotion,
        )
        splits.setdefault(entry.split, []).append(utterance)
    return manifests.write_manifests(manifest_folder, splits, data_folder, fingerprint, LABEL_RANGE, side_files)


def find_files(data_folder):
    """Find what a release holds; names and places have changed between releases.

    Parameters
    ----------
    data_folder : Path
        The unpacked corpus.

    Returns
    -------
    CorpusFiles
    """
    if not data_folder.is_dir():
        raise InputError(f"The corpus folder {data_folder} does not exist. Give the folder of the unpacked corpus.")

    def first(places, needed_as=None):
        for place in places:
            if (data_folder / place).exists():
                return data_folder / place
            if os.path.lexists(data_folder / place):
                raise InputError(f"{data_folder / place} is a link that leads nowhere. Restore what it links to.")
        for place in places:
            if found := spelt_otherwise(data_folder, place):
                raise InputError(
                    f"{found} is there, but its name should be {place}, in upper and lower case. Rename it."
                )
        if needed_as:
            looked_for = ", ".join(map(str, places))
            raise InputError(
                f"{data_folder} has no {needed_as}; looked for {looked_for}. Is it the corpus's top folder?"
            )
        return None

    audio = first(AUDIO_FOLDERS, "audio folder")
    with os.scandir(audio) as inside:  # not a list: mostly the first of hundreds of thousands tells
        has_audio = any(is_audio(entry.name) for entry in inside)
    if not has_audio:
        if nested := [name for name in sorted(os.listdir(audio)) if (audio / name).is_dir()]:
            named = first_few(nested)
            raise InputError(f"{audio} has no *.wav files, but folders: {named}. Move their files up into it.")
    return CorpusFiles(
        labels=first([Path(folder, name) for folder in LABEL_FOLDERS for name in LABEL_FILES], "label file"),
        ratings=first([Path(folder, name) for folder in LABEL_FOLDERS for name in RATING_FILES]),
        partitions=first(PARTITION_FILES),
        speakers=first([SPEAKER_FILE]),
        audio=audio,
        transcripts=first([TRANSCRIPT_FOLDER]),
    )


def read_entries(files):
    """Gather what the corpus says of each audio file that it names or has.

    Parameters
    ----------
    files : CorpusFiles
        From `find_files`.

    Returns
    -------
    list of Entry
        Labelled ones in the order of the label file, then others that have a split, then others with audio.
    """
    partitions = read_partitions(files.partitions) if files.partitions else {}
    needed = ["FileName", "EmoClass", *LABEL_COLUMNS]
    if not files.partitions:
        needed.append("Split_Set")
    if not files.speakers and files.labels.name != RATING_FILE:
        needed.extend(SPEAKER_COLUMNS)

    speakers = None
    entries, places, unspoken = {}, {}, []
    for place, row in read_label_rows(files.labels, needed):
        name = row["FileName"].strip()
        where = f"{place}: {name}"
        if not name:
            raise InputError(f"{where}FileName is empty.")
        split = find_split(row, partitions, name, where)
        places.setdefault(split, where)
        if all(column in row for column in SPEAKER_COLUMNS):
            spk_id, gender = (row[column] for column in SPEAKER_COLUMNS)
        else:
            if speakers is None:
                speakers = read_speakers(files.speakers) if files.speakers else {}
            spk_id, gender = speakers.get(name, (UNKNOWN_SPEAKER, "Unknown"))
            if name not in speakers:
                unspoken.append(name)
        labels = tuple(parse_label(row[column], column, where) for column in LABEL_COLUMNS)
        entries[name] = Entry(name, split, labels, spk_id, gender, row["EmoClass"])
    if not entries:
        raise InputError(f"{files.labels} has no labels. Unpack the corpus again.")
    refuse_mixed_tests(places)
    if unspoken and not files.speakers:
        logger.warning(
            f"There is no {SPEAKER_FILE}, and {files.labels} names no speakers: all count as unknown, so that nobody "
            "can say whether one is in two splits."
        )
    elif unspoken:
        logger.warning(
            f"{files.speakers} names no speaker of {len(unspoken)} utterances, which count as unknown: "
            f"{first_few(unspoken)}."
        )
    for name, split in partitions.items():
        entries.setdefault(name, Entry(name, split))
    for name in sorted(os.listdir(files.audio)):
        if name.lower().endswith(".wav") and not name.startswith("."):
            entries.setdefault(name, Entry(name, None))
    return list(entries.values())


def read_label_rows(path, columns):
    """Read a label file of any form.

    Parameters
    ----------
    path : Path
        A CSV, a JSON file or labels.txt.
    columns : sequence of str
        What each row must have.

    Yields
    ------
    tuple of str and dict of str to str
        Where the row is, for error messages, and the row by column.
    """
    if path.suffix == ".csv":
        rows = ((f"{path}, line {line}", row) for line, row in read_rows(path, columns, key="FileName"))
    elif path.suffix == ".json":
        rows = ((f"{path}, line {line}", row) for line, row in read_json(path))
    else:
        rows = ((f"{path}, line {block.line}", block_row(block)) for block in read_blocks(path))
    for place, row in rows:
        absent = [column for column in columns if column not in row]
        if absent:
            raise InputError(f"{place}: {row['FileName']} has no {', '.join(absent)}.")
        yield place, row


def read_json(path):
    """Read the JSON form of the labels: file name → column → value.

    Parameters
    ----------
    path : Path
        ``labels_consensus.json``.

    Yields
    ------
    tuple of int and dict of str to str
        The line of the file name, and the row, with the file name as FileName.
    """

    def unique(pairs):
        if len({key.strip() for key, _ in pairs}) < len(pairs):
            twice = Counter(key.strip() for key, _ in pairs).most_common(1)[0][0]
            raise InputError(f"{path}: {twice} occurs twice; keep one.")
        return dict(pairs)

    text = "".join(line for _, line in read_lines(path))
    # Numbers stay text: all label files have theirs read by `parse_label`.
    content = parse_json(text, path, object_pairs_hook=unique, parse_int=str, parse_float=str, parse_constant=str)
    if not isinstance(content, dict):
        raise InputError(f"{path}, line 1: not a JSON object with a key for each file name.")
    line, position = 1, 0
    for name, row in content.items():
        found = max(position, text.find(json.dumps(name), position))
        line += text.count("\n", position, found)
        position = found
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {line}: {name} has no columns, but {reprlib.repr(row)}.")
        texts = {column: "" if value is None else str(value) for column, value in row.items()}
        yield line, {**texts, "FileName": name.strip()}


def block_row(block):
    """Put the consensus of labels.txt into the columns of the other label files."""
    labels = dict(zip(LABEL_COLUMNS, block.labels, strict=True))
    return {"FileName": block.file_name, "EmoClass": block.emotion, **labels}


def read_blocks(path):
    """Read labels.txt: a block an utterance, separated by blank lines.

    A block's first line is ``name.wav; emotion; A:x; V:y; D:z;`` with the consensus, and each further one is
    ``worker; primary; secondary; A:x; V:y; D:z;`` with the answers of one rater, the secondary emotions
    sometimes empty or left out.

    Parameters
    ----------
    path : Path
        ``labels.txt``.

    Yields
    ------
    Block
    """
    block = None
    first_lines = {}
    ratings = {}  # as numbers, by what is written: millions of lines say the same few hundred things
    file = str(path)  # once, not for the place of each of millions of lines
    for number, line in read_lines(path):
        if not line.strip():
            if block:
                yield block
            block = None
            continue
        where = f"{file}, line {number}"
        texts, labels = parse_label_line(line, where)
        if block:
            if len(texts) < 2 or not texts[0] or is_audio(texts[0]):
                raise InputError(f"{where}: expected a rater and an emotion; a blank line ends an utterance.")
            if (rating := ratings.get(labels)) is None:
                rating = ratings[labels] = tuple(parse_label(label, "A, V or D", where) for label in labels)
            block.ratings.append(rating)
        else:
            if len(texts) != 2 or not is_audio(texts[0]):
                raise InputError(f"{where}: expected the first line of an utterance, 'name.wav; emotion; A:...'.")
            if (first := first_lines.setdefault(texts[0], number)) != number:
                raise InputError(f"{path}, lines {first} and {number}: {texts[0]} occurs twice; keep one.")
            block = Block(number, *texts, labels, ratings=[])
    if block:
        yield block


def parse_label_line(line, where):
    """Split a line of labels.txt.

    Parameters
    ----------
    line : str
        ``text; ...; A:x; V:y; D:z;``. Raters type some texts themselves, semicolons included.
    where : str
        File and line, for error messages.

    Returns
    -------
    list of str, tuple of str
        The texts, and what stands after A:, V: and D:.

    Example
    -------
    >>> parse_label_line("WORKER00000001; Neutral; Other-calm; A:4.0; V:3.0; D:5.0;", "labels.txt, line 2")
    (['WORKER00000001', 'Neutral', 'Other-calm'], ('4.0', '3.0', '5.0'))
    """
    match = LABEL_LINE.fullmatch(line)
    if not match:
        raise InputError(f"{where}: expected '...; A:number; V:number; D:number;', but it is {line.strip()[:60]!r}.")
    texts, *labels = match.groups()
    return [text.strip() for text in texts.split(";")], tuple(labels)


def read_partitions(path):
    """Read Partitions.txt, which has a ``Train; name.wav`` a line and some lines without content.

    Parameters
    ----------
    path : Path
        ``Partitions.txt``.

    Returns
    -------
    dict of str to str
        File name → manifest.
    """
    partitions, places = {}, {}
    for number, line in read_lines(path):
        if not line.strip(" \t\r\n;"):
            continue
        split, _, name = (part.strip() for part in line.partition(";"))
        if split not in SPLITS or not is_audio(name):
            raise InputError(
                f"{path}, line {number}: expected 'SPLIT; name.wav' with a split of {', '.join(SPLITS)}, but it is "
                f"{line.strip()[:60]!r}."
            )
        if name in partitions:
            raise InputError(f"{path}, line {number}: {name} occurs twice; keep one.")
        partitions[name] = SPLITS[split]
        places.setdefault(SPLITS[split], f"{path}, line {number}")
    refuse_mixed_tests(places)
    return partitions


def read_speakers(path):
    """Read Speaker_ids.txt: ``Speaker_1; Male`` a speaker, a line of asterisks, ``name.wav;1`` an utterance.

    Parameters
    ----------
    path : Path
        ``Speaker_ids.txt``.

    Returns
    -------
    dict of str to tuple of str and str
        File name → speaker and gender, either of which can be ``"Unknown"``.
    """
    genders, speakers = {}, {}
    number, below_asterisks = 0, False
    for number, line in read_lines(path, warn_if_cut=True):
        line = line.strip()
        if not line:
            continue
        if set(line) == {"*"}:
            below_asterisks = True
            continue
        key, semicolon, value = (part.strip() for part in line.partition(";"))
        if below_asterisks:
            known, expected = speakers, "name.wav;number or Unknown"
            valid = is_audio(key) and (value.isdecimal() or value == UNKNOWN_SPEAKER)
        else:
            known, expected = genders, "Speaker_NUMBER; gender' or a line of asterisks, '***"
            valid = semicolon and key.startswith("Speaker_")
        if not valid:
            raise InputError(f"{path}, line {number}: expected '{expected}', but it is {line[:60]!r}.")
        if key in known:
            raise InputError(f"{path}, line {number}: {key} occurs twice; keep one.")
        known[key] = value
    if not below_asterisks:
        raise InputError(f"{path}, line {number}: the end, without a line of asterisks. Unpack the corpus again.")
    genderless = sorted({value for value in speakers.values() if f"Speaker_{value}" not in genders} - {UNKNOWN_SPEAKER})
    if genderless:
        logger.warning(f"{path} has no gender of {len(genderless)} speakers: {first_few(genderless)}.")
    return {name: (number, genders.get(f"Speaker_{number}") or "Unknown") for name, number in speakers.items()}


def stem(file_name):
    """Give the file name without its suffix, which is the id; thirty times as fast as pathlib, for millions."""
    return file_name.rpartition("/")[2].rpartition(".")[0]


def is_audio(name):
    """Say whether a field is the name of an audio file, and a whole one."""
    return name.lower().endswith(".wav")


def find_split(row, partitions, name, where):
    """Find the manifest of a label row, which its Split_Set, Partitions.txt or both may tell; None for ``NA``."""
    said = row.get("Split_Set", NO_SPLIT).strip()
    if said not in (*SPLITS, NO_SPLIT):
        raise InputError(f"{where} is in the unknown split '{said}'; known are {', '.join(SPLITS)} and {NO_SPLIT}.")
    split = SPLITS.get(said)
    partition = partitions.get(name, split)
    if split not in (None, partition):
        raise InputError(
            f"{where} has the Split_Set {said}, but the partition file has it in {partition}. Correct one."
        )
    return partition


def refuse_mixed_tests(places):
    """Refuse Test beside Test1 or Test2, which no release has: such a line has lost its digit.

    Parameters
    ----------
    places : dict of str to str
        Manifest → where it is first named.
    """
    numbered = [place for split, place in places.items() if split in ("test1", "test2", "test3")]
    if "test" in places and numbered:
        raise InputError(
            f"{places['test']} is in Test, but no release has Test beside Test1 to Test3 ({numbered[0]}). Is a line "
            "cut short?"
        )


def parse_label(text, column, where):
    """Read one label, a number on the corpus's scale."""
    low, high = LABEL_RANGE
    label = parse_number(text)
    if label is None:
        raise InputError(f"{where} has {column} {reprlib.repr(text)}, which is not a number.")
    if not low <= label <= high:
        raise InputError(f"{where} has {column} {text}, which is not within {low:g} to {high:g}.")
    return label


def check_sizes(entries, release):
    """Refuse a corpus whose splits are not as large as the release's, and say where they differ.

    Parameters
    ----------
    entries : list of Entry
        From `read_entries`.
    release : str
        A key of `RELEASES`.
    """
    sizes = Counter(entry.split for entry in entries if entry.split)
    sizes["all splits"] = sizes.total()
    published = RELEASES[release]
    published = {**published, "all splits": published.get("all splits", sum(published.values()))}
    differences = [
        f"{name} has {sizes[name]:,} utterances instead of {size:,} ({sizes[name] - size:+,})"
        for name, size in published.items()
        if sizes[name] != size
    ]
    if differences:
        raise InputError(
            f"This is not MSP-Podcast {release}: {'; '.join(differences)}. Check that the corpus was unpacked "
            "completely, or name no release to use it as it is."
        )


def read_transcripts(transcripts, transcript_folder, ids):
    """Gather what was said in which utterance.

    Parameters
    ----------
    transcripts : Path
        A recogniser's CSV of `ser_ts_lobes.data.manifests.TRANSCRIPT_COLUMNS`; read where it exists, for utterances
        without a text file.
    transcript_folder : Path or None
        Text files that came with the corpus.
    ids : set of str
        The utterances of the corpus.

    Returns
    -------
    dict of str to str
        Transcripts by id. Utterances that nobody transcribed are not in it.
    """
    texts = preparation.read_transcripts(transcripts)
    unknown = [id for id in texts if id not in ids]
    if unknown:
        logger.warning(f"{transcripts}: {len(unknown)} ids are not in the corpus: {first_few(unknown)}.")
    if transcript_folder:
        names = [name for name in os.listdir(transcript_folder) if name.endswith(".txt") and name[:-4] in ids]
        texts.update(map_files(read_text, [os.path.join(transcript_folder, name) for name in names]))
    return texts


def read_text(path):
    """Read one transcript file; return its id and its text."""
    try:
        with open(path, "rb", buffering=0) as file:  # a third of the time of a text file, for hundreds of thousands
            return stem(path), file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The transcript {path} can't be read as UTF-8 text: {error}.") from error


def exclude(entries, audio, audio_folder, manifest_folder):
    """Leave out what has no label, no split or no usable audio; list it in ``excluded.csv`` and warn.

    Parameters
    ----------
    entries : list of Entry
        From `read_entries`.
    audio : list of ser_ts_lobes.data.audio.AudioInfo
        Of the same files.
    audio_folder, manifest_folder : Path
        Where the audio is, and where the list goes.

    Returns
    -------
    list of tuple of Entry and AudioInfo
        The others.
    """
    secret = not any(entry.labels for entry in entries if entry.split == SECRET_SPLIT)
    kept, excluded = [], []
    for entry, info in zip(entries, audio, strict=True):
        if entry.labels is None and not (secret and entry.split == SECRET_SPLIT):
            reason = "no label"
        elif entry.split is None:
            reason = "no split"
        else:
            reason = info.problem
        if reason:
            excluded.append((entry.id, entry.split, reason))
        else:
            kept.append((entry, info))
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(row[2] for row in excluded).most_common())
    if not kept:
        raise InputError(
            f"None of the {len(entries)} utterances has a label, a split and usable audio in {audio_folder} "
            f"({reasons}). Check that the corpus was unpacked completely."
        )
    list_utterances(
        manifest_folder / "excluded.csv",
        ("ID", "split", "reason"),
        excluded,
        f"Left out {len(excluded)} of {len(entries)} utterances ({reasons})",
    )
    return kept


def report_converted(kept, manifest_folder):
    """Warn of utterances that loading will resample or mix down, and list them in ``converted.csv``."""
    converted = [
        (entry.id, entry.split, info.sample_rate, info.channels)
        for entry, info in kept
        if (info.sample_rate, info.channels) != (SAMPLE_RATE, 1)
    ]
    list_utterances(
        manifest_folder / "converted.csv",
        ("ID", "split", "sample_rate", "channels"),
        converted,
        f"{len(converted)} utterances are not 16 kHz mono and are converted when loaded",
    )


def read_raters(path):
    """Read what each rater said of each utterance.

    Parameters
    ----------
    path : Path
        One of `RATING_FILES`. Of the last two, a rater's line without three numbers on the scale is left out, with a
        warning: no label depends on it.

    Returns
    -------
    list of tuple of str and list of tuple of float
        File names and, of each, three labels a rater in the order of `DIMENSIONS`.
    """
    if path.name == RATING_FILE:
        return [(block.file_name, block.ratings) for block in read_blocks(path)]
    ratings, unread = {}, []
    for where, name, row in read_detailed(path):
        said = ratings.setdefault(name, [])
        try:
            said.append(tuple(parse_label(str(row.get(column, "")), column, where) for column in LABEL_COLUMNS))
        except InputError as error:
            unread.append(str(error))
    if unread:
        logger.warning(f"Left out {len(unread)} answers of raters: {first_few(unread)}")
    return list(ratings.items())


def read_detailed(path):
    """Read the raters' lines of labels_detailed.csv, or labels_detailed.json: file name → rater → column → value.

    Parameters
    ----------
    path : Path
        Either.

    Yields
    ------
    tuple of str, str and dict
        Where the line is, for error messages; the file name; the rater's answers by column.
    """
    if path.suffix == ".csv":
        for line, row in read_rows(path, ("FileName", *LABEL_COLUMNS)):
            yield f"{path}, line {line}:", row["FileName"].strip(), row
        return
    content = parse_json("".join(text for _, text in read_lines(path)), path)
    if not isinstance(content, dict) or not all(isinstance(raters, dict) for raters in content.values()):
        raise InputError(f"{path}: not a JSON object that has for each file name an object with a key for each rater.")
    for name, raters in content.items():
        for rater, row in raters.items():
            yield f"{path}: {name}, {rater}", name.strip(), row if isinstance(row, dict) else {}


def write_raters(ratings, folder, labels):
    """Write what the raters of each utterance said, how many they were, and mean and standard deviation of it.

    Parameters
    ----------
    ratings : Path
        One of `RATING_FILES`.
    folder : Path
        Where ``raters.csv`` and ``ratings.csv`` go. Of the former, a standard deviation is empty where there are fewer
        than two raters, a mean where there is none.
    labels : dict of str to tuple of float
        By id, the labels that are used; those that are not the mean of their raters' are named in a warning.
    """
    raters = read_raters(ratings)
    ids, counts = [stem(file_name) for file_name, _ in raters], [len(said) for _, said in raters]
    dimensions = range(len(DIMENSIONS))
    write_ratings(folder, ((stem(name), ([rating[j] for rating in said] for j in dimensions)) for name, said in raters))
    by_rater = np.array([rating for _, said in raters for rating in said]).reshape(-1, len(DIMENSIONS))
    means, deviations = rater_statistics(by_rater, np.array(counts, dtype=int))
    columns = [f"{dimension}_{statistic}" for dimension in DIMENSIONS for statistic in ("mean", "sd")]
    statistics = np.stack([means, deviations], axis=2).reshape(len(ids), len(columns))
    rows = (
        (id, count, *(None if math.isnan(value) else value for value in row.tolist()))
        for id, count, row in zip(ids, counts, statistics, strict=True)
    )
    write_csv(folder / "raters.csv", ("ID", "raters", *columns), rows)
    unlabelled = (math.nan,) * len(DIMENSIONS)
    used = np.array([labels.get(id) or unlabelled for id in ids]).reshape(means.shape)
    # labels.txt prints six decimals; other forms, from which zeros at the end are gone, may print fewer.
    printed = {len(repr(label).partition(".")[2]) for label in np.unique(used[~np.isnan(used)]).tolist()}
    warn_contradicted(ids, used, means, min(6, max(printed, default=0)))


def rater_statistics(ratings, counts):
    """Compute mean and standard deviation (of the sample, n - 1) of raters' labels, dimension by dimension.

    Parameters
    ----------
    ratings : numpy.ndarray
        (ratings, 3), those of an utterance one after the other.
    counts : numpy.ndarray
        (utterances,), how many each has.

    Returns
    -------
    tuple of numpy.ndarray
        Means and standard deviations, (utterances, 3) each; NaN where there are too few ratings.

    Example
    -------
    >>> rater_statistics(np.array([(4.0, 3.0, 5.0), (6.0, 3.0, 5.0)]), np.array([2]))
    (array([[5., 3., 5.]]), array([[1.41421356, 0.        , 0.        ]]))
    """
    owners = np.repeat(np.arange(len(counts)), counts)

    def add_up(values):
        return np.stack([np.bincount(owners, column, len(counts)) for column in values.T], axis=1)

    with np.errstate(invalid="ignore", divide="ignore"):
        means = add_up(ratings) / counts[:, None]
        deviations = np.sqrt(add_up((ratings - means[owners]) ** 2) / (counts[:, None] - 1))
    deviations[counts < 2] = math.nan
    return means, deviations


def main():
    """Prepare from the command line."""
    parser = argparse.ArgumentParser(description="Prepare MSP-Podcast: write one CSV manifest a split.")
    parser.add_argument("data_folder", help="the unpacked corpus")
    parser.add_argument("manifest_folder", help="where the manifests go")
    parser.add_argument("--release", choices=RELEASES, help="check that the splits are as large as in this release")
    parser.add_argument(
        "--transcripts",
        metavar="FILE",
        help="CSV that `ser-ts transcribe` wrote (MANIFEST_FOLDER/transcripts.csv)",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with plain_errors():
        prepare_msp_podcast(arguments.data_folder, arguments.manifest_folder, arguments.transcripts, arguments.release)


if __name__ == "__main__":
    main()
