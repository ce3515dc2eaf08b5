"""Finding root FDTs, and what points to them, in a memory dump."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kho_inspect import fdt
from kho_inspect.abi import MAP_PROPERTY, ROOT_FDT_NAMES, find_abi
from kho_inspect.errors import FdtError
from kho_inspect.geometry import PAGE_SHIFTS
from kho_inspect.layouts.setup_data import SETUP_KEXEC_KHO, kho_data, setup_data
from kho_inspect.layouts.views import offset_of, parse_record
from kho_inspect.locate.fdt_headers import MAX_BOOT_FDT, headers_anywhere
from kho_inspect.locate.machine import boot_params_in, usable_ram
from kho_inspect.locate.page_size import find_page_size, preserved_order
from kho_inspect.memory import PhysicalMemory, read_or_none
from kho_inspect.model.fdt_node import FdtNode, FdtStart
from kho_inspect.model.handover import Pointer, Role
from kho_inspect.units import Extent, PhysAddr, plural
from kho_inspect.walk.chunk_list import walk_chunks
from kho_inspect.walk.faults import FaultLog

SCAN_BYTES = 1 << 20
"""Memory searched at a time: small enough to stay in a processor's cache."""
MAX_ROOT_FDT = 64 << 10
"""The kernel allots the root FDT one page: 64 KiB is the largest there is."""
MAX_JUDGED = 256
"""Root FDTs whose trees are looked into, and boot FDTs that are parsed."""
MAX_EXAMINED = 1 << 30
"""Bytes of what looks like device trees that one scan reads, at least a page for each: where
they overlap, a small dump has terabytes of them."""
MAX_TOKENS = 1 << 19
"""Tokens of device trees that one scan parses."""
PARSING = 16
"""Tokens that could be parsed in the time that it takes to begin."""
MAX_POINTERS = 4096
"""Setup_data entries that are kept."""
MAX_STRAYS = 4096
"""Device trees that are not aligned and are looked at, after all others."""
ALIGNMENT = 8
"""Of a device tree in memory, by its specification; fdt_check_header() insists."""

NOWHERE = Extent(0, 0)
SMALLEST_PAGE = 1 << min(PAGE_SHIFTS.values())

_ENTRY = setup_data.build({"next": 0, "type": SETUP_KEXEC_KHO, "len": kho_data.sizeof()})
_TYPE = offset_of(setup_data, "type")
_TYPE_AND_LEN = np.frombuffer(_ENTRY, dtype="<u8", offset=_TYPE)[0]


class FoundFdt(NamedTuple):
    """A KHO root FDT that stands in the dump, whole or in part."""

    paddr: PhysAddr
    data: bytes
    """As far as it stands."""
    root: FdtNode
    memory_map: PhysAddr | None
    aligned: bool
    """Starts a page, as the kernel's own does."""
    valid_tree: bool
    """The map pointer leads to something that reads as a preserved-memory map."""
    preserved: bool
    """The map records the very page that the FDT stands in: kho_init preserves it."""
    pointers: tuple[str, ...] = ()
    """What in the dump points to it."""
    start: FdtStart | None = None
    """Of one whose end is missing or overwritten: what stands."""

    @property
    def compatible(self) -> str:
        """The root's compatible string."""
        return self.root.string("compatible") or ""

    @property
    def size_words(self) -> str:
        """``271 bytes``"""
        return self.start.words if self.start else plural(len(self.data), "byte")

    @property
    def role(self) -> Role:
        """What it is to the kernels of the dump."""
        if self.start:
            return Role.PARTIAL
        if self.paddr % ALIGNMENT:
            return Role.STALE
        if self.pointers:
            return Role.INCOMING
        return Role.OUTGOING if self.valid_tree and self.preserved else Role.STALE

    @property
    def rank(self) -> tuple[bool | int, ...]:
        """Sorts the most credible first."""
        return (
            _CREDIBLE.index(self.role),
            not self.valid_tree,
            not self.preserved,
            not self.aligned,
            bool(self.paddr % ALIGNMENT),
            self.paddr,
        )

    @property
    def why(self) -> str:
        """The evidence for and against it, in words."""
        words = ["valid tree" if self.valid_tree else "no valid tree behind it"]
        if self.valid_tree:
            kept = "preserved" if self.preserved else "not preserved: stale"
            words.append(f"own page {kept}")
        words += [f"{pointer} points to it" for pointer in self.pointers]
        words.append("page-aligned" if self.aligned else "not page-aligned")
        return ", ".join(words)


