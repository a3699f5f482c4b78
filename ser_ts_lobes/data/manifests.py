"""Manifests: which utterances a corpus has, where their audio is, and what was labelled.

A prepared folder holds one CSV a split (``train.csv``, ``valid.csv``, ``test.csv`` or ``test1.csv``, ...)
and a sidecar, ``manifests.json``, with the SHA-256 of each CSV and the fingerprint of the files that they
were made from. Nothing here knows a corpus: a recipe's ``*_prepare.py`` reads its corpus and calls
`write_manifests`; everything else calls `read_manifest`.
"""

import hashlib
import itertools
import json
import logging
import math
import os
import re
import reprlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ser_ts_lobes import DIMENSIONS, UNKNOWN_SPEAKER, __version__
from ser_ts_lobes.errors import InputError, first_few
from ser_ts_lobes.files import make_folder, replacing
from ser_ts_lobes.fingerprint import fingerprint_file
from ser_ts_lobes.seals import is_intact, seal
from ser_ts_lobes.text_files import parse_json, parse_number, read_rows, write_csv

logger = logging.getLogger(__name__)

#: The columns of a manifest, in their order in the file.
COLUMNS = ("ID", "duration", "wav", "spk_id", "gender", *DIMENSIONS, "transcript", "emotion")

#: The columns of transcripts.csv, which `ser-ts transcribe` writes and preparation reads.
TRANSCRIPT_COLUMNS = ("ID", "transcript", "model", "revision")

#: Name of the manifest of speech that nobody rated, which is no split of a corpus.
UNRATED = "unrated"

SIDECAR = "manifests.json"
ROOT_VARIABLE = "$data_root"
SPLIT_NAME = re.compile(r"train|valid|test(\d{0,9})")

# What is read of the sidecar.
_SIDECAR_TYPES = {"inputs_fingerprint": str, "code_version": str, "data_root": str, "label_range": list, "splits": dict}
_ENTRY_TYPES = {"file": str, "sha256": str, "missing_transcripts": list}

# What stands for nobody in the files of corpora and of the programs that export them (pandas writes nan, JSON null).
NO_SPEAKER = ("", "unknown", "nan", "null", "none")


@dataclass(slots=True)
class Utterance:
    """One utterance.

    Parameters
    ----------
    id
        Unique in the corpus.
    duration
        Seconds.
    wav
        Absolute path of the audio, somewhere under the manifest's ``data_root``.
    spk_id
        Speaker; ``"Unknown"`` (or what else `known_speaker` takes for it) where nobody knows, which is never taken for
        one speaker.
    gender
        As the corpus says it.
    labels
        Activation, valence and dominance (the order of `DIMENSIONS`), on the corpus's scale; None for all
        utterances of a test set whose labels are kept secret.
    transcript
        The words; ``""`` when somebody listened and nothing was said, None when nobody transcribed it.
    emotion
        The corpus's emotion class.
    """

    id: str
    duration: float
    wav: str | Path
    spk_id: str
    gender: str
    labels: tuple[float, float, float] | None
    transcript: str | None
    emotion: str


