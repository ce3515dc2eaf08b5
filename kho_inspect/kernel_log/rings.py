"""Rings that nothing in the dump names, by what their structs hold."""

from collections.abc import Collection
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from kho_inspect.kernel_log.printk import Ring, RingLayout, Work, read_ring
from kho_inspect.kernel_log.translate import Shifted, read_filled
from kho_inspect.layouts import printk
from kho_inspect.memory import PhysicalMemory
from kho_inspect.memory.recording import unrecorded
from kho_inspect.units import Extent, PhysAddr

ALIGNED = 1 << 16
"""Mappings of kernel images and of RAM keep that many low bits of addresses, at the least."""
LINEAR = 1 << 27
"""The same of the linear map of all RAM, in bytes: x86-64 and arm64 keep more."""
IMAGE = 64 << 20
"""Bytes in which a kernel's image and its data lie."""
MAX_TRIED = 1 << 16
"""Places at which a ring's newest descriptor is looked for."""
MAX_MATCHES = 8
"""Places of its newest descriptor that are tried for one ring."""

_KERNEL = np.uint64(0xFF << 56)


def ring_at(
    memory: PhysicalMemory,
    place: PhysAddr,
    layout: RingLayout,
    work: Work,
    covered: Collection[Extent] = (),
) -> Ring | None:
    """The ring whose ``printk_ringbuffer`` is at ``place``, unless its text is ``covered``.

    Its arrays are in the same image, or in the linear map of RAM: wherever one of these may have
    its newest descriptor, the id of that must stand. None where nothing agrees with the struct.
    """
    raw, missing = read_filled(memory, Shifted(0), place, layout.ring.itemsize)
    if missing:
        return None
    whole = np.frombuffer(raw, layout.ring, count=1)[0]
    ring, data = whole["desc_ring"], int(whole["text_data_ring"]["data"])
    head = int(ring["head_id"])
    newest = int(ring["descs"]) + head % (1 << int(ring["count_bits"])) * layout.desc.itemsize
    state = printk.offset_in(layout.desc, "state_var")
    paddrs = _mapped(memory, place, newest + state)
    found = unrecorded(memory).gather(paddrs, np.dtype("<u8"))
    # A descriptor without state and with id 0 would be in all memory that is zero.
    agree = (found & np.uint64(printk.ID_MASK) == head) & (found != 0)
    for paddr in paddrs[agree][:MAX_MATCHES].tolist():
        space = Shifted(newest + state - paddr)
        text = space.physical(data)
        if any(extent.contains(text[0]) for extent in covered):
            return None
        vaddr = place + space.difference
        known = read_ring(memory, space, vaddr, layout, work, checked=True)
        if known and any(not entry.carved for entry in known.entries):
            return known
    return None


def _mapped(memory: PhysicalMemory, place: PhysAddr, vaddr: int) -> NDArray[np.uint64]:
    """Where in stored memory a virtual address may be, of the kernel with ``place`` in its image.

    Ascending from the image on, :data:`MAX_TRIED` at the most.
    """
    ranges = [(max(0, place - IMAGE), place + IMAGE, ALIGNED)]
    ranges += [(extent.start, extent.end, LINEAR) for extent in memory.stored]
    every = (
        paddr
        for start, end, step in ranges
        for paddr in range(start + (vaddr - start) % step, end, step)
    )
    paddrs = np.fromiter(islice(every, MAX_TRIED), dtype=np.uint64)
    return paddrs[memory.stored_mask(paddrs, 8)]
