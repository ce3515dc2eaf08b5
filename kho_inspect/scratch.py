"""Finding the scratch table: from an x86 setup_data entry, or an arm64 boot DTB's /chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kho_inspect import fdt
from kho_inspect.errors import FdtError, MissingMemoryError
from kho_inspect.layouts.setup_data import (
    KHO_DATA_LEN,
    SETUP_KEXEC_KHO,
    kho_data,
    kho_scratch,
    setup_data,
)
from kho_inspect.layouts.views import parse_record
from kho_inspect.locate import find_bytes
from kho_inspect.memory.files import read_head
from kho_inspect.model import FdtNode, Scratch
from kho_inspect.units import Extent, PhysAddr

if TYPE_CHECKING:
    from kho_inspect.memory import PhysicalMemory

MAX_SCANNED = 4 << 30
"""Bytes of stored memory that are searched for a setup_data entry."""
MAX_ENTRIES = 1024


def scratch_from_setup_data(memory: PhysicalMemory, fdt_paddr: PhysAddr) -> Scratch | None:
    """The table that an x86 setup_data entry for this very FDT points to, None without one.

    Copies of an entry may stand several times in memory; the first that leads to a table counts.
    """
    # Everything of the entry that is known beforehand, `next` being anything.
    header = setup_data.build({"next": 0, "type": SETUP_KEXEC_KHO, "len": KHO_DATA_LEN})
    needle = header[8:] + fdt_paddr.to_bytes(8, "little")
    for hit in find_bytes(memory, needle, limit=MAX_SCANNED):
        try:
            raw = memory.read(hit - 8, setup_data.sizeof() + kho_data.sizeof())
        except MissingMemoryError:
            continue
        data = parse_record(kho_data, raw[setup_data.sizeof() :])
        found = _read_table(
            memory, data.scratch_addr, data.scratch_size, f"setup_data at {hit - 8:#x}"
        )
        if found is not None:
            return found
    return None


def scratch_from_boot_dtb(memory: PhysicalMemory, path: str) -> Scratch | None:
    """The table that ``/chosen`` of a boot DTB points to, None when it names none.

    Raises UnreadableInputError or FdtError for a file that is no device tree.
    """
    data = read_head(path, fdt.MAX_SIZE)
    try:
        root = fdt.parse(data, source=path)
    except FdtError as error:
        raise FdtError(f"{path}: {error.message}", offset=error.offset, source=path) from error
    chosen = root.child("chosen")
    region = _cells(root, chosen.prop("linux,kho-scratch")) if chosen else None
    if region is None:
        return None
    return _read_table(memory, *region, f"/chosen of {path}")


def _cells(root: FdtNode, data: bytes | None) -> tuple[int, int] | None:
    """Address and size, big-endian, by the root's #address-cells and #size-cells."""
    widths = []
    for name in ("#address-cells", "#size-cells"):
        raw = root.prop(name) or b"\0\0\0\2"
        widths.append(4 * int.from_bytes(raw, "big"))
    if data is None or len(data) != sum(widths):
        return None
    return int.from_bytes(data[: widths[0]], "big"), int.from_bytes(data[widths[0] :], "big")


def _read_table(memory: PhysicalMemory, paddr: PhysAddr, size: int, source: str) -> Scratch | None:
    """The array, or None when it is not stored, or has been zeroed since."""
    step = kho_scratch.sizeof()
    try:
        raw = memory.read(paddr, min(size, MAX_ENTRIES * step))
    except MissingMemoryError:
        return None
    if not any(raw):
        return None
    records = [
        parse_record(kho_scratch, raw[at : at + step]) for at in range(0, len(raw) - step + 1, step)
    ]
    entries = tuple((record.addr, record.size) for record in records)
    return Scratch(entries, source, Extent(paddr, paddr + size))
