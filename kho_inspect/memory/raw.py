"""Raw dumps: file offset = physical address, shifted by a base or mapped block by block.

QEMU's ``pmemsave 0 SIZE`` needs neither; a dump of RAM alone on a machine whose RAM starts
elsewhere (arm64 ``virt``: 0x40000000) needs a base; a RAM backing file or VM snapshot, where
the blocks around the PCI hole are concatenated, needs one map per block.
"""

import itertools
from collections.abc import Sequence

from kho_inspect.errors import UnreadableInputError
from kho_inspect.memory.files import DumpFile
from kho_inspect.memory.mapped import MappedMemory, RamBlock
from kho_inspect.units import PhysAddr, human_size


def open_raw(file: DumpFile, *, base: PhysAddr, blocks: Sequence[RamBlock]) -> MappedMemory:
    """Raises UnreadableInputError when the blocks contradict each other or the file."""
    ordered = sorted(blocks) or [RamBlock(base, 0, file.size)]
    if ordered[-1].end > 1 << 64:
        raise UnreadableInputError(
            f"{human_size(ordered[-1].size)} at {ordered[-1].paddr:#x} end beyond 64 bits",
            hint="check --base and --map",
            source=file.path,
        )
    for before, after in itertools.pairwise(ordered):
        if after.paddr < before.end:
            raise UnreadableInputError(
                f"two --map blocks overlap at {after.paddr:#x}",
                hint="give each RAM block once: --map PADDR:OFFSET:SIZE",
            )
    notes = [
        f"--map block at {block.paddr:#x} runs past the end of the file ({human_size(file.size)})"
        for block in ordered
        if block.offset + block.size > file.size
    ]
    return MappedMemory(file, "raw", ordered, notes=notes)
