"""Manifests: which utterances a corpus has, where their audio is, and what was labelled.

A prepared folder holds one CSV a split (``train.csv``, ``valid.csv``, ``test.csv`` or ``test1.csv``, ...)
and a sidecar, ``manifests.json``, with the SHA-256 of each CSV and the fingerprint of the files that they
were made from. Nothing here knows a corpus: a recipe's ``*_prepare.py`` reads its corpus and calls
`write_manifests`; everything else calls `read_manifest`.
"""

import csv
import functools
import hashlib
import io
import itertools
import json
import logging
import math
import os
import re
import reprlib
import stat
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ser_ts_lobes import DIMENSIONS, __version__
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import replacing
from ser_ts_lobes.results.metrics import UNKNOWN_SPEAKER

logger = logging.getLogger(__name__)

#: The columns of a manifest, in their order in the file.
COLUMNS = ("ID", "duration", "wav", "spk_id", "gender", *DIMENSIONS, "transcript", "emotion")

#: The columns of transcripts.csv, which `ser-ts transcribe` writes and preparation reads.
TRANSCRIPT_COLUMNS = ("ID", "transcript", "model", "revision")

SIDECAR = "manifests.json"
ROOT_VARIABLE = "$data_root"
SPLIT_NAME = re.compile(r"train|valid|test(\d{0,9})")

# What is read of the sidecar.
_SIDECAR_TYPES = {"inputs_fingerprint": str, "code_version": str, "data_root": str, "label_range": list, "splits": dict}
_ENTRY_TYPES = {"file": str, "sha256": str, "missing_transcripts": list}

# What stands for nobody in the files of corpora and of the programs that export them (pandas writes nan, JSON null).
NO_SPEAKER = ("", "unknown", "nan", "null", "none")
# Python's float also takes 0_5 for 5, ٣ for 3, and nan and inf, which are no labels.
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


