"""Kernel virtual addresses to physical ones, by what VMCOREINFO says and the page tables."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from kho_inspect.errors import MissingMemoryError
from kho_inspect.kernel_log.vmcoreinfo import VmcoreInfo
from kho_inspect.layouts import page_table as pt
from kho_inspect.layouts.views import format_of
from kho_inspect.memory import PhysicalMemory, read_or_none, read_parts
from kho_inspect.units import Extent, PhysAddr

_WORD = (1 << 64) - 1
_ENTRY = format_of(pt.page_table_entry)


@dataclass(frozen=True, slots=True)
class Shifted:
    """Memory that is mapped as a whole, as a kernel's image is."""

    difference: int
    """Virtual less physical."""

    def physical(self, vaddr: int) -> tuple[PhysAddr, int]:
        """Physical address, and how many bytes from there on follow each other in both."""
        return (vaddr - self.difference) & _WORD, 1 << 40


@dataclass(frozen=True, slots=True)
class Tables:
    """The shape of one kind of page tables."""

    page_shift: int
    levels: int
    top_bits: int
    """Bits of an address that index the table at the root."""
    arm64: bool
    lpa2: bool = False
    sme_mask: int = 0
    """Bits of x86 entries that mark encrypted memory."""

    def entry(self, value: int, level: int) -> tuple[PhysAddr, bool] | None:
        """Address in an entry, and whether it maps memory; None for an invalid one."""
        if not self.arm64:
            if not value & pt.X86_PRESENT:
                return None
            address = value & pt.X86_ADDRESS & ~self.sme_mask
            return address, level == 0 or bool(value & pt.X86_HUGE)
        if not value & pt.ARM64_VALID or (level == 0 and not value & pt.ARM64_TABLE):
            return None
        top = 50 if self.lpa2 else pt.ARM64_ADDRESS_BITS
        address = value & (1 << top) - (1 << self.page_shift)
        if self.page_shift == 16:
            address |= (value >> 12 & 0xF) << 48
        elif self.lpa2:
            address |= (value >> 8 & 0x3) << 50
        return address, level == 0 or not value & pt.ARM64_TABLE


@dataclass(slots=True)
class PageTables:
    """A kernel's own page tables; where they lack, the place that it says its image has."""

    memory: PhysicalMemory
    tables: Tables
    root: PhysAddr
    image: Shifted
    image_start: int
    """Virtual address from which on ``image`` holds."""
    _known: dict[int, tuple[PhysAddr, int] | None] = field(default_factory=dict)

    def physical(self, vaddr: int) -> tuple[PhysAddr, int] | None:
        page = vaddr >> self.tables.page_shift
        if page not in self._known:
            try:
                self._known[page] = self.walk(vaddr & -(1 << self.tables.page_shift))
            except MissingMemoryError:
                self._known[page] = None
        found = self._known[page]
        if found is None:
            return self.image.physical(vaddr) if vaddr >= self.image_start else None
        skip = vaddr & (1 << self.tables.page_shift) - 1
        return found[0] + skip, found[1] - skip

    def walk(self, vaddr: int) -> tuple[PhysAddr, int] | None:
        """The same by the tables alone; None for what they do not map.

        Raises MissingMemoryError where a table is not stored.
        """
        tables, table = self.tables, self.root
        width = tables.page_shift - 3
        used = tables.page_shift + (tables.levels - 1) * width + tables.top_bits
        if vaddr >> used != _WORD >> used:
            return None
        for level in reversed(range(tables.levels)):
            shift = tables.page_shift + level * width
            bits = tables.top_bits if level == tables.levels - 1 else width
            index = vaddr >> shift & (1 << bits) - 1
            (value,) = _ENTRY.unpack(self.memory.read(table + 8 * index, 8))
            entry = tables.entry(value, level)
            if entry is None:
                return None
            table, maps = entry
            if maps:
                size = 1 << shift
                inside = vaddr & size - 1
                return (table & -size) + inside, size - inside
        return None


@dataclass(frozen=True, slots=True)
class Moved:
    """The addresses of another boot of the same build, its image ``distance`` bytes further on."""

    own: PageTables
    distance: int

    def physical(self, vaddr: int) -> tuple[PhysAddr, int] | None:
        if vaddr < self.own.image_start:
            return self.own.physical(vaddr)
        return Shifted(self.own.image.difference - self.distance).physical(vaddr)


AddressSpace: TypeAlias = Shifted | PageTables | Moved
"""A way from virtual addresses to physical ones."""


def address_space(memory: PhysicalMemory, info: VmcoreInfo) -> PageTables | None:
    """The kernel addresses of the kernel that wrote ``info``; None where it says too little."""
    root = info.symbol("swapper_pg_dir") or info.symbol("init_top_pgt")
    if root is None:
        return None
    if (voffset := info.number("kimage_voffset")) is not None:
        tables, image = _arm64(info), Shifted(voffset)
        # The image lies above the linear map and the modules, in the upper half of all.
        start = (info.symbol("_stext") or root) & -(1 << 21)
    elif (base := info.number("phys_base")) is not None:
        levels = 5 if info.number("pgtable_l5_enabled") else 4
        tables = Tables(12, levels, pt.X86_TABLE_BITS, False, sme_mask=info.number("sme_mask") or 0)
        image, start = Shifted(pt.X86_IMAGE - base), pt.X86_IMAGE
    else:
        return None
    if tables is None:
        return None
    return PageTables(memory, tables, (root - image.difference) & _WORD, image, start)


def _arm64(info: VmcoreInfo) -> Tables | None:
    shift = {"4096": 12, "16384": 14, "65536": 16}.get(info.values.get("PAGESIZE", ""))
    if shift is None:
        return None
    configured = info.number("VA_BITS") or 48
    actual = 64 - (info.number("TCR_EL1_T1SZ") or 64 - configured)
    # With 64K pages the table at the root has room for the 52 bits of the configuration, and is
    # indexed by them; smaller pages have one level more for these, which others leave out.
    bits = configured if shift == 16 else actual
    if not 36 <= bits <= 52:
        return None
    levels = -(-(bits - shift) // (shift - 3))
    top = bits - shift - (levels - 1) * (shift - 3)
    return Tables(shift, levels, top, True, lpa2=bits == 52 and shift < 16)


def pieces(space: AddressSpace, vaddr: int, size: int) -> Iterator[tuple[PhysAddr | None, int]]:
    """Physical pieces under a virtual range, None where it is not mapped."""
    while size > 0:
        found = space.physical(vaddr)
        paddr, length = found or (None, 4096 - vaddr % 4096)
        length = min(length, size)
        yield paddr, length
        vaddr, size = vaddr + length, size - length


def read_virtual(
    memory: PhysicalMemory, space: AddressSpace, vaddr: int, size: int
) -> bytes | None:
    """``size`` bytes; None where one is not mapped or not stored."""
    found = bytearray()
    for paddr, length in pieces(space, vaddr, size):
        piece = None if paddr is None else read_or_none(memory, paddr, length)
        if piece is None:
            return None
        found += piece
    return bytes(found)


def read_filled(
    memory: PhysicalMemory, space: AddressSpace, vaddr: int, size: int
) -> tuple[bytearray, list[tuple[int, int]]]:
    """``size`` bytes, with zeros for what cannot be had, and which those are."""
    found, missing = bytearray(), []
    for paddr, length in pieces(space, vaddr, size):
        unmapped = [(Extent(0, length), None)]
        for extent, data in unmapped if paddr is None else read_parts(memory, paddr, length):
            if data is None:
                missing.append((len(found), len(found) + extent.size))
            found += data or bytes(extent.size)
    return found, missing