_CREDIBLE = (Role.INCOMING, Role.OUTGOING, Role.STALE, Role.PARTIAL)


class Vacated(NamedTuple):
    """A place that something points to, where no root FDT stands any more."""

    paddr: PhysAddr
    pointers: tuple[str, ...]
    there: str
    """What is there now, for people."""

    @property
    def why(self) -> str:
        """What points there, and what is there now."""
        verb = "points" if len(self.pointers) == 1 else "point"
        return f"{', '.join(self.pointers)} {verb} to it: {self.there}"


class Located(NamedTuple):
    """Everything that a scan found, most credible first."""

    fdts: tuple[FoundFdt, ...]
    pointers: tuple[Pointer, ...]
    passed_over: int = 0
    """Places that may be more of either, unread: they follow more than any undamaged dump has."""
    ram: tuple[Extent, ...] = ()
    """Usable RAM of the machine, by its firmware; empty where no such table is in the dump."""
    vacated: tuple[Vacated, ...] = ()

    def of_role(self, *roles: Role) -> Iterator[FoundFdt]:
        """The root FDTs of some roles, most credible first."""
        return (found for found in self.fdts if found.role in roles)

    @property
    def whole(self) -> tuple[FoundFdt, ...]:
        """Those of which nothing is missing."""
        return tuple(self.of_role(Role.INCOMING, Role.OUTGOING, Role.STALE))


