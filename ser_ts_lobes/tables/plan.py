"""The plan of a table: which scripts run, with which options, after which others, and which of them have run."""

import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ser_ts_lobes.data.manifests import SIDECAR, UNRATED, find_manifests, read_manifest, read_unrated
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.experiment import RUN_OPTIONS, model_settings, nearest, parse_arguments, split_options
from ser_ts_lobes.fingerprint import fingerprint_file
from ser_ts_lobes.provenance import MAY_GROW, made_from
from ser_ts_lobes.results.run_folder import RunFolder
from ser_ts_lobes.settings import difference, read_settings
from ser_ts_lobes.training.targets import TeacherTargets, targets_file

#: The system whose run a student's ``teacher_folder`` names by default.
TEACHER = "teacher"

# Keys that tell runs apart, and what sets them here.
_SET_BY_PLAN = {
    "seed": "use --seeds",
    "fold": "use --folds",
    "folds": "use --folds",
    "debug": "such runs leave no results",
    **dict.fromkeys(
        ("system", "run", "output_folder", "save_folder", "train_log"), "the runs of a table have their own"
    ),
}


@dataclass(frozen=True)
class Sweep:
    """Values that one key of a system's hparams takes in turn.

    Attributes
    ----------
    key
        The key, such as ``ts_weight``.
    values
        As on the command line; ``none`` stands for YAML's null.

    Example
    -------
    >>> Sweep.parse("residual_threshold=1.5,2,none")
    Sweep(key='residual_threshold', values=('1.5', '2', 'none'))
    """

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Sweep":
        """Read ``key=value,value``."""
        key, _, listed = text.partition("=")
        values = tuple(value.strip() for value in listed.split(",") if value.strip())
        if not key or not values or len(set(values)) < len(values) or "/" in text:
            raise InputError(f"--sweep {text}: expected a key and different values without '/', as ts_weight=3,10,30.")
        if key in _SET_BY_PLAN:
            raise InputError(f"--sweep {text}: {key} can't be swept: {_SET_BY_PLAN[key]}.")
        return cls(key, values)


@dataclass
class Job:
    """One run of one script for one system, seed and fold; here a training.

    Attributes
    ----------
    name
        The run, as below ``results_folder``, such as ``cts/fold1/3``.
    recipe
        Where the script is, and runs.
    script
        The script's name.
    arguments
        The hparams file and the options.
    settings
        The hparams that this makes, as `ser_ts_lobes.settings.read_settings` reads them.
    makes
        What a model of it is made with, as `ser_ts_lobes.experiment.model_settings` gives it.
    needs
        Names of jobs that must have succeeded.
    processes
        That run the script together.
    """

    name: str
    recipe: Path
    script: str
    arguments: list[str]
    settings: dict[str, Any]
    makes: dict[str, Any]
    needs: list[str] = field(default_factory=list)
    processes: int = 1

    @property
    def folder(self) -> Path:
        """The run's output folder."""
        return self.recipe / self.settings["output_folder"]

    @property
    def run_folder(self) -> RunFolder:
        """The files there, read afresh at each use, for its script may have run since the last."""
        return RunFolder(self.folder)

    @property
    def command(self) -> list[str]:
        """The command line; it runs in the recipe's folder."""
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
        return [sys.executable, *(launcher if self.processes > 1 else []), self.script, *self.arguments]

    @cached_property
    def shares(self) -> dict[str, Path]:
        """What it makes unless another job has, and the file that tells that it is there.

        These are manifests and features of frozen networks.
        """
        all_folds = self.settings["prepare_opts"]["manifest_folder"]
        shared = {f"manifests {all_folds}": self.recipe / self.settings["manifest_folder"] / SIDECAR}
        if self.settings["feature_folder"]:
            for name, encoder in self.settings["modules"].items():
                if name.endswith("_encoder"):
                    made_from = [self.settings["feature_folder"], self.settings["feature_dtype"], encoder]
                    shared[f"features {json.dumps(made_from)}"] = self.run_folder.train_log_file
        return shared

    @property
    def epochs(self) -> tuple[int, int] | None:
        """How many epochs it has trained, and how many it is to train; None where that isn't said."""
        total = self.settings.get("number_of_epochs")
        return None if total is None else (self.run_folder.epochs, total)

    @property
    def finished(self) -> bool:
        """Whether what it writes last is there."""
        return self.run_folder.finished

    def stale(self, open_run: Callable[[Path], RunFolder] = RunFolder) -> str | None:
        """Say in what an earlier run in its folder, whole or partial, was another one than it would be.

        Parameters
        ----------
        open_run
            Gives the `RunFolder` of a path; jobs that look at the same runs can share it.

        Returns
        -------
        str | None
        """
        run = open_run(self.folder)
        saved, finished = made_from(run.checkpoints), run.finished
        if saved is None and not finished:
            return None
        saved = saved or {}
        settings, data = saved.get("settings", {}), saved.get("data", {})
        if finished:
            report = run.report()
            settings = report.get("settings", settings)
            data = data | report["manifests"]
        if problem := difference(settings, self.makes, leave_out=() if finished else MAY_GROW):
            return f"{self.folder} was trained with {problem}"
        manifests = self.recipe / self.settings["manifest_folder"]
        today = _fingerprints(manifests)
        if "teacher_folder" in self.settings:
            today |= _fingerprints_of_unrated(self.recipe, self.settings.get("unrated_manifest"), manifests)
            teacher = open_run(self.recipe / self.settings["teacher_folder"])
            if teacher.finished:
                today["teacher"] = teacher.fingerprint
        for name in [*data, UNRATED]:
            if name in today and today[name] != data.get(name):
                return f"{self.folder} was made from another {name} than today's"
        return None


