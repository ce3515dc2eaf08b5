"""What commands say with ``--json`` of files that are damaged at random stays as it was."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import command
from tests.support.cli import Result
from tests.support.running import in_process

RUNS = 16
"""Of a test; each has an input of its own."""
HOME = re.compile(r"/\S*?/kho-fuzz-\w+")


def some_input(rng: random.Random) -> bytes:
    """A few bytes that choose, then patches: operation, place, arguments."""
    head = bytes(rng.randrange(32) for _ in range(10))
    patches = [bytes([rng.randrange(16)]) + rng.randbytes(rng.randint(2, 9)) for _ in range(4)]
    return head + b"".join(patches[: rng.randint(0, 4)])


@pytest.mark.parametrize("seed", range(24))
def test_what_is_said_of_damaged_files_is_as_reviewed(
    seed: int, monkeypatch: pytest.MonkeyPatch, as_reviewed: Callable[..., None]
) -> None:
    def taken(*args: str | Path) -> Result:
        result = in_process(*args)
        if "--json" in args and result.status != 2:  # the words for wrong usage are click's
            as_reviewed(HOME.sub("", result.stdout + result.stderr))
        return result

    monkeypatch.setattr(command, "in_process", taken)
    # What zlib makes of a page is not the same everywhere.
    monkeypatch.setattr(command, "_FORMATS", (command._elf, command._lime, command._raw))
    rng = random.Random(seed)
    for _ in range(RUNS):
        command.command(some_input(rng))
