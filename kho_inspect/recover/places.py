"""Where addresses and selectors with offsets lead."""

from __future__ import annotations

import bisect
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from kho_inspect.errors import KhoError, MissingMemoryError, SelectorError
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import Item, Piece
from kho_inspect.model.handover import Handover
from kho_inspect.model.identity import Name
from kho_inspect.recover.content import laid_out
from kho_inspect.recover.selectors import all_items, select_one, sole
from kho_inspect.render.names import item_name
from kho_inspect.units import Extent, PhysAddr, parse_extent, parse_size

if TYPE_CHECKING:
    from kho_inspect.kernel_log.kernel import Kernel
    from kho_inspect.kernel_log.translate import PageTables

KERNEL_HALF = 0xFF00_0000_0000_0000
"""Where virtual addresses of kernels begin (x86-64 with 5 levels; with 4, and on arm64, they are
higher); no physical address is that high."""
PFN = "pfn:"
READ = 256
"""Bytes that are read at an address without a length."""


class NoAddressError(KhoError):
    """What was asked for has no physical address."""


class Found(NamedTuple):
    """What one argument led to: its address, or why it has none."""

    asked: str
    paddr: PhysAddr | None
    why: str = ""
    is_named: bool = False
    """Asked for by other than the address."""
    kernel: Kernel | None = None
    """Of a virtual address: whose page tables translate it."""


def parse_address(text: str, length: int | None = None) -> Extent | None:
    """``0x1000``, ``0x1000+16``, ``0x1000-0x2000`` → extent; None for what is no address.

    ``length`` in bytes is for the first form and overrides those of the others. Raises
    NoAddressError for a virtual address, SelectorError for an impossible range.
    """
    try:
        start = parse_size(text)
        extent = Extent(start, start + READ)
    except ValueError:
        if not text[:1].isdigit():
            return None
        try:
            extent = parse_extent(text)
        except ValueError as error:
            raise SelectorError(str(error)) from error
    if extent.start >= KERNEL_HALF:
        raise NoAddressError(
            f"{extent.start:#x} is a virtual address", hint="addr gives the physical one"
        )
    return extent if length is None else Extent(extent.start, extent.start + length)


class Places:
    """Resolves any number of arguments in one handover."""

    def __init__(self, memory: PhysicalMemory, handover: Handover) -> None:
        self.memory = memory
        self.handover = handover
        self._pieces: dict[tuple[Name, int], list[Piece]] = {}

    @cached_property
    def _items(self) -> list[Item]:
        return list(all_items(self.handover))

    def items(self, text: str) -> list[tuple[Item, int]]:
        """What ``SELECTOR`` or ``SELECTOR+OFFSET`` names, each with the offset in it.

        Raises SelectorError for what names nothing.
        """
        selector, _, tail = text.rpartition("+")
        try:
            if selector:
                offset = parse_size(tail)
                return [(item, offset) for item in self._select(selector)]
        except (ValueError, SelectorError):
            pass  # a name with a plus sign, or START+LEN
        return [(item, 0) for item in self._select(text)]

    def sole(self, text: str) -> tuple[Item, int]:
        """The same of what names one item only, with an offset in it or at its end."""
        found = self.items(text)
        item, offset = sole([item for item, _ in found], text), found[0][1]
        if offset > item.size:
            raise SelectorError(f"{item_name(item.name, item.number)} has {item.size:,} bytes")
        return item, offset

    def _select(self, selector: str) -> list[Item]:
        return select_one(self.handover, self.memory, self._items, selector)

    def find(self, text: str) -> list[Found]:
        """The physical addresses of a number, ``pfn:N``, or what :meth:`items` takes.

        Raises SelectorError for what names nothing.
        """
        value = self._number(text)
        if value is None:
            return [self._in_item(item, offset) for item, offset in self.items(text)]
        if value >= KERNEL_HALF:
            return [self._translated(text, value)]
        return [Found(text, value, is_named=text.startswith(PFN))]

    @cached_property
    def _mapped(self) -> tuple[Kernel, PageTables] | None:
        from kho_inspect.kernel_log.kernels import find_kernels, last_mapped, scan_traces

        return last_mapped(self.memory, find_kernels(self.memory, scan_traces(self.memory)))

    def _translated(self, text: str, vaddr: int) -> Found:
        """A virtual address of the kernel that was booted last."""
        if self._mapped is None:
            return Found(text, None, "a virtual address; the dump has no kernel's page tables")
        kernel, tables = self._mapped
        whose = f"the page tables of Linux {kernel.release}"
        try:
            found = tables.walk(vaddr)
        except MissingMemoryError as error:
            table = (error.paddr or 0) & -(1 << tables.tables.page_shift)
            words = f"one of {whose}, at {table:#x}, is not in the dump"
            return Found(text, None, f"a virtual address; {words}")
        if found is None:
            return Found(text, None, f"a virtual address, which {whose} do not map")
        return Found(text, found[0], is_named=True, kernel=kernel)

    def _number(self, text: str) -> int | None:
        shift = self.handover.geometry.shift if text.startswith(PFN) else 0
        try:
            value = parse_size(text.removeprefix(PFN)) << shift
        except ValueError as error:
            if not text.startswith(PFN) and (not text[:1].isdigit() or {"+", "-"} & set(text)):
                return None
            raise SelectorError(str(error)) from error
        if value >= 1 << 64:
            raise SelectorError(f"{text} is beyond 64 bits")
        return value

    def _in_item(self, item: Item, offset: int) -> Found:
        name = item_name(item.name, item.number)
        asked = f"{name}+{offset:#x}" if offset else name
        if offset >= item.size:
            return Found(asked, None, f"it has {item.size:,} bytes")
        pieces = self._laid_out(item)
        at = bisect.bisect_right(pieces, offset, key=lambda piece: piece.offset) - 1
        if at < 0 or offset >= pieces[at].offset + pieces[at].size:
            return Found(asked, None, "a hole of the file")
        return Found(asked, pieces[at].paddr + offset - pieces[at].offset, is_named=True)

    def _laid_out(self, item: Item) -> list[Piece]:
        key = item.name, item.number
        if key not in self._pieces:
            self._pieces[key] = list(laid_out(item.pieces))
        return self._pieces[key]
