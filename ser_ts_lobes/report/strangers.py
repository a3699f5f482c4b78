"""CSVs that somebody else wrote: predictions, and what is known of utterances."""

import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ser_ts_lobes import DIMENSIONS, UNKNOWN_SPEAKER
from ser_ts_lobes.data.manifests import known_speaker
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.text_files import parse_number, read_rows

# What a column may be called, whatever its case: as in our manifests, as in label files of releases, as elsewhere.
_NAMES = {
    "id": ("id", "filename", "file", "file_name"),
    "activation": ("activation", "emoact", "arousal"),
    "valence": ("valence", "emoval"),
    "dominance": ("dominance", "emodom"),
    **{f"label_{dimension}": (f"label_{dimension}",) for dimension in DIMENSIONS},
    "spk_id": ("spk_id", "spkrid", "speaker"),
    "gender": ("gender",),
    "duration": ("duration",),
    "emotion": ("emotion", "emoclass"),
    "split": ("split", "split_set"),
}
_LABELS = tuple(f"label_{dimension}" for dimension in DIMENSIONS)


class Facts(NamedTuple):
    """What is known of an utterance; what nobody says is None (the speaker: Unknown).

    Attributes
    ----------
    label
        Activation, valence, dominance.
    speaker
        As in manifests.
    gender
        As the corpus says it.
    duration
        Seconds.
    emotion
        The corpus's class.
    split
        The part of the corpus that it is in.
    """

    label: tuple[float, ...] | None
    speaker: str
    gender: str | None
    duration: float | None
    emotion: str | None
    split: str | None


class Row(NamedTuple):
    """A row of predictions.

    Attributes
    ----------
    id
        Of the utterance, as of `utterance_id`.
    line
        Of the file.
    split
        Empty where the file has no such column.
    prediction
        Activation, valence, dominance.
    label
        Of the same, if the file has it.
    speaker
        If the file has it.
    """

    id: str
    line: int
    split: str
    prediction: tuple[float, ...]
    label: tuple[float, ...] | None
    speaker: str | None


def utterance_id(name: str) -> str:
    """Name an utterance by its file: without folders and ``.wav``.

    Example
    -------
    >>> utterance_id(" Audios/MSP-PODCAST_0001_0008.wav"), utterance_id("Ses01F_impro01_F000")
    ('MSP-PODCAST_0001_0008', 'Ses01F_impro01_F000')
    """
    name = name.strip().replace("\\", "/").rpartition("/")[2]
    return name[:-4] if name.lower().endswith(".wav") else name


def read_predictions(path: str | Path) -> list[Row]:
    """Read predictions that anybody may have written.

    Parameters
    ----------
    path
        A CSV with an id (or FileName), activation, valence and dominance (or EmoAct, EmoVal, EmoDom), and perhaps
        label_activation, label_valence, label_dominance, spk_id and split.

    Returns
    -------
    list[Row]

    Raises
    ------
    InputError
        If a column lacks, an utterance is there twice, or something else than a number stands where one must.
    """
    rows = []
    for line, id, row in _read(path, ("id", *DIMENSIONS)):
        prediction = _numbers(path, line, id, row, DIMENSIONS)
        assert prediction is not None
        label = _numbers(path, line, id, row, _LABELS) if any(row.get(name) for name in _LABELS) else None
        speaker = known_speaker(row["spk_id"]) if "spk_id" in row else None
        rows.append(Row(id, line, row.get("split", "").strip(), prediction, label, speaker))
    return rows


def read_facts(paths: Iterable[str | Path]) -> dict[str, Facts]:
    """Read what is known of utterances: our manifests, MSP-Podcast's labels_consensus.csv, or a CSV like them.

    Parameters
    ----------
    paths
        CSVs with an id (ID or FileName), activation, valence and dominance, and perhaps spk_id, gender, duration,
        emotion and split. Rows without labels are read too.

    Returns
    -------
    dict[str, Facts]
        By utterance.

    Raises
    ------
    InputError
        As `read_predictions`, or if two files have the same utterance.
    """
    facts: dict[str, Facts] = {}
    for path in paths:
        for line, id, row in _read(path, ("id", *DIMENSIONS)):
            if id in facts:
                raise InputError(f"{path}, line {line}: {id} is in another --labels file, too; keep one.")
            labelled = any(row[name].strip() for name in DIMENSIONS)
            facts[id] = Facts(
                _numbers(path, line, id, row, DIMENSIONS) if labelled else None,
                known_speaker(row["spk_id"]) if "spk_id" in row else UNKNOWN_SPEAKER,
                row.get("gender", "").strip() or None,
                parse_number(row.get("duration", "")),
                row.get("emotion", "").strip() or None,
                row.get("split", "").strip() or None,
            )
    return facts


def _read(path: str | Path, needed: tuple[str, ...]) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Give line, id and row of each utterance, by our names of the columns."""
    columns: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in read_rows(path, ()):
        columns = columns or _columns(path, row, needed)
        named = {name: row[column] for name, column in columns.items()}
        id = utterance_id(named["id"])
        if not id:
            raise InputError(f"{path}, line {line}: no {columns['id']}; name the utterance.")
        if (first := lines.setdefault(id, line)) != line:
            raise InputError(f"{path}, lines {first} and {line}: {id} occurs twice; keep one.")
        yield line, id, named
    if not lines:
        raise InputError(f"{path} has no utterances.")


def _columns(path: str | Path, row: dict[str, Any], needed: tuple[str, ...]) -> dict[str, str]:
    there = {column.strip().lower(): column for column in row}
    columns = {
        name: next(there[alias] for alias in aliases if alias in there)
        for name, aliases in _NAMES.items()
        if any(alias in there for alias in aliases)
    }
    if absent := [name for name in needed if name not in columns]:
        called = "; ".join(f"{name} (or {', '.join(_NAMES[name][1:])})" for name in absent)
        raise InputError(f"{path}, line 1: no column {called}; it has {', '.join(row)}.")
    return columns


def _numbers(path: str | Path, line: int, id: str, row: dict[str, str], names: tuple[str, ...]) -> tuple[float, ...]:
    numbers = []
    for name in names:
        number = parse_number(row.get(name, ""))
        if number is None:
            written = reprlib.repr(row.get(name, ""))
            raise InputError(f"{path}, line {line}: the {name} of {id} is {written}, not a number.")
        numbers.append(number)
    return tuple(numbers)
