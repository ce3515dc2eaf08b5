"""The scratch table that something in the dump, or a boot DTB, points to."""

from collections.abc import Iterable

import numpy as np

from kho_inspect import fdt
from kho_inspect.errors import FdtError
from kho_inspect.layouts.setup_data import kho_scratch
from kho_inspect.layouts.views import dtype_of
from kho_inspect.limits import DEFAULT_LIMITS
from kho_inspect.locate.scan import chosen_pointer
from kho_inspect.memory import PhysicalMemory, read_or_none
from kho_inspect.memory.files import read_head, shown_path
from kho_inspect.model.handover import Pointer, Scratch
from kho_inspect.units import Extent

MAX_ENTRIES = 1024
PAGE = 4096


def read_scratch(memory: PhysicalMemory, pointers: Iterable[Pointer]) -> Scratch | None:
    """The first table that is stored and has not been zeroed since; None when there is none."""
    for pointer in pointers:
        entries = _read_table(memory, pointer.scratch)
        if entries:
            return Scratch(entries, pointer.source, pointer.scratch)
    return None


def read_sound_scratch(memory: PhysicalMemory, pointers: Iterable[Pointer]) -> Scratch | None:
    """The same, of tables that may have been overwritten: all areas are 4K pages of RAM."""
    for pointer in pointers:
        scratch = read_scratch(memory, [pointer])
        if (
            scratch
            and len(scratch.areas) == len(scratch.entries)
            and all(
                not (area.start | area.end) % PAGE
                and any(ram.contains(area.start, area.size) for ram in memory.declared)
                for area in scratch.areas
            )
        ):
            return scratch
    return None


def boot_dtb_pointer(path: str, limit: int = DEFAULT_LIMITS.fdt) -> Pointer | None:
    """What ``/chosen`` of the boot DTB in a file points to, None when it names no handover.

    ``limit`` is the most bytes that it may have. Raises UnreadableInputError or FdtError for a file
    that is no device tree.
    """
    data = read_head(path, limit)
    path = shown_path(path)
    try:
        return chosen_pointer(fdt.parse(data, source=path, limit=limit), f"/chosen of {path}")
    except FdtError as error:
        raise FdtError(f"{path}: {error.message}", offset=error.offset, source=path) from error


def _read_table(memory: PhysicalMemory, table: Extent) -> tuple[tuple[int, int], ...]:
    dtype = dtype_of(kho_scratch)
    raw = read_or_none(memory, table.start, min(table.size, MAX_ENTRIES * dtype.itemsize))
    if raw is None or not any(raw):
        return ()
    return tuple(np.frombuffer(raw, dtype, count=len(raw) // dtype.itemsize).tolist())
