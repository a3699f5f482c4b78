"""Prepare IEMOCAP: read the full release once and write the manifests of five folds.

    python iemocap_prepare.py DATA_FOLDER MANIFEST_FOLDER [--clip-labels]

DATA_FOLDER is the unpacked IEMOCAP_full_release, with Session1 to Session5:

    Session1/dialog/EmoEvaluation/<dialogue>.txt     labels of each utterance, then what each rater said
    Session1/dialog/transcriptions/<dialogue>.txt    what was said, by hand
    Session1/sentences/wav/<dialogue>/<id>.wav

MANIFEST_FOLDER gets raters.csv (how far the raters agreed), ratings.csv (what each said), excluded.csv, converted.csv,
and a folder a fold, fold1 to fold5: session k tests fold k, the next one (1 after 5) validates, the other three train.

The training scripts call `prepare_iemocap` themselves; run this one to see what a copy of the corpus holds before
training.
"""

import argparse
import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from speechbrain.utils.logger import get_logger

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.data import manifests
from ser_ts_lobes.data.preparation import inspect_files, list_utterances, warn_contradicted
from ser_ts_lobes.data.ratings import RATINGS_FILE, write_ratings
from ser_ts_lobes.errors import InputError, first_few, plain_errors
from ser_ts_lobes.files import make_folder
from ser_ts_lobes.fingerprint import fingerprint_files
from ser_ts_lobes.text_files import parse_number, read_lines, write_csv

logger = get_logger(__name__)

SESSIONS = (1, 2, 3, 4, 5)
# What IEMOCAP_full_release holds.
SESSION_UTTERANCES = {1: 1819, 2: 1811, 3: 2136, 4: 2103, 5: 2170}
GENDER_UTTERANCES = {"Male": 5239, "Female": 4800}
DIALOGUES = 151

LABEL_RANGE = (1.0, 5.0)
# Seven labels of the release lie outside the scale, valence 5.5 or dominance 0.5; nothing lies beyond these.
RELEASED_RANGE = (0.5, 5.5)
LABEL_DIGITS = 4  # as in [2.3333, 2.6667, 3.0000]
SAMPLE_RATE = 16000

GENDERS = {"F": "Female", "M": "Male"}
# The dialogue's own F or M says who wore the markers; who speaks is said by that of the last token.
ID = r"(Ses0[1-5][FM]_\w+_[FM](?:XX)?\d+)"
# Turns that were transcribed but never rated.
UNRATED_ID = re.compile(r"\w+_[FM]XX\d+")

NUMBER = r"([0-9]{1,9}(?:\.[0-9]+)?)"
COMMENT = r"(?:\(.*)?"
LABEL_LINE = re.compile(rf"\[{NUMBER}\s*-\s*{NUMBER}\]\s+{ID}\s+(\w+)\s+\[{NUMBER},\s*{NUMBER},\s*{NUMBER}\]")
CATEGORY_LINE = re.compile(rf"C-(\w+):((?:[^;()]*;)*)\s*{COMMENT}")
# A number may be left out; 36 lines of the release have no dominance.
ATTRIBUTE_LINE = re.compile(
    rf"A-(\w+):\s*val\s*{NUMBER}?\s*;\s*act\s*{NUMBER}?\s*;\s*(?:dom\s*{NUMBER}?\s*;)?\s*{COMMENT}"
)
# What no line of labels begins with, whatever it has lost.
RATER_LINE = re.compile(r"[A-Za-z]-")
TRANSCRIPT_LINE = re.compile(rf"{ID}\s+\[[^]]*\]:(.*)")

RATER_COLUMNS = (
    "ID",
    "raters",
    *(f"{dimension}_{statistic}" for dimension in DIMENSIONS for statistic in ("mean", "sd")),
    *(f"self_{dimension}" for dimension in DIMENSIONS),
    "categories",
    "self_categories",
)