@dataclass
class Manifest:
    """One split, read by `read_manifest`.

    Parameters
    ----------
    name
        The split: ``"train"``, ``"valid"``, ``"test"``, ``"test1"``, ...; or `UNRATED`.
    path
        The CSV.
    fingerprint
        SHA-256 of the CSV's bytes, in hexadecimal.
    utterances
        ID → row, fit for `speechbrain.dataio.dataset.DynamicItemDataset`: ``duration`` and the three labels
        are float (NaN where the set is unlabelled), ``wav`` is an absolute path, ``spk_id`` is ``"Unknown"``
        where nobody knows, ``transcript`` is ``""`` where missing, the rest are str.
    missing_transcripts
        IDs that nobody transcribed.
    label_range
        The lowest and the highest label on the corpus's scale; None for a CSV that no prepare script wrote.
    data_root
        What ``$data_root`` in the CSV stands for.
    ratings
        By id, what each rater said (`ser_ts_lobes.data.ratings.read_ratings`); None where nobody has asked for it.
    emotion_classes
        Of the column ``emotion``, the classes that are learnt, in their order; none where nobody has asked for them.
    """

    name: str
    path: Path
    fingerprint: str
    utterances: dict[str, dict[str, Any]]
    missing_transcripts: frozenset[str]
    label_range: tuple[float, float] | None
    data_root: str | None
    ratings: dict[str, Any] | None = None
    emotion_classes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether there are labels: all utterances of a manifest have some, or none has."""
        return not any(math.isnan(row[DIMENSIONS[0]]) for row in self.utterances.values())

    @cached_property
    def audio_fingerprint(self) -> str:
        """SHA-256 of what a system that only hears can see: where the audio is, speakers, labels."""
        return self._digest("wav", "duration", "spk_id", *DIMENSIONS)

    @cached_property
    def text_fingerprint(self) -> str:
        """SHA-256 of the transcripts."""
        return self._digest("transcript")

    def fingerprints(self, reads: bool) -> dict[str, str]:
        """Return what a system sees of this split by name; transcripts only count for one that reads."""
        seen = {self.name: self.audio_fingerprint}
        if reads:
            seen[f"{self.name}_transcripts"] = self.text_fingerprint
        if self.ratings is not None:
            seen[f"{self.name}_ratings"] = hashlib.sha256(json.dumps(self.ratings).encode()).hexdigest()
        if self.emotion_classes:
            seen[f"{self.name}_emotions"] = self._digest("emotion")
        return seen

    def _digest(self, *columns):
        root = self.data_root or ""  # a corpus that has moved is the same
        rows = [
            [id, *(str(row[column]).removeprefix(root) for column in columns)] for id, row in self.utterances.items()
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def labels(self) -> np.ndarray:
        """Return the labels as a float64 array of shape (utterances, 3), in the order of the rows.

        Raises
        ------
        InputError
            When the manifest is unlabelled.
        """
        if not self.labelled:
            raise InputError(f"{self.path} has no labels: its utterances can be predicted, but not scored.")
        return np.array([[row[name] for name in DIMENSIONS] for row in self.utterances.values()], dtype=np.float64)

    def emotions(self) -> np.ndarray:
        """Return each utterance's place in `emotion_classes`, int64 of shape (utterances,), in the order of the rows.

        It is -1 where the utterance is of none of them, such as one on which the raters did not agree.
        """
        places = {name: place for place, name in enumerate(self.emotion_classes)}
        return np.array([places.get(row["emotion"], -1) for row in self.utterances.values()], dtype=np.int64)

    def require_emotions(self) -> None:
        """Raise `InputError` when no utterance is of one of `emotion_classes`."""
        there = Counter(row["emotion"] for row in self.utterances.values())
        missing = [name for name in self.emotion_classes if not there[name]]
        if missing:
            known = first_few([f"{name} ({n})" for name, n in sorted(there.items()) if name], 20) or "none"
            raise InputError(
                f"{self.path}: no utterance is of emotion class {first_few(missing)}; its column emotion has {known}. "
                "Name what is to be learnt by --emotion_classes, or give --emotion_weight=0."
            )

    def require_transcripts(self) -> None:
        """Raise `InputError` when an utterance has not been transcribed."""
        if self.missing_transcripts:
            first = next(id for id in self.utterances if id in self.missing_transcripts)
            raise InputError(
                f"{self.path.name}: {len(self.missing_transcripts)} of {len(self.utterances)} utterances "
                f"have no transcript (first: {first}). Complete the corpus's own transcripts or, where its recipe "
                f"takes a recogniser's, run `ser-ts transcribe {self.path.parent}`; then this command again."
            )


def write_manifests(
    folder: str | Path,
    splits: dict[str, list[Utterance]],
    data_root: str | Path,
    inputs_fingerprint: str,
    label_range: tuple[float, ...],
    side_files: Iterable[str | Path] = (),
) -> dict[str, Path]:
    """Validate a corpus and write its manifests.

    Each file appears whole or not at all, and the sidecar comes last, so that a folder whose preparation was
    cut short is never taken for a prepared one. CSVs of an earlier preparation whose split is gone are
    removed. Whitespace in text columns becomes single spaces. Speakers that are in more than one of train,
    valid and test are a warning.

    Parameters
    ----------
    folder
        Where to write; made when it does not exist.
    splits
        Names are ``"train"``, ``"valid"``, ``"test"``, ``"test1"``, ``"test2"``, ...
    data_root
        The corpus folder; the CSVs name audio relative to it.
    inputs_fingerprint
        Of everything that the manifests are made from (`fingerprint_files`), for `is_prepared`.
    label_range
        The lowest and the highest label that the corpus's scale allows.
    side_files
        What else the preparation has written (``excluded.csv``, ...), without which it isn't up to date.

    Returns
    -------
    dict of str to Path
        The CSV of each split, in the order of `find_manifests`.

    Raises
    ------
    InputError
        For an empty split, an id that is not unique or holds surplus whitespace, a label outside
        ``label_range``, labels missing anywhere but in a whole test set, a duration that is not positive, or
        audio outside ``data_root``.
    """
    folder = Path(folder)
    data_root = os.path.abspath(data_root)
    splits = {name: splits[name] for name in sorted(splits, key=_split_order)}
    _validate(splits, label_range)
    _warn_shared_speakers(splits)

    make_folder(folder)
    entries: dict[str, dict[str, Any]] = {}
    for name, utterances in splits.items():
        rows = (_csv_row(utterance, data_root) for utterance in utterances)
        missing = [utterance.id for utterance in utterances if utterance.transcript is None]
        entries[name] = {
            "file": f"{name}.csv",
            "sha256": write_csv(folder / f"{name}.csv", COLUMNS, rows),
            "utterances": len(utterances),
            "speakers": len({known_speaker(utterance.spk_id) for utterance in utterances} - {UNKNOWN_SPEAKER}),
            "hours": round(sum(utterance.duration for utterance in utterances) / 3600, 4),
            "missing_transcripts": missing,
        }
        logger.info(
            f"{name}: {len(utterances)} utterances, {entries[name]['speakers']} known speakers, "
            f"{entries[name]['hours']:.2f} h, {len(missing)} without a transcript"
            f"{', all without labels' if utterances[0].labels is None else ''}."
        )

    for stale in _earlier_files(folder) - {entry["file"] for entry in entries.values()}:
        (folder / stale).unlink(missing_ok=True)
    sidecar = {
        "inputs_fingerprint": inputs_fingerprint,
        "code_version": __version__,
        "data_root": data_root,
        "label_range": [float(bound) for bound in label_range],
        "splits": entries,
        "side_files": {os.path.relpath(file, folder): fingerprint_file(file) for file in side_files},
    }
    with replacing(folder / SIDECAR) as temporary:
        temporary.write_text(json.dumps(seal(sidecar), indent=2) + "\n", encoding="utf-8")
    return {name: folder / entry["file"] for name, entry in entries.items()}


def read_manifest(path: str | Path, data_root: str | Path | None = None) -> Manifest:
    """Read one split, whether a prepare script or a person wrote it.

    A file whose label cells are all empty is an unlabelled set (`Manifest.labelled`). A person's own CSV has no
    entry in a ``manifests.json``: an empty transcript then counts as missing, and ``label_range`` is None. Paths
    that neither start with ``$data_root`` nor are absolute are relative to the working directory, as in
    SpeechBrain.

    Parameters
    ----------
    path
        The CSV, with at least `COLUMNS`.
    data_root
        What ``$data_root`` stands for; by default what it stood for when the corpus was prepared.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        When the file is missing, was edited after preparation, has no utterances, lacks a column, repeats an
        id, or holds something else where a number must be (with its line), when a duration is not positive, or when
        ``$data_root`` occurs and nothing says what it is.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist. Prepare the corpus first, or name a manifest that exists.")
    fingerprint = fingerprint_file(path)
    sidecar = _read_sidecar(path.parent)
    entry = sidecar["splits"].get(path.stem) if sidecar else None
    if entry and entry["sha256"] != fingerprint:
        raise InputError(
            f"{path} was edited after preparation. Prepare the corpus again, or delete "
            f"{path.with_name(SIDECAR)} to use the file as it is."
        )
    if entry and data_root is None:
        data_root = sidecar["data_root"]
    utterances = _read_utterances(path, data_root)
    missing = entry["missing_transcripts"] if entry else [id for id, row in utterances.items() if not row["transcript"]]
    return Manifest(
        name=path.stem,
        path=path,
        fingerprint=fingerprint,
        utterances=utterances,
        missing_transcripts=frozenset(missing),
        label_range=tuple(sidecar["label_range"]) if entry else None,
        data_root=None if data_root is None else os.path.abspath(data_root),
    )


