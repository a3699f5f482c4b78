"""What a run says that it was made from: its checkpoints, and the settings beside its results."""

import json
import os
from pathlib import Path
from typing import Any

from ser_ts_lobes.errors import InputError
from ser_ts_lobes.settings import difference, read_settings

#: Of each checkpoint, what holds it (`ser_ts_lobes.training.checkpoints.MadeFrom` writes it).
MADE_FROM = "made_from"
#: In a run's folder: its settings, as SpeechBrain writes them, and its scores, with which it is finished.
SETTINGS_FILE, SCORES_FILE = "hyperparams.yaml", "metrics.json"
#: Settings of which a run may go on with another value: how long it is trained.
MAY_GROW = ("number_of_epochs", "epoch_counter.limit")


def made_from(save_folder: str | Path) -> dict[str, Any] | None:
    """Read what the newest whole checkpoint of a run was made from.

    Parameters
    ----------
    save_folder
        Where the run's checkpoints are.

    Returns
    -------
    dict or None
        ``settings`` and ``data``, as of `ser_ts_lobes.training.checkpoints.MadeFrom`; None if there is no checkpoint.
    """
    whole = [path for path in Path(save_folder).glob("CKPT*/CKPT.yaml")]
    if not whole:
        return None
    newest = max(whole, key=lambda path: (path.stat().st_mtime_ns, path))
    path = newest.with_name(f"{MADE_FROM}.ckpt")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def refuse_untrained(settings: dict[str, Any]) -> None:
    """Refuse to go on from a run that has not been trained.

    Parameters
    ----------
    settings
        Of the run: ``save_folder``; ``scripts`` and ``system``, for the message.

    Raises
    ------
    InputError
        If it has no checkpoint; it names the command to run.
    """
    if made_from(settings["save_folder"]) is None:
        command = f"python {settings['scripts']['teacher']} hparams/{settings['system']}.yaml"
        raise InputError(f"{settings['save_folder']} holds no checkpoint: run `{command}` first.")


def refuse_other_settings(save_folder: str | Path, settings: dict[str, Any]) -> None:
    """Refuse to go on with a model that was made with other settings.

    Parameters
    ----------
    save_folder
        Where the run's checkpoints are, if there are any.
    settings
        From `ser_ts_lobes.experiment.model_settings`.

    Raises
    ------
    InputError
        If one differs.
    """
    saved = made_from(save_folder)
    if saved is not None:
        refuse_difference(save_folder, saved.get("settings", {}), settings)


def refuse_another_corpus(settings: dict[str, Any]) -> None:
    """Refuse to start a finished run again with another ``data_folder`` than it was tested with.

    Its settings would be overwritten before that corpus has been looked at, and whoever reads them later, such as
    `ser-ts export`, would take it for the one that the model comes from.

    Parameters
    ----------
    settings
        Of the run: ``output_folder``, ``data_folder``.

    Raises
    ------
    InputError
        If it is another one; it says what to do where the corpus has moved.
    """
    run, now = Path(settings["output_folder"]), settings.get("data_folder")
    if now is None or not (run / SCORES_FILE).is_file() or not (run / SETTINGS_FILE).is_file():
        return
    then = read_settings(run / SETTINGS_FILE).get("data_folder")
    if then is not None and os.path.realpath(then) != os.path.realpath(now):
        raise InputError(
            f"{run} is finished, and was trained on {then}, not {now}: give the old data_folder, or another "
            f"output_folder; where the same corpus has moved, write its new place into {run / SETTINGS_FILE} first."
        )


def refuse_difference(where: str | Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse settings that a model was not made with.

    Parameters
    ----------
    where
        The model, for the message.
    then, now
        Settings that it was made with, and those of today; of `MAY_GROW` they may differ.

    Raises
    ------
    InputError
        If one differs.
    """
    if problem := difference(then, now, leave_out=MAY_GROW):
        raise InputError(
            f"{where}: the model there was trained with {problem}: give the old value to go on with it, or choose "
            "another output_folder, or delete this one to train anew."
        )
