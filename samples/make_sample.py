#!/usr/bin/env python3
"""Make a sample of a capture: an ELF64 core that holds the handover's pages and no others.

    samples/make_sample.py CAPTURE_DIR samples/NAME

CAPTURE_DIR has dump.raw.xz, kho.dtb and truth.json. Kept are all pages of the dump that are not
zero, and the zero ones that are preserved or part of the tree; the rest of RAM is declared by
``p_memsz`` but not stored. Standard library only, so that it reads no byte the way kho-inspect
does.
"""

from __future__ import annotations

import json
import lzma
import shutil
import struct
import sys
from pathlib import Path
from typing import Any


def main(capture: Path, target: Path) -> None:
    """Write target.elf, target.dtb, target.debugfs-out.dtb and target.json."""
    truth = json.loads((capture / "truth.json").read_text())
    runs, end = kept_runs(capture / "dump.raw.xz", truth)
    target.with_suffix(".elf").write_bytes(elf_core(runs, int(truth["dump_base"], 16), end))
    for source, suffix in (
        ("kho.dtb", ".dtb"),
        ("kho-debugfs-out.dtb", ".debugfs-out.dtb"),
        ("truth.json", ".json"),
    ):
        if (capture / source).exists():
            shutil.copyfile(capture / source, target.with_suffix(suffix))
    stored = sum(len(data) for _, data in runs)
    print(f"{target}.elf: {len(runs)} segments, {stored // 1024} KiB stored")


def kept_runs(dump: Path, truth: dict[str, Any]) -> tuple[list[tuple[int, bytes]], int]:
    """``(paddr, bytes)`` of each run of kept pages, and the end of the dump."""
    page, paddr = truth["page_size"], int(truth["dump_base"], 16)
    wanted = {int(node, 16) for _, node in truth["tree_nodes"]}
    for start, end in truth["preserved_ranges"]:
        wanted.update(range(int(start, 16), int(end, 16), page))
    runs: list[tuple[int, bytearray]] = []
    with lzma.open(dump) as stream:
        while data := stream.read(page):
            if paddr in wanted or any(data):
                if not runs or runs[-1][0] + len(runs[-1][1]) != paddr:
                    runs.append((paddr, bytearray()))
                runs[-1][1].extend(data)
            paddr += len(data)
    return [(start, bytes(data)) for start, data in runs], paddr


def elf_core(runs: list[tuple[int, bytes]], start: int, end: int) -> bytes:
    """An ELF64 core: one PT_LOAD per run, reaching (unstored) up to the next run."""
    bounds = [*(paddr for paddr, _ in runs[1:]), end]
    segments = [
        (paddr, data, bound - paddr) for (paddr, data), bound in zip(runs, bounds, strict=True)
    ]
    if runs[0][0] > start:
        segments.insert(0, (start, b"", runs[0][0] - start))
    offset = 64 + 56 * len(segments)
    header = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 0, 0),
        *(4, 0, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0),
    )
    table = b""
    for paddr, data, memsz in segments:
        table += struct.pack("<IIQQQQQQ", 1, 6, offset, 0, paddr, len(data), memsz, 0)
        offset += len(data)
    return header + table + b"".join(data for _, data, _ in segments)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