def read_unrated(path: str | Path, splits: Iterable[Manifest] = ()) -> Manifest:
    """Read a manifest of speech to teach on without ratings; ratings that are there are not read.

    Parameters
    ----------
    path
        A CSV as for `read_manifest`, such as `ser_ts_lobes.data.transcribed.prepare_transcribed_speech` writes.
    splits
        Of the corpus that is taught on beside. Recordings of its training set are left out: they are rated.

    Returns
    -------
    Manifest
        Its name is `UNRATED`, and its labels are NaN.

    Raises
    ------
    InputError
        As of `read_manifest`, and if a recording of it validates or tests, or none is left.
    """
    manifest = read_manifest(path)
    rated: set[str] = set()
    held_out: set[str] = set()
    for split in splits:
        (rated if split.name == "train" else held_out).update(map(_audio_path, split.utterances.values()))
    paths = {id: _audio_path(row) for id, row in manifest.utterances.items()}
    shared = [id for id, audio in paths.items() if audio in held_out]
    if shared:
        raise InputError(
            f"{path}: {len(shared)} of {len(paths)} recordings are of the sets that validate and test (first: "
            f"{shared[0]}). What a teacher says of them must not be learnt: leave them out."
        )
    no_labels = dict.fromkeys(DIMENSIONS, math.nan)
    utterances = {id: row | no_labels for id, row in manifest.utterances.items() if paths[id] not in rated}
    if not utterances:
        raise InputError(f"{path}: all {len(paths)} recordings are of the training set, which is rated: name others.")
    if len(utterances) < len(paths):
        logger.info(f"{path}: {len(paths) - len(utterances)} of {len(paths)} recordings are rated, and left out.")
    missing = manifest.missing_transcripts & utterances.keys()
    return replace(manifest, name=UNRATED, utterances=utterances, missing_transcripts=missing)


