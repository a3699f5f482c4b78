"""Search for settings of a system by optuna, on the validation set alone.

    python -m tools.search SCRIPT HPARAMS --trials 20 --out FOLDER --key=SPACE ... --key=value ...

SCRIPT is a recipe's train_student.py or train_teacher.py, HPARAMS one of its hparams files. The script runs in its own
folder, to which relative paths in HPARAMS and the options belong. SPACE is one of

    uniform(0.1, 0.9)    loguniform(1e-5, 1e-3)    integers(1, 12)    choices(gru, transformer)

and any other value is the same in all trials. What counts of a trial is its lowest validation loss, the mean of
1 - CCC_j (``valid_loss`` in ``metrics.json``); test scores, which the script writes too, are never looked at. The same
command goes on where it was interrupted. It needs `pip install optuna`.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ser_ts_lobes.errors import InputError, plain_errors
from ser_ts_lobes.experiment import split_options
from ser_ts_lobes.files import make_folder
from ser_ts_lobes.results.run_folder import RunFolder

_SPACE = re.compile(r"(uniform|loguniform|integers|choices)\((.+)\)")


def read_space(value: str) -> "Callable[[Any, str], Any] | None":
    """Read what a setting may be.

    Parameters
    ----------
    value
        Of an option.

    Returns
    -------
    callable or None
        Of an optuna trial and the setting's name; suggests a value. None if the option has one value.

    Raises
    ------
    InputError
        If the ends of a range are not two numbers, the lower one first.

    Example
    -------
    >>> read_space("hubert") is None, callable(read_space("loguniform(1e-5, 1e-3)"))
    (True, True)
    """
    match = _SPACE.fullmatch(value.strip())
    if match is None:
        return None
    kind, values = match[1], [yaml.safe_load(part) for part in match[2].split(",")]
    if kind == "choices":
        return lambda trial, name: trial.suggest_categorical(name, values)
    try:
        low, high = map(float, values)  # YAML 1.1 takes 1e-5 for a text
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    whole = kind == "integers"
    if low >= high or (kind == "loguniform" and low <= 0) or (whole and not (low.is_integer() and high.is_integer())):
        raise InputError(
            f"{value!r} is no range: give two numbers, the lower one first, above 0 for loguniform, whole for integers."
        )
    if whole:
        return lambda trial, name: trial.suggest_int(name, int(low), int(high))
    return lambda trial, name: trial.suggest_float(name, low, high, log=kind == "loguniform")


def run_trial(trial: Any, script: Path, hparams: str, out: Path, options: Mapping[str, str | None]) -> float:
    """Train with the settings that a trial suggests.

    Parameters
    ----------
    trial
        Of optuna.
    script, hparams
        The training script, and its hparams file as the script is told it.
    out
        The run goes into a folder of the trial's number there.
    options
        Values and spaces by key, as of `ser_ts_lobes.experiment.split_options`.

    Returns
    -------
    float
        The lowest loss on the validation set.

    Raises
    ------
    InputError
        If the training fails; its output stands above.
    """
    folder = out / str(trial.number)
    command = [sys.executable, script.name, hparams]
    for name, value in options.items():
        suggest = read_space(value or "")
        value = value if suggest is None else suggest(trial, name)
        command.append(f"--{name}" if value is None else f"--{name}={value}")
    command.append(f"--output_folder={folder}")
    if subprocess.run(command, cwd=script.parent).returncode:
        raise InputError(f"Trial {trial.number} failed; the command was {' '.join(command)}")
    loss: float = RunFolder(folder).report()["best"]["valid_loss"]
    return loss


def search(script: Path, hparams: str, out: Path, n_trials: int, seed: int, options: Mapping[str, str | None]) -> None:
    """Run trials until there are as many, and print the best settings.

    Parameters
    ----------
    script, hparams, out, options
        As of `run_trial`; ``study.db`` in `out` has what was tried.
    n_trials
        Those of an interrupted search count.
    seed
        Of what is suggested.

    Raises
    ------
    InputError
        If optuna is not installed, no trial is wanted, no option is a space, or a training fails.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError("A search needs optuna: `pip install optuna`.") from error
    if n_trials < 1:
        raise InputError(f"--trials is {n_trials}: give 1 or more.")
    if not any(read_space(value or "") for value in options.values()):
        raise InputError("No option is a space, so there is nothing to search: give one such as --lr=uniform(0.1, 1).")
    make_folder(out)
    study = optuna.create_study(
        study_name="search",
        storage=f"sqlite:///{out / 'study.db'}",
        load_if_exists=True,
        direction="minimize",
    )
    done = sum(trial.value is not None for trial in study.trials)
    # A sampler of the same seed would suggest once more what it suggested first.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    study.optimize(lambda trial: run_trial(trial, script, hparams, out, options), n_trials=max(0, n_trials - done))
    done = sum(trial.value is not None for trial in study.trials)
    print(f"Lowest validation loss of {done} trials: {study.best_value:.4f} (trial {study.best_trial.number})")
    print(" ".join(f"--{name}={value}" for name, value in study.best_params.items()))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", type=Path)
    parser.add_argument("hparams")
    parser.add_argument("--trials", type=int, default=20, help="how many there are to be in all (20)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trials' runs")
    parser.add_argument("--search-seed", type=int, default=1986, help="of what is tried (1986)")
    arguments, rest = parser.parse_known_args()
    with plain_errors():
        out = arguments.out.absolute()
        search(arguments.script, arguments.hparams, out, arguments.trials, arguments.search_seed, split_options(rest))


if __name__ == "__main__":
    main()