@dataclass
class Evaluation:
    """One utterance's block in an EmoEvaluation file.

    Parameters
    ----------
    id : str
        Such as ``"Ses01F_impro05_M019"``.
    emotion : str
        The category that most raters chose, ``"xxx"`` where there is no such.
    labels : tuple of float
        Mean over the external raters as the release prints it, in the order of `DIMENSIONS`.
    ratings : dict of str to tuple of (float or None)
        Rater → activation, valence and dominance, None where the rater left one out.
    categories : dict of str to tuple of str
        Rater → emotion categories, none, one or several.
    unread : list of str
        The raters' lines that are none of those the release has, with their places.
    """

    id: str
    emotion: str
    labels: tuple[float, float, float]
    ratings: dict = field(default_factory=dict)
    categories: dict = field(default_factory=dict)
    unread: list = field(default_factory=list)

    @property
    def session(self):
        """Number of the session, 1 to 5."""
        return int(self.id[4])

    @property
    def dialogue(self):
        """Name of the dialogue, whose length varies (``Ses03M_impro05a``, ``Ses05M_script01_1b``)."""
        return self.id.rpartition("_")[0]

    @property
    def spk_id(self):
        """Session and the speaker's F or M, such as ``"Ses01M"``."""
        return self.id[:5] + self._speaker

    @property
    def gender(self):
        """``"Female"`` or ``"Male"``."""
        return GENDERS[self._speaker]

    @property
    def wav(self):
        """Path of the audio in the release."""
        return f"Session{self.session}/sentences/wav/{self.dialogue}/{self.id}.wav"

    @property
    def _speaker(self):
        return self.id.rpartition("_")[2][0]


def prepare_iemocap(data_folder, manifest_folder, clip_labels=False, skip_prep=False):
    """Write the manifests of IEMOCAP's five folds, unless they are up to date.

    A partial release is prepared as it is, with a warning that says what differs from the full one. Utterances
    whose audio can't be used are left out, with a warning and a row in ``excluded.csv``; those that are not 16 kHz
    mono are kept (loading mixes down and resamples), with a warning and a row in ``converted.csv``.

    Parameters
    ----------
    data_folder : str or Path
        The unpacked ``IEMOCAP_full_release``.
    manifest_folder : str or Path
        Where the manifests go; fold k is in its ``fold<k>``.
    clip_labels : bool
        Whether labels outside 1 to 5 (seven in the release: valence 5.5, dominance 0.5) become 5 and 1; they are
        kept as they are otherwise. Either way a warning names them.
    skip_prep : bool
        Take the manifests that are there, unchecked.

    Returns
    -------
    dict of int to dict of str to Path
        Fold (1 to 5) → split (``"train"``, ``"valid"``, ``"test"``) → manifest.

    Raises
    ------
    InputError
        When a session is missing, a label file is damaged, or none of a session's audio can be used.
    """
    data_folder, manifest_folder = Path(data_folder).absolute(), Path(manifest_folder)
    folders = {fold: manifest_folder / f"fold{fold}" for fold in SESSIONS}
    if skip_prep:
        # A run reads one fold, which manifest_folder may have elsewhere, and says itself if it is missing.
        return {fold: manifests.find_manifests(folder) for fold, folder in folders.items() if folder.is_dir()}
    label_files, transcript_files, audio_folders = find_inputs(data_folder)

    # This script is among the inputs: another reading of the corpus must not pass for an up-to-date one.
    inputs = [__file__, *label_files, *transcript_files, *audio_folders]
    corpus = fingerprint_files(inputs, data_folder=str(data_folder), clip_labels=clip_labels)
    # The fold as well: a folder that was moved or copied must not pass for another fold's.
    fingerprints = {fold: fingerprint_files([], corpus=corpus, fold=fold) for fold in SESSIONS}
    if all(manifests.is_prepared(folders[fold], fingerprints[fold]) for fold in SESSIONS):
        logger.info(f"{manifest_folder} is up to date: nothing has changed since it was prepared.")
        return {fold: manifests.find_manifests(folder) for fold, folder in folders.items()}

    evaluations = [evaluation for path in label_files for evaluation in read_evaluations(path)]
    texts = read_transcripts(transcript_files)
    recorded = find_recorded(audio_folders)
    evaluations = drop_unrated(evaluations, texts, recorded)
    warn_partial(evaluations, len(label_files))
    warn_unmatched(evaluations, texts, recorded)
    warn_unread(evaluations)
    check_raters(evaluations)
    label_range = apply_scale(evaluations, clip_labels)

    paths = [data_folder / evaluation.wav for evaluation in evaluations]
    audio = inspect_files(paths)
    make_folder(manifest_folder)
    side_files = [manifest_folder / name for name in ("raters.csv", "excluded.csv", "converted.csv", RATINGS_FILE)]
    write_csv(side_files[0], RATER_COLUMNS, map(rater_statistics, evaluations))
    report_excluded(evaluations, audio, side_files[1])
    report_converted(evaluations, audio, side_files[2])
    write_ratings(
        manifest_folder,
        ((evaluation.id, by_dimension(split_self_reports(evaluation.ratings)[0])) for evaluation in evaluations),
    )

    sessions = {session: [] for session in SESSIONS}
    for evaluation, wav, info in zip(evaluations, paths, audio, strict=True):
        if info.problem is None:
            utterance = manifests.Utterance(
                id=evaluation.id,
                duration=info.duration,
                wav=wav,
                spk_id=evaluation.spk_id,
                gender=evaluation.gender,
                labels=evaluation.labels,
                transcript=texts.get(evaluation.id),
                emotion=evaluation.emotion,
            )
            sessions[evaluation.session].append(utterance)

    written = {}
    for fold, folder in folders.items():
        logger.info(f"Fold {fold}:")
        splits = {
            split: [utterance for session in members for utterance in sessions[session]]
            for split, members in fold_sessions(fold).items()
        }
        written[fold] = manifests.write_manifests(
            folder, splits, data_folder, fingerprints[fold], label_range, side_files
        )
    return written