class TargetsJob(Job):
    """A run of the targets script. Its files are replaced when they are another teacher's, so never stale."""

    epochs = None  # those in its folder are the teacher's

    @property
    def finished(self) -> bool:
        """Whether what it writes last is there, and is of the teacher as it is now."""
        run = self.run_folder
        paths = run.targets_paths()
        if not (paths and run.finished):
            return False
        unrated = self.settings["unrated_manifest"]
        if unrated is not None:
            manifest = self.recipe / unrated
            if not (manifest.is_file() and targets_file(run, UNRATED, fingerprint_file(manifest)) in paths):
                return False
        # They are written after the tables and plots that belong to them.
        return all(TeacherTargets.load(path).made_from.get("teacher") == run.fingerprint for path in paths)

    def stale(self, open_run: Callable[[Path], RunFolder] = RunFolder) -> None:
        """Return None."""


def make_plan(
    recipe: str | Path,
    systems: Sequence[str],
    seeds: Sequence[int] | None = None,
    folds: Sequence[int] | None = None,
    options: Sequence[str] = (),
    sweep: Sweep | None = None,
    processes: int = 1,
) -> list[Job]:
    """Plan all runs of a table, with the teachers that they need.

    Parameters
    ----------
    recipe
        A folder of ``recipes/``.
    systems
        Stems of its hparams files.
    seeds
        Seeds, with each of which every system is trained; None for the hparams' own.
    folds
        Folds, on each of which every system is trained; None for all ``folds`` of the hparams.
    options
        Options of the scripts, ``--key=value`` or ``--key value``, for each system that has the key;
        ``--system.key`` is for that system alone.
    sweep
        Trains each system once a value, next to its own.
    processes
        Of each job.

    Returns
    -------
    list[Job]
        In an order in which they can run, finished ones included.

    Raises
    ------
    InputError
        For a system, fold or option that there isn't, or a run on disk that was trained otherwise.
    """
    recipe = Path(recipe).resolve()
    for system in systems:
        if not hparams_path(recipe, system).is_file():
            known = ", ".join(known_systems(recipe))
            raise InputError(f"{recipe} has no hparams/{system}.yaml; choose systems of {known}.")
    planner = _Planner(recipe, _parse_options(options), sweep, processes)
    planner.check_options(systems)
    settings = read_settings(hparams_path(recipe, systems[0]))
    seeds = seeds or [settings["seed"]]
    for fold in _choose_folds(recipe, settings.get("folds"), folds):
        for seed in seeds:
            for system in sorted(systems, key=lambda name: name != TEACHER):
                for value in sweep.values if sweep else (None,):
                    planner.add(system, seed, fold, value)
    jobs = list(planner.jobs.values())
    open_run = functools.cache(RunFolder)  # students share a teacher
    stale = [problem for problem in (job.stale(open_run) for job in jobs) if problem]
    if stale:
        more = f" ({len(stale) - 1} more runs don't fit)" if stale[1:] else ""
        raise InputError(f"{stale[0]}: delete it to train it anew, or give another --results_folder{more}.")
    return jobs


