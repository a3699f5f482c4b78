"""The start of an experiment: from a hparams file and a command line to the objects that it describes."""

import dataclasses
import difflib
import os
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.run_opts import RunOptions

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.files import hold_lock, replacing
from ser_ts_lobes.options import check_run_options, check_settings
from ser_ts_lobes.processes import join
from ser_ts_lobes.provenance import SETTINGS_FILE, made_from, refuse_another_corpus, refuse_other_settings
from ser_ts_lobes.settings import Hparams, check_override, flatten, plain_hparams_errors, read_settings, resolve

#: SpeechBrain's options of the scripts, which are no keys of a hparams file.
RUN_OPTIONS = frozenset(field.name for field in dataclasses.fields(RunOptions)) - {"param_file", "overridden_args"}

#: In a run's folder; who has its lock works there.
LOCK_FILE = ".lock"
#: The environment variable by which a runner says which lock it has taken for its script.
LOCK_VARIABLE = "SER_TS_LOCK"

# Those that say how and where a run goes; any other may change its numbers.
_NO_MATTER = {
    *("debug", "debug_batches", "debug_epochs", "debug_persistently", "device", "distributed_backend"),
    *("noprogressbar", "tqdm_colored_bar", "tqdm_barcolor", "ckpt_interval_minutes", "ckpt_interval_steps"),
    *("find_unused_parameters", "test_only", "profile_training", "profile_warmup", "profile_steps", "log_config"),
}


def parse_arguments(arguments: list[str]) -> tuple[str, RunOptions, str]:
    r"""Read the command line of a script: a hparams file, then ``--key=value`` or ``--key value``.

    What is said of a key of the file goes to the file's settings, also where SpeechBrain has a run option of that name
    (``precision``): so it is written into the run.

    Parameters
    ----------
    arguments
        Without the script's name.

    Returns
    -------
    tuple of str, speechbrain.utils.run_opts.RunOptions and str
        The hparams file, the run options, the overrides of the file's keys (YAML); as `speechbrain.parse_arguments`
        gives them. In debug mode, ``output_folder`` is moved to where no result is looked for.

    Raises
    ------
    InputError
        If the file is not there, or an option is unknown, given twice, or has no value.

    Example
    -------
    >>> path = getfixture("tmp_path") / "ft.yaml"
    >>> _ = path.write_text("lr: 0.1\nprecision: fp32\n")
    >>> _, run_opts, overrides = parse_arguments([str(path), "--device", "cpu", "--precision=bf16"])
    >>> run_opts["device"], overrides
    ('cpu', 'precision: bf16')
    """
    if not arguments or arguments[0].startswith("-"):
        return sb.parse_arguments(arguments)  # shows how it is used, and ends the program
    hparams_file = arguments[0]
    settings = read_settings(hparams_file)
    options = split_options(arguments[1:])
    run_options, overrides = [hparams_file], []
    for name, value in options.items():
        if name in settings:
            if value is None:
                raise InputError(f"--{name} needs a value: --{name}=VALUE.")
            check_override(name, value)
            _refuse_another_class(name, value, settings[name])
            overrides.append(f"{name}: {value}")
        elif name in RUN_OPTIONS:
            run_options += [f"--{name}" if value is None else f"--{name}={value}"]
        else:
            hint = nearest(name, [*settings, *RUN_OPTIONS]) or "its keys are those at the beginning of a line."
            raise InputError(f"--{name} is no key of {hparams_file}: {hint}")
    if "debug" in options and "output_folder" not in options:
        folder = settings["output_folder"].replace("<results_folder>", "<results_folder>/debug")
        overrides.append(f"output_folder: {folder}")
    _, run_opts, _ = sb.parse_arguments(run_options)
    return hparams_file, _complete(run_opts), "\n".join(overrides)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Ask whether one of the nearest names was meant.

    Parameters
    ----------
    name
        That is none of the known ones.
    known
        Names that there are.

    Returns
    -------
    str or None
        A question; None where nothing is near.

    Example
    -------
    >>> nearest("number_of_epoch", ["seed", "number_of_epochs"])
    'did you mean number_of_epochs?'
    """
    near = difflib.get_close_matches(name, list(known))
    return f"did you mean {' or '.join(near)}?" if near else None


def _complete(run_opts):
    """Fill in what SpeechBrain leaves to its users: without a GPU, processes talk by gloo; a limit is a number."""
    filled: dict[str, Any] = {}
    if "distributed_backend" not in run_opts.overridden_args and not _on_gpu(run_opts):
        filled["distributed_backend"] = "gloo"
    if run_opts.optimizer_step_limit is not None:  # which has no default that it would take its type from
        try:
            filled["optimizer_step_limit"] = int(run_opts.optimizer_step_limit)
        except ValueError:
            raise InputError(
                f"--optimizer_step_limit is {run_opts.optimizer_step_limit}: give a whole number."
            ) from None
    # Of run options, a Brain takes those alone that have been given.
    return dataclasses.replace(run_opts, **filled, overridden_args={*run_opts.overridden_args, *filled})


def _on_gpu(run_opts):
    return run_opts.device.startswith("cuda") if run_opts.device else torch.cuda.is_available()


def _refuse_another_class(name, value, setting):
    """Refuse what HyperPyYAML would silently leave out: it merges mappings, and keeps the class of the file's."""
    tag = value.split()[0] if value.startswith("!") else None
    if isinstance(setting, dict) and tag not in (None, "!ref", f"!{setting.get('!')}"):
        kind = f"!{setting['!']}" if "!" in setting else "a mapping"
        raise InputError(
            f"--{name} can't change what {name} is ({kind}) on the command line, only what is in it: change it in a "
            "copy of the hparams file."
        )


