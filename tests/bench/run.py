#!/usr/bin/env python3
"""How fast, against what one would use instead: a table of ratios, all from one run.

    pip install -e '.[bench]'
    python tests/bench/run.py [--only mixed,random,…] [--runs N] [--folder DIR]

Baselines: a plain C walker compiled on the spot (the floor), a straightforward drgn program (what
one would write today), a naive walk with Construct arrays, cat, and an empty interpreter. Whole
processes, wall time, the best of several runs taken in turn. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
KHO = [sys.executable, "-m", "kho_inspect"]
PYTHON = [sys.executable, "-c", "pass"]
SAMPLE = [str(REPO / "samples" / f"x86_64-kho-v2.{suffix}") for suffix in ("elf", "dtb")]
MIB, GIB = 1 << 20, 1 << 30
GEOMETRY = ["6", "52"]
"""Levels and order-0 bit of 4K pages."""


@dataclass
class Cost:
    """Of one command: best wall time in seconds, largest resident size in bytes."""

    seconds: float = float("inf")
    peak: int = 0
    said: str = ""
    """What it wrote to stderr."""


@dataclass
class Bench:
    """The table in the making."""

    folder: Path
    runs: int
    missed: list[str] = field(default_factory=list)

    def measure(self, *commands: list[str], runs: int | None = None) -> list[Cost]:
        """Run each command that often, in turn, so that a busy machine slows all alike."""
        costs = [Cost() for _ in commands]
        for _ in range(runs or self.runs):
            for command, cost in zip(commands, costs, strict=True):
                self._run(command, cost)
        return costs

    def _run(self, command: list[str], cost: Cost) -> None:
        said = self.folder / "stderr"
        with Path(os.devnull).open("wb") as out, said.open("wb") as err:
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=out, stderr=err, cwd=REPO)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        cost.said = said.read_text()
        if process.returncode not in (0, 1):
            raise SystemExit(f"{' '.join(command)}: {process.returncode}\n{cost.said}")
        cost.seconds = min(cost.seconds, seconds)
        cost.peak = max(cost.peak, usage.ru_maxrss * 1024)

    def title(self, text: str) -> None:
        """The rows below are about this."""
        print(f"\n{text}", flush=True)

    def row(self, name: str, seconds: float, peak: int = 0, note: str = "") -> None:
        """One measured command."""
        size = f"{peak / MIB:>8,.0f} MiB" if peak else " " * 12
        print(f"  {name:<34}{seconds:>10.3f} s{size}  {note}", flush=True)

    def target(self, what: str, value: float, limit: str, met: bool) -> None:
        """A ratio or figure against what it is to be."""
        print(f"  {'✔' if met else '✘'} {what}: {value:,.1f} ({limit})", flush=True)
        if not met:
            self.missed.append(what)

    # -- the parts

    def mixed(self) -> None:
        """1 TiB of order-0 pages: the report and the verdict against all who could tell."""
        dump, dtb, root = self._image(8192, "mixed")
        show, check, walker, empty = self.measure(
            [*KHO, "show", dump, dtb, "--json"],
            [*KHO, "check", dump, dtb],
            [self._walker(), dump, root, *GEOMETRY],
            PYTHON,
        )
        self.title("1 TiB of order-0 pages in mixed patterns, 8192 leaves")
        self.row("show --json", show.seconds, show.peak)
        self.row("check", check.seconds, check.peak)
        self.row("C walker", walker.seconds, walker.peak, "counts only")
        self.row("python -c pass", empty.seconds, empty.peak)
        floor = walker.seconds + empty.seconds
        slower = show.seconds / floor
        self.target("show --json ÷ (C walker + interpreter)", slower, "≤ 12", slower <= 12)
        peak = show.peak / MIB
        self.target("show --json peak MiB", peak, "< 300", peak < 300)
        drgn = self._drgn(dump, root, runs=1)
        if drgn:
            self.row("drgn program", drgn.seconds, drgn.peak, "prints the ranges as JSON")
            faster = drgn.seconds / show.seconds
            self.target("drgn ÷ show --json", faster, "≥ 10", faster >= 10)

    def alternating(self) -> None:
        """64 leaves of every other page: a million runs."""
        dump, dtb, root = self._image(64, "alternating")
        walk = [sys.executable, str(HERE / "time_walk.py"), dump, dtb]
        naive = [sys.executable, str(HERE / "construct_walk.py"), dump, root, *GEOMETRY]
        mine, show, walker, array = self.measure(
            walk,
            [*KHO, "show", dump, dtb, "--json"],
            [self._walker(), dump, root, *GEOMETRY],
            naive,
        )
        self.title("64 leaves with every other page: a million runs")
        walked, arrayed = float(mine.said), float(array.said)
        self.row("walk alone", walked, mine.peak, "tree to merged runs, in process")
        self.row("C walker", walker.seconds, walker.peak)
        self.row("Construct arrays, walk alone", arrayed, array.peak)
        self.row("show --json", show.seconds, show.peak, "140 MB of JSON")
        drgn = self._drgn(dump, root)
        if drgn:
            alone = float(drgn.said)
            self.row("drgn program, walk alone", alone, drgn.peak)
            self.row("drgn program", drgn.seconds, drgn.peak, "49 MB of JSON")
            self.target("drgn ÷ ours, walk alone", alone / walked, "≥ 20", alone >= 20 * walked)

    def random(self) -> None:
        """2048 leaves of noise: 17 million runs."""
        dump, dtb, root = self._image(2048, "random")
        counted = subprocess.run(
            [self._walker(), dump, root, *GEOMETRY], capture_output=True, text=True, check=True
        )
        runs = int(counted.stdout.split()[2])
        check, ranges = self.measure(
            [*KHO, "check", dump, dtb], [*KHO, "ranges", dump, dtb], runs=min(self.runs, 2)
        )
        self.title("2048 random leaves: about 17 million runs")
        self.row("check", check.seconds, check.peak)
        rate = runs / ranges.seconds
        self.row("ranges", ranges.seconds, ranges.peak, f"{rate:,.0f} a second")
        peak = max(check.peak, ranges.peak) / MIB
        self.target("peak MiB", peak, "< 1,536", peak < 1536)
        self.target("ranges a second", rate, "≥ 500,000", rate >= 500_000)

    def luo(self) -> None:
        """A hundred thousand memfds with ten million folios."""
        dump, dtb = self._generate("luo", "--memfds", "100000", "--folios", "100")
        (check,) = self.measure([*KHO, "check", dump, dtb], runs=min(self.runs, 2))
        shutil.rmtree(self.folder / "luo")
        self.title("LUO with 100,000 memfds and 10,000,000 folios")
        self.row("check", check.seconds, check.peak)
        self.target("check, seconds", check.seconds, "< 10", check.seconds < 10)
        peak = check.peak / MIB
        self.target("check peak MiB", peak, "< 2,048", peak < 2048)

    def search(self) -> None:
        """locate and pack on a sparse dump."""
        dump, dtb, _ = self._image(64, "runs")
        with Path(dump).open("r+b") as file:
            file.truncate(64 * GIB)
        packed = str(self.folder / "packed.elf")
        locate, pack, cat = self.measure(
            [*KHO, "locate", dump],
            [*KHO, "pack", dump, dtb, "-o", packed, "--force"],
            ["cat", dump],
            runs=1,
        )
        self.title("64 GiB, sparse")
        self.row("locate", locate.seconds, locate.peak)
        size = Path(packed).stat().st_size
        self.row("pack", pack.seconds, pack.peak, f"to {size / MIB:.1f} MiB")
        self.row("cat > /dev/null", cat.seconds, cat.peak, "reads the holes")
        ratio = max(locate.seconds, pack.seconds) / cat.seconds
        self.target("the slower ÷ cat", ratio, "≤ 1", ratio <= 1)

    def startup(self) -> None:
        """How long a person waits."""
        empty, usage, report, data = self.measure(
            PYTHON,
            [*KHO, "--help"],
            [*KHO, *SAMPLE],
            [*KHO, *SAMPLE, "--json"],
            runs=max(self.runs, 5),
        )
        self.title("Start-up, on a sample")
        self.row("python -c pass", empty.seconds, empty.peak)
        for name, cost in (("--help", usage), ("show", report), ("show --json", data)):
            note = f"{cost.seconds / empty.seconds:.1f} × python"
            self.row(name, cost.seconds, cost.peak, note)
        self.target("--help, ms", usage.seconds * 1000, "< 150", usage.seconds < 0.15)
        self.target("show, ms", report.seconds * 1000, "< 500", report.seconds < 0.5)

    # -- what they need

    def _image(self, leaves: int, pattern: str) -> tuple[str, str, str]:
        """Dump, DTB and root of a synthetic image."""
        dump, dtb = self._generate(pattern, "--leaves", str(leaves), "--pattern", pattern)
        root = json.loads(self._output(["tree", dump, dtb, "--json"]))["tree"]["root"]
        return dump, dtb, root

    def _generate(self, name: str, *arguments: str) -> tuple[str, str]:
        # Not in this process: a child's peak memory is never less than its parent's.
        folder = self.folder / name
        command = [sys.executable, str(HERE / "generate.py"), str(folder), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        os.sync()  # or else the system is still writing while others read
        return str(folder / "dump.raw"), str(folder / "kho.dtb")

    def _output(self, arguments: list[str]) -> str:
        done = subprocess.run(
            [*KHO, *arguments], cwd=REPO, capture_output=True, text=True, check=False
        )
        return done.stdout

    def _walker(self) -> str:
        program = self.folder / "walker"
        if not program.exists():
            source = str(HERE / "walker.c")
            subprocess.run(["cc", "-O2", "-o", str(program), source], check=True)
        return str(program)

    def _drgn(self, dump: str, root: str, runs: int | None = None) -> Cost | None:
        if subprocess.run([sys.executable, "-c", "import drgn"], capture_output=True).returncode:
            print("  drgn is not installed: pip install -e '.[bench]'")
            return None
        command = [sys.executable, str(HERE / "drgn_walk.py"), dump, root, *GEOMETRY]
        return self.measure(command, runs=runs)[0]


PARTS: dict[str, Callable[[Bench], None]] = {
    "startup": Bench.startup,
    "mixed": Bench.mixed,
    "alternating": Bench.alternating,
    "random": Bench.random,
    "luo": Bench.luo,
    "search": Bench.search,
}


def main() -> int:
    """Run all parts, or some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--runs", type=int, default=3, help="of which the best counts")
    parser.add_argument("--folder", help="for the images, 2 GB: a temporary one by default")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else list(PARTS)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        bench = Bench(Path(folder), given.runs)
        for name in wanted:
            PARTS[name](bench)
    print(f"\n{len(bench.missed)} targets missed" if bench.missed else "\nall targets met")
    return 1 if bench.missed else 0


if __name__ == "__main__":
    sys.exit(main())