def _choose_folds(recipe, there, wanted):
    """Give the folds that are wanted of those that are there; one that is None for a recipe without."""
    if wanted and not there:
        raise InputError(f"{recipe} has no folds: leave --folds out.")
    if unknown := sorted(set(wanted or ()) - set(there or ())):
        raise InputError(f"{recipe} has no fold {unknown[0]}: choose --folds of {', '.join(map(str, there))}.")
    return wanted or there or (None,)


class _Planner:
    """Jobs by name, added with what they need."""

    def __init__(self, recipe, options, sweep, processes) -> None:
        self.recipe, self.options, self.sweep, self.processes = recipe, options, sweep, processes
        self.jobs: dict[str, Job] = {}
        self._keys: dict[str, set[str]] = {}

    def add(self, system, seed, fold, value=None):
        """Add the training of a system, unless it is there; return its job."""
        chosen = {"seed": seed} | ({} if fold is None else {"fold": fold})
        options = {**self._options_of(system), **chosen}
        settings, makes = self._settings(system, options)
        if value is not None:
            key = self.sweep.key
            if key not in settings:
                raise InputError(f"{system} has no {key} to sweep; choose other --systems.")
            wanted = yaml.safe_load("null" if value == "none" else value)
            if wanted != settings[key]:  # the value that the system has anyway is the system's own run
                folder = f"{settings['results_folder']}/{system}/{key}/{value}/{settings['run']}"
                options |= {key: "null" if wanted is None else value, "output_folder": folder}
                settings, makes = self._settings(system, options)
        name = Path(settings["output_folder"]).relative_to(settings["results_folder"]).as_posix()
        if name in self.jobs:
            return self.jobs[name]
        if "scripts" not in settings:
            raise InputError(f"{hparams_path(self.recipe, system)} has no `scripts`: copy that key from another.")
        script = settings["scripts"]["teacher" if "text_encoder" in settings["modules"] else "student"]
        arguments = self._arguments(system, options)
        job = Job(name, self.recipe, script, arguments, settings, makes, processes=self.processes)
        if not job.finished and "teacher_folder" in settings:
            teacher, _ = self._settings(TEACHER, {**self._options_of(TEACHER), **chosen})
            if teacher["output_folder"] == settings["teacher_folder"]:
                job.needs.append(self._add_targets(seed, fold, settings.get("unrated_manifest")).name)
        self.jobs[name] = job
        return job

    def _add_targets(self, seed, fold, unrated):
        """Add the making of targets for a student, unless it is there; return its job.

        It also makes those of the unrated speech that the student is taught on, if any (else None).
        """
        teacher = self.add(TEACHER, seed, fold)
        name, option = f"{teacher.name}/targets", "unrated_manifest"
        there = self.jobs.get(name, teacher).settings[option]
        if None not in (there, unrated) and there != unrated:
            raise InputError(
                f"The students of a table are taught on one {option}, not on {there} and {unrated}: make a table of "
                "each."
            )
        unrated = there or unrated
        arguments = [argument for argument in teacher.arguments if not argument.startswith(f"--{option}=")]
        self.jobs[name] = TargetsJob(
            name,
            self.recipe,
            teacher.settings["scripts"]["targets"],
            arguments + ([] if unrated is None else [f"--{option}={unrated}"]),
            teacher.settings | {option: unrated},
            teacher.makes,
            [teacher.name],
            self.processes,
        )
        return self.jobs[name]

    def keys(self, system):
        """Top-level keys of a system's hparams."""
        if system not in self._keys:
            self._keys[system] = set(read_settings(hparams_path(self.recipe, system)))
        return self._keys[system]

    def check_options(self, systems) -> None:
        """Refuse options that none of these systems and their teacher has."""
        taught = any("teacher_folder" in self.keys(system) for system in systems)
        places = {*systems, TEACHER} if taught else set(systems)
        for scope, key in self.options:
            if not any(key in self.keys(place) | RUN_OPTIONS for place in places if scope in (None, place)):
                known = {name for place in places for name in self.keys(place)} | RUN_OPTIONS
                hint = nearest(key, sorted(known)) or "its keys are those at the beginning of a line."
                raise InputError(f"--{scope + '.' if scope else ''}{key}: no system of this table has that key: {hint}")

    def _options_of(self, system):
        """Options by key; those for this system alone come after, and replace, those for all."""
        known = self.keys(system) | RUN_OPTIONS
        return {
            key: value
            for wanted in (None, system)
            for (scope, key), value in self.options.items()
            if scope == wanted and key in known
        }

    def _arguments(self, system, options):
        path = hparams_path(self.recipe, system).relative_to(self.recipe).as_posix()
        return [path] + [f"--{key}" if value is None else f"--{key}={value}" for key, value in options.items()]

    def _settings(self, system, options):
        """Resolve hparams exactly as the script does; also give what a model is made with."""
        path = hparams_path(self.recipe, system)
        _, run_opts, overrides = parse_arguments([str(path), *self._arguments(system, options)[1:]])
        settings = read_settings(path, overrides)
        return settings, model_settings(settings, run_opts, self.processes)