def fold_sessions(fold):
    """Say which sessions a fold trains, validates and tests with.

    Example
    -------
    >>> fold_sessions(5)
    {'train': [2, 3, 4], 'valid': [1], 'test': [5]}
    """
    following = fold % len(SESSIONS) + 1
    train = [session for session in SESSIONS if session not in (fold, following)]
    return {"train": train, "valid": [following], "test": [fold]}


def find_inputs(data_folder):
    """Find the files to read, without what macOS leaves beside them (``._*``).

    Parameters
    ----------
    data_folder : Path
        The unpacked release.

    Returns
    -------
    label_files, transcript_files, audio_folders : list of Path
        Of all sessions, in order.
    """
    if not data_folder.is_dir():
        raise InputError(f"The corpus folder {data_folder} does not exist. Give the unpacked IEMOCAP_full_release.")
    sessions = [data_folder / f"Session{session}" for session in SESSIONS]
    missing = [session.name for session in sessions if not session.is_dir()]
    if missing:
        raise InputError(
            f"{data_folder} has no {', '.join(missing)}; five folds need all five sessions. Give the folder "
            "IEMOCAP_full_release, completely unpacked."
        )
    label_files, transcript_files, audio_folders = [], [], []
    for session in sessions:
        for files, folder in ((label_files, "EmoEvaluation"), (transcript_files, "transcriptions")):
            found = sorted(path for path in (session / "dialog" / folder).glob("*.txt") if not is_macos(path))
            if not found:
                raise InputError(f"{session / 'dialog' / folder} has no *.txt files. Unpack the release completely.")
            for path in found:
                if not path.name.startswith(f"Ses0{session.name[-1]}"):
                    raise InputError(f"{path} is not of {session.name}. Unpack the release again.")
            files.extend(found)
        audio_folders.append(session / "sentences" / "wav")
        if not audio_folders[-1].is_dir():
            raise InputError(f"{audio_folders[-1]} does not exist. Unpack the release completely.")
    return label_files, transcript_files, audio_folders


def is_macos(path):
    """Say whether a file holds what macOS could not store elsewhere, not what its name says."""
    return path.name.startswith("._")


def read_evaluations(path):
    """Read an EmoEvaluation file.

    Parameters
    ----------
    path : Path
        ``SessionN/dialog/EmoEvaluation/<dialogue>.txt``.

    Returns
    -------
    list of Evaluation
        In the order of the file.

    Raises
    ------
    InputError
        For a line that is none of those the release has and no rater's, an utterance of another dialogue, a label
        outside 0.5 to 5.5, a rater who rates an utterance twice, or a file without utterances.
    """
    evaluations = []
    for line, text in read_lines(path):
        where, text = f"{path}, line {line}", text.strip()
        if not text or text.startswith("%"):  # the header
            continue
        if text.startswith("["):
            evaluation = parse_labels(text, where)
            if evaluation.dialogue != path.stem:
                raise damaged(where, evaluation.id, f"an utterance of {path.stem}")
            if evaluation.id in (earlier.id for earlier in evaluations):
                raise InputError(f"{where}: {evaluation.id} is labelled for the second time. Keep one.")
            evaluations.append(evaluation)
        elif not evaluations:
            raise damaged(where, text, "an utterance's first line")
        elif match := ATTRIBUTE_LINE.fullmatch(text):
            add_rater(evaluations[-1].ratings, *rater_attributes(match), where)
        elif match := CATEGORY_LINE.fullmatch(text):
            add_rater(evaluations[-1].categories, *rater_categories(match), where)
        elif RATER_LINE.match(text):  # only raters.csv needs it
            evaluations[-1].unread.append(f"{where}: {text[:60]!r}")
        else:
            raise damaged(where, text, "an utterance's first line or a rater's line")
    if not evaluations:
        raise InputError(f"{path}, line 1: the file has no utterances. Restore it from the release.")
    return evaluations