@dataclass(slots=True)
class Utterance:
    """One utterance.

    Arguments
    ---------
    id : str
        Unique in the corpus.
    duration : float
        Seconds.
    wav : str or Path
        Absolute path of the audio, somewhere under the manifest's ``data_root``.
    spk_id : str
        Speaker; ``"Unknown"`` (or what else `known_speaker` takes for it) where nobody knows, which is never taken for
        one speaker.
    gender : str
        As the corpus says it.
    labels : sequence of float, or None
        Activation, valence and dominance (the order of `DIMENSIONS`), on the corpus's scale; None for all
        utterances of a test set whose labels are kept secret.
    transcript : str or None
        The words; ``""`` when somebody listened and nothing was said, None when nobody transcribed it.
    emotion : str
        The corpus's emotion class, which no system here learns.
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

    Arguments
    ---------
    name : str
        The split: ``"train"``, ``"valid"``, ``"test"``, ``"test1"``, ...
    path : Path
        The CSV.
    fingerprint : str
        SHA-256 of the CSV's bytes, in hexadecimal.
    utterances : dict
        ID → row, fit for `speechbrain.dataio.dataset.DynamicItemDataset`: ``duration`` and the three labels
        are float (NaN where the set is unlabelled), ``wav`` is an absolute path, ``spk_id`` is ``"Unknown"``
        where nobody knows, ``transcript`` is ``""`` where missing, the rest are str.
    missing_transcripts : frozenset of str
        IDs that nobody transcribed.
    label_range : tuple of float, or None
        The lowest and the highest label on the corpus's scale; None for a CSV that no prepare script wrote.
    data_root : str or None
        What ``$data_root`` in the CSV stands for.
    """

    name: str
    path: Path
    fingerprint: str
    utterances: dict
    missing_transcripts: frozenset
    label_range: tuple[float, float] | None
    data_root: str | None

    @property
    def labelled(self):
        """Whether there are labels: all utterances of a manifest have some, or none has."""
        return not any(math.isnan(row[DIMENSIONS[0]]) for row in self.utterances.values())

    @cached_property
    def audio_fingerprint(self):
        """SHA-256 of what a system that only hears can see: where the audio is, speakers, labels."""
        return self._digest("wav", "duration", "spk_id", *DIMENSIONS)

    @cached_property
    def text_fingerprint(self):
        """SHA-256 of the transcripts."""
        return self._digest("transcript")

    def fingerprints(self, reads):
        """Return what a system sees of this split by name; transcripts only count for one that reads."""
        seen = {self.name: self.audio_fingerprint}
        return seen | {f"{self.name}_transcripts": self.text_fingerprint} if reads else seen

    def _digest(self, *columns):
        root = self.data_root or ""  # a corpus that has moved is the same
        rows = [
            [id, *(str(row[column]).removeprefix(root) for column in columns)] for id, row in self.utterances.items()
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def labels(self):
        """Return the labels as a float64 array of shape (utterances, 3), in the order of the rows.

        Raises
        ------
        InputError
            When the manifest is unlabelled.
        """
        if not self.labelled:
            raise InputError(f"{self.path} has no labels: its utterances can be predicted, but not scored.")
        return np.array([[row[name] for name in DIMENSIONS] for row in self.utterances.values()], dtype=np.float64)

    def require_transcripts(self):
        """Raise `InputError` when an utterance has not been transcribed."""
        if self.missing_transcripts:
            first = next(id for id in self.utterances if id in self.missing_transcripts)
            raise InputError(
                f"{self.path.name}: {len(self.missing_transcripts)} of {len(self.utterances)} utterances "
                f"have no transcript (first: {first}). Complete the corpus's own transcripts or, on MSP-Podcast, run "
                f"`ser-ts transcribe {self.path.parent}`; then this command again."
            )


def write_manifests(folder, splits, data_root, inputs_fingerprint, label_range, side_files=()):
    """Validate a corpus and write its manifests.

    Each file appears whole or not at all, and the sidecar comes last, so that a folder whose preparation was
    cut short is never taken for a prepared one. CSVs of an earlier preparation whose split is gone are
    removed. Whitespace in text columns becomes single spaces. Speakers that are in more than one of train,
    valid and test are a warning.

    Arguments
    ---------
    folder : str or Path
        Where to write; made when it does not exist.
    splits : dict of str to list of Utterance
        Names are ``"train"``, ``"valid"``, ``"test"``, ``"test1"``, ``"test2"``, ...
    data_root : str or Path
        The corpus folder; the CSVs name audio relative to it.
    inputs_fingerprint : str
        Of everything that the manifests are made from (`fingerprint_files`), for `is_prepared`.
    label_range : tuple of float
        The lowest and the highest label that the corpus's scale allows.
    side_files : iterable of str or Path
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
    entries = {}
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
        "side_files": {os.path.relpath(file, folder): _sha256(file) for file in side_files},
    }
    with replacing(folder / SIDECAR) as temporary:
        temporary.write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    return {name: folder / entry["file"] for name, entry in entries.items()}


def read_manifest(path, data_root=None):
    """Read one split, whether a prepare script or a person wrote it.

    A file whose label cells are all empty is an unlabelled set (`Manifest.labelled`). A person's own CSV has no
    entry in a ``manifests.json``: an empty transcript then counts as missing, and ``label_range`` is None. Paths
    that neither start with ``$data_root`` nor are absolute are relative to the working directory, as in
    SpeechBrain.

    Arguments
    ---------
    path : str or Path
        The CSV, with at least `COLUMNS`.
    data_root : str or Path, optional
        What ``$data_root`` stands for; by default what it stood for when the corpus was prepared.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        When the file is missing, was edited after preparation, has no utterances, lacks a column, repeats an
        id, or holds something else where a number must be (with its line), or when ``$data_root`` occurs and
        nothing says what it is.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist. Prepare the corpus first, or name a manifest that exists.")
    fingerprint = _sha256(path)
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


def find_manifests(folder):
    """Find the splits of a prepared folder.

    Arguments
    ---------
    folder : str or Path
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
            f"{folder} has no manifests (train.csv, valid.csv, test.csv, test1.csv, ...). Run the corpus's "
            f"prepare script first, such as `python msp_podcast_prepare.py DATA_FOLDER {folder}`."
        )
    return {path.stem: path for path in sorted(paths, key=lambda path: _split_order(path.stem))}


def is_prepared(folder, inputs_fingerprint):
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
    return all(file.is_file() and _sha256(file) == sha256 for file, sha256 in files)


def fingerprint_files(paths, **options):
    """Digest the inputs of a preparation, so that a change of any of them is noticed.

    A file counts with its content: label files are small, and a copy with another date must not matter. A
    folder, whose audio is too much to read, counts with the relative name, size and modification time of each
    file under it.

    Arguments
    ---------
    paths : iterable of str or Path
        Files and folders that exist.
    **options
        Anything else that the result depends on, fit for JSON.

    Returns
    -------
    str
        SHA-256 in hexadecimal.

    Raises
    ------
    InputError
        When a path does not exist.

    Example
    -------
    >>> from pathlib import Path
    >>> labels = Path(getfixture("tmp_path")) / "labels.csv"
    >>> _ = labels.write_text("FileName")
    >>> fingerprint_files([labels], data_folder="/data") == fingerprint_files([labels], data_folder="/data")
    True
    >>> fingerprint_files([labels], data_folder="/data") == fingerprint_files([labels], data_folder="/other")
    False
    """
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for path in map(Path, paths):
        if path.is_dir():
            content = sorted(
                f"{name}/{status and (status.st_size, status.st_mtime_ns)}" for name, status in walk_files(path)
            )
        elif path.is_file():
            content = _sha256(path)
        else:
            raise InputError(f"{path} does not exist.")
        digest.update(json.dumps([path.name, content]).encode())
    return digest.hexdigest()


def walk_files(folder):
    """Find all files under a folder, in no order.

    Links are followed, but not round in circles.

    Parameters
    ----------
    folder : str or pathlib.Path
        The folder.

    Yields
    ------
    tuple of str and os.stat_result or None
        The name relative to the folder, and the status; None for a link that leads nowhere.

    Raises
    ------
    InputError
        When a folder can't be read, or a name is not text in UTF-8, which is what manifests are written in.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "link.wav").symlink_to("nowhere.wav")
    >>> list(walk_files(folder))
    [('link.wav', None)]
    """
    pending = [(folder, "", ())]
    while pending:
        path, prefix, above = pending.pop()
        try:
            status = os.stat(path)
            identity = status.st_dev, status.st_ino
            entries = () if identity in above else os.scandir(path)  # no list: each keeps its status
            for entry in entries:
                name = prefix + entry.name
                try:
                    name.encode()
                    status = entry.stat()
                except UnicodeEncodeError:
                    named = os.fsencode(entry.name)
                    raise InputError(f"{path} has a file whose name is not UTF-8, {named}. Rename it.") from None
                except OSError:
                    status = None
                if status and stat.S_ISDIR(status.st_mode):
                    pending.append((entry.path, f"{name}/", (*above, identity)))
                else:
                    yield name, status
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror}.") from error


def make_folder(folder):
    """Make a folder, and those that it is in, where there is none yet; refuse one that can't be."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} can't be made ({error.strerror}). Name another one.") from error


def read_lines(path, warn_if_cut=False):
    """Read a text file in UTF-8 line by line, for readers that must say where something is wrong.

    A byte order mark and CRLF are fine.

    Arguments
    ---------
    path : str or Path
        The text file.
    warn_if_cut : bool
        Whether to warn of a last line without a line break, for formats whose lines don't show that they were cut.

    Yields
    ------
    tuple of int and str
        The number of the line, from 1, and the line with its line break.

    Raises
    ------
    InputError
        When the file can't be read, or a line is not UTF-8.
    """
    number, text = 0, "\n"
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {number}: not text in UTF-8 ({error.reason}). Save it as UTF-8.") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}.") from error
    if warn_if_cut and not text.endswith("\n"):
        logger.warning(f"{path}, line {number}: no line break at the end; is the file cut short?")


