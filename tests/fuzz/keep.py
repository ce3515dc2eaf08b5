#!/usr/bin/env python3
"""Renew the kept corpus: of a run's finds, the few that together reach the most code.

    .venv/bin/python tests/fuzz/keep.py SCRATCH [ENTRY...]

Takes, again and again, the input that adds the most lines of the package, the shorter one where
two add as many.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.fuzz.findings import Entry, trouble_with
from tests.fuzz.run import CORPUS, ENTRIES, find_entry

MAX_KEPT = 12
"""Inputs per entry."""
MAX_SIZE = 512
"""Bytes of an input."""

Line = tuple[str, int]


def lines_of(entry: Entry, data: bytes) -> set[Line]:
    """The lines of the package that run."""
    found: set[Line] = set()

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if "/kho_inspect/" not in frame.f_code.co_filename:
            return None
        found.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        trouble_with(entry, data)
    finally:
        sys.settrace(None)
    return found


def choose(entry: Entry, inputs: list[bytes]) -> list[bytes]:
    """The inputs to keep, the most useful first."""
    reached = {data: lines_of(entry, data) for data in sorted(set(inputs), key=len)}
    kept: list[bytes] = []
    held: set[Line] = set()
    while reached and len(kept) < MAX_KEPT:
        best = max(reached, key=lambda data: (len(reached[data] - held), -len(data)))
        more = reached.pop(best) - held
        if not more:
            break
        kept.append(best)
        held |= more
    return kept


def main(args: list[str] | None = None) -> None:
    """Replace the corpus of each entry."""
    parser = argparse.ArgumentParser(description="Renew the kept corpus.")
    parser.add_argument("scratch", type=Path, help="as given to run.py --scratch")
    parser.add_argument("entries", nargs="*", metavar="ENTRY")
    given = parser.parse_args(args)
    for name in given.entries or ENTRIES:
        entry = find_entry(name)
        assert callable(entry)
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        old = [path for path in folder.iterdir() if path.is_file()]
        new = (given.scratch / name / "corpus").glob("*")
        paths = [path for path in (*old, *new) if path.stat().st_size <= MAX_SIZE]
        kept = choose(entry, [path.read_bytes() for path in paths])
        for path in old:
            path.unlink()
        for number, data in enumerate(kept):
            (folder / f"{number:02}").write_bytes(data)
        print(f"{name}: {len(kept)} of {len(paths)} inputs, {sum(map(len, kept))} bytes")


if __name__ == "__main__":
    main()
