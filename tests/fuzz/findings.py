"""Running an entry on an input, and keeping what broke: each cause once, with its input."""

from __future__ import annotations

import json
import resource
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

Entry = Callable[[bytes], None]

TIMEOUT = 5
"""Seconds that one input may take."""
MAX_MEMORY = 1 << 30
"""Bytes that the process may have resident."""


def trouble_with(entry: Entry, data: bytes) -> Exception | None:
    """What comes out of an entry that should return."""
    try:
        entry(data)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        return error
    return None


def cause_of(error: BaseException) -> str:
    """``IndexError-radix-104``: two findings of one cause are one."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/kho_inspect/" in frame.filename] or list(frames)
    place = frames[-1] if isinstance(error, AssertionError) else ours[-1]
    return f"{type(error).__name__}-{Path(place.filename).stem}-{place.lineno}"


def peak_memory() -> int:
    """Bytes that were resident at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@dataclass
class Totals:
    """What came of a run so far."""

    executions: int = 0
    slowest: float = 0.0
    """Seconds."""
    peak: int = 0
    """Bytes."""
    findings: list[str] = field(default_factory=list)


class Recorder:
    """An entry that never raises: findings become files, and the run goes on."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        """``folder`` gets an input and a traceback per finding, and ``totals.json``."""
        self.entry = entry
        self.folder = folder
        self.totals = Totals()
        self._saved = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, data: bytes) -> None:
        start = time.perf_counter()
        error = trouble_with(self.entry, data)
        took = time.perf_counter() - start
        self.totals.executions += 1
        if error is not None:
            self._found(data, error)
        if took > self.totals.slowest:
            self.totals.slowest = took
            (self.folder / "slowest").write_bytes(data)
        # The fuzzer ends the process without notice.
        if error is not None or start - self._saved > 1:
            self._saved = start
            self.save()

    def _found(self, data: bytes, error: Exception) -> None:
        cause = cause_of(error)
        if cause in self.totals.findings:
            return
        self.totals.findings.append(cause)
        (self.folder / f"finding-{cause}").write_bytes(data)
        words = "".join(traceback.format_exception(error))
        (self.folder / f"finding-{cause}.txt").write_text(words, errors="backslashreplace")

    def save(self) -> None:
        """Write the totals."""
        self.totals.peak = peak_memory()
        (self.folder / "totals.json").write_text(json.dumps(asdict(self.totals)))


def load_totals(folder: Path) -> Totals:
    """What a Recorder wrote there."""
    path = folder / "totals.json"
    return Totals(**json.loads(path.read_text())) if path.exists() else Totals()