def add_rater(said, rater, value, where):
    """Note what a rater said of an utterance."""
    if rater in said:
        raise InputError(
            f"{where}: {rater} rates the utterance for the second time; is the next one's first line missing? "
            "Restore the file from the release."
        )
    said[rater] = value


def parse_labels(text, where):
    r"""Read the first line of an utterance's block.

    Parameters
    ----------
    text : str
        The line.
    where : str
        File and line, for errors.

    Returns
    -------
    Evaluation
        Without ratings yet.

    Example
    -------
    >>> line = "[140.2250 - 145.6000]\tSes01F_impro05_F019\tang\t[1.5000, 4.0000, 4.5000]"
    >>> parse_labels(line, "line 9").labels  # activation, valence, dominance
    (4.0, 1.5, 4.5)
    """
    match = LABEL_LINE.fullmatch(text)
    if not match:
        raise damaged(where, text, "'[start - end] id emotion [valence, activation, dominance]'")
    _, _, id, emotion, *values = match.groups()
    low, high = RELEASED_RANGE
    labels = in_order(*values)
    for dimension, label in zip(DIMENSIONS, labels, strict=True):
        if not low <= label <= high:
            raise InputError(f"{where}: {id} has {dimension} {label:g}, which is not within {low:g} to {high:g}.")
    return Evaluation(id, emotion, labels)


def rater_attributes(match):
    r"""Give the rater and the numbers in the order of `DIMENSIONS` from a match of `ATTRIBUTE_LINE`.

    Example
    -------
    >>> rater_attributes(ATTRIBUTE_LINE.fullmatch("A-E4:\tval 1; act 4; dom  5;\t(threatening, belligerent)"))
    ('E4', (4.0, 1.0, 5.0))
    >>> rater_attributes(ATTRIBUTE_LINE.fullmatch("A-E4:\tval 1; act 4; dom  ;\t()"))
    ('E4', (4.0, 1.0, None))
    """
    return match[1], in_order(*match.groups()[1:])


def rater_categories(match):
    r"""Give the rater and the emotion categories from a match of `CATEGORY_LINE`.

    Example
    -------
    >>> rater_categories(CATEGORY_LINE.fullmatch("C-E1:\tAnger; Frustration;\t(loud)"))
    ('E1', ('Anger', 'Frustration'))
    >>> rater_categories(CATEGORY_LINE.fullmatch("C-E1:\t;\t()"))
    ('E1', ())
    """
    return match[1], tuple(filter(None, map(str.strip, match[2].split(";"))))


def in_order(valence, activation, dominance):
    """Bring numbers as text, or None, from the release's order into that of `DIMENSIONS`."""
    return tuple(None if value is None else parse_number(value) for value in (activation, valence, dominance))


def damaged(where, text, expected):
    """Make the error for a line that is not what the release has there."""
    return InputError(f"{where}: {text[:60]!r} is not {expected}. Restore the file from the release.")


def read_transcripts(paths):
    """Read the transcriptions; return texts by id.

    Lines of other forms, such as ``M: Yeah.`` for what overlaps a turn, are skipped.

    Parameters
    ----------
    paths : list of Path
        ``SessionN/dialog/transcriptions/<dialogue>.txt``.

    Returns
    -------
    dict of str to str
        What was said, ``""`` where nothing was.
    """
    texts = {}
    for path in paths:
        for line, text in read_lines(path):
            match = TRANSCRIPT_LINE.fullmatch(text.strip())
            if match:
                id, said = match[1], match[2].strip()
                if texts.setdefault(id, said) != said:
                    raise InputError(f"{path}, line {line}: another transcript of {id} than before. Keep one.")
    return texts


def find_recorded(audio_folders):
    """Find the ids of all audio files."""
    return {path.stem for folder in audio_folders for path in folder.glob("*/*.wav") if not is_macos(path)}