def read_rows(path, columns, key=None):
    """Read a CSV with a header, telling lines apart, for readers that must say where something is wrong.

    A byte order mark, CRLF, another order of the columns and further columns are all fine, and so are blanks around a
    key, which is given without them.

    Arguments
    ---------
    path : str or Path
        The CSV, in UTF-8.
    columns : iterable of str
        Columns that it must have.
    key : str, optional
        Column whose values must be unique.

    Yields
    ------
    tuple of int and dict
        The line of the file (the header is line 1), and the row with all its columns.

    Raises
    ------
    InputError
        When the file can't be read, lacks a column or has one twice, has a row of another length, or repeats a key.
    """
    lines_of_keys = {}
    reader = csv.DictReader(
        (text for _, text in read_lines(path, warn_if_cut=True)), skipinitialspace=True, strict=True
    )
    try:
        absent = [column for column in columns if column not in (reader.fieldnames or ())]
        if absent:
            raise InputError(
                f"{path}, line 1: no column {', '.join(absent)}; it must have {', '.join(columns)}, "
                f"separated by commas."
            )
        named = [name.strip() for name in reader.fieldnames or ()]
        if twice := sorted({name for name in named if name and named.count(name) > 1}):
            raise InputError(f"{path}, line 1: the column {', '.join(twice)} is there twice; keep one.")
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                raise InputError(f"{path}, line {line}: not the {len(reader.fieldnames)} values of the header.")
            if key:
                row[key] = row[key].strip()
            if key and (first := lines_of_keys.setdefault(row[key], line)) != line:
                raise InputError(f"{path}, lines {first} and {line}: {key} {row[key]} occurs twice; keep one.")
            yield line, row
    except csv.Error as error:
        # line_num is the end of the last good row.
        raise InputError(f"{path}, line {reader.line_num + 1}: not CSV ({error}).") from error


