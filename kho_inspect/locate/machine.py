"""What memory the machine has, by its firmware's table in ``struct boot_params``."""

import numpy as np

from kho_inspect.layouts.boot_params import (
    E820_MAX_ENTRIES_ZEROPAGE,
    E820_TYPE_RAM,
    HDR_MAGIC,
    boot_params,
)
from kho_inspect.layouts.views import offset_of
from kho_inspect.memory import PhysicalMemory, read_or_none
from kho_inspect.units import Extent, PhysAddr

PAGE = 4096
"""Boot loaders and kexec give ``boot_params`` a 4K page of its own."""
_HEADER = offset_of(boot_params, "header")
_MAGIC = np.frombuffer(HDR_MAGIC, dtype=np.uint8)


def boot_params_in(paddr: PhysAddr, chunk: memoryview | bytes) -> list[PhysAddr]:
    """The 4K pages in a piece of memory that may begin with ``struct boot_params``."""
    data = np.frombuffer(chunk, dtype=np.uint8)
    first = -paddr % PAGE
    rows = data[first : first + (len(data) - first) // PAGE * PAGE].reshape(-1, PAGE)
    found = (rows[:, _HEADER : _HEADER + len(_MAGIC)] == _MAGIC).all(axis=1)
    return [paddr + first + PAGE * row for row in np.flatnonzero(found).tolist()]


def usable_ram(memory: PhysicalMemory, paddr: PhysAddr) -> tuple[Extent, ...]:
    """The RAM that ``boot_params`` at ``paddr`` gives as usable; empty where it is no such table.

    Firmware lists memory by rising address, without overlap.
    """
    raw = read_or_none(memory, paddr, boot_params.sizeof())
    found = raw and boot_params.parse(raw)
    if not found or found.e820_entries > E820_MAX_ENTRIES_ZEROPAGE:
        return ()
    entries = found.e820_table[: found.e820_entries]
    extents = [
        Extent(entry.addr, entry.addr + entry.size)
        for entry in entries
        if entry.type == E820_TYPE_RAM
    ]
    reach = 0
    for start, end in extents:
        if start < reach or not start < end <= 1 << 64:
            return ()
        reach = end
    return tuple(extents)
