"""Prepare recordings of one's own: a folder with a table of labels.

    python template_prepare.py DATA_FOLDER MANIFEST_FOLDER [--label-range LOW HIGH]

DATA_FOLDER has ``recordings.csv``, with the columns

    file                               relative to DATA_FOLDER, in any format that libsndfile reads
    speaker                            who speaks
    activation, valence, dominance     numbers on one scale, 1 to 7 unless told otherwise

and, if there are any, ``transcript`` (an empty one is nobody's yet: `ser-ts transcribe MANIFEST_FOLDER` makes it),
``gender``, ``emotion`` (a class) and ``split`` (train, valid, test). Without ``split``, a fifth of the speakers
validates and a fifth tests. If what each rater said is to be learnt (soft_label_weight), it is in ``ratings.csv``:
``file, activation, valence, dominance``, a line a rater and recording; a number that a rater has not given is left
empty.

The training scripts call `prepare_template` themselves. For a corpus of another form, copy this folder and change what
is here.
"""

import argparse
import logging
from pathlib import Path

from ser_ts_lobes import DIMENSIONS, UNKNOWN_SPEAKER
from ser_ts_lobes.data import manifests
from ser_ts_lobes.data.preparation import divide_speakers, inspect_files, list_utterances, read_transcripts
from ser_ts_lobes.data.ratings import RATINGS_FILE, write_ratings
from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.files import make_folder
from ser_ts_lobes.fingerprint import fingerprint_files
from ser_ts_lobes.text_files import parse_number, read_rows

LABEL_RANGE = (1, 7)


def prepare_template(data_folder, manifest_folder, label_range=LABEL_RANGE, skip_prep=False):
    """Write the manifests of a folder of recordings, unless they are up to date.

    Recordings that can't be used are left out, with a warning and a row in ``excluded.csv``.

    Parameters
    ----------
    data_folder : str or Path
        The recordings and ``recordings.csv``.
    manifest_folder : str or Path
        Where the manifests go.
    label_range : sequence of float
        The ends of the scale; a label outside is an error.
    skip_prep : bool
        Take the manifests that are there, unchecked.

    Returns
    -------
    dict of str to Path
        The manifest of each split.

    Raises
    ------
    InputError
        When the table or what it says can't be used.
    """
    data_folder, manifest_folder = Path(data_folder).absolute(), Path(manifest_folder)
    if skip_prep:
        return manifests.find_manifests(manifest_folder)
    table, transcripts = data_folder / "recordings.csv", manifest_folder / "transcripts.csv"
    raters = data_folder / RATINGS_FILE
    # This script is among the inputs: another reading of the table must not pass for an up-to-date one.
    inputs = [__file__, table, data_folder, *(file for file in (transcripts, raters) if file.is_file())]
    fingerprint = fingerprint_files(inputs, data_folder=str(data_folder), label_range=list(label_range))
    if manifests.is_prepared(manifest_folder, fingerprint):
        return manifests.find_manifests(manifest_folder)

    recordings, texts = read_recordings(table), read_transcripts(transcripts)
    paths = [data_folder / row["file"] for row in recordings]
    splits, excluded = {row["split"]: [] for row in recordings}, []
    for row, path, info in zip(recordings, paths, inspect_files(paths), strict=True):
        if info.problem:
            excluded.append((row["file"], info.problem))
            continue
        text = row.get("transcript", "").strip() or texts.get(row["file"])
        who = row["speaker"], row.get("gender", "Unknown")
        said = row["labels"], text, row.get("emotion", "")
        utterance = manifests.Utterance(row["file"], info.duration, path, *who, *said)
        splits[row["split"]].append(utterance)
    make_folder(manifest_folder)
    side_files = [manifest_folder / "excluded.csv"]
    what = f"Left out {len(excluded)} recordings that can't be used"
    list_utterances(side_files[0], ("ID", "reason"), excluded, what)
    if raters.is_file():
        ratings = read_raters(raters, {row["file"] for row in recordings}, label_range)
        side_files.append(write_ratings(manifest_folder, ratings.items()))
    return manifests.write_manifests(manifest_folder, splits, data_folder, fingerprint, label_range, side_files)


def read_recordings(table):
    """Read the table: its rows, with ``labels`` as numbers and a ``split`` each."""
    recordings = []
    for line, row in read_rows(table, ("file", "speaker", *DIMENSIONS), key="file"):
        row["labels"] = tuple(parse_number(row[dimension]) for dimension in DIMENSIONS)
        if None in row["labels"]:
            wrong = DIMENSIONS[row["labels"].index(None)]
            raise InputError(f"{table}, line {line}: {wrong} of {row['file']} is {row[wrong][:60]!r}; give a number.")
        row["speaker"] = manifests.known_speaker(row["speaker"])
        if "split" not in row and row["speaker"] == UNKNOWN_SPEAKER:
            raise InputError(f"{table}, line {line}: {row['file']} has no speaker; name one, or add a column split.")
        recordings.append(row)
    if not recordings:
        raise InputError(f"{table} has no recordings; give it a line for each.")
    if "split" not in recordings[0]:
        split_of = divide_speakers({row["speaker"] for row in recordings}, table)
        recordings = [row | {"split": split_of[row["speaker"]]} for row in recordings]
    return recordings


def read_raters(table, files, label_range):
    """Read what each rater said: by file, the numbers of each dimension."""
    low, high = label_range
    ratings = {}
    for line, row in read_rows(table, ("file", *DIMENSIONS)):
        if row["file"] not in files:
            raise InputError(f"{table}, line {line}: {row['file']} is no file of recordings.csv; correct the name.")
        said = ratings.setdefault(row["file"], [[] for _ in DIMENSIONS])
        for dimension, numbers in zip(DIMENSIONS, said, strict=True):
            if text := row[dimension].strip():
                number = parse_number(text)
                if number is None or not low <= number <= high:
                    problem = f"{dimension} of {row['file']} is {text[:60]!r}; give a number from {low:g} to {high:g}."
                    raise InputError(f"{table}, line {line}: {problem}")
                numbers.append(number)
    return ratings


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prepare a folder of recordings with a table of labels.")
    parser.add_argument("data_folder", help="the recordings and recordings.csv")
    parser.add_argument("manifest_folder", help="where the manifests go")
    parser.add_argument("--label-range", type=float, nargs=2, default=LABEL_RANGE, metavar=("LOW", "HIGH"))
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with plain_errors():
        prepare_template(**arguments)