def drop_unrated(evaluations, texts, recorded):
    """Leave out, by name, turns that nobody was asked to rate (``..._MXX0``), and say how many there are.

    Parameters
    ----------
    evaluations : list of Evaluation
        From `read_evaluations`.
    texts : dict of str to str
        From `read_transcripts`; such turns are removed from it.
    recorded : set of str
        From `find_recorded`; such turns are removed from it.

    Returns
    -------
    list of Evaluation
        The others.
    """
    ids = {evaluation.id for evaluation in evaluations} | texts.keys() | recorded
    unrated = sorted(filter(UNRATED_ID.fullmatch, ids))
    for id in unrated:
        texts.pop(id, None)
        recorded.discard(id)
    if unrated:
        logger.info(f"Left out {len(unrated)} turns that are not numbered: {first_few(unrated)}.")
    return [evaluation for evaluation in evaluations if not UNRATED_ID.fullmatch(evaluation.id)]


def warn_partial(evaluations, dialogues):
    """Warn when the numbers of utterances, dialogues and speakers' turns are not those of the full release."""
    sessions = Counter(evaluation.session for evaluation in evaluations)
    genders = Counter(evaluation.gender for evaluation in evaluations)
    counts = [
        ("utterances", len(evaluations), sum(SESSION_UTTERANCES.values())),
        *((f"in Session{session}", sessions[session], count) for session, count in SESSION_UTTERANCES.items()),
        *((f"by {gender.lower()} speakers", genders[gender], count) for gender, count in GENDER_UTTERANCES.items()),
        ("dialogues", dialogues, DIALOGUES),
    ]
    differences = [f"{found} {what} instead of {full}" for what, found, full in counts if found != full]
    if differences:
        logger.warning(
            f"This is not the full release: {', '.join(differences)}. Unpack it again, unless you left something out "
            "on purpose; results are not comparable with others'."
        )


def warn_unmatched(evaluations, texts, recorded):
    """Warn of labels without a transcript, and of audio and transcripts without labels."""
    labelled = {evaluation.id for evaluation in evaluations}
    for ids, what in (
        (
            labelled - texts.keys(),
            "labelled utterances have no line in dialog/transcriptions, which systems that read can't do without",
        ),
        (recorded - labelled, "audio files have no labels"),
        (texts.keys() - labelled, "transcribed turns have no labels"),
    ):
        if ids:
            logger.warning(f"{len(ids)} {what}: {first_few(sorted(ids))}.")


def warn_unread(evaluations):
    """Warn of raters' lines that could not be read; labels don't depend on them."""
    unread = [line for evaluation in evaluations for line in evaluation.unread]
    if unread:
        logger.warning(
            f"{len(unread)} lines of raters are not what the release has there and are missing in raters.csv: "
            f"{first_few(unread)}."
        )


def check_raters(evaluations):
    """Warn of labels that are not the mean of their external raters' numbers, where all of these could be read."""
    whole = [evaluation for evaluation in evaluations if not evaluation.unread]
    means = [
        [np.mean(values) if values else np.nan for values in by_dimension(split_self_reports(evaluation.ratings)[0])]
        for evaluation in whole
    ]
    warn_contradicted(
        [evaluation.id for evaluation in whole],
        [evaluation.labels for evaluation in whole],
        means,
        LABEL_DIGITS,
    )


def apply_scale(evaluations, clip_labels):
    """Name the labels outside the scale, and clip them when that is wanted.

    Parameters
    ----------
    evaluations : list of Evaluation
        Whose ``labels`` are clipped.
    clip_labels : bool
        Whether to clip.

    Returns
    -------
    tuple of float
        The range that the labels are in now.
    """
    outside = []
    for evaluation in evaluations:
        clipped = tuple(min(max(label, LABEL_RANGE[0]), LABEL_RANGE[1]) for label in evaluation.labels)
        outside += [
            f"{evaluation.id} ({dimension} {label:g})"
            for dimension, label, bound in zip(DIMENSIONS, evaluation.labels, clipped, strict=True)
            if label != bound
        ]
        if clip_labels:
            evaluation.labels = clipped
    if outside:
        done = "were clipped" if clip_labels else "are kept as they are (clip_labels clips them)"
        logger.warning(
            f"{len(outside)} labels lie outside the scale of {LABEL_RANGE[0]:g} to {LABEL_RANGE[1]:g} and {done}: "
            f"{', '.join(outside)}."
        )
    return LABEL_RANGE if clip_labels else RELEASED_RANGE