def parse_json(text, path, **options):
    """Parse JSON that somebody else may have written.

    Parameters
    ----------
    text : str
        The JSON.
    path : str or pathlib.Path
        Where it is from, for errors.
    **options
        Of `json.loads`.

    Returns
    -------
    dict, list, str, float, int, bool or None
        What it says.

    Raises
    ------
    InputError
        When it is not JSON, nested too deeply, or has an integer of thousands of digits.
    """
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as error:
        where, problem = f"{path}, line {error.lineno}", error.msg
    except RecursionError:
        where, problem = path, "nested too deeply"
    except InputError:  # of a hook among the options
        raise
    except ValueError:  # Python reads no integer of more than 4,300 digits
        where, problem = path, "a number has too many digits"
    raise InputError(f"{where}: not JSON that can be used ({problem}). Restore the file.")


@functools.lru_cache(4096)  # of millions of answers most are the same few
def parse_number(text):
    """Read a number that is written as people and programs write one; None for any other text.

    Example
    -------
    >>> parse_number("4.25"), parse_number("1e-05 ")
    (4.25, 1e-05)
    >>> [parse_number(text) for text in ("", "0_5", "nan", "inf", "9" * 5000)]
    [None, None, None, None, None]
    """
    text = text.strip()
    number = float(text) if NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def known_speaker(spk_id):
    """Give a speaker's name on one line; `UNKNOWN_SPEAKER` for all that means that nobody knows.

    Example
    -------
    >>> [known_speaker(name) for name in ("7", " Anna  B", "unknown ", "nan", "")]
    ['7', 'Anna B', 'Unknown', 'Unknown', 'Unknown']
    """
    name = _one_line(spk_id)
    return UNKNOWN_SPEAKER if name.lower() in NO_SPEAKER else name


