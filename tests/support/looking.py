"""From an image of the builder to what kho_inspect says of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kho_inspect.inspection import Options, inspect
from kho_inspect.limits import DEFAULT_LIMITS, Limits
from kho_inspect.memory import PhysicalMemory, open_memory
from kho_inspect.model.faults import Fault, FaultKind
from kho_inspect.model.handover import Handover
from kho_inspect.render.names import message_text
from tests.support.builder import Image

GEOMETRIES = [
    (name, abi) for name in ("4K", "16K", "64K") for abi in ("kho-v2", "kho-v3", "kho-v4")
]
SHIFTS = {"4K": 12, "16K": 14, "64K": 16}


def look(
    image: Image,
    dtb: bytes,
    page_size: str = "auto",
    *,
    elf: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Handover:
    """Inspect a finished image; as ``elf``, only stored pages are in the file."""
    with tempfile.TemporaryDirectory() as folder:
        dump, tree = Path(folder, "dump"), Path(folder, "kho.dtb")
        if elf:
            image.write_elf(dump, declare_ram=True)
        else:
            image.write_raw(dump)
        tree.write_bytes(dtb)
        return inspect(str(dump), str(tree), Options(page_size=page_size, limits=limits))


def open_image(image: Image, *, elf: bool = False) -> PhysicalMemory:
    """The memory of an image."""
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder, "dump")
        if elf:
            image.write_elf(dump, declare_ram=True)
        else:
            image.write_raw(dump)
        return open_memory(str(dump))


def blocks_of(handover: Handover) -> set[tuple[int, int]]:
    """Every preserved block as (paddr, order)."""
    shift = handover.preserved.page_shift
    return {
        (pfn << shift, order)
        for order, (starts, ends) in handover.preserved.runs.items()
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        for pfn in range(start, end, 1 << order)
    }


def messages(handover: Handover, kind: FaultKind) -> list[str]:
    """What the faults of one kind say."""
    return [message_text(fault.message) for fault in handover.faults if fault.kind is kind]


def only_fault(handover: Handover, kind: FaultKind) -> Fault:
    """The one fault there is, which must be of that kind."""
    assert [fault.kind for fault in handover.faults] == [kind]
    return handover.faults[0]
