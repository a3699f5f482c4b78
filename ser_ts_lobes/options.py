"""Options that can't be meant or can't be met: refused before anything that takes long."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from speechbrain.utils.distributed import infer_device
from speechbrain.utils.run_opts import RunOptions

from ser_ts_lobes.devices import check_device
from ser_ts_lobes.errors import InputError

#: What ``pooling`` may name (`ser_ts_lobes.lobes.pooling.make_pooling` makes them).
POOLINGS = ("gru", "transformer", "attention")
#: What ``taught`` may name of `ser_ts_lobes.training.targets.TeacherTargets`, and how it is called.
TAUGHT = {"joint": "embedding", "text": "embedding of the text", "sentence": "embedding of the sentence"}
#: What ``tracker`` may name (`ser_ts_lobes.training.tracking.make_train_logger` makes them).
TRACKERS = ("tensorboard", "wandb")
#: The keys of what is augmented in training, waveforms and frames.
AUGMENTATIONS = ("wav_augment", "fea_augment")

_PRECISIONS = ("fp32", "fp16", "bf16")
_DTYPES = ("float16", "bfloat16", "float32")
_BATCHES = ("shuffled", "by_length")
_TRUST = ("cut", "soft", "per_dimension")
# Options of SpeechBrain's that its Brain takes, and the Brains here can't, with what to do instead.
_REFUSED = {
    "jit": "transformers' networks can't be scripted; leave it out, or try --compile",
    "jit_module_keys": "transformers' networks can't be scripted; leave it out, or try --compile_module_keys",
    "remove_vector_weight_decay": "the optimizers here have groups of their own; set weight_decay in opt_class",
    "data_parallel_backend": "start the script with torchrun, which shares each batch out",
    "auto_mix_prec": "SpeechBrain gives it up; use --precision=fp16",
    "bfloat16_mix_prec": "SpeechBrain gives it up; use --precision=bf16",
}


class _Rule(NamedTuple):
    """What a setting has to be: a test, and how to say it."""

    holds: Callable[[Any], bool]
    otherwise: str


def _is_number(value):
    # Not math.isfinite, which can't tell of whole numbers beyond those of a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _are_points(value):
    return isinstance(value, list) and len(value) > 1 and all(map(_is_number, value)) and sorted(set(value)) == value


def _are_names(value):
    return isinstance(value, list) and len(set(value)) == len(value) > 1 and all(isinstance(n, str) for n in value)


def _from(least):
    return _Rule(lambda value: _is_whole(value) and value >= least, f"give a whole number from {least} on")


def _one_of(values):
    return _Rule(lambda value: value in values, f"choose one of {', '.join(values)}")


# An object of the file, or what it is made from.
_AUGMENTER = _Rule(
    lambda value: value is None or callable(value) or (isinstance(value, dict) and "!" in value),
    "give an !new:speechbrain.augment.augmenter.Augmenter, as in ft_augmented.yaml, or null",
)
_FOLDER = _Rule(
    lambda value: isinstance(value, str),
    "give the path of a folder; one that looks like a number goes in quotes within the shell's, '\"2026\"'",
)
_NOT_NEGATIVE = _Rule(lambda value: _is_number(value) and value >= 0, "give a number from 0 on")

_RULES = {
    **dict.fromkeys(("batch_size", "number_of_epochs", "grad_accumulation_factor"), _from(1)),
    **dict.fromkeys(("num_workers", "trainable_layers", "lora_rank", "seed"), _from(0)),
    **dict.fromkeys(
        ("lr", "encoder_lr", "ts_weight", "prediction_weight", "soft_label_weight", "emotion_weight"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("data_folder", "results_folder", "output_folder", "save_folder", "manifest_folder"), _FOLDER),
    "feature_folder": _Rule(lambda value: value is None or _FOLDER.holds(value), f"{_FOLDER.otherwise}; or null"),
    **dict.fromkeys(("precision", "eval_precision"), _one_of(_PRECISIONS)),
    "soft_label_points": _Rule(_are_points, "give the points of the labels' scale, two or more, as [1, 2, 3]"),
    "emotion_classes": _Rule(_are_names, "give the classes to learn, two or more, as [angry, neutral]"),
    **dict.fromkeys(AUGMENTATIONS, _AUGMENTER),
    "feature_dtype": _one_of(_DTYPES),
    "pooling": _one_of(POOLINGS),
    "batches": _one_of(_BATCHES),
    "taught": _one_of(TAUGHT),
    "trust": _one_of(_TRUST),
    "tracker": _Rule(lambda value: value in (None, *TRACKERS), f"choose one of {', '.join(TRACKERS)}, or null"),
    "max_grad_norm": _Rule(
        lambda value: value is None or (_is_number(value) and value > 0),
        "give a number above 0, or null to clip nothing",
    ),
    "max_batch_s": _Rule(
        lambda value: value is None or (_is_number(value) and value > 0),
        "give a number of seconds above 0, or null for batches of batch_size",
    ),
    "residual_threshold": _Rule(
        lambda value: value is None or (_is_number(value) and value >= 0),
        "give a number of standard deviations from 0 on, or null to follow the teacher everywhere",
    ),
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that are out of range, as far as that can be told without a corpus or a network.

    Parameters
    ----------
    settings
        Values by key; those that a system lacks are not missed.

    Raises
    ------
    InputError
        If a value is of the wrong kind or out of range, or would have no effect beside the others, or batches of a CCC
        loss (``ccc_weights``) are to be added up.

    Example
    -------
    >>> check_settings({"batch_size": 32, "max_grad_norm": None})
    >>> check_settings({"batch_size": 0})
    Traceback (most recent call last):
    ser_ts_lobes.errors.InputError: batch_size is 0: give a whole number from 1 on.
    """
    for name, rule in _RULES.items():
        if name in settings and not rule.holds(settings[name]):
            raise InputError(f"{name} is {settings[name]}: {rule.otherwise}.")
    if settings.get("lora_rank", 0) > 0 and settings["trainable_layers"] == 0:
        raise InputError(
            f"lora_rank is {settings['lora_rank']}, and trainable_layers 0: say by --trainable_layers how many of the "
            "top layers get adapters, or give --lora_rank 0."
        )
    if settings.get("max_batch_s") is not None:
        _check_batch_length(settings)
    _check_teaching(settings)
    for name in AUGMENTATIONS:
        if settings.get(name) is not None and "speech_encoder" not in settings:
            raise InputError(f"{name} is of speech, and {settings['system']} only reads: give null.")
    factor = settings.get("grad_accumulation_factor", 1)
    if "ccc_weights" in settings and factor > 1:
        raise InputError(
            f"grad_accumulation_factor is {factor}, and the CCC of a batch is not the mean of its parts' CCCs: for "
            "less memory take a smaller --batch_size, --precision=bf16, or torchrun, which shares a batch out."
        )