def results_folder(recipe: str | Path, options: Sequence[str] = ()) -> str:
    """Return the scripts' ``results_folder``, which is relative to the recipe unless it is absolute."""
    default = read_settings(hparams_path(recipe, known_systems(recipe)[0]))["results_folder"]
    return _parse_options(options).get((None, "results_folder"), default)


def hparams_path(recipe: str | Path, system: str) -> Path:
    """Return the path of a system's hparams file."""
    return Path(recipe) / "hparams" / f"{system}.yaml"


def known_systems(recipe: str | Path) -> list[str]:
    """Return the names of a recipe's systems in the order of a table's rows, which its hparams give."""
    systems = sorted(path.stem for path in Path(recipe).glob("hparams/*.yaml"))
    if not systems:
        raise InputError(f"{recipe} has no hparams/*.yaml: --recipe names a folder of recipes/.")
    rows = read_settings(hparams_path(recipe, systems[0])).get("rows", [])
    return in_order(systems, rows)


def in_order(systems: Iterable[str], rows: Sequence[str]) -> list[str]:
    """Sort systems as their rows stand; those that aren't among the rows follow by name.

    Example
    -------
    >>> in_order(["a", "ft", "attn", "cts"], ["attn", "ft", "cts", "ts"])
    ['attn', 'ft', 'cts', 'a']
    """
    return sorted(systems, key=lambda name: (rows.index(name) if name in rows else len(rows), name))


def _parse_options(tokens):
    """Read ``--key=value``, ``--key value`` and ``--flag`` by scope and key; the scope is a system or None."""
    options = {}
    for name, value in split_options(tokens).items():
        scope, _, key = name.rpartition(".")
        if key in _SET_BY_PLAN:
            raise InputError(f"--{name} can't be given to all runs of a table: {_SET_BY_PLAN[key]}.")
        options[scope or None, key] = value
    return options


def _fingerprints(folder):
    """Fingerprints of the manifests that are in a folder today, by name."""
    today: dict[str, str | None] = {}
    for dated in _dated_manifests(folder):
        today |= _fingerprints_of(*dated)
    return today


def _fingerprints_of_unrated(recipe, name, folder):
    """Fingerprints of a manifest of unrated speech, if it is there today; None for a system without."""
    if name is None:
        return {UNRATED: None}
    path = recipe / name
    return _fingerprints_beside(_dated(path), _dated_manifests(folder)) if path.is_file() else {}


def _dated_manifests(folder):
    """Name the manifests of a folder, with their dates."""
    return tuple(map(_dated, find_manifests(folder).values())) if any(folder.glob("*.csv")) else ()


def _dated(path):
    return path, path.stat().st_mtime_ns


@functools.cache
def _fingerprints_of(path, mtime_ns):
    """Read a manifest once for all jobs of a plan; one that has changed since is read again."""
    return read_manifest(path).fingerprints(reads=True)


@functools.cache
def _fingerprints_beside(unrated, splits):
    """Read a manifest of unrated speech likewise, which is of what the splits do not have."""
    return read_unrated(unrated[0], (read_manifest(path) for path, _ in splits)).fingerprints(reads=True)