def rater_statistics(evaluation):
    """Make an utterance's row of ``raters.csv``.

    Means and standard deviations (of the sample, n - 1) are over the external raters and never clipped. A cell is
    empty where there is nothing to compute it from. Categories are separated by ``/`` within a rater, by ``;``
    between raters.

    Parameters
    ----------
    evaluation : Evaluation
        One utterance.

    Returns
    -------
    list
        The values of `RATER_COLUMNS`.

    Example
    -------
    >>> ratings = {"E3": (4.0, 2.0, None), "E4": (5.0, 2.0, 4.0), "F1": (1.0, 3.0, 3.0)}
    >>> categories = {"E3": ("Anger", "Sadness"), "E4": (), "F1": ("Anger",)}
    >>> labels = (4.5, 2.0, 4.0)
    >>> row = rater_statistics(Evaluation("Ses01F_impro05_F019", "xxx", labels, ratings, categories))
    >>> for column, value in zip(RATER_COLUMNS, row):
    ...     print(column, value)
    ID Ses01F_impro05_F019
    raters 2
    activation_mean 4.5
    activation_sd 0.7071067811865476
    valence_mean 2.0
    valence_sd 0.0
    dominance_mean 4.0
    dominance_sd
    self_activation 1.0
    self_valence 3.0
    self_dominance 3.0
    categories Anger/Sadness;
    self_categories Anger
    """
    external, own = split_self_reports(evaluation.ratings)
    row = [evaluation.id, len(external)]
    for values in by_dimension(external):
        row.append(float(np.mean(values)) if values else "")
        row.append(float(np.std(values, ddof=1)) if len(values) > 1 else "")
    row += [float(np.mean(values)) if values else "" for values in by_dimension(own)]
    row += [";".join(map("/".join, raters)) for raters in split_self_reports(evaluation.categories)]
    return row


def split_self_reports(by_rater):
    """Split what external raters said from self-reports, whose raters are called F1 or M1, not E1 to E6."""
    external = [value for rater, value in by_rater.items() if rater[0] not in GENDERS]
    return external, [value for rater, value in by_rater.items() if rater[0] in GENDERS]


def by_dimension(ratings):
    """List the numbers given for each dimension."""
    return [[rating[index] for rating in ratings if rating[index] is not None] for index in range(len(DIMENSIONS))]


def report_excluded(evaluations, audio, file):
    """Warn of utterances whose audio can't be used, and list them in a file."""
    excluded = [
        (evaluation.id, evaluation.session, info.problem)
        for evaluation, info in zip(evaluations, audio, strict=True)
        if info.problem
    ]
    labelled = Counter(evaluation.session for evaluation in evaluations)
    lost = Counter(session for _, session, _ in excluded)
    useless = [f"Session{session}" for session, count in labelled.items() if count == lost[session]]
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(row[2] for row in excluded).most_common())
    if useless:
        raise InputError(
            f"None of the audio of {', '.join(useless)} can be used ({reasons}). Unpack the release completely."
        )
    list_utterances(
        file,
        ("ID", "session", "reason"),
        excluded,
        f"Left out {len(excluded)} utterances whose audio can't be used ({reasons})",
    )


def report_converted(evaluations, audio, file):
    """Warn of utterances that loading will resample or mix down, and list them in a file."""
    converted = [
        (evaluation.id, evaluation.session, info.sample_rate, info.channels)
        for evaluation, info in zip(evaluations, audio, strict=True)
        if info.problem is None and (info.sample_rate, info.channels) != (SAMPLE_RATE, 1)
    ]
    list_utterances(
        file,
        ("ID", "session", "sample_rate", "channels"),
        converted,
        f"{len(converted)} utterances are not 16 kHz mono and are converted when loaded",
    )


def main():
    """Prepare from the command line."""
    parser = argparse.ArgumentParser(description="Prepare IEMOCAP: write the manifests of five folds.")
    parser.add_argument("data_folder", help="the unpacked IEMOCAP_full_release")
    parser.add_argument("manifest_folder", help="where the manifests go")
    parser.add_argument("--clip-labels", action="store_true", help="clip labels outside 1 to 5 (seven in the release)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with plain_errors():
        prepare_iemocap(arguments.data_folder, arguments.manifest_folder, arguments.clip_labels)


if __name__ == "__main__":
    main()
