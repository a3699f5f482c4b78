"""What is to be reported: predictions of runs and of anybody, brought together by test set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ser_ts_lobes import UNKNOWN_SPEAKER
from ser_ts_lobes.data.manifests import read_manifest
from ser_ts_lobes.errors import InputError, first_few
from ser_ts_lobes.report.strangers import Facts, read_facts, read_predictions, utterance_id
from ser_ts_lobes.results import metrics
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.settings import TELLS_RUNS_APART, difference

# Labels are written with six decimals, and by others with fewer.
_SAME_LABEL = 0.006


@dataclass(eq=False)
class System:
    """What a system predicts on a test set.

    Attributes
    ----------
    name
        Of the row.
    seeds
        One a training; None where nobody says which.
    prediction
        (S, N, 3): a matrix a seed, in the order of the test set's utterances.
    runs
        The runs of each seed, one a fold; empty for a CSV.
    files
        The folders of the runs, and the CSVs.
    """

    name: str
    seeds: list[int | None]
    prediction: np.ndarray
    runs: list[list[RunFolder]]
    files: list[Path]


@dataclass(eq=False)
class TestSet:
    """Labelled utterances, and the systems that were tested on them.

    Attributes
    ----------
    name
        Of the split.
    corpus
        Name of the corpus's folder; None where nobody says it.
    ids, speakers
        Of the N utterances.
    label
        (N, 3), on the corpus's scale.
    facts
        What else is known of each utterance.
    label_range
        The ends of the label scale; where nobody says them, those of the labels.
    systems
        By name.
    notes
        What is not known, and why.
    """

    __test__ = False  # pytest takes it for tests

    name: str
    corpus: str | None
    ids: list[str]
    speakers: list[str]
    label: np.ndarray
    facts: list[Facts | None]
    label_range: tuple[float, float]
    systems: dict[str, System] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its name and that of its corpus."""
        return f"{self.corpus}, {self.name}" if self.corpus else self.name

    @property
    def groups(self) -> Sequence[str] | None:
        """What intervals leave out: speakers, or None for utterances."""
        return metrics.resampling_groups(self.speakers)

    def known(self, fact: str) -> np.ndarray | None:
        """Return one of `Facts` of all utterances, an object array with None where nobody says it; None if nowhere."""
        values = np.array([facts and getattr(facts, fact) for facts in self.facts], dtype=object)
        return values if any(value is not None for value in values) else None


@dataclass(eq=False)
class _Part:
    """What one file says of one split."""

    system: str
    seed: int | None
    fold: int | None
    corpus: str | None
    split: str
    ids: list[str]
    speakers: list[str]
    prediction: np.ndarray
    label: np.ndarray
    where: Path
    run: RunFolder | None


def read_test_sets(sources: Iterable[str], labels: Iterable[str | Path] = ()) -> list[TestSet]:
    """Read predictions, and bring together those of the same utterances.

    Parameters
    ----------
    sources
        ``PATH`` or ``NAME=PATH``: a run, a folder with runs below it, or a CSV (`read_predictions`). What has the same
        name is one system: its seeds, or its folds. Without a name it is that of the run's system or of the file.
        The test sets of folds are one.
    labels
        See `read_facts`: for CSVs without labels, and for what is not known of utterances otherwise.

    Returns
    -------
    list[TestSet]
        In the order of the sources.

    Raises
    ------
    InputError
        If something can't be read, a label is not known, or systems were not tested on the same utterances or labels.
    """
    facts = read_facts(labels)
    parts = [part for source in sources for part in _read_source(source, facts)]
    _check_alike(parts)
    seeds: dict[tuple, list[_Part]] = {}
    number = 0
    for part in parts:
        if part.seed is None:  # each file is a seed of its own
            number += 1
        seeds.setdefault((part.system, part.corpus, part.split, part.seed, part.seed is None and number), []).append(
            part
        )
    sets: list[TestSet] = []
    for of_seed in seeds.values():
        _add(sets, _put_together(of_seed), of_seed, facts)
    return sets


def _read_source(source: str, facts: dict[str, Facts]) -> list[_Part]:
    name, separator, path = source.rpartition("=")
    if separator and Path(source).exists():  # a path may have a = in it
        name, path = "", source
    if Path(path).is_dir():
        runs = RunFolder.finished_below(Path(path))
        if not runs:
            raise InputError(f"{path} has no finished run: name a folder like results/cts, or a CSV of predictions.")
        return [part for run in runs for part in _read_run(run, name)]
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist: name a run, a folder with runs, or a CSV of predictions.")
    return _read_csv(Path(path), name or Path(path).stem, facts)


def _read_run(run: RunFolder, name: str) -> list[_Part]:
    report = run.report()
    parts = []
    for split in report["test"]:
        said = run.predictions(split)
        parts.append(
            _Part(
                name or report["system"],
                report["seed"],
                run.settings.get("fold"),
                run.corpus,
                split,
                said.ids,
                said.speakers,
                said.prediction,
                said.label,
                run.path,
                run,
            )
        )
    return parts


