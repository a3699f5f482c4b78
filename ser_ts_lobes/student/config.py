"""A student's ``config.json``: all that the network is made from, and what a user should know of it.

It is treated as a stranger's: any value is bounded by what a student's can be. PyTorch is not imported, for whoever
only looks at a student should not wait for it.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ser_ts_lobes import DIMENSIONS
from ser_ts_lobes.errors import InputError
from ser_ts_lobes.seals import SEAL, is_intact

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
#: What ``config.json`` says of itself; another format gets another number.
FORMAT = "ser_ts_lobes student 1"
#: The key of the SHA-256 of ``model.safetensors``; students of before do not tell it.
WEIGHTS_DIGEST = "weights_sha256"

#: Most cells that a side of ``label_histogram`` has.
MAX_CELLS = 200
#: Most characters of a text.
MAX_TEXT = 500

_MAX_CONFIG_BYTES = 2**20
# Of any value; the numbers that make the network are smaller than those that tell of it, such as the size of a file.
_MAX_DEPTH, _MAX_ITEMS, _MAX_NUMBER = 8, 256, 2**53
_NETWORK_KEYS = ("encoder", "pooling", "embedding_size")
_MAX_SIZE, _MAX_LAYERS = 2**16, 100
_MAX_LABEL, _MIN_LABEL_RANGE = 1000, 0.1
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_hub_name(name: str) -> bool:
    """Say whether a name can be that of a repository on the Hugging Face Hub.

    Parameters
    ----------
    name
        ``user/name``.

    Returns
    -------
    bool

    Example
    -------
    >>> is_hub_name("user/name"), is_hub_name("name"), is_hub_name("a/b/c")
    (True, False, False)
    """
    return _HUB_NAME.fullmatch(name) is not None


def read_config(path: str | Path) -> dict[str, Any]:
    """Read and check a student's ``config.json``.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If it is missing, not the configuration of a student, or not as it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: a student is a folder that `ser-ts export` wrote.")
    config = read_values(path, _NETWORK_KEYS)
    if config.get("format") != FORMAT:
        raise InputError(f"{path} doesn't say format: {FORMAT!r}, as a student's does; `ser-ts export` writes it.")
    wrong = [name for name, is_right in _KEYS.items() if not is_right(config.get(name))]
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)} is missing or malformed; export it again.")
    if not is_intact(config):
        raise InputError(
            f"{path} is not as it was written: get or export the student again or, if the change is yours, take {SEAL} "
            "out of the file."
        )
    return config