def locate(
    memory: PhysicalMemory,
    progress: Callable[[int], None] = lambda size: None,
    *,
    limit: int | None = None,
    also: Callable[[PhysAddr, NDArray[np.uint64]], None] | None = None,
) -> Located:
    """Scan all stored memory once, in bounded memory; ``progress`` gets bytes as they are done.

    ``also`` gets each piece, as words with the address of the first.
    With ``limit`` the scan ends after that many bytes. A device tree that a kernel takes is 8-byte
    aligned, as a setup_data entry is by its allocation; copies of root FDTs stand anywhere.
    """
    scan = _Scan(memory)
    scanned = 0
    for paddr, chunk in memory.data_chunks(SCAN_BYTES, 0):
        skip = -paddr % 8
        words = np.frombuffer(chunk[skip : skip + (len(chunk) - skip) // 8 * 8], dtype="<u8")
        # Plain integers: an address may be beyond what numpy's signed ones hold.
        start = paddr + skip
        scan.look_at_fdts([start + at for at in headers_anywhere(words).tolist()])
        types = np.flatnonzero(words == _TYPE_AND_LEN).tolist()
        scan.look_at_setup_data([start + 8 * at - _TYPE for at in types])
        for at in boot_params_in(paddr, chunk):
            scan.ram = scan.ram or usable_ram(memory, at)
        if also is not None:
            also(start, words)
        progress(len(chunk))
        scanned += len(chunk)
        if limit is not None and scanned >= limit:
            break
    return scan.result()


def find_copies(memory: PhysicalMemory, prefix: bytes) -> list[FoundFdt]:
    """KHO root FDTs that start with ``prefix``, wherever they stand: whole ones, best first.

    Behind them those of which no more than a part stands, the longest first.
    """
    scan = _Scan(memory)
    for paddr, chunk in memory.data_chunks(SCAN_BYTES, len(prefix) - 1):
        data = bytes(chunk)
        at = data.find(prefix)
        while at >= 0:
            if len(scan.fdts) < MAX_JUDGED and (found := scan.root_at(paddr + at)):
                scan.fdts.append(found)
            at = data.find(prefix, at + 1)

    def lacking(found: FoundFdt) -> int:
        return len(found.data) - found.start.size if found.start else 0

    return sorted(scan.fdts, key=lambda found: (-lacking(found), found.rank))


def read_root(memory: PhysicalMemory, paddr: PhysAddr) -> FoundFdt | None:
    """The KHO root FDT at ``paddr``, None when there is none."""
    return _Scan(memory).root_at(paddr)


class _Scan:
    """What was found so far, and what may still be looked at."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        self.fdts: list[FoundFdt] = []
        self.strays: list[PhysAddr] = []
        self.pointers: list[Pointer] = []
        self.passed_over = 0
        self.left = MAX_EXAMINED
        self.tokens = fdt.Tokens(MAX_TOKENS)
        self.boot_fdts = self.starts = 0
        self.ram: tuple[Extent, ...] = ()

    def result(self) -> Located:
        """Everything found, each FDT with what points to it."""
        self.fdts += filter(None, map(self.root_at, self.affordable(self.strays)))
        sources: dict[PhysAddr, list[str]] = {}
        for pointer in self.pointers:
            sources.setdefault(pointer.fdt, []).append(pointer.source)
        named = [
            found._replace(pointers=tuple(sources.get(found.paddr, ()))) for found in self.fdts
        ]
        named.sort(key=lambda found: found.rank)
        stands = {found.paddr for found in named}
        vacated = tuple(
            Vacated(paddr, tuple(names), self.there(paddr))
            for paddr, names in sources.items()
            if paddr not in stands
        )
        pointers = tuple(self.pointers)
        return Located(tuple(named), pointers, self.passed_over, self.ram, vacated)

    def there(self, paddr: PhysAddr) -> str:
        """What stands where a root FDT should, in a word."""
        data = read_or_none(self.memory, paddr, fdt.START_SIZE)
        if data is None:
            return str(self.memory.presence(paddr, fdt.START_SIZE))
        return "other data there" if any(data) else "zeros there"

    def look_at_fdts(self, paddrs: Sequence[PhysAddr]) -> None:
        strays = [paddr for paddr in paddrs if paddr % ALIGNMENT]
        room = MAX_STRAYS - len(self.strays)
        self.strays += strays[:room]
        self.passed_over += len(strays[room:])
        for paddr in self.affordable([paddr for paddr in paddrs if paddr % ALIGNMENT == 0]):
            if found := self.root_at(paddr):
                self.fdts.append(found)
            else:
                self.look_at_boot_fdt(paddr)

    def affordable(self, paddrs: Sequence[PhysAddr]) -> Iterator[PhysAddr]:
        """As many of some places as may still be looked at; the others are passed over."""
        for at, paddr in enumerate(paddrs):
            if self.left <= 0 or not self.tokens.left:
                self.passed_over += len(paddrs) - at
                return
            yield paddr

    def look_at_setup_data(self, paddrs: Sequence[PhysAddr]) -> None:
        room = max(0, MAX_POINTERS - len(self.pointers))
        self.passed_over += max(0, len(paddrs) - room)
        found = (_read_setup_data(self.memory, paddr) for paddr in paddrs[:room])
        self.pointers += filter(None, found)

    def root_at(self, paddr: PhysAddr) -> FoundFdt | None:
        """The KHO root FDT at ``paddr``; the trees of the first ones are looked into."""
        data = self.read(paddr, MAX_ROOT_FDT)
        # Parsing every decoy would take longer than the scan. An ABI that is known begins so.
        if data is None or not (MAP_PROPERTY.encode() in data or b"kho-v" in data):
            return None
        root, start = self.parse(data), None
        if root is None and (start := self.parse_start(data)):
            root = start.root
        if root is None or (
            (start or root.prop(MAP_PROPERTY) is None)
            and find_abi(root.strings("compatible")) is None
        ):
            return None
        memory_map, valid, preserved = root.u64(MAP_PROPERTY), False, False
        if len(self.fdts) < MAX_JUDGED and memory_map:
            valid, preserved = _judge_tree(self.memory, root, memory_map, paddr)
        return FoundFdt(
            paddr=paddr,
            data=data[: start.have] if start else data,
            root=root,
            memory_map=memory_map,
            aligned=paddr % SMALLEST_PAGE == 0,
            valid_tree=valid,
            preserved=preserved and paddr % ALIGNMENT == 0,
            start=start,
        )

    def look_at_boot_fdt(self, paddr: PhysAddr) -> None:
        data = self.read(paddr, MAX_BOOT_FDT)
        if data is None or b"linux,kho-fdt\0" not in data or self.boot_fdts >= MAX_JUDGED:
            return
        self.boot_fdts += 1
        root = self.parse(data)
        where = Extent(paddr, paddr + len(data))
        pointer = root and chosen_pointer(root, f"boot FDT at {paddr:#x}", where)
        if pointer:
            self.pointers.append(pointer)

    def read(self, paddr: PhysAddr, limit: int) -> bytes | None:
        """The device tree at ``paddr``; None where its header gives more than ``limit`` bytes."""
        size = fdt.total_size(read_or_none(self.memory, paddr, fdt.START_SIZE) or b"")
        if size is None or size > limit:
            return None
        self.left -= max(size, 4096)
        # Where the rest is not stored, what is in the same page is.
        for part in (size, min(size, -(paddr + 1) % SMALLEST_PAGE + 1)):
            if (data := read_or_none(self.memory, paddr, part)) is not None:
                return bytes(data)
        return None

    def parse_start(self, data: bytes) -> FdtStart | None:
        """What stands of a root FDT whose end is missing."""
        if self.starts >= MAX_JUDGED:
            return None
        self.starts += 1
        try:
            return fdt.parse_start(data, ROOT_FDT_NAMES, tokens=self.tokens)
        except FdtError:
            return None

    def parse(self, data: bytes) -> FdtNode | None:
        self.tokens.left = max(0, self.tokens.left - PARSING)
        try:
            return fdt.parse(data, tokens=self.tokens)
        except FdtError:
            self.passed_over += not self.tokens.left
            return None


def _judge_tree(
    memory: PhysicalMemory, root: FdtNode, memory_map: PhysAddr, paddr: PhysAddr
) -> tuple[bool, bool]:
    """Whether the map reads well, and whether it records the page at ``paddr``."""
    _, abi = find_abi(root.strings("compatible")) or (None, None)
    if abi is None or not abi.reads_map:
        return False, False
    best, _ = find_page_size(memory, abi, root, memory_map)
    if not (best.aligned and best.good and not best.bad):
        return False, False
    if abi.radix:
        return True, preserved_order(memory, best.geometry, memory_map, paddr) is not None
    _, preserved = walk_chunks(memory, best.geometry, memory_map, FaultLog())
    return True, preserved.covers(paddr, 1)


def chosen_pointer(root: FdtNode, source: str, where: Extent = NOWHERE) -> Pointer | None:
    """What ``/chosen`` of an arm64 boot device tree points to, None when it names no handover."""
    chosen = root.child("chosen")
    region = chosen and _cells(root, chosen.prop("linux,kho-fdt"))
    scratch = (chosen and _cells(root, chosen.prop("linux,kho-scratch"))) or NOWHERE
    return Pointer(source, where, region.start, scratch) if region else None


def _cells(root: FdtNode, data: bytes | None) -> Extent | None:
    """Address and size, big-endian, by the root's #address-cells and #size-cells."""
    widths = []
    for name in ("#address-cells", "#size-cells"):
        raw = root.prop(name) or b"\0\0\0\2"
        widths.append(4 * int.from_bytes(raw, "big"))
    if data is None or len(data) != sum(widths):
        return None
    start = int.from_bytes(data[: widths[0]], "big")
    return Extent(start, start + int.from_bytes(data[widths[0] :], "big"))


def _read_setup_data(memory: PhysicalMemory, paddr: PhysAddr) -> Pointer | None:
    """A setup_data entry of type SETUP_KEXEC_KHO, None where it cannot be one."""
    raw = read_or_none(memory, paddr, setup_data.sizeof() + kho_data.sizeof())
    if raw is None:
        return None
    data = parse_record(kho_data, raw[setup_data.sizeof() :])
    table = Extent(data.scratch_addr, data.scratch_addr + data.scratch_size)
    where = Extent(paddr, paddr + len(raw))
    return Pointer(f"setup_data at {paddr:#x}", where, data.fdt_addr, table, data.fdt_size)
