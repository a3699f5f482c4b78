"""Seals: JSON that says itself whether it is still what was written."""

import hashlib
import json
from typing import Any

#: The key of a seal.
SEAL = "sha256"


def seal(values: dict[str, Any]) -> dict[str, Any]:
    """Add a seal to values that will be written as JSON.

    Parameters
    ----------
    values
        Fit for JSON. A seal among them is replaced.

    Returns
    -------
    dict
        The same, and the SHA-256 of all of them.

    Example
    -------
    >>> sealed = seal({"label_range": (1.0, 7.0)})
    >>> is_intact(sealed), is_intact(sealed | {"label_range": [1.0, 5.0]})
    (True, False)
    """
    values = json.loads(json.dumps(values))  # as they will be read
    return {**values, SEAL: _digest(values)}


def is_intact(values: dict[str, Any]) -> bool:
    """Say whether values that were read from JSON are those that were sealed.

    Parameters
    ----------
    values
        From `json.loads`.

    Returns
    -------
    bool
        True also where there is no seal: an earlier version, or a person, has written them.
    """
    return SEAL not in values or values[SEAL] == _digest(values)


def _digest(values: dict[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
