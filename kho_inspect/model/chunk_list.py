"""The preserved-memory map of kho-v1: a list of chunks, each an array of bitmaps."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kho_inspect.model.contents import Document
from kho_inspect.model.identity import Path, Step, StepKind
from kho_inspect.model.map import MAX_LISTED, Entry, Line, MapNodes, PreservedMap, WordReader
from kho_inspect.model.preserved import Block, Preserved
from kho_inspect.units import PhysAddr, human_size, plural


class MapChunk(NamedTuple):
    """One ``khoser_mem_chunk``; its elements are two arrays of shape ``(n,)``."""

    paddr: PhysAddr
    order: int
    num_elms: int
    """As written; elements that could not be read are not in the arrays."""
    phys_start: NDArray[np.uint64]
    bitmap: NDArray[np.uint64]

    @property
    def elements(self) -> list[tuple[PhysAddr, PhysAddr]]:
        """``(phys_start, bitmap)`` of each."""
        return list(zip(self.phys_start.tolist(), self.bitmap.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class ChunkList(PreservedMap):
    """The kho-v1 preserved-memory map, as far as it could be read."""

    chunks: tuple[MapChunk, ...]
    bitmap_size: int
    """Bytes: a page, or 512 (6.16, 6.17)."""

    @property
    def nodes(self) -> int:
        return len(self.chunks) + sum(len(chunk.bitmap) for chunk in self.chunks)

    def summary(self) -> str:
        bitmaps = self.nodes - len(self.chunks)
        return (
            f"{plural(len(self.chunks), 'chunk')}, {plural(bitmaps, 'bitmap')} of "
            f"{human_size(self.bitmap_size)} · first chunk {self.root:#x}"
        )

    def groups(self) -> Iterator[MapNodes]:
        chunks = np.array([chunk.paddr for chunk in self.chunks], dtype=np.uint64)
        yield MapNodes("kho-v1 chunk", chunks, chunk_path)
        for number, chunk in enumerate(self.chunks):
            yield MapNodes("kho-v1 bitmap", chunk.bitmap, partial(bitmap_path, number))

    def documents(self) -> Iterator[Document]:
        for number, chunk in enumerate(self.chunks):
            yield {
                "chunk": number,
                "paddr": hex(chunk.paddr),
                "path": chunk_path(number),
                "order": chunk.order,
                "num_elms": chunk.num_elms,
                "bitmaps": [
                    {"phys_start": hex(start), "bitmap": hex(bitmap)}
                    for start, bitmap in chunk.elements
                ],
            }

    def outline(self, preserved: Preserved, *, full: bool, cap: int = MAX_LISTED) -> Iterator[Line]:
        yield Line(0, self.summary())
        for chunk in self.chunks:
            held = plural(chunk.num_elms, "bitmap")
            yield Line(1, f"chunk {chunk.paddr:#x} · order {chunk.order} · {held}")
            listed = chunk.elements if full else chunk.elements[:cap]
            for start, bitmap in listed:
                yield Line(2, f"bitmap {bitmap:#x} · memory from {start:#x}")
            if left_out := len(chunk.bitmap) - len(listed):
                yield Line(2, "", left_out)

    def find(self, read: WordReader, page: PhysAddr, blocks: tuple[Block, ...]) -> Iterator[Entry]:
        """The bits of the blocks; a page that is not preserved has none."""
        bits = 8 * self.bitmap_size
        for block in blocks:
            for number, chunk in enumerate(self.chunks):
                if chunk.order != block.order:
                    continue
                for start, bitmap in chunk.elements:
                    bit = (block.paddr - start) // block.size
                    if 0 <= bit < bits:
                        words = f"chunk {number} at {chunk.paddr:#x} → bitmap {bitmap:#x} bit {bit}"
                        yield Entry("chunks", (("map", words),), words)


def chunk_path(number: int) -> Path:
    """The way to a chunk of the list."""
    return (Step(StepKind.CHUNK, number),)


def bitmap_path(number: int, index: int) -> Path:
    """The way to a bitmap of that chunk."""
    return Step(StepKind.CHUNK, number), Step(StepKind.BITMAP, index)
