"""LiME dumps: ranges of memory, each after a header with its addresses.

LiME's other two formats have no header: *padded* is a plain raw dump (offset = address), *raw*
is the ranges alone, whose addresses are lost unless /proc/iomem was saved with it.
"""

from kho_inspect.errors import unreadable
from kho_inspect.layouts import lime
from kho_inspect.memory.files import DumpFile
from kho_inspect.memory.mapped import MappedMemory, RamBlock, in_file
from kho_inspect.units import human_size, plural

VARIANTS = (
    "LiME's padded format is a raw dump: leave --dump-format out; "
    "its raw format has no addresses: give each System RAM range of /proc/iomem with --map"
)

MAX_RANGES = 1 << 14
"""A machine has some tens of RAM ranges; a file of nothing but headers has many more."""


def open_lime(file: DumpFile) -> MappedMemory:
    """Raises UnreadableInputError when the file holds no range; a later defect is a note."""
    blocks, trouble = _ranges(file)
    if not blocks:
        raise unreadable(file.path, f"is no sound LiME file: {trouble}", VARIANTS)
    notes = []
    if trouble:
        notes.append(
            f"the LiME file is damaged: {trouble}; what follows is not read, "
            f"after {plural(len(blocks), 'range')}"
        )
    last, stored = blocks[-1], in_file(file, blocks[-1])
    if stored.size < last.size:
        notes.append(
            f"the file is cut short: of the range at {last.paddr:#x}, "
            f"{human_size(stored.size)} of {human_size(last.size)} are there"
        )
    return MappedMemory(file, "lime", blocks, notes=notes)


def _ranges(file: DumpFile) -> tuple[list[RamBlock], str]:
    """The ranges of a file, in its order, and why they end early."""
    layout = lime.lime_mem_range_header
    blocks: list[RamBlock] = []
    at = 0
    while at < file.size:
        where = f"at file offset {at:#x}"
        if len(blocks) == MAX_RANGES:
            return blocks, f"more than {MAX_RANGES:,} ranges: there is another header {where}"
        if at + layout.sizeof() > file.size:
            return blocks, f"the range header {where} is cut short"
        header = layout.parse(file.view[at : at + layout.sizeof()])
        start, last = header.s_addr, header.e_addr
        if header.magic != lime.LIME_MAGIC:
            trouble = f"the magic of the range header {where} is {header.magic:#x}"
            return blocks, f"{trouble}, should be {lime.LIME_MAGIC:#x}"
        if header.version != lime.LIME_VERSION:
            trouble = f"the range header {where} is of version {header.version}"
            return blocks, f"{trouble}, should be {lime.LIME_VERSION}"
        if last < start:
            return blocks, f"the range {where} ends at {last:#x}, before it starts ({start:#x})"
        blocks.append(RamBlock(start, at + layout.sizeof(), last + 1 - start))
        at = blocks[-1].offset + blocks[-1].size
    return blocks, ""