def split_options(tokens: Sequence[str]) -> dict[str, str | None]:
    """Read ``--key=value``, ``--key value`` and ``--flag``.

    Parameters
    ----------
    tokens
        Of a command line.

    Returns
    -------
    dict of str to str
        Values by key, as they stand there; None for a flag.

    Raises
    ------
    InputError
        If a token is no option, or a key is given twice.

    Example
    -------
    >>> split_options(["--lr=0.1", "--text_source", "bert", "--debug"])
    {'lr': '0.1', 'text_source': 'bert', 'debug': None}
    """
    options, last = {}, None
    for token in tokens:
        if token.startswith("--"):
            last, equals, value = token[2:].partition("=")
            if last in options:
                raise InputError(f"--{last} is given twice; keep one.")
            options[last] = value if equals else None
        elif last is None or options[last] is not None:
            raise InputError(f"{token!r} is no option of the scripts: expected --key=value.")
        else:
            options[last] = token
    return options


def model_settings(settings: dict[str, Any], run_opts: RunOptions, processes: int = 1) -> dict[str, Any]:
    """Give all settings that make a difference to a model.

    Parameters
    ----------
    settings
        From `ser_ts_lobes.settings.read_settings`.
    run_opts
        From `parse_arguments`.
    processes
        That train together.

    Returns
    -------
    dict
        Flat, fit for JSON: the file's settings, the run options that were given and may change numbers, ``processes``.
    """
    given = {name: run_opts[name] for name in sorted(run_opts.overridden_args) if name in RUN_OPTIONS - _NO_MATTER}
    return {**flatten(settings), **given, "processes": processes}


def start_experiment(hparams_file: str, run_opts: RunOptions, overrides: str, trains: bool = True) -> Hparams:
    """Join the other processes, if there are any, and see to it that the run can go on; no network is loaded.

    What costs little comes before what costs much: a script prepares its corpus and looks for its teacher with these
    settings, and then calls `load_experiment`. A run that trains gets its ``hyperparams.yaml``.

    Parameters
    ----------
    hparams_file, run_opts, overrides
        From `parse_arguments`.
    trains
        Whether the script trains, and must go on with as many processes as it has begun with; what a trained model
        says does not depend on them.

    Returns
    -------
    Hparams
        The settings, plain values, as `ser_ts_lobes.settings.read_settings` gives them.

    Raises
    ------
    InputError
        If a value that must be given (``data_folder``) is not, an option can't be met, or the run's folder is another
        process's just now, or holds a model that was made with other settings or, finished, of another corpus.
    """
    settings = Hparams(read_settings(hparams_file, overrides), hparams_file)
    check_settings(settings)
    check_run_options(run_opts, settings)
    join(run_opts)
    if sb.utils.distributed.if_main_process():
        hold_lock(Path(settings["output_folder"], LOCK_FILE), os.environ.get(LOCK_VARIABLE))
    refuse_other_settings(settings["save_folder"], _of_model(settings, run_opts, trains))
    refuse_another_corpus(settings)
    if trains:
        sb.utils.distributed.run_on_main(_write_settings, [Path(settings["output_folder"]), hparams_file, overrides])
    return settings


def _write_settings(folder, hparams_file, overrides):
    """Write what `sb.create_experiment_directory` would, but whole or not at all: a finished run is known by it."""
    header = f"# Generated {date.today()} from:\n# {os.path.abspath(hparams_file)}\n# yamllint disable\n"
    with replacing(folder / SETTINGS_FILE) as temporary:
        temporary.write_text(header + resolve(hparams_file, overrides), encoding="utf-8")


def load_experiment(hparams_file: str, run_opts: RunOptions, overrides: str, trains: bool = True) -> Hparams:
    """Load the hyper-parameters; networks are made, and fetched where need be.

    Parameters
    ----------
    hparams_file, run_opts, overrides, trains
        As for `start_experiment`, which has checked them.

    Returns
    -------
    Hparams
        The hyper-parameters; objects made. ``settings`` are those of `model_settings`.

    Raises
    ------
    InputError
        If a network can't be had.
    """
    with plain_hparams_errors(hparams_file), open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    made_with = _of_model(read_settings(hparams_file, overrides), run_opts, trains)
    return Hparams({**hparams, "settings": made_with}, hparams_file)


def _of_model(settings, run_opts, trains):
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if not trains and (saved := made_from(settings["save_folder"])) is not None:
        processes = saved.get("settings", {}).get("processes", processes)
    return model_settings(settings, run_opts, processes)
