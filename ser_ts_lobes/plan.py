"""The plan of a table: which scripts run, with which options, after which others, and which of them have run."""

import dataclasses
import hashlib
import json
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import speechbrain as sb
import yaml
from hyperpyyaml import resolve_references
from speechbrain.utils.run_opts import RunOptions

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.experiment import plain_hparams_errors
from ser_ts_lobes.targets import TeacherTargets

#: The system whose run a student's ``teacher_folder`` names by default.
TEACHER = "teacher"
#: IEMOCAP's; a recipe whose hparams have a ``fold`` has so many.
FOLDS = (1, 2, 3, 4, 5)

_RUN_OPTIONS = {field.name for field in dataclasses.fields(RunOptions)}
# Keys that tell runs apart, and what sets them here.
_SET_BY_PLAN = {
    "seed": "use --seeds",
    "fold": "use --folds",
    **dict.fromkeys(
        ("system", "run", "output_folder", "save_folder", "train_log"), "the runs of a table have their own"
    ),
}
# Where things are and how fast they are read makes no other model.
_NO_MATTER = {
    "data_folder",
    "results_folder",
    "output_folder",
    "save_folder",
    "train_log",
    "train_logger",
    "checkpointer",
    "manifest_folder",
    "feature_folder",
    "teacher_folder",
    "num_workers",
    "skip_prep",
}


@dataclass(frozen=True)
class Sweep:
    """Values that one key of a system's hparams takes in turn.

    Attributes
    ----------
    key : str
        Such as ``ts_weight``.
    values : tuple of str
        As on the command line; ``none`` stands for YAML's null.

    Example
    -------
    >>> Sweep.parse("residual_threshold=1.5,2,none")
    Sweep(key='residual_threshold', values=('1.5', '2', 'none'))
    """

    key: str
    values: tuple

    @classmethod
    def parse(cls, text):
        """Read ``key=value,value``."""
        key, _, values = text.partition("=")
        values = tuple(value.strip() for value in values.split(",") if value.strip())
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
    name : str
        Such as ``cts/fold1/3``: the run, as below ``results_folder``.
    recipe : pathlib.Path
        Where the script is, and runs.
    script : str
        Its name.
    arguments : list of str
        The hparams file and the options.
    settings : dict
        The hparams that this makes, as `read_settings` reads them.
    needs : list of str
        Names of jobs that must have succeeded.
    """

    name: str
    recipe: Path
    script: str
    arguments: list
    settings: dict
    needs: list = field(default_factory=list)

    @property
    def folder(self):
        """The run's output folder, a pathlib.Path."""
        return self.recipe / self.settings["output_folder"]

    @property
    def command(self):
        """The command line, a list of str; it runs in the recipe's folder."""
        return [sys.executable, self.script, *self.arguments]

    @cached_property
    def shares(self):
        """What it makes unless another job has, a set of str: manifests and features of frozen networks."""
        shared = {f"manifests {self.settings['prepare_opts']['manifest_folder']}"}
        if self.settings["feature_folder"]:
            for name, encoder in self.settings["modules"].items():
                if name.endswith("_encoder"):
                    made_from = [self.settings["manifest_folder"], self.settings["feature_dtype"], encoder]
                    shared.add(f"features {json.dumps(made_from)}")
        return shared

    @property
    def past_start(self):
        """Whether it has come to train, so that what it shares is there."""
        return (self.folder / "train_log.txt").is_file()

    @property
    def finished(self):
        """Whether what it writes last is there."""
        return (self.folder / "metrics.json").is_file()

    def stale(self):
        """Say in what an earlier run in its folder, whole or partial, was another one than it would be.

        Returns
        -------
        str or None
        """
        checkpoints = sorted(self.folder.glob("save/CKPT*/CKPT.yaml"))  # whole ones
        if not (self.finished or checkpoints):
            return None
        if not (self.folder / "hyperparams.yaml").is_file():
            return f"{self.folder} holds a model but no hyperparams.yaml"
        then, now = flatten(read_settings(self.folder / "hyperparams.yaml")), flatten(self.settings)
        for key in sorted(then | now, key=lambda key: (key.count("."), key)):
            if then.get(key) != now.get(key):
                return f"{self.folder} was trained with {key} {then.get(key)}, not {now.get(key)}"
        made_from = _read_json(checkpoints[-1].with_name("made_from.ckpt")) if checkpoints else {}
        if self.finished:
            made_from |= _read_json(self.folder / "metrics.json")["manifests"]
        manifests = self.recipe / self.settings["manifest_folder"]
        teacher = self.recipe / self.settings.get("teacher_folder", "") / "metrics.json"
        for name, fingerprint in made_from.items():
            if name == "teacher":
                changed = teacher.is_file() and _read_json(teacher)["fingerprint"] != fingerprint
            else:
                path = manifests / f"{name}.csv"
                changed = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != fingerprint
            if changed:
                return f"{self.folder} was made from another {name} than today's"
        return None


