#!/usr/bin/env python3
"""How fast, against what one would use instead: a table of ratios, all from one run.

    pip install -e '.[bench]'
    python tests/bench/run.py [--only mixed,random,…] [--runs N] [--folder DIR]

Peers: a C walker that goes word by word (the floor), drgn with numpy, cp, sha256sum, grep, and the
imports alone. Processor time of whole processes, the best of several runs taken in turn; where it
says "less start-up", that of the interpreter and of the package's five imports is taken off.
``--only growth``: how cost grows with one property. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.bench.growth import MAKERS  # needs the path above

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
KHO = [sys.executable, "-m", "kho_inspect"]
CLICK = [sys.executable, "-c", "import click"]
IMPORTS = [sys.executable, "-c", "import click, construct, numpy, pyfdt.pyfdt, rich.console"]
SAMPLE = [str(REPO / "samples" / f"x86_64-kho-v2.{suffix}") for suffix in ("elf", "dtb")]
MIB, GIB = 1 << 20, 1 << 30
GEOMETRY = ["6", "52"]
"""Levels and order-0 bit of 4K pages."""

COUNTS = """
import sys
from kho_inspect import inspect
from kho_inspect.inspection import case_of
case = case_of(inspect(*sys.argv[1:]))
blob = next(blob for blob in case.handover.blobs if blob.name == "LUO")
luo = blob.content
tables = [table for one in luo.files.contents.values() for _, table in one.tables]
folios = sum(map(len, tables))
size = sum(4096 * int((1 << one.order.astype(int)).sum()) for one in tables)
odd = len(list(case.memfds.odd()))
print(hex(case.handover.tree.root), hex(blob.paddr))
print(f"{len(luo.sessions)} sessions, {len(luo.files)} files, {folios} folios", end=", ")
print(f"{size} bytes, {odd} odd")
"""
"""Addresses of map and LUO, and what the C walker says of it, by the package."""


@dataclass
class Cost:
    """Of one command: least times in seconds, largest resident size in bytes."""

    seconds: float = float("inf")
    peak: int = 0
    wall: float = float("inf")
    """Least time by the clock."""
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
        said, begin = self.folder / "stderr", time.monotonic()
        with Path(os.devnull).open("wb") as out, said.open("wb") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, cwd=REPO)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        cost.said = said.read_text()
        if process.returncode not in (0, 1, 3, 4):
            raise SystemExit(f"{' '.join(command)}: {process.returncode}\n{cost.said}")
        cost.seconds = min(cost.seconds, usage.ru_utime + usage.ru_stime)
        cost.wall = min(cost.wall, time.monotonic() - begin)
        cost.peak = max(cost.peak, usage.ru_maxrss * 1024)

    def title(self, text: str) -> None:
        """The rows below are about this."""
        print(f"\n{text}", flush=True)

    def row(self, name: str, cost: Cost, ratio: float, note: str = "") -> None:
        """One measured command, as a multiple of what ``note`` names."""
        peak = cost.peak / MIB
        print(f"  {name:<34}{ratio:>10.2f} ×{peak:>8,.0f} MiB  {note}", flush=True)

    def target(self, what: str, value: float, limit: float) -> None:
        """A ratio or figure and what it may be at the most."""
        met = value <= limit
        print(f"  {'✔' if met else '✘'} {what}: {value:,.2f} (≤ {limit:g})", flush=True)
        if not met:
            self.missed.append(what)

    # -- the parts

    def tree(self, name: str, leaves: int, pattern: str, limit: float, mib: float) -> None:
        """Counting and listing what a tree records, against C and drgn."""
        dump, dtb, root = self._image(leaves, pattern)
        where = [dump, root, *GEOMETRY]
        walker = [self._walker(), *where]
        drgn = [sys.executable, str(HERE / "drgn_walk.py"), *where]
        theirs = [drgn, [*drgn, "ranges"]] if self.drgn else []
        ours = [[*KHO, "check", dump, dtb], [*KHO, "ranges", dump, dtb]]
        listings = [ours[1], [*walker, "ranges"], *theirs[1:]]
        if len({self._listing(command) for command in listings}) > 1:
            raise SystemExit(f"{name}: the programs disagree about the ranges")
        check, ranges, counted, listed, start, *peers = self.measure(
            *ours, walker, [*walker, "ranges"], IMPORTS, *theirs
        )
        self.title(name)
        net = max(check.seconds - start.seconds, 0.0)
        # The system counts processor time in steps: less than one is taken for one.
        floor = max(counted.seconds, 0.001)
        self.row("check", check, net / floor, "C walker that counts; less start-up")
        listing = max(ranges.seconds - start.seconds, 0.0) / max(listed.seconds, 0.001)
        self.row("ranges", ranges, listing, "C walker that lists; less start-up")
        for name, peer, mine in zip(("counts", "lists"), peers, (check, ranges), strict=False):
            self.row(f"drgn with numpy, {name}", peer, peer.seconds / mine.seconds, "ours, whole")
        self.target("check ÷ C walker, less start-up", net / floor, limit)
        self.target("check peak MiB", check.peak / MIB, mib)

    def mixed(self) -> None:
        """1 TiB of order-0 pages."""
        name = "1 TiB of order-0 pages in mixed patterns, 8192 leaves"
        self.tree(name, 8192, "mixed", 12, 300)

    def random(self) -> None:
        """2048 leaves of noise."""
        self.tree("2048 random leaves: about 17 million runs", 2048, "random", 10, 500)

    def luo(self) -> None:
        """A hundred thousand memfds with ten million folios: the structures read, and no more."""
        dump, dtb = self._generate("luo", "--memfds", "100000", "--folios", "100")
        said = self._said([sys.executable, "-c", COUNTS, dump, dtb])
        root, blob, counts = said.split(maxsplit=2)
        walker = [self._walker(), dump, root, *GEOMETRY, "luo", blob]
        if self._said(walker) != counts:
            raise SystemExit(f"LUO: the programs disagree: {counts}")
        check, read, start = self.measure([*KHO, "check", dump, dtb], walker, IMPORTS)
        shutil.rmtree(self.folder / "luo")
        self.title("LUO with 100,000 memfds and 10,000,000 folios")
        ratio = max(check.seconds - start.seconds, 0.0) / max(read.seconds, 0.001)
        self.row("check", check, ratio, "C walker that reads and compares; less start-up")
        self.target("check ÷ C walker, less start-up", ratio, 12)
        self.target("check peak MiB", check.peak / MIB, 700)

    def extraction(self) -> None:
        """Memfds of 2 GB in all, four fifths contiguous: copied and hashed, as cp and sha256sum."""
        dump, dtb = self._generate("content", "--memfds", "200", "--folios", "1000", "--filled")
        out, packed, copy = (str(self.folder / name) for name in ("out", "content.elf", "copied"))
        extract, pack = self.measure(
            [*KHO, "extract", dump, dtb, "LUO", "-o", out, "--force"],
            [*KHO, "pack", dump, dtb, "--content", "-o", packed, "--force"],
        )
        files = sorted(str(path) for path in Path(out, "LUO").rglob("*") if path.is_file())
        self.title("2 GB in 200 memfds: the same bytes")
        for name, ours, theirs in (("extract", extract, files), ("pack --content", pack, [packed])):
            cp, digest = self.measure(
                ["cp", "-r", "--sparse=auto", *theirs, "-t", self._fresh(copy)],
                ["sha256sum", *theirs],
            )
            shutil.rmtree(copy)
            seconds = ours.seconds / (cp.seconds + digest.seconds)
            wall = ours.wall / (cp.wall + digest.wall)
            self.row(name, ours, seconds, f"cp --sparse and sha256sum; by the clock {wall:.2f}")
            self.target(f"{name} ÷ (cp + sha256sum)", seconds, 1.5)

    def many(self) -> None:
        """A hundred images in one process, and in one each."""
        one, hundred = self.measure([*KHO, "check", *SAMPLE], [*KHO, "check", *SAMPLE * 100])
        self.title("100 samples in one process")
        ratio = hundred.seconds / (100 * one.seconds)
        self.row("check", hundred, ratio, "a hundred processes")
        self.target("peak ÷ that of one image", hundred.peak / one.peak, 1.2)

    def search(self) -> None:
        """locate and pack on a sparse dump, and locate on noise."""
        dump, dtb, _ = self._image(64, "runs")
        os.truncate(dump, 64 * GIB)
        packed, copy = str(self.folder / "packed.elf"), str(self.folder / "copy")
        locate, pack, cp, start = self.measure(
            [*KHO, "locate", dump],
            [*KHO, "pack", dump, dtb, "-o", packed, "--force"],
            ["cp", "--sparse=auto", dump, copy],
            IMPORTS,
        )
        self.title("64 GiB, sparse: cp skips the holes as well")
        for name, cost in (("locate", locate), ("pack", pack), ("cp --sparse", cp)):
            self.row(name, cost, cost.seconds / start.seconds, "the five imports")
        noise = self.folder / "noise.raw"
        with noise.open("wb") as file:
            for _ in range(1024):
                file.write(os.urandom(MIB))
        grep = ["env", "LC_ALL=C", "grep", "-obUaP", r"\xd0\x0d\xfe\xed", str(noise)]
        locate, grep_cost, digest = self.measure(
            [*KHO, "locate", str(noise)], grep, ["sha256sum", str(noise)]
        )
        self.title("1 GiB of noise")
        net = locate.seconds - start.seconds
        for name, cost in (("grep for the FDT's magic", grep_cost), ("sha256sum", digest)):
            ratio = net / cost.seconds
            self.row(f"locate, against {name}", locate, ratio, "less start-up")
        self.target("locate ÷ grep", net / grep_cost.seconds, 2)

    def startup(self) -> None:
        """How long a person waits."""
        click, imports, usage, version, report, data = self.measure(
            CLICK,
            IMPORTS,
            [*KHO, "--help"],
            [*KHO, "--version"],
            [*KHO, *SAMPLE],
            [*KHO, *SAMPLE, "--json"],
            runs=max(self.runs, 9),
        )
        self.title("Start-up, on a sample")
        for name, cost in (("--help", usage), ("--version", version)):
            self.row(name, cost, cost.seconds / click.seconds, "import click")
        for name, cost in (("show", report), ("show --json", data)):
            self.row(name, cost, cost.seconds / imports.seconds, "the five imports")
        self.target("--help ÷ import click", usage.seconds / click.seconds, 1.3)
        self.target("--version ÷ import click", version.seconds / click.seconds, 1.3)
        self.target("show ÷ the five imports", report.seconds / imports.seconds, 2)

    def growth(self) -> None:
        """The exponent of cost, of each property of a handover."""
        self.title("Cost of check with 1, 2, 4 and 8 times as much, in a process that has begun")
        for name in MAKERS:
            costs = []
            for times in (1, 2, 4, 8):
                command = [sys.executable, str(HERE / "growth.py"), str(self.folder / name), name]
                done = subprocess.run(
                    [*command, str(times)], check=True, capture_output=True, text=True
                )
                costs.append(float(done.stdout))
                shutil.rmtree(self.folder / name)
            grown = "  ".join(f"{cost / costs[0]:.2f}" for cost in costs)
            print(f"  {name:<12}{grown}", flush=True)
            # The slope of the least squares through equidistant logarithms.
            logs = [math.log2(cost) for cost in costs]
            exponent = (3 * (logs[3] - logs[0]) + logs[2] - logs[1]) / 10
            self.target(f"exponent of {name}", exponent, 1.15)

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

    @staticmethod
    def _fresh(folder: str) -> str:
        Path(folder).mkdir()
        return folder

    def _walker(self) -> str:
        program = self.folder / "walker"
        if not program.exists():
            source = str(HERE / "walker.c")
            subprocess.run(["cc", "-O3", "-march=native", "-o", str(program), source], check=True)
        return str(program)

    def _said(self, command: list[str]) -> str:
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
        return done.stdout

    def _listing(self, command: list[str]) -> str:
        """Digest of the first column that a command prints."""
        pipe = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPO)
        assert pipe.stdout is not None
        digest = hashlib.sha256()
        for line in pipe.stdout:
            digest.update(line.split(None, 1)[0])
        pipe.wait()
        return digest.hexdigest()

    @cached_property
    def drgn(self) -> bool:
        """Whether it is installed."""
        found = importlib.util.find_spec("drgn") is not None
        if not found:
            print("  drgn is not installed: pip install -e '.[bench]'")
        return found


PARTS: dict[str, Callable[[Bench], None]] = {
    "startup": Bench.startup,
    "mixed": Bench.mixed,
    "random": Bench.random,
    "luo": Bench.luo,
    "search": Bench.search,
    "extract": Bench.extraction,
    "many": Bench.many,
    "growth": Bench.growth,
}


def main() -> int:
    """Run all parts, or some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--runs", type=int, default=3, help="of which the best counts")
    parser.add_argument("--folder", help="for the images, 8 GB: a temporary one by default")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else list(PARTS)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody compiles the package at each start
    with tempfile.TemporaryDirectory(dir=given.folder and Path(given.folder).resolve()) as folder:
        bench = Bench(Path(folder), given.runs)
        for name in wanted:
            PARTS[name](bench)
    print(f"\n{len(bench.missed)} targets missed" if bench.missed else "\nall targets met")
    return 1 if bench.missed else 0


if __name__ == "__main__":
    sys.exit(main())