def _read_csv(path: Path, name: str, facts: dict[str, Facts]) -> list[_Part]:
    by_split: dict[str, list] = {}
    for row in read_predictions(path):
        known = facts.get(row.id)
        label = row.label or (known and known.label)
        if label is None:
            raise InputError(
                f"{path}, line {row.line}: {row.id} has no label there, nor in a file named by --labels: name one."
            )
        speaker = row.speaker or (known.speaker if known else None)
        split = row.split or (known and known.split) or path.stem
        by_split.setdefault(split, []).append((row.id, speaker or UNKNOWN_SPEAKER, row.prediction, label))
    parts = []
    for split, rows in by_split.items():
        ids, speakers, predictions, labels = (list(column) for column in zip(*rows, strict=True))
        numbers = np.array(predictions), np.array(labels)
        parts.append(_Part(name, None, None, None, split, ids, speakers, *numbers, path, None))
    return parts


def _check_alike(parts: list[_Part]) -> None:
    """Refuse runs that are not one system."""
    first_of: dict[tuple, _Part] = {}
    for part in parts:
        if part.run is None:
            continue
        first = first_of.setdefault((part.system, part.corpus), part)
        assert first.run is not None
        problem = first is not part and difference(first.run.made_with(), part.run.made_with(), TELLS_RUNS_APART)
        if problem:
            raise InputError(
                f"{first.where} and {part.where} are both called {part.system}, but the first was trained with "
                f"{problem}: give one another name, NAME={part.where}."
            )


def _put_together(parts: list[_Part]) -> _Part:
    """Put the folds of a seed together."""
    first = parts[0]
    folds = [part.fold for part in parts]
    if len(parts) > 1 and (None in folds or len(set(folds)) < len(folds)):
        twice = next(part for number, part in enumerate(parts) if part.fold in folds[:number])
        raise InputError(
            f"{twice.where} and {first.where} are both seed {twice.seed} of {twice.system}: name one of them, or give "
            f"one another name, NAME={twice.where}."
        )
    whole = _Part(
        first.system,
        first.seed,
        None,
        first.corpus,
        first.split,
        [id for part in parts for id in map(utterance_id, part.ids)],
        [speaker for part in parts for speaker in part.speakers],
        np.vstack([part.prediction for part in parts]),
        np.vstack([part.label for part in parts]),
        first.where,
        first.run,
    )
    if len(set(whole.ids)) < len(whole.ids):
        raise InputError(f"{first.where}: its folds test utterances twice: prepare the corpus's folds again.")
    return whole


def _add(sets: list[TestSet], part: _Part, parts: list[_Part], facts: dict[str, Facts]) -> None:
    """Add a seed of a system to the test set that it was tested on."""
    ids = set(part.ids)
    test_set = next((there for there in sets if _may_be_of(part, there) and not ids.isdisjoint(there.ids)), None)
    if test_set is None:
        test_set = _new_set(part, parts, facts)
        sets.append(test_set)
    if missing := sorted(set(test_set.ids) ^ ids):
        few = first_few(missing)
        raise InputError(
            f"{part.where} was not tested on the {len(test_set.ids)} utterances of {test_set.title} that others here "
            f"were tested on: only one side has {few}. Compare systems on the same utterances, in all folds."
        )
    row_of = {id: row for row, id in enumerate(part.ids)}
    order = [row_of[id] for id in test_set.ids]
    differing = np.abs(part.label[order] - test_set.label).max(axis=1) > _SAME_LABEL
    if differing.any():
        raise InputError(
            f"{part.where} has another label of {test_set.ids[int(differing.argmax())]} than others here: compare "
            "systems on the same release of the corpus."
        )
    test_set.corpus = test_set.corpus or part.corpus
    nothing = System(part.system, [], np.empty((0, *test_set.label.shape)), [], [])
    system = test_set.systems.setdefault(part.system, nothing)
    system.seeds.append(part.seed)
    system.runs.append([of_fold.run for of_fold in parts if of_fold.run])
    system.files += [of_fold.where for of_fold in parts]
    system.prediction = np.concatenate([system.prediction, part.prediction[None, order]])


def _may_be_of(part: _Part, test_set: TestSet) -> bool:
    return None in (part.corpus, test_set.corpus) or part.corpus == test_set.corpus


def _new_set(part: _Part, parts: list[_Part], facts: dict[str, Facts]) -> TestSet:
    known, label_range, notes = _ask_manifests(parts)
    label_range = label_range or (float(part.label.min()), float(part.label.max()))
    all_facts = [facts.get(id) or known.get(id) for id in part.ids]
    speakers = [
        facts[id].speaker if speaker == UNKNOWN_SPEAKER and id in facts else speaker
        for id, speaker in zip(part.ids, part.speakers, strict=True)
    ]
    return TestSet(part.split, part.corpus, part.ids, speakers, part.label, all_facts, label_range, notes=notes)


def _ask_manifests(parts: list[_Part]) -> tuple[dict[str, Facts], tuple[float, float] | None, list[str]]:
    """Read what the manifests of runs know of the utterances, if they are still those that were tested on."""
    known: dict[str, Facts] = {}
    label_range, notes = None, []
    for part in parts:
        if part.run is None:
            continue
        path = part.run.manifest_path(part.split)
        try:
            manifest = read_manifest(path)
        except InputError as error:
            notes.append(f"Gender and duration are not known from the manifest: {error}")
            continue
        if manifest.audio_fingerprint != part.run.report()["manifests"][part.split]:
            notes.append(f"Gender and duration are not known: {path} has changed since the test.")
            continue
        label_range = manifest.label_range or label_range
        for id, row in manifest.utterances.items():
            gender, duration, emotion = (row[name] or None for name in ("gender", "duration", "emotion"))
            known[id] = Facts(None, row["spk_id"], gender, duration, emotion, part.split)
    return known, label_range, notes
