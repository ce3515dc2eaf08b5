"""A pytest plugin: the tests of a list alone, in its order; and how long each test took."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

LIST, TIMES = "KHO_MUTATION_LIST", "KHO_MUTATION_TIMES"
"""Environment variables: files with a node id a line to read, and seconds by node id to write."""
_took: Counter[str] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what is listed, if anything is."""
    if path := os.environ.get(LIST):
        place = {name: at for at, name in enumerate(Path(path).read_text().splitlines())}
        items[:] = [item for item in items if item.nodeid in place]
        items.sort(key=lambda item: place[item.nodeid])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up setup, call and teardown."""
    _took[report.nodeid] += report.duration  # type: ignore[assignment]  # seconds are no int


def pytest_sessionfinish() -> None:
    """Write what was added up; with several workers, the last to end has all."""
    if path := os.environ.get(TIMES):
        Path(path).write_text(json.dumps(_took))
