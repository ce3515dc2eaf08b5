"""The real captures, unpacked, and a plain form of a handover to compare."""

from __future__ import annotations

import json
import lzma
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kho_inspect.model.chunk_list import ChunkList
from kho_inspect.model.handover import Handover
from kho_inspect.model.radix_tree import RadixTree

HOME = Path(
    os.environ.get("KHO_CAPTURES") or Path(__file__).parents[3] / "shared" / "captures"
).resolve()
NAMES = ("x86_64-kho-v1", "x86_64-kho-v2", "x86_64-kho-v3", "x86_64-kho-v4", "arm64-16k-kho-v4")
HOLE = 4096


@dataclass(frozen=True)
class Capture:
    """One capture: where its files are and what is known of it."""

    name: str
    dump: Path
    """The raw dump, unpacked."""

    @property
    def dtb(self) -> Path:
        """The whole root FDT."""
        return HOME / self.name / "kho.dtb"

    @property
    def short_dtb(self) -> Path:
        """The root FDT as the old kernel's debugfs truncates it; there is none of kho-v1."""
        return HOME / self.name / "kho-debugfs-out.dtb"

    @property
    def dtbs(self) -> list[Path]:
        """Every form of the root FDT that there is."""
        return [dtb for dtb in (self.dtb, self.short_dtb) if dtb.exists()]

    @cached_property
    def truth(self) -> dict[str, Any]:
        """What an independent reader found."""
        truth: dict[str, Any] = json.loads((HOME / self.name / "truth.json").read_text())
        return truth

    @property
    def base(self) -> int:
        """Physical address of the dump's first byte."""
        return int(self.truth["dump_base"], 16)


def unpack(packed: Path, out: Path) -> None:
    """Unpack an .xz file; zero pages become holes."""
    zeros = bytes(HOLE)
    with lzma.open(packed) as source, out.open("wb") as file:
        while chunk := source.read(1 << 20):
            start = file.tell()
            if chunk.count(0) != len(chunk):
                for at in range(0, len(chunk), HOLE):
                    piece = chunk[at : at + HOLE]
                    if piece != zeros[: len(piece)]:
                        file.seek(start + at)
                        file.write(piece)
            file.seek(start + len(chunk))
        file.truncate(file.tell())


def plain(handover: Handover) -> dict[str, Any]:
    """All that a handover says of the machine (not of the file), as comparable values."""
    return {
        "compatible": handover.fdt.compatible,
        "memory_map": handover.fdt.memory_map,
        "geometry": handover.geometry,
        "runs": {
            order: [array.tolist() for array in runs]
            for order, runs in handover.preserved.runs.items()
        },
        "tree": map_nodes(handover),
        "blobs": [
            (blob.name, blob.paddr, blob.size, blob.stored, blob.preserved, blob.sha256)
            for blob in handover.blobs
        ],
        "blob_data": [(blob.kind, bytes(blob.data), blob.fdt) for blob in handover.blobs],
        "faults": handover.faults,
    }


def map_nodes(handover: Handover) -> list[tuple[str, int]]:
    """Every node of the map as truth.json lists it: level (or ``chunk``, ``bitmap``), address."""
    tree = handover.tree
    if isinstance(tree, ChunkList):
        return [
            node
            for chunk in tree.chunks
            for node in [
                ("chunk", chunk.paddr),
                *(("bitmap", paddr) for paddr in chunk.bitmap.tolist()),
            ]
        ]
    levels = tree.levels if isinstance(tree, RadixTree) else ()
    return [(str(level.level), paddr) for level in levels for paddr in level.paddr.tolist()]