def _audio_path(row):
    return os.path.abspath(row["wav"])


def find_manifests(folder: str | Path) -> dict[str, Path]:
    """Find the splits of a prepared folder.

    Parameters
    ----------
    folder
        A folder that a prepare script wrote.

    Returns
    -------
    dict of str to Path
        The CSV of each split, in the order train, valid, test, test1, test2, ...

    Raises
    ------
    InputError
        When there is none.
    """
    paths = [path for path in Path(folder).glob("*.csv") if SPLIT_NAME.fullmatch(path.stem)]
    if not paths:
        raise InputError(
            f"{folder} has no manifests (train.csv, valid.csv, test.csv, test1.csv, ...). Run the recipe's prepare "
            f"script first: `python <corpus>_prepare.py DATA_FOLDER {folder}`."
        )
    return {path.stem: path for path in sorted(paths, key=lambda path: _split_order(path.stem))}


def find_side_file(folder: str | Path, name: str) -> Path | None:
    """Find what a preparation has written beside the manifests.

    Parameters
    ----------
    folder
        Of the manifests.
    name
        Of the file.

    Returns
    -------
    Path or None
        Where it is, in this folder or, for one of several folds, above; None if the preparation has not written it.

    Raises
    ------
    InputError
        If it was edited or removed after preparation.
    """
    sidecar = _read_sidecar(Path(folder))
    if not sidecar:  # manifests of a person's own
        path = Path(folder) / name
        return path if path.is_file() else None
    for file, sha256 in sidecar.get("side_files", {}).items():
        if Path(file).name == name:
            path = Path(folder) / file
            if not path.is_file() or fingerprint_file(path) != sha256:
                raise InputError(f"{path} was edited or removed after preparation. Prepare the corpus again.")
            return path
    return None


