"""LiME dumps: ranges of memory, each behind a header with its addresses.

LiME's other two formats have no header: *padded* is a plain raw dump (offset = address), *raw*
is the ranges alone, whose addresses are lost unless somebody wrote down /proc/iomem.
"""

from __future__ import annotations

from collections.abc import Iterator

from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts import lime
from kho_inspect.memory.files import DumpFile
from kho_inspect.memory.mapped import MappedMemory, RamBlock, in_file
from kho_inspect.units import Extent, human_size, plural

VARIANTS = (
    "LiME's padded format is a raw dump: leave --format out; "
    "its raw format has no addresses: give each System RAM range of /proc/iomem with --map"
)

MAX_RANGES = 1 << 14
"""A machine has some tens of RAM ranges; a file of nothing but headers has many more."""

_SMALLEST = 4096
"""Bytes of RAM without which a broken chain of headers is no LiME file."""


def open_lime(file: DumpFile) -> MappedMemory:
    """Raises UnreadableInputError when the file holds no range; a later defect is a note."""
    ranges = _Ranges(file)
    blocks = list(ranges)
    if not blocks or (ranges.trouble and sum(block.size for block in blocks) < _SMALLEST):
        raise UnreadableInputError(
            f"{file.path} is no sound LiME file: {ranges.trouble or 'it holds no range'}",
            hint=VARIANTS,
            source=file.path,
        )
    notes = []
    if ranges.trouble:
        notes.append(
            f"the LiME file is damaged: {ranges.trouble}; what follows is not read, "
            f"after {plural(len(blocks), 'range')}"
        )
    stored = [in_file(file, block) for block in blocks]
    if stored[-1].size < blocks[-1].size:
        notes.append(
            f"the file is cut short: of the range at {blocks[-1].paddr:#x}, "
            f"{human_size(stored[-1].size)} of {human_size(blocks[-1].size)} are there"
        )
    return MappedMemory(
        file,
        "lime",
        (block for block in stored if block.size > 0),
        declared=[Extent(block.paddr, block.end) for block in blocks],
        notes=notes,
    )


class _Ranges:
    """The ranges of a file, in its order; ``trouble`` says why they end early."""

    def __init__(self, file: DumpFile) -> None:
        self.file = file
        self.trouble = ""

    def __iter__(self) -> Iterator[RamBlock]:
        size = lime.lime_mem_range_header.sizeof()
        at = count = 0
        while at < self.file.size:
            where = f"at file offset {at:#x}"
            if count == MAX_RANGES:
                self.trouble = f"more than {MAX_RANGES:,} ranges: there is another header {where}"
                return
            if at + size > self.file.size:
                self.trouble = f"the range header {where} is cut short"
                return
            header = lime.lime_mem_range_header.parse(self.file.view[at : at + size])
            if header.magic != lime.LIME_MAGIC:
                found, wanted = f"{header.magic:#x}", f"{lime.LIME_MAGIC:#x}"
                self.trouble = (
                    f"the magic of the range header {where} is {found}, should be {wanted}"
                )
                return
            if header.version != lime.LIME_VERSION:
                self.trouble = (
                    f"the range header {where} is of version {header.version}, "
                    f"should be {lime.LIME_VERSION}"
                )
                return
            if header.e_addr < header.s_addr:
                self.trouble = (
                    f"the range {where} ends at {header.e_addr:#x}, before it starts "
                    f"({header.s_addr:#x})"
                )
                return
            at += size
            block = RamBlock(header.s_addr, at, header.e_addr + 1 - header.s_addr)
            yield block
            at += block.size
            count += 1
