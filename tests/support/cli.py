"""Running the command line as a user does: a fresh process, its output and exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SAMPLES = REPO / "samples"
DUMP = "samples/x86_64-kho-v2.elf"
DTB = "samples/x86_64-kho-v2.dtb"
OUT_DTB = "samples/x86_64-kho-v2.debugfs-out.dtb"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one run."""

    status: int
    stdout: str
    stderr: str


def kho_inspect(
    *args: str | Path,
    columns: int | None = 80,
    cwd: Path = REPO,
    timeout: float = 60,
    env: dict[str, str] | None = None,
) -> Result:
    """Run ``kho-inspect`` with ``args``; never with a terminal. Without ``columns``: in a pipe."""
    settings = {"PYTHONPATH": str(REPO), "PYTHONIOENCODING": "utf-8", "COLUMNS": str(columns or "")}
    done = subprocess.run(
        [sys.executable, "-m", "kho_inspect", *map(str, args)],
        cwd=cwd,
        env={**os.environ, **settings, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())