class TargetsJob(Job):
    """A run of precompute_targets.py. Its files are replaced when they are another teacher's, so never stale."""

    @property
    def finished(self):
        """Whether what it writes last is there, and is of the teacher as it is now."""
        splits = list(self.folder.glob("targets/*.safetensors"))
        plots = [self.folder / f"predictions_{path.stem}.png" for path in splits]
        if not splits or not all(path.is_file() for path in [*plots, self.folder / "metrics.json"]):
            return False
        teacher = _read_json(self.folder / "metrics.json")["fingerprint"]
        return all(TeacherTargets.load(path).made_from.get("teacher") == teacher for path in splits)

    def stale(self):
        """Return None."""


def make_plan(recipe, systems, seeds=None, folds=None, options=(), sweep=None):
    """Plan all runs of a table, with the teachers that they need.

    Parameters
    ----------
    recipe : str or pathlib.Path
        A folder of ``recipes/``.
    systems : sequence of str
        Stems of its hparams files.
    seeds : sequence of int
        Each system is trained once a seed; None for the hparams' own.
    folds : sequence of int
        And once a fold; None for all that the recipe has.
    options : sequence of str
        Options of the scripts, ``--key=value`` or ``--key value``, for each system that has the key;
        ``--system.key`` is for that system alone.
    sweep : Sweep
        Trains each system once a value, next to its own.

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
    planner = _Planner(recipe, _parse_options(options), sweep)
    has_folds = "fold" in planner.keys(systems[0])
    if folds and not has_folds:
        raise InputError(f"{recipe} has no folds: leave --folds out.")
    planner.check_options(systems)
    seeds = seeds or [read_settings(hparams_path(recipe, systems[0]))["seed"]]
    for fold in (folds or FOLDS) if has_folds else (None,):
        for seed in seeds:
            for system in sorted(systems, key=lambda name: name != TEACHER):
                for value in sweep.values if sweep else (None,):
                    planner.add(system, seed, fold, value)
    jobs = list(planner.jobs.values())
    stale = [problem for problem in (job.stale() for job in jobs) if problem]
    if stale:
        more = f" ({len(stale) - 1} more runs don't fit)" if stale[1:] else ""
        raise InputError(f"{stale[0]}: delete it to train it anew, or give another --results_folder{more}.")
    return jobs


class _Planner:
    """Jobs by name, added with what they need."""

    def __init__(self, recipe, options, sweep):
        self.recipe, self.options, self.sweep = recipe, options, sweep
        self.jobs = {}
        self._keys = {}

    def add(self, system, seed, fold, value=None):
        """Add the training of a system, unless it is there; return its job."""
        chosen = {"seed": seed} | ({} if fold is None else {"fold": fold})
        options = {**self._options_of(system), **chosen}
        settings = self._settings(system, options)
        if value is not None:
            key = self.sweep.key
            if key not in settings:
                raise InputError(f"{system} has no {key} to sweep; choose other --systems.")
            wanted = yaml.safe_load("null" if value == "none" else value)
            if wanted != settings[key]:  # the value that the system has anyway is the system's own run
                folder = f"{settings['results_folder']}/{system}/{key}/{value}/{settings['run']}"
                options |= {key: "null" if wanted is None else value, "output_folder": folder}
                settings = self._settings(system, options)
        name = Path(settings["output_folder"]).relative_to(settings["results_folder"]).as_posix()
        if name in self.jobs:
            return self.jobs[name]
        script = "train_teacher.py" if "text_encoder" in settings["modules"] else "train_student.py"
        job = Job(name, self.recipe, script, self._arguments(system, options), settings)
        if not job.finished and "teacher_folder" in settings:
            teacher = self._settings(TEACHER, {**self._options_of(TEACHER), **chosen})
            if teacher["output_folder"] == settings["teacher_folder"]:
                job.needs.append(self._add_targets(seed, fold).name)
        self.jobs[name] = job
        return job

    def _add_targets(self, seed, fold):
        teacher = self.add(TEACHER, seed, fold)
        job = TargetsJob(
            f"{teacher.name}/targets",
            self.recipe,
            "precompute_targets.py",
            teacher.arguments,
            teacher.settings,
            [teacher.name],
        )
        return self.jobs.setdefault(job.name, job)

    def keys(self, system):
        """Top-level keys of a system's hparams."""
        if system not in self._keys:
            self._keys[system] = set(read_settings(hparams_path(self.recipe, system)))
        return self._keys[system]

    def check_options(self, systems):
        """Refuse options that none of these systems and their teacher has."""
        taught = any("teacher_folder" in self.keys(system) for system in systems)
        places = {*systems, TEACHER} if taught else set(systems)
        for scope, key in self.options:
            if not any(key in self.keys(place) | _RUN_OPTIONS for place in places if scope in (None, place)):
                raise InputError(f"--{scope + '.' if scope else ''}{key}: no system of this table has that key.")

    def _options_of(self, system):
        """Options by key; those for this system alone come after, and replace, those for all."""
        known = self.keys(system) | _RUN_OPTIONS
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
        """Resolve hparams exactly as the script does."""
        _, _, overrides = sb.parse_arguments(self._arguments(system, options))
        return read_settings(hparams_path(self.recipe, system), overrides)