def is_prepared(folder: str | Path, inputs_fingerprint: str) -> bool:
    """Say whether a folder's files are whole, unedited, and made from these inputs by this version."""
    try:
        sidecar = _read_sidecar(Path(folder))
    except InputError:
        return False
    if not sidecar:
        return False
    if (sidecar["inputs_fingerprint"], sidecar["code_version"]) != (inputs_fingerprint, __version__):
        return False
    files = [(Path(folder) / entry["file"], entry["sha256"]) for entry in sidecar["splits"].values()]
    files += [(Path(folder) / name, sha256) for name, sha256 in sidecar.get("side_files", {}).items()]
    return all(file.is_file() and fingerprint_file(file) == sha256 for file, sha256 in files)


def known_speaker(spk_id: str) -> str:
    """Give a speaker's name on one line; `UNKNOWN_SPEAKER` for all that means that nobody knows.

    Example
    -------
    >>> [known_speaker(name) for name in ("7", " Anna  B", "unknown ", "nan", "")]
    ['7', 'Anna B', 'Unknown', 'Unknown', 'Unknown']
    """
    name = _one_line(spk_id)
    return UNKNOWN_SPEAKER if name.lower() in NO_SPEAKER else name


def _split_order(name):
    """Sort train, valid, test, test1, ..., test10."""
    match = SPLIT_NAME.fullmatch(name)
    if not match:
        raise InputError(f"'{name}' is not the name of a split; use train, valid, test, test1, test2, ...")
    return ("train", "valid").index(name) if match[1] is None else 2 + int(match[1] or 0)


def _validate(splits, label_range):
    low, high = label_range
    split_of: dict[str, str] = {}
    for name, utterances in splits.items():
        if not utterances:
            raise InputError(f"{name} has no utterances.")
        unlabelled = name.startswith("test") and utterances[0].labels is None
        for utterance in utterances:
            id = utterance.id
            if not id or id != _one_line(id):
                raise InputError(f"{name}: the id {id!r} is empty or has whitespace at an end or other than a space.")
            if id in split_of:
                raise InputError(f"The id {id} occurs twice (in {split_of[id]} and in {name}).")
            split_of[id] = name
            if not (math.isfinite(utterance.duration) and utterance.duration > 0):
                raise InputError(f"{name}, {id}: a duration of {utterance.duration} s is not positive.")
            if (utterance.labels is None) != unlabelled:
                raise InputError(f"{name}, {id}: only a test set can be without labels, and only as a whole.")
            for dimension, label in zip(DIMENSIONS, utterance.labels or (), strict=not unlabelled):
                if not low <= label <= high:
                    raise InputError(f"{name}, {id}: {dimension} {label} is not within {low:g} to {high:g}.")


def _warn_shared_speakers(splits):
    """Warn of speakers shared by train, valid and the test sets: results there say little of new speakers."""
    parts: dict[str, Counter[str]] = {}
    for name, utterances in splits.items():
        speakers = parts.setdefault(re.sub(r"\d", "", name), Counter())
        speakers.update(known_speaker(utterance.spk_id) for utterance in utterances)
    for (part, here), (other, there) in itertools.combinations(parts.items(), 2):
        shared = sorted((here.keys() & there.keys()) - {UNKNOWN_SPEAKER})
        if shared:
            counts = [f"{speaker} ({here[speaker]} and {there[speaker]} utterances)" for speaker in shared]
            logger.warning(f"Speakers in both {part} and {other} ({len(shared)}): {first_few(counts, 10)}.")


