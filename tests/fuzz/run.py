#!/usr/bin/env python3
"""Fuzz every entry for some time, and say what came of it.

    .venv/bin/python tests/fuzz/run.py --seconds 600 --jobs 2
    .venv/bin/python tests/fuzz/run.py kdump --seconds 60
    .venv/bin/python tests/fuzz/run.py kdump --replay FILE

Each entry runs in a process of its own, under libFuzzer by way of atheris. The exit status is 1
when there are findings: an exception, more than five seconds, more than a gibibyte.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.fuzz.findings import (  # needs the path above
    MAX_MEMORY,
    TIMEOUT,
    Recorder,
    Totals,
    load_totals,
    peak_memory,
    trouble_with,
)

CORPUS = Path(__file__).parent / "corpus"
ENTRIES = ("fdt", "elf", "lime", "kdump", "tree", "blobs", "log", "carve", "command")
MAX_INPUT = 2048
"""Bytes: what is longer is patches that undo each other."""
MAX_RESTARTS = 5
"""Of an entry whose process died; more tell nothing new."""
DEADLY = ("crash-", "timeout-", "oom-", "leak-")
"""What the names of inputs begin with that libFuzzer keeps, of which the process died."""


@dataclass
class Outcome:
    """A row of the table."""

    entry: str
    totals: Totals
    seconds: float
    edges: int = 0
    corpus: int = 0


def find_entry(name: str) -> object:
    """The function of an entry; imports the package."""
    from tests.fuzz import command, entries

    return command.command if name == "command" else getattr(entries, name)


# -- the process that fuzzes


def fuzz(name: str, folder: Path, flags: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    from tests.fuzz.tracing import leave_arrays_alone

    with atheris.instrument_imports(include=["kho_inspect"]):
        import kho_inspect

        # Commands import what they need when they need it: too late to be instrumented.
        for module in pkgutil.walk_packages(kho_inspect.__path__, "kho_inspect."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        entry = find_entry(name)
    assert callable(entry)
    recorder = Recorder(entry, folder)

    def run_one(data: bytes) -> None:
        leave_arrays_alone(atheris)
        recorder(data)

    atheris.Setup([sys.argv[0], *flags], run_one)
    atheris.Fuzz()


# -- the process that people start


def run_entry(name: str, seconds: int, scratch: Path) -> Outcome:
    """Fuzz one entry until its time is over; go on after what kills the process."""
    folder = scratch / name
    found = folder / "corpus"
    found.mkdir(parents=True)
    outcome = Outcome(name, Totals(), 0.0)
    start = time.monotonic()
    for attempt in range(MAX_RESTARTS):
        left = seconds - int(time.monotonic() - start)
        if left <= 0:
            break
        log = folder / f"log-{attempt}"
        part = folder / f"run-{attempt}"
        _start(name, left, folder, part, log)
        _add(outcome, load_totals(part), log.read_text(errors="replace"))
        deadly = sorted(path.name for path in folder.iterdir() if path.name.startswith(DEADLY))
        outcome.totals.findings += [one for one in deadly if one not in outcome.totals.findings]
        if "DONE" not in log.read_text(errors="replace") and not deadly:
            outcome.totals.findings.append(f"the fuzzer itself ended early: see {log}")
            break
    outcome.seconds = time.monotonic() - start
    return outcome


def _start(name: str, seconds: int, folder: Path, part: Path, log: Path) -> None:
    flags = [
        f"-max_total_time={seconds}",
        f"-timeout={TIMEOUT}",
        f"-rss_limit_mb={MAX_MEMORY >> 20}",
        f"-max_len={MAX_INPUT}",
        "-len_control=10",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        str(folder / "corpus"),
        str(CORPUS / name),
    ]
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    with log.open("wb") as output:
        subprocess.run(
            [sys.executable, __file__, name, "--child", str(part), "--", *flags],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(temporary)},
            check=False,
        )


def _add(outcome: Outcome, part: Totals, log: str) -> None:
    """Count in what one process did; its last words know the executions to the last one."""
    totals = outcome.totals
    last = re.findall(r"stat::number_of_executed_units: (\d+)", log)
    totals.executions += int(last[-1]) if last else part.executions
    totals.slowest = max(totals.slowest, part.slowest)
    totals.peak = max(totals.peak, part.peak)
    totals.findings += [one for one in part.findings if one not in totals.findings]
    state = re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)/", log)
    if state:
        outcome.edges, outcome.corpus = (int(one) for one in state[-1])


def print_table(outcomes: list[Outcome]) -> None:
    """One row per entry."""
    print(
        f"{'entry':<9}{'executions':>12}{'exec/s':>8}{'edges':>7}{'corpus':>8}"
        f"{'slowest':>10}{'peak RSS':>10}{'findings':>10}"
    )
    for one in outcomes:
        totals = one.totals
        print(
            f"{one.entry:<9}{totals.executions:>12,}{totals.executions / one.seconds:>8.0f}"
            f"{one.edges:>7}{one.corpus:>8}{totals.slowest * 1000:>7.0f} ms"
            f"{totals.peak >> 20:>6} MiB{len(totals.findings):>10}"
        )


def print_findings(outcomes: list[Outcome], scratch: Path) -> int:
    """What to do about each; the exit status."""
    status = 0
    for one in outcomes:
        for finding in one.totals.findings:
            status = 1
            inputs = [
                path
                for path in sorted((scratch / one.entry).rglob(f"*{finding}"))
                if path.is_file()
            ]
            print(f"\n{one.entry}: {finding}")
            if inputs:
                print(f"  {sys.executable} {__file__} {one.entry} --replay {inputs[0]}")
    return status


def replay(name: str, path: Path) -> int:
    """Run one input again, without a fuzzer; 1 when something is wrong with it."""
    entry = find_entry(name)
    assert callable(entry)
    start = time.perf_counter()
    error = trouble_with(entry, path.read_bytes())
    took, peak = time.perf_counter() - start, peak_memory()
    print(f"{name}: {took:.2f} s, {peak >> 20} MiB")
    if error is not None:
        traceback.print_exception(error)
    return int(error is not None or took > TIMEOUT or peak > MAX_MEMORY)


def parse_arguments(args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz kho-inspect.")
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help=f"of {', '.join(ENTRIES)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each entry")
    parser.add_argument("--jobs", type=int, default=1, help="entries at a time")
    parser.add_argument("--scratch", type=Path, help="folder for finds; else a temporary one")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input again")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args(args)
    unknown = [name for name in found.entries if name not in ENTRIES]
    if unknown:
        parser.error(f"no entry {unknown[0]!r}; there are {', '.join(ENTRIES)}")
    if (found.replay or found.child) and len(found.entries) != 1:
        parser.error("--replay needs the one entry that the file is for")
    return found


def main(args: list[str] | None = None) -> int:
    """The exit status."""
    args = sys.argv[1:] if args is None else args
    cut = args.index("--") if "--" in args else len(args)
    given = parse_arguments(args[:cut])
    if given.replay:
        return replay(given.entries[0], given.replay)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install -e '.[fuzz]'", file=sys.stderr)
        return 2
    if given.child:
        fuzz(given.entries[0], given.child, args[cut + 1 :])
    scratch = given.scratch or Path(tempfile.mkdtemp(prefix="kho-fuzz-"))
    print(f"{given.seconds} s for each entry; finds go to {scratch}", flush=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        names = given.entries or ENTRIES
        outcomes = list(pool.map(lambda name: run_entry(name, given.seconds, scratch), names))
    print_table(outcomes)
    return print_findings(outcomes, scratch)


if __name__ == "__main__":
    sys.exit(main())