def read_values(path: str | Path, network_keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read a model's JSON file, whose values are bounded by what any model's can be.

    Parameters
    ----------
    path
        The file, which is there.
    network_keys
        Names of what makes the network, whose numbers are smaller than others.

    Returns
    -------
    dict
        Empty where the file holds another kind of value.

    Raises
    ------
    InputError
        If it is too large, no JSON, or a value is beyond what it can be.
    """
    path = Path(path)
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise InputError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes, which no model's configuration is.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: get or export the model again.") from error
    if not isinstance(values, dict):
        return {}
    for name, value in values.items():
        most = _MAX_SIZE if name in network_keys else _MAX_NUMBER
        _check_value(path, name, value, _MAX_LAYERS if name.endswith("layers") else most)
    return values


def find_weakest(config: dict[str, Any]) -> str | None:
    """Find the dimension in which a student did worst on its test sets.

    Parameters
    ----------
    config
        From `read_config`.

    Returns
    -------
    str or None
        Of the lowest mean CCC; None where not all are known.

    Example
    -------
    >>> scores = {"activation": {"ccc": 0.7}, "valence": {"ccc": 0.72}, "dominance": {"ccc": 0.5}}
    >>> find_weakest({"test": {"test1": scores}})
    'dominance'
    """
    splits = [[split[name]["ccc"] for name in DIMENSIONS] for split in config["test"].values()]
    known = [cccs for cccs in splits if None not in cccs]
    totals = [sum(cccs) for cccs in zip(*known, strict=True)]
    return DIMENSIONS[totals.index(min(totals))] if totals else None


def reads_what_it_hears(config: dict[str, Any]) -> bool:
    """Say whether a student reads: the words that its speech encoder hears, and never a transcript.

    Parameters
    ----------
    config
        From `read_config`.

    Returns
    -------
    bool

    Example
    -------
    >>> reads_what_it_hears({"encoder": {"model": {"model_type": "hubert"}}})
    False
    """
    return "reader" in config["encoder"]


def say_what_it_reads(config: dict[str, Any]) -> str:
    """Say what a student reads, to people.

    Parameters
    ----------
    config
        From `read_config`.

    Returns
    -------
    str
        What follows "the student".

    Example
    -------
    >>> say_what_it_reads({"encoder": {"model": {"model_type": "hubert"}}})
    'does not read'
    """
    return "reads only the words that it hears itself" if reads_what_it_hears(config) else "does not read"


def _check_value(path: Path, name: str, value: Any, most: int, depth: int = 1) -> None:
    """Refuse a value that no student's configuration holds, whatever it stands for, and all that is in it."""
    if isinstance(value, dict | list):
        if depth == _MAX_DEPTH or len(value) > _MAX_ITEMS:
            raise InputError(f"{path}: {name} has more than {_MAX_ITEMS} entries, or too many levels; export it again.")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_value(path, f"a name in {name}", key, most)
            _check_value(
                path, f"{name}.{key}"[:MAX_TEXT], item, _MAX_LAYERS if str(key).endswith("layers") else most, depth + 1
            )
    elif isinstance(value, str):
        if len(value) > MAX_TEXT or not value.isprintable():
            raise InputError(f"{path}: {name} is not a text of at most {MAX_TEXT} printable characters.")
    elif value is not None and not abs(value) <= most:  # which NaN isn't either
        kind = "a number of layers" if most == _MAX_LAYERS else "a number"
        raise InputError(f"{path}: {name} is not {kind} of at most {most:,}, as a student's is; export it again.")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_part(value: Any) -> bool:
    return isinstance(value, dict)


def is_size(value: Any) -> bool:
    """Say whether a value is a whole number above 0.

    Parameters
    ----------
    value
        Of a configuration.

    Returns
    -------
    bool

    Example
    -------
    >>> is_size(3), is_size(True), is_size(0)
    (True, False, False)
    """
    return type(value) is int and value > 0  # True is an int, too


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_LABEL


def _are_scores(values: Any, size: int) -> bool:
    return isinstance(values, list) and len(values) == size and all(map(_is_score, values))


def _is_label_mean(value: Any) -> bool:
    return _are_scores(value, len(DIMENSIONS))


def _is_label_std(value: Any) -> bool:
    return _is_label_mean(value) and min(value) > 0


def _is_label_range(value: Any) -> bool:
    return _are_scores(value, 2) and value[1] - value[0] >= _MIN_LABEL_RANGE


def _is_label_histogram(value: Any) -> bool:
    """Whether it is counts between edges: a row for each cell of valence, a column for each of activation."""
    if not isinstance(value, dict):
        return False
    sizes = []
    for name in ("valence_edges", "activation_edges"):
        edges = value.get(name)
        if not isinstance(edges, list) or not 2 <= len(edges) <= MAX_CELLS + 1 or not _are_scores(edges, len(edges)):
            return False
        if any(low >= high for low, high in zip(edges, edges[1:], strict=False)):
            return False
        sizes.append(len(edges) - 1)
    counts = value.get("counts")
    return (
        isinstance(counts, list)
        and len(counts) == sizes[0]
        and all(isinstance(row, list) and len(row) == sizes[1] for row in counts)
        and all(type(count) is int and 0 <= count < 2**31 for row in counts for count in row)
    )


def _is_test(value: Any) -> bool:
    """Whether it is scores of each dimension on each test set, null where there are none."""
    if not isinstance(value, dict):
        return False
    scores: list[Any] = [
        split.get(name) if isinstance(split, dict) else None for split in value.values() for name in DIMENSIONS
    ]
    return all(isinstance(score, dict) and "ccc" in score for score in scores) and all(
        score["ccc"] is None or _is_score(score["ccc"]) for score in scores
    )


def _are_durations(value: Any) -> bool:
    """Whether it is seconds, the shortest first; or nothing, as of students of before."""
    names = ("shortest", "median", "longest")
    return value is None or (
        isinstance(value, dict)
        and set(value) == set(names)
        and all(isinstance(seconds, int | float) and not isinstance(seconds, bool) for seconds in value.values())
        and 0 < value["shortest"] <= value["median"] <= value["longest"]
    )


# The keys that loading and the page need, and what tells whether they are right; the rest is for people.
_KEYS = {
    "system": _is_text,
    "corpus": _is_text,
    "encoder": _is_part,
    "pooling": _is_part,
    "embedding_size": is_size,
    "label_range": _is_label_range,
    "label_mean": _is_label_mean,
    "label_std": _is_label_std,
    "label_histogram": _is_label_histogram,
    "training_durations_s": _are_durations,
    "test": _is_test,
}
