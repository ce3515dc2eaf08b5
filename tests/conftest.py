"""Fixtures that several test modules share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.captures import HOME, NAMES, Capture, unpack
from tests.support.cli import REPO

DIGESTS = REPO / "tests" / "golden" / "digests.txt"

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


@pytest.fixture
def as_reviewed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Takes texts, of which no letter may change: all of a test have one digest in ``DIGESTS``.

    For output about images that are damaged at random: too much to be read, but no change of the
    package should alter it unnoticed. ``KHO_UPDATE_GOLDEN=1`` in the environment, without ``-n``,
    writes what is there now.
    """
    digest = hashlib.sha256()

    def take(*texts: str) -> None:
        for text in texts:
            placed = text.replace(str(tmp_path), "").replace(str(REPO), "")
            digest.update(placed.encode("utf-8", "backslashreplace"))

    yield take
    name = request.node.nodeid.removeprefix("tests/")
    kept = dict(line.split(" ", 1)[::-1] for line in DIGESTS.read_text().splitlines())
    found = digest.hexdigest()[:16]
    if os.environ.get("KHO_UPDATE_GOLDEN"):
        kept[name] = found
        DIGESTS.write_text("".join(f"{one} {test}\n" for test, one in sorted(kept.items())))
    assert found == kept.get(name), "a text that was reviewed has changed"
