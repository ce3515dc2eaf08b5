#!/usr/bin/env python3
"""How long a person waits: ``--help`` and the sample's report, against a bare interpreter.

    .venv/bin/python tests/bench/startup.py [RUNS]

Whole processes, run in turn so that a busy machine slows all alike; minimum and median.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
SAMPLE = [REPO / "samples" / f"x86_64-kho-v2.{suffix}" for suffix in ("elf", "dtb")]
KHO = [sys.executable, "-m", "kho_inspect"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "--help": [*KHO, "--help"],
    "report": [*KHO, *map(str, SAMPLE)],
    "report --json": [*KHO, *map(str, SAMPLE), "--json"],
}
LIMITS_MS = {"--help": 150, "report": 500}


def main(runs: int) -> None:
    """Print the table."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, cwd=REPO, check=True)
            times[name].append((time.perf_counter() - start) * 1000)
    base = statistics.median(times["python -c pass"][1:])
    print(f"{'':<16}{'min ms':>8}{'median':>8}{'× python':>10}   limit")
    for name, all_runs in times.items():
        counted = all_runs[1:]
        median = statistics.median(counted)
        limit = f"{LIMITS_MS[name]} ms" if name in LIMITS_MS else ""
        print(f"{name:<16}{min(counted):>8.0f}{median:>8.0f}{median / base:>10.1f}   {limit}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