def _csv_row(utterance, data_root):
    """Make the values of one row, in the order of `COLUMNS`; floats read back the same."""
    wav, root = os.path.abspath(utterance.wav), os.path.join(data_root, "")
    if not wav.startswith(root):
        raise InputError(f"The audio of {utterance.id}, {utterance.wav}, is not under {data_root}.")
    return (
        utterance.id,
        repr(float(utterance.duration)),
        f"{ROOT_VARIABLE}/{wav.removeprefix(root)}",
        known_speaker(utterance.spk_id),
        _one_line(utterance.gender),
        *([""] * len(DIMENSIONS) if utterance.labels is None else [repr(float(label)) for label in utterance.labels]),
        _one_line(utterance.transcript or ""),
        _one_line(utterance.emotion),
    )


def _one_line(text):
    """Make whitespace single spaces: a row is a line, and SpeechBrain's CSV reader drops leading blanks anyway."""
    return " ".join(text.split())


def _read_utterances(path, data_root):
    """Read the rows of a manifest by id, with numbers for numbers and absolute paths."""
    utterances = {}
    labelled = None
    for line, row in read_rows(path, COLUMNS, key="ID"):
        id = row.pop("ID")
        where = f"{path}, line {line}"
        row["duration"] = _parse_number(row, "duration", id, where)
        if row["duration"] <= 0:
            raise InputError(f"{where}: the duration of {id} is {row['duration']:g} s, which is not positive.")
        has_labels = any(row[name] for name in DIMENSIONS)
        if labelled not in (None, has_labels):
            raise InputError(
                f"{where}: {id} has {'' if has_labels else 'no '}labels, unlike the rows above. Label all or none."
            )
        labelled = has_labels
        row.update({name: _parse_number(row, name, id, where) if labelled else math.nan for name in DIMENSIONS})
        if row["wav"].startswith(ROOT_VARIABLE):
            if data_root is None:
                raise InputError(f"{where}: the audio of {id} is {row['wav']}, but no data_root was given. Give it.")
            row["wav"] = f"{data_root}{row['wav'].removeprefix(ROOT_VARIABLE)}"
        row["wav"] = os.path.abspath(row["wav"])
        row["spk_id"] = known_speaker(row["spk_id"])
        utterances[id] = row
    if not utterances:
        raise InputError(f"{path} has no utterances.")
    return utterances


def _parse_number(row, column, id, where):
    """Read one number of a manifest."""
    number = parse_number(row[column])
    if number is None:
        raise InputError(f"{where}: the {column} of {id} is {reprlib.repr(row[column])}, not a number.")
    return number


def _read_sidecar(folder):
    """Read a folder's sidecar, or return None when it has none."""
    path = folder / SIDECAR
    try:
        sidecar = parse_json(path.read_text(encoding="utf-8"), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (InputError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}). Prepare the corpus again.") from error
    if not _is_sidecar(sidecar):
        raise InputError(f"{path} is damaged (not what `write_manifests` writes). Prepare the corpus again.")
    return sidecar


def _is_sidecar(content):
    """Say whether parsed JSON is what `write_manifests` writes: its shape and, but for one of before, all values."""

    def has(mapping, types):
        return isinstance(mapping, dict) and all(isinstance(mapping.get(key), kind) for key, kind in types.items())

    return (
        has(content, _SIDECAR_TYPES)
        and isinstance(content.get("side_files", {}), dict)  # those of before have none
        and len(content["label_range"]) == 2
        and all(type(bound) in (int, float) for bound in content["label_range"])
        and all(has(entry, _ENTRY_TYPES) for entry in content["splits"].values())
        # What is named here may be deleted.
        and all(
            SPLIT_NAME.fullmatch(name) and entry["file"] == f"{name}.csv" for name, entry in content["splits"].items()
        )
        and all(isinstance(id, str) for entry in content["splits"].values() for id in entry["missing_transcripts"])
        and is_intact(content)
    )


def _earlier_files(folder):
    """Name the CSVs that the last preparation wrote here."""
    try:
        sidecar = _read_sidecar(folder)
    except InputError:  # Preparing again is what the damaged file asks for.
        return set()
    return {entry["file"] for entry in sidecar["splits"].values()} if sidecar else set()
