"""Settings: what a hparams file says, as plain values, and which of them make another model."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ruamel.yaml
import yaml
from hyperpyyaml import resolve_references

from ser_ts_lobes.errors import InputError

# What a recipe is like, where things are, how fast they are read and how long training goes on make no other model; nor
# does what a trained teacher is asked (targets say themselves what they are made from).
_NO_MATTER = {
    "scripts",
    "rows",
    "folds",
    "data_folder",
    "results_folder",
    "output_folder",
    "save_folder",
    "train_log",
    "train_logger",
    "tracker",
    "checkpointer",
    "manifest_folder",
    "feature_folder",
    "teacher_folder",
    "unrated_manifest",
    "reader_source",
    "spread_passes",
    "spread_dropout",
    "num_workers",
    "skip_prep",
    "transcripts",
    "release",
    "valid_dataloader_opts",
    "test_dataloader_opts",
}

#: Keys in which runs of one system may differ.
TELLS_RUNS_APART = {"seed", "__set_seed", "run", "fold"}

# Keys that came later, with what runs did before: one that lacks the key is no other than one that has this value.
_CAME_LATER = {
    "distance": "norm",
    "distance_temperature": 0.1,
    "taught": "joint",
    "prediction_weight": 0.0,
    "trust": "cut",
    "unrated_batch_size": 32,
    "unrated_keep": None,
    "soft_label_weight": 0.0,
    "layers": "last",
    "lora_rank": 0,
    "speech_encoder.lora_rank": 0,
    "speech_encoder.layers": "last",
    "text_trainable_layers": 0,
    "text_encoder.trainable_layers": 0,
    "batches": "shuffled",
    "max_batch_s": None,
    "train_dataloader_opts.batches": "shuffled",
    "train_dataloader_opts.max_batch_s": None,
    "emotion_weight": 0.0,
    "wav_augment": None,
    "fea_augment": None,
}
# Keys that came later for systems in which they have no effect by default.
_HAD_NO_EFFECT = {"encoder_lr", "soft_label_points", "emotion_classes"}


class MissingKey(InputError, AttributeError):
    """A key that a hparams file lacks; an attribute, too, for a Brain's hparams are, and may be asked by `hasattr`."""


class Hparams(dict[str, Any]):
    """What a hparams file says, by key; what is needed and not there is an `InputError` that says where it is.

    A file of one's own may be older than the code, and lack keys that came later. None is made up for it: what a key
    does stands beside its value in the current files.

    Parameters
    ----------
    values
        By key.
    file
        Where they are from.

    Example
    -------
    >>> hparams = Hparams({"system": "cts", "lr": 0.1}, "my.yaml")
    >>> hparams["lr"], hparams.get("distance"), hasattr(hparams.as_namespace(), "distance")
    (0.1, None, False)
    >>> hparams["distance"]
    Traceback (most recent call last):
    ser_ts_lobes.settings.MissingKey: my.yaml has no distance, which is needed: copy it from the recipe's ...
    """

    def __init__(self, values: dict[str, Any], file: str | Path) -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, key: str) -> Any:
        current = f"hparams/{self['system']}.yaml" if "system" in self else "files in hparams/"
        raise MissingKey(f"{self.file} has no {key}, which is needed: copy it from the recipe's own {current}.")

    def as_namespace(self) -> SimpleNamespace:
        """Give the same as attributes, as a Brain has it."""
        return _Namespace(**self, _hparams=self)


