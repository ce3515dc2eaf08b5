"""How the cost of ``check`` grows with one property of a handover: 1, 2, 4 and 8 times as much.

    python tests/bench/growth.py FOLDER PROPERTY TIMES

Makes an image in the folder and prints the processor time of ``check`` on it in this process,
which has checked a sample before: what remains is neither the interpreter's start nor imports.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.bench.generate import generate  # these need the path above
from tests.bench.luo_image import luo_image
from tests.bench.maker import Maker
from tests.support.builder import Tree
from tests.support.running import in_process


def runs(folder: Path, count: int) -> None:
    """``count`` runs in 256 leaves."""
    maker = Maker(folder)
    leaves = 256
    each = count // leaves
    for number in range(1, leaves + 1):
        bits = sum(1 << at for at in range(0, 32768, 32768 // each))
        maker.bitmap(0, number, bits.to_bytes(maker.page, "little"))
    maker.bitmap(0, 0, b"\x02" + bytes(maker.page - 1))
    maker.finish((leaves + 1) << 27)
    maker.file.close()


def subnodes(folder: Path, count: int) -> None:
    """``count`` sub-nodes of a kind that is not known, a page of blob each."""
    maker = Maker(folder)
    maker.next_page = 1024  # the root FDT stands below
    pages = [1]
    for number in range(count):
        blob = maker.take()
        pages.append(blob >> maker.shift)
        properties = [("preserved-data", blob), ("blob-size", 64)]
        maker.subnodes.append(
            Tree(
                b"node-%d" % number,
                [(name.encode(), struct.pack("<Q", value)) for name, value in properties],
            )
        )
    words: dict[int, bytearray] = {}
    for page in pages:
        number, bit = page >> maker.bitmap_bits, page & ((1 << maker.bitmap_bits) - 1)
        words.setdefault(number, bytearray(maker.page))[bit // 8] |= 1 << bit % 8
    for number, data in words.items():
        maker.bitmap(0, number, bytes(data))
    maker.finish((maker.next_page + 16) << maker.shift)
    maker.file.truncate((maker.next_page + 16) << maker.shift)
    maker.file.close()


MAKERS: dict[str, tuple[int, Callable[[Path, int], object]]] = {
    "leaves": (4096, lambda folder, count: generate(folder, count, "sparse")),
    "runs": (1 << 19, runs),
    "files": (4000, lambda folder, count: luo_image(folder, count, 4)),
    "folios": (200_000, lambda folder, count: luo_image(folder, 40, count // 40)),
    "sub-nodes": (250, subnodes),
    "owners": (2000, lambda folder, count: luo_image(folder, count, 4, per_session=1)),
    "damage": (500, lambda folder, count: generate(folder, 8192, "sparse", damage=count)),
    "overlaps": (1600, lambda folder, count: luo_image(folder, count, 4, wild=True)),
}
"""Property → how much of it is once as much, and what makes the image."""


def cost(dump: Path, dtb: Path, runs: int = 3) -> float:
    """Least processor time of so many checks, in seconds."""
    sample = Path(__file__).resolve().parents[2] / "samples" / "x86_64-kho-v2"
    in_process("check", sample.with_suffix(".elf"), sample.with_suffix(".dtb"))
    took = []
    for _ in range(runs):
        before = time.process_time()
        assert in_process("check", dump, dtb).status < 5, "an error of the program"
        took.append(time.process_time() - before)
    return min(took)


def main() -> None:
    """The command line: an image of one property, and what a check of it costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("property", choices=MAKERS)
    parser.add_argument("times", type=int)
    given = parser.parse_args()
    random.seed(0)
    once, make = MAKERS[given.property]
    make(given.folder, once * given.times)
    print(cost(given.folder / "dump.raw", given.folder / "kho.dtb"))


if __name__ == "__main__":
    main()