def results_folder(recipe, options=()):
    """Return the scripts' ``results_folder``, which is relative to the recipe unless it is absolute."""
    default = read_settings(hparams_path(recipe, known_systems(recipe)[0]))["results_folder"]
    return _parse_options(options).get((None, "results_folder"), default)


def hparams_path(recipe, system):
    """Return the path of a system's hparams file."""
    return Path(recipe) / "hparams" / f"{system}.yaml"


def known_systems(recipe):
    """Return the names of a recipe's systems, sorted."""
    systems = sorted(path.stem for path in Path(recipe).glob("hparams/*.yaml"))
    if not systems:
        raise InputError(f"{recipe} has no hparams/*.yaml: --recipe names a folder such as recipes/MSP-Podcast.")
    return systems


def read_settings(path, overrides=None):
    """Read a hparams file, references and overrides resolved, as plain values; no object is made.

    Parameters
    ----------
    path : str or pathlib.Path
        HyperPyYAML. A run's ``hyperparams.yaml`` is one too.
    overrides : str
        YAML, as `speechbrain.parse_arguments` gives it; None leaves the file's references as they are.

    Returns
    -------
    dict
        What a tag such as ``!new:`` stands before is a dict or a string with the tag in it.
    """
    with plain_hparams_errors(path), open(path, encoding="utf-8") as file:
        text = file.read() if overrides is None else resolve_references(file, overrides).getvalue()
    return yaml.load(text, _PlainLoader)


def flatten(settings, prefix=""):
    """Flatten nested settings to those that make a difference to a model, by dotted key.

    Example
    -------
    >>> flatten({"lr": 0.1, "opts": {"batch_size": 2, "num_workers": 4}, "output_folder": "here"})
    {'lr': 0.1, 'opts.batch_size': 2}
    """
    flat = {}
    for key, value in settings.items():
        if key in _NO_MATTER:
            continue
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class _PlainLoader(yaml.SafeLoader):
    """Reads what HyperPyYAML's tags stand before, and makes nothing of it."""


def _plain(loader, tag, node):
    if isinstance(node, yaml.MappingNode):
        return {"!": tag, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return f"!{tag} {node.value}".strip()


_PlainLoader.add_multi_constructor("!", _plain)


def _parse_options(tokens):
    """Read ``--key=value``, ``--key value`` and ``--flag`` by scope and key; the scope is a system or None."""
    options, last = {}, None
    for token in tokens:
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            scope, _, key = name.rpartition(".")
            if key in _SET_BY_PLAN:
                raise InputError(f"--{name} can't be given to all runs of a table: {_SET_BY_PLAN[key]}.")
            last = (scope or None, key)
            options[last] = value if equals else None
        elif last is None or options[last] is not None:
            raise InputError(f"{token!r} after `--` is no option of the scripts: expected --key=value.")
        else:
            options[last] = token
    return options


def _read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))