def _check_batch_length(settings: Mapping[str, Any]) -> None:
    """Refuse batches of so many seconds where they have no effect, or none that was meant."""
    limit, batches = settings["max_batch_s"], settings["batches"]
    if batches != "by_length":
        raise InputError(f"max_batch_s is {limit}, and batches {batches}: give --batches=by_length, or null.")
    if settings.get("unrated_manifest") is not None:
        raise InputError(
            f"max_batch_s is {limit}, and a batch has unrated_batch_size utterances of unrated_manifest besides: leave "
            "one of the two out."
        )


def _check_teaching(settings: Mapping[str, Any]) -> None:
    """Refuse what would have no effect on what a student is taught."""
    trust, taught = settings.get("trust", "cut"), settings.get("taught", "joint")
    if trust != "cut" and not settings["residual_threshold"]:
        raise InputError(
            f"trust is {trust}, and residual_threshold is {settings['residual_threshold']}: give a number of standard "
            "deviations above 0, or --trust=cut."
        )
    if trust == "per_dimension" and not settings["prediction_weight"]:
        raise InputError(
            "trust is per_dimension, which is of the teacher's prediction, and prediction_weight is 0: give a "
            "--prediction_weight above 0, or another --trust."
        )
    if taught != "joint" and not settings["ts_weight"]:
        raise InputError(
            f"taught is {taught}, and ts_weight is 0, so no embedding is taught: give a --ts_weight above 0, or "
            "--taught=joint."
        )


def check_run_options(run_opts: RunOptions, settings: Mapping[str, Any]) -> None:
    """Refuse run options that this machine or the Brains here can't meet.

    Parameters
    ----------
    run_opts
        From `ser_ts_lobes.experiment.parse_arguments`.
    settings
        ``precision`` and ``eval_precision``, if it has them.

    Raises
    ------
    InputError
        If there is no such device, the precision is not to be had there, or SpeechBrain's option has no effect here.
    """
    for name, instead in _REFUSED.items():
        if run_opts[name]:
            raise InputError(f"--{name} can't be used here: {instead}.")
    if run_opts["ckpt_interval_minutes"] > 0 and run_opts["ckpt_interval_steps"] > 0:
        raise InputError("--ckpt_interval_minutes and --ckpt_interval_steps are given: keep one.")
    device = check_device(run_opts["device"] or infer_device())
    for name in ("precision", "eval_precision"):
        if settings.get(name) == "fp16" and device.type == "cpu":
            raise InputError(f"{name} is fp16, which needs a GPU: use --{name}=bf16 on a CPU, or a --device.")
