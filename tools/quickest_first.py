"""A plugin of pytest for `tools.mutants`: quick tests run first, so that a mutant that one of them notices is cheap."""

import json
from pathlib import Path

import pytest

#: Written by mutmut into the folder in which it runs tests, once it has run all without a mutant.
STATISTICS = "mutmut-stats.json"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests by the seconds that they took without a mutant; as long as nobody knows, they stay as they are."""
    if Path(STATISTICS).is_file():
        seconds = json.loads(Path(STATISTICS).read_text(encoding="utf-8"))["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
