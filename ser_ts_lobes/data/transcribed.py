"""Transcribed speech that nobody rated: folders and manifests of it, as one corpus to learn words from."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from ser_ts_lobes import UNKNOWN_SPEAKER
from ser_ts_lobes.data.audio import AUDIO_SUFFIXES, inspect_audio
from ser_ts_lobes.data.manifests import COLUMNS, read_manifest
from ser_ts_lobes.data.preparation import choose_validating
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import make_folder, map_files, walk_files
from ser_ts_lobes.text_files import read_lines, write_csv

logger = logging.getLogger(__name__)

_LABELS = ("", "", "")


def prepare_transcribed_speech(
    sources: Sequence[str | Path],
    manifest_folder: str | Path,
    valid_share: float,
    max_duration_s: float,
    skip_prep: bool = False,
) -> None:
    """Write ``train.csv`` and ``valid.csv``, manifests without labels, of all speech whose words are known.

    Of a folder, each audio file at any depth counts that has a transcript: a text file of the same name (``a.wav`` and
    ``a.txt``) anywhere in the folder. Of a manifest, each utterance that has one. Audio that can't be used, is longer
    than wanted or has no words is left out, and counted in the log. What is said decides which utterances validate,
    so that no sentence is heard in training and in validation, and the choice stays the same when others are added.

    Parameters
    ----------
    sources
        Folders, and manifests (CSV) that a prepare script or a person wrote.
    manifest_folder
        Made when it isn't there.
    valid_share
        Share of the sentences that validate, in 0-1; one at least does, and one at least does not.
    max_duration_s
        Longer utterances are left out.
    skip_prep
        Whether to leave everything as it is.

    Raises
    ------
    InputError
        If a source is not there, an id is in two of them, or fewer than two sentences remain.

    Example
    -------
    >>> import numpy, soundfile
    >>> folder = getfixture("tmp_path")
    >>> for name, words in {"a": "good day", "b": "good night", "c": "good morning"}.items():
    ...     soundfile.write(folder / f"{name}.wav", numpy.ones(16000), 16000)
    ...     _ = (folder / f"{name}.txt").write_text(words)
    >>> prepare_transcribed_speech([folder], folder / "manifests", valid_share=0.02, max_duration_s=30)
    >>> len((folder / "manifests" / "train.csv").read_text().splitlines())  # with the header
    3
    """
    if skip_prep:
        return
    rows: dict[str, tuple[float, str, str]] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise InputError(f"{source} does not exist: name folders of transcribed speech, or manifests.")
        found = dict(_of_folder(source, max_duration_s) if source.is_dir() else _of_manifest(source, max_duration_s))
        both = next(iter(rows.keys() & found.keys()), None)
        if both is not None:
            raise InputError(f"{source} has an utterance {both}, and so has an earlier source: rename one of them.")
        rows |= found
    sentences = {text.lower() for _, _, text in rows.values()}
    if len(sentences) < 2:
        raise InputError(
            f"{', '.join(map(str, sources))}: {len(sentences)} sentences of at most {max_duration_s:g} s were found, "
            "and one to train and one to validate are needed."
        )
    validating = choose_validating(sentences, valid_share)
    make_folder(manifest_folder)
    for name, wanted in (("train", False), ("valid", True)):
        part = [
            (id, duration, wav, UNKNOWN_SPEAKER, "Unknown", *_LABELS, text, "")
            for id, (duration, wav, text) in sorted(rows.items())
            if (text.lower() in validating) == wanted
        ]
        write_csv(Path(manifest_folder) / f"{name}.csv", COLUMNS, part)
        hours = sum(row[1] for row in part) / 3600
        logger.info(f"{name}: {len(part)} utterances of transcribed speech, {hours:.2f} h.")


def _has_words(text: str) -> bool:
    return any(char.isalnum() for char in text)


def _of_folder(root: Path, max_duration_s: float) -> Iterable[tuple[str, tuple[float, str, str]]]:
    names = sorted(name for name, _ in walk_files(root))
    texts: dict[str, str] = {}
    for name in names:
        if name.lower().endswith(".txt"):
            stem = Path(name).stem
            if stem in texts:
                raise InputError(f"{root} has two transcripts of {stem}: {texts[stem]} and {name}; keep one.")
            texts[stem] = name
    spoken = [name for name in names if name.lower().endswith(AUDIO_SUFFIXES)]
    transcribed = [name for name in spoken if Path(name).stem in texts]
    if not transcribed:
        raise InputError(
            f"{root} has {len(spoken)} audio files and no transcript of any: a text file of the same name is needed, "
            "such as a.txt for a.wav."
        )
    kept = 0
    headers = map_files(inspect_audio, [root / name for name in transcribed])
    for name, header in zip(transcribed, headers, strict=True):
        text = " ".join(" ".join(line for _, line in read_lines(root / texts[Path(name).stem])).split())
        if header.problem is None and header.duration <= max_duration_s and _has_words(text):
            kept += 1
            yield name, (header.duration, str((root / name).absolute()), text)
    _report(root, len(spoken), kept, max_duration_s)


def _of_manifest(path: Path, max_duration_s: float) -> Iterable[tuple[str, tuple[float, str, str]]]:
    utterances = read_manifest(path).utterances
    kept = 0
    for id, row in utterances.items():
        if _has_words(row["transcript"]) and row["duration"] <= max_duration_s:
            kept += 1
            yield id, (row["duration"], row["wav"], row["transcript"])
    _report(path, len(utterances), kept, max_duration_s)


def _report(source: Path, n_found: int, n_kept: int, max_duration_s: float) -> None:
    if n_kept < n_found:
        logger.warning(
            f"{n_found - n_kept} of {n_found} utterances in {source} are left out: they have no words, can't be used "
            f"or are longer than {max_duration_s:g} s."
        )