def write_csv(path, columns, rows):
    """Write a CSV whole or not at all.

    Arguments
    ---------
    path : str or Path
        The file; its folder exists.
    columns : iterable of str
        The header.
    rows : iterable of sequence
        The values.

    Returns
    -------
    str
        SHA-256 of the file, in hexadecimal.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    try:
        content = text.getvalue().encode()
    except UnicodeEncodeError as error:  # JSON can name half a character
        near = error.object[max(0, error.start - 20) : error.end + 20]
        raise InputError(f"{path} can't be written: {near!r} is not text. Correct it where it is from.") from error
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def spelt_otherwise(folder, place):
    """Find a file that differs from the wanted one in upper and lower case, there or in a folder above it.

    Parameters
    ----------
    folder : Path
        Where to look.
    place : str or Path
        What is wanted and not there, relative to the folder.

    Returns
    -------
    Path or None
        What is there.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "labels").mkdir()
    >>> (folder / "labels" / "A.csv").touch()
    >>> spelt_otherwise(folder, "Labels/a.csv").relative_to(folder).as_posix()
    'labels/A.csv'
    """
    for part in Path(place).parts:
        names = [name for name in (os.listdir(folder) if folder.is_dir() else ()) if name.lower() == part.lower()]
        if not names:
            return None
        folder = folder / (part if part in names else names[0])
    return folder


def refuse_other_case(missing):
    """Refuse audio that is there under a name in other upper and lower case, as ``a.WAV`` for ``a.wav``.

    Parameters
    ----------
    missing : iterable of str or Path
        Files that the labels name and that are not there.
    """
    names = functools.cache(lambda folder: {name.lower(): name for name in os.listdir(folder)})
    found = []
    for folder, name in map(os.path.split, missing):
        there = names(folder).get(name.lower(), name) if os.path.isdir(folder) else name
        if there != name:
            found.append(f"{there} for {name}")
    if found:
        raise InputError(
            f"{len(found)} audio files in {folder} have names in other upper and lower case than the labels say: "
            f"{first_few(found)}. Rename them."
        )


def warn_contradicted(ids, labels, means, digits):
    """Warn of labels that are not the mean of what their own raters said.

    Parameters
    ----------
    ids : sequence of str
        The utterances.
    labels, means : array_like
        (utterances, 3) each; NaN where there are no raters.
    digits : int
        Decimals that the corpus prints: a label may be off by one unit of the last, whether it was rounded or cut.
    """
    labels, means = np.asarray(labels, dtype=float), np.asarray(means, dtype=float)
    # A float is a little off its decimals, too.
    rows, columns = np.nonzero(np.abs(labels - means) > 1.001 * 10.0**-digits)
    if len(rows):
        named = [
            f"{ids[row]} ({DIMENSIONS[column]} {labels[row, column]:g}, its raters' mean is {means[row, column]:g})"
            for row, column in zip(rows, columns, strict=True)
        ]
        logger.warning(f"{len(named)} labels are not the mean of what their raters said: {first_few(named)}.")


def first_few(names, number=3):
    """Name the first few of many.

    Example
    -------
    >>> first_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    >>> first_few(["a", "b"])
    'a, b'
    """
    names = list(names)
    rest = f" and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(names[:number]) + rest


def list_utterances(file, columns, rows, what):
    """List utterances in a CSV file, and warn of them where there are any.

    Parameters
    ----------
    file : str or pathlib.Path
        Is written with its header in any case, so that it never speaks of an earlier preparation.
    columns : sequence of str
        Its header; the first is the utterance id.
    rows : list of sequence
        One an utterance.
    what : str
        What is said of them in the warning.
    """
    write_csv(file, columns, rows)
    if rows:
        logger.warning(f"{what}: {first_few(row[0] for row in rows)}. All are listed in {file}.")


def _split_order(name):
    """Sort train, valid, test, test1, ..., test10."""
    match = SPLIT_NAME.fullmatch(name)
    if not match:
        raise InputError(f"'{name}' is not the name of a split; use train, valid, test, test1, test2, ...")
    return ("train", "valid").index(name) if match[1] is None else 2 + int(match[1] or 0)


def _validate(splits, label_range):
    low, high = label_range
    split_of = {}
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
    parts = {}
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
    """Say whether parsed JSON has the shape of what `write_manifests` writes."""

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
    )


def _earlier_files(folder):
    """Name the CSVs that the last preparation wrote here."""
    try:
        sidecar = _read_sidecar(folder)
    except InputError:  # Preparing again is what the damaged file asks for.
        return set()
    return {entry["file"] for entry in sidecar["splits"].values()} if sidecar else set()


def _sha256(path):
    digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
