"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.captures import HOME, NAMES, Capture, unpack

# A shell may export it, and pytest-xdist does: it says that a pipe is a terminal of that width.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session", params=NAMES)
def capture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """Each real capture in turn, its dump unpacked to a sparse file."""
    name = str(request.param)
    packed = HOME / name / "dump.raw.xz"
    if not packed.is_file():
        pytest.skip(f"no capture at {packed}: set KHO_CAPTURES to the folder of captures")
    dump: Path = tmp_path_factory.mktemp(name) / "dump.raw"
    unpack(packed, dump)
    return Capture(name, dump)