class _Namespace(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of Python's own protocols
            raise AttributeError(name)
        return self._hparams[name]


def read_settings(path: str | Path, overrides: str | None = None) -> dict[str, Any]:
    """Read a hparams file, references and overrides resolved, as plain values; no object is made.

    Parameters
    ----------
    path
        HyperPyYAML. A run's ``hyperparams.yaml`` is one too.
    overrides
        YAML, as `ser_ts_lobes.experiment.parse_arguments` gives it; None leaves the file's references as they are.

    Returns
    -------
    dict
        What a tag such as ``!new:`` stands before is a dict or a string with the tag in it.

    Raises
    ------
    InputError
        If the file is not there, is not YAML with keys, a value that must be given is not, or an option names no key of
        the file.
    """
    with plain_hparams_errors(path):
        text = Path(path).read_text(encoding="utf-8") if overrides is None else resolve(path, overrides)
        settings = yaml.load(text, _PlainLoader)
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise InputError(f"{path} has no keys with values, as a file of hparams/ has: name another file.")
    return settings


def resolve(path: str | Path, overrides: str) -> str:
    """Put the options and what is referred to into the text of a hparams file.

    Parameters
    ----------
    path
        HyperPyYAML.
    overrides
        YAML, as `ser_ts_lobes.experiment.parse_arguments` gives it.

    Returns
    -------
    str
        HyperPyYAML without references.

    Raises
    ------
    InputError
        As `read_settings`.
    """
    with plain_hparams_errors(path), open(path, encoding="utf-8") as file:
        text: str = resolve_references(file, overrides).getvalue()
        return text


def check_override(name: str, value: str) -> None:
    """Refuse an option whose text is not one value in YAML: it would set other keys, or less than it says.

    Parameters
    ----------
    name
        Of the key.
    value
        As it stands on the command line.

    Raises
    ------
    InputError
        If it is no YAML, several lines, ends in a comment, or is a date or the like, which no key takes.

    Example
    -------
    >>> check_override("opt_class", "{lr: 0.1}")
    >>> check_override("data_folder", "/corpus #2")
    Traceback (most recent call last):
    ser_ts_lobes.errors.InputError: --data_folder=/corpus #2 is no value in YAML (what follows # is a comment): ...
    """
    text = f"{name}: {value}"
    problem = None
    try:
        read = yaml.load(text, _PlainLoader)[name]
        [(_, node)] = yaml.compose(text, _PlainLoader).value
        json.dumps(read)
    except (*_YAML_ERRORS, RecursionError) as error:
        problem = _reason(error)
    except (TypeError, ValueError, KeyError):  # JSON has numbers, texts, lists and mappings
        problem = "no number, text, list or mapping"
    else:
        if len(value.splitlines()) > 1:
            problem = "it has several lines"
        elif text[node.end_mark.index :].strip():
            problem = "what follows # is a comment"
    if problem:
        raise InputError(
            f"--{name}={value} is no value in YAML ({problem}): correct it, or put a text in quotes within the "
            f"shell's, --{name}='\"...\"'."
        )


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to those that make a difference to a model, by dotted key.

    Example
    -------
    >>> flatten({"lr": 0.1, "opts": {"batch_size": 2, "num_workers": 4}, "output_folder": "here"})
    {'lr': 0.1, 'opts.batch_size': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key in _NO_MATTER:
            continue
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def difference(then: dict[str, Any], now: dict[str, Any], leave_out: Iterable[str] = ()) -> str | None:
    """Say in what two flat settings differ; those of an earlier version lack keys that came later.

    Parameters
    ----------
    then, now
        From `flatten`.
    leave_out
        Keys that may differ.

    Returns
    -------
    str or None
        Each of the plainest keys that differ, with its two values; None if none does.

    Example
    -------
    >>> difference({"lr": 0.1, "opt_class.lr": 0.1, "seed": 1}, {"lr": 0.2, "opt_class.lr": 0.2, "seed": 2})
    'lr 0.1, not 0.2; seed 1, not 2'
    >>> difference({"lr": 0.1}, {"lr": 0.1})
    """
    follows = {key for settings in (then, now) for key, value in settings.items() if _is_attribute(value)}
    no_effect = _HAD_NO_EFFECT - (then.keys() & now.keys())
    values = {
        key: [settings.get(key, _CAME_LATER.get(key.removeprefix("modules."), _ABSENT)) for settings in (then, now)]
        for key in sorted((then | now).keys() - set(leave_out) - follows - no_effect)
    }
    differing = {key: f"{key} {old}, not {new}" for key, (old, new) in values.items() if old != new}
    depth = min((key.count(".") for key in differing), default=0)
    return "; ".join(text for key, text in differing.items() if key.count(".") == depth) or None


_ABSENT = "(not set)"
# HyperPyYAML reads with the one, and the other reads what that has resolved.
_YAML_ERRORS = (ruamel.yaml.error.YAMLError, yaml.YAMLError)


def _reason(error: Exception) -> str:
    """Say what is wrong with YAML, without the excerpt."""
    return str(getattr(error, "problem", None) or error).splitlines()[0]


def _is_attribute(value: Any) -> bool:
    """Whether a value is ``!ref <object.attribute>``, resolved: it follows from the object's own settings."""
    match value:
        case [{"!": _}, str()]:
            return True
    return False


@contextlib.contextmanager
def plain_hparams_errors(hparams_file: str | Path) -> Iterator[None]:
    """Turn what HyperPyYAML says of a user's options into an `InputError`.

    Parameters
    ----------
    hparams_file
        The file that is read in the block.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: name a file of hparams/.") from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise InputError(f"{hparams_file} is not a text file in UTF-8: name a file of hparams/.") from error
    except (*_YAML_ERRORS, RecursionError, ArithmeticError) as error:
        raise InputError(
            f"{hparams_file}, or an option for it, can't be read as YAML ({_reason(error)}): correct it."
        ) from error
    except (ImportError, TypeError) as error:
        reason = ": ".join(map(str, error.args))
        if reason.startswith(("There is no such", "Invalid argument to")):
            raise InputError(f"{hparams_file}: {reason}: correct it, or the option.") from error
        raise
    except (ValueError, KeyError) as error:
        reason = str(error.args[0]) if error.args else ""
        if reason.startswith(("The reference", "Circular reference")):
            raise InputError(f"{hparams_file}: {' '.join(map(str, error.args))}: correct it, or the option.") from error
        if "!PLACEHOLDER" in reason:
            raise InputError(f"{hparams_file}: {reason} Give it on the command line: --key=value.") from error
        if "structure of the overrides" in reason:  # which HyperPyYAML shows as Python objects
            raise InputError(
                f"{hparams_file}: an option gives a mapping where the file has a single value: change the key in a "
                "copy of the file."
            ) from error
        if reason.startswith("Override "):
            raise InputError(f"{hparams_file}: {reason}") from error
        raise


class _PlainLoader(ruamel.yaml.SafeLoader):
    """Reads values as HyperPyYAML does (YAML 1.2: ``1e-3`` is a number, ``no`` a text); makes nothing of its tags."""


def _plain(loader, tag, node):
    if isinstance(node, ruamel.yaml.MappingNode):
        return {"!": tag, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, ruamel.yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return f"!{tag} {node.value}".strip()


_PlainLoader.add_multi_constructor("!", _plain)
# HyperPyYAML teaches it to ruamel.yaml's loaders when it first loads a file.
_PlainLoader.add_constructor("!tuple", lambda loader, node: node.value)
