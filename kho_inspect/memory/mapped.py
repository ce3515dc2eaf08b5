"""Physical memory as segments of one memory-mapped file: what raw dumps and ELF cores share."""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kho_inspect.memory.base import Presence, missing_memory
from kho_inspect.memory.files import DumpFile
from kho_inspect.units import Extent, PhysAddr

MAX_COMPARED = 16 << 20
"""Bytes of memory held twice that are compared. In a vmcore the kernel's text is."""
MAPPED = 64 << 10
"""Bytes that a read maps at the least, around what it asks for."""
MAX_MAPPED = 64 << 20
"""Bytes that reads have mapped when all of them are given back: they need not stay resident."""


class RamBlock(NamedTuple):
    """``size`` bytes of physical memory at ``paddr``, stored at file ``offset``."""

    paddr: PhysAddr
    offset: int
    size: int

    @property
    def end(self) -> PhysAddr:
        """First physical byte after the block."""
        return self.paddr + self.size


def merge_extents(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Sorted union of a few extents."""
    merged: list[Extent] = []
    for extent in sorted(extents):
        if merged and extent.start <= merged[-1].end:
            merged[-1] = Extent(merged[-1].start, max(merged[-1].end, extent.end))
        elif extent.size:
            merged.append(extent)
    return tuple(merged)


def _without_overlaps(blocks: Iterable[RamBlock]) -> tuple[list[RamBlock], list[RamBlock]]:
    """Blocks sorted by address, and the parts of them that others hide.

    Where two claim the same memory, the lower start keeps it, or else the lower file offset.
    """
    disjoint: list[RamBlock] = []
    hidden: list[RamBlock] = []
    reach = 0
    for block in sorted(blocks):
        skip = min(max(0, reach - block.paddr), block.size)
        if skip:
            hidden.append(RamBlock(block.paddr, block.offset, skip))
            block = RamBlock(block.paddr + skip, block.offset + skip, block.size - skip)
        if block.size:
            disjoint.append(block)
            reach = block.end
    return disjoint, hidden


class MappedMemory:
    """:class:`PhysicalMemory` over RAM blocks in a mapped file."""

    def __init__(
        self,
        file: DumpFile,
        format_name: str,
        blocks: Iterable[RamBlock],
        *,
        declared: Iterable[Extent] = (),
        notes: Sequence[str] = (),
        live: bool = False,
    ) -> None:
        """The file may end before ``blocks`` do; ``declared`` is memory that exists besides.

        ``live``: the memory changes while it is read.
        """
        self.file = file
        self.path = file.path
        self.format = format_name
        self.size = file.size
        blocks = list(blocks)
        self._blocks, hidden = _without_overlaps(in_file(file, block) for block in blocks)
        self._mapped = 0
        self._whole = 0, 0
        """The part of the file that was taken for mapped as a whole at last."""
        self._starts = [block.paddr for block in self._blocks]
        # The same for numpy: first and last address, and file offset.
        self._arrays = (
            np.array(self._starts, dtype=np.uint64),
            np.array([block.end - 1 for block in self._blocks], dtype=np.uint64),
            np.array([block.offset for block in self._blocks], dtype=np.int64),
        )
        self.stored = merge_extents(Extent(block.paddr, block.end) for block in self._blocks)
        self.declared = merge_extents([*(Extent(one.paddr, one.end) for one in blocks), *declared])
        self.notes = (*notes, *([] if live else self._contradictions(hidden)))

    def _contradictions(self, hidden: Iterable[RamBlock]) -> Iterator[str]:
        """A note when memory that the file holds twice differs, in the first MAX_COMPARED bytes."""
        left = MAX_COMPARED
        for block in hidden:
            size = min(block.size, left)
            left -= size
            if self.read(block.paddr, size) != self.file.view[block.offset : block.offset + size]:
                yield (
                    f"two ranges of the dump overlap at {block.paddr:#x}, with different contents: "
                    "the one that starts lower is read"
                )
                return

    def presence(self, paddr: PhysAddr, size: int = 1) -> Presence:
        for extents, answer in (
            (self.stored, Presence.STORED),
            (self.declared, Presence.NOT_STORED),
        ):
            at = bisect.bisect_right(extents, paddr, key=lambda extent: extent.start) - 1
            if at >= 0 and extents[at].contains(paddr, size):
                return answer
        return Presence.OUTSIDE

    def read(self, paddr: PhysAddr, size: int) -> memoryview:
        at = bisect.bisect_right(self._starts, paddr) - 1
        if at >= 0:
            block = self._blocks[at]
            if size <= block.end - paddr:
                offset = block.offset + paddr - block.paddr
                self._maps(max(size, MAPPED))
                return self.file.view[offset : offset + size]
        presence = self.presence(paddr, size)
        if presence is not Presence.STORED:
            raise missing_memory(presence, paddr, size, self.path)
        pieces = []
        while size > 0:
            block = self._blocks[at]
            offset = block.offset + paddr - block.paddr
            length = min(size, block.end - paddr)
            pieces.append(self.file.view[offset : offset + length])
            paddr, size, at = paddr + length, size - length, at + 1
        return memoryview(b"".join(pieces))

    def _maps(self, size: int) -> None:
        """What is being read becomes resident; give back all that was, where it is too much."""
        self._mapped += size
        if self._mapped > MAX_MAPPED:
            self._mapped, self._whole = size, (0, 0)
            self.file.forget(0, self.file.size)

    def stored_mask(self, paddrs: NDArray[np.uint64], size: int) -> NDArray[np.bool_]:
        started, whole, _ = self._locate(paddrs, size)
        # An item may straddle two blocks that touch in memory but not in the file.
        for at in (started & ~whole).nonzero()[0].tolist():
            whole[at] = self.presence(int(paddrs[at]), size) is Presence.STORED
        return whole

    def gather(self, paddrs: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any]:
        size, view = dtype.itemsize, self.file.view
        _, whole, offsets = self._locate(paddrs, size)
        if isinstance(view, memoryview) and len(paddrs) and whole.all():
            low, high = int(offsets.min()), int(offsets.max()) + size
            most = len(paddrs) * max(size, MAPPED)
            if not self._whole[0] - MAPPED <= low < high <= self._whole[1] + MAPPED:
                self._maps(min(high - low, most))
                if high - low <= most:
                    self._whole = low, high
            # An item at every byte of the file: numpy takes out those that are wanted by itself.
            every: NDArray[Any] = np.ndarray((len(view) - size + 1,), f"V{size}", view, 0, (1,))
            items: NDArray[Any] = every[offsets].view(dtype)
            return items
        one_by_one = (self.read(paddr, size) for paddr in paddrs.tolist())
        return np.frombuffer(bytearray().join(one_by_one), dtype=dtype)

    def _locate(
        self, paddrs: NDArray[np.uint64], size: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
        """Which items start in a block, which lie whole in it, and the file offset of those."""
        if not self._blocks:
            none = np.zeros(len(paddrs), dtype=bool)
            return none, none, np.zeros(len(paddrs), dtype=np.int64)
        starts, lasts, offsets = self._arrays
        at = np.searchsorted(starts, paddrs, side="right") - 1
        started = (at >= 0) & (paddrs <= lasts[at])
        room = lasts[at] - paddrs  # wraps around where paddr lies beyond the block: masked
        whole = started & (room >= np.uint64(size - 1))
        return started, whole, offsets[at] + (paddrs - starts[at]).astype(np.int64)

    def data_chunks(self, size: int, overlap: int) -> Iterator[tuple[PhysAddr, memoryview]]:
        for block in self._blocks:
            for start, end in self.file.data_extents(block.offset, block.offset + block.size):
                for at in range(start, end, size):
                    stop = min(at + size + overlap, end)
                    self._maps(stop - at)
                    yield block.paddr + at - block.offset, self.file.view[at:stop]


def in_file(file: DumpFile, block: RamBlock) -> RamBlock:
    """The part of ``block`` that the file really holds."""
    return RamBlock(block.paddr, block.offset, max(0, min(block.size, file.size - block.offset)))
