"""The start of an experiment: from a hparams file and a command line to the objects that it describes."""

import contextlib

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml

from ser_ts_lobes.errors import InputError


def load_experiment(hparams_file, run_opts, overrides):
    """Join the other processes, if there are any, and load the hyper-parameters.

    Parameters
    ----------
    hparams_file, run_opts, overrides
        From `speechbrain.parse_arguments`.

    Returns
    -------
    dict
        The hyper-parameters; objects made.

    Raises
    ------
    InputError
        If the file is not there, a value that must be given (``data_folder``) is not, or an option names no
        key of the file.
    """
    sb.utils.distributed.ddp_init_group(run_opts)
    with plain_hparams_errors(hparams_file), open(hparams_file, encoding="utf-8") as file:
        return load_hyperpyyaml(file, overrides)


@contextlib.contextmanager
def plain_hparams_errors(hparams_file):
    """Turn what HyperPyYAML says of a user's options into an `InputError`.

    Parameters
    ----------
    hparams_file : str or pathlib.Path
        The file that is read in the block.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist: name a file of hparams/.") from error
    except (ValueError, KeyError) as error:
        reason = str(error.args[0]) if error.args else ""
        if "!PLACEHOLDER" in reason:
            raise InputError(f"{hparams_file}: {reason} Give it on the command line: --key=value.") from error
        if reason.startswith("Override "):
            raise InputError(f"{hparams_file}: {reason}") from error
        raise
