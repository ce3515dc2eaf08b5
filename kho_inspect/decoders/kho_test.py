"""kho_test: the kernel's own test module, ``lib/test_kho.c`` (kho-test-v1) [6.16 …]."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kho_inspect.decoders.context import Context
from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64
from kho_inspect.layouts.kho_test import FOLIO_ORDER_MASK
from kho_inspect.layouts.vmalloc import KHO_VMALLOC_FLAGS, kho_vmalloc
from kho_inspect.model.contents import Content, Document, Item, Piece, Rows, VmallocArea
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import Blob
from kho_inspect.model.identity import ClaimKind, Owner, Path, Step, StepKind
from kho_inspect.units import PhysAddr, human_size, plural
from kho_inspect.walk.pages import Target
from kho_inspect.walk.vmalloc import parse_vmalloc, walk_vmalloc

_FOLIO = Target(
    "kho_test folio of {size}", FaultKind.KHO_TEST_FOLIOS, FaultKind.KHO_TEST_NOT_STORED
)
_FOLIOS_INFO = Step(StepKind.PROPERTY, "folios_info")
MAX_SUMMED = 1 << 30
"""Folio bytes of all blobs together beyond which no checksum is computed."""


@dataclass(frozen=True, slots=True)
class KhoTest(Content):
    """State of the kernel's KHO test module."""

    owner: Owner
    compatible: str
    magic: int | None
    nr_folios: int | None
    folios_info: VmallocArea | None
    """None where the property was the array itself (6.16, 6.17)."""
    phys: NDArray[np.uint64]
    """Physical address of each folio, shape ``(n,)``."""
    order: I64
    csum: int | None
    computed: int | None
    """The folios' checksum, folded to 16 bits; None when a folio is not stored."""
    bytes: int
    """Sum of the folios' sizes."""

    @property
    def checksum_ok(self) -> bool | None:
        """Whether ``csum`` fits the folios; None when either is unknown."""
        if self.csum is None or self.computed is None:
            return None
        # One's complement arithmetic has two zeroes.
        return _fold(self.csum) % 0xFFFF == self.computed % 0xFFFF

    def summary(self) -> str:
        state = {True: "ok", False: "WRONG", None: "not computed"}[self.checksum_ok]
        return f"checksum {state}"

    def rows(self) -> Rows:
        folios = plural(len(self.phys), "folio")
        return Rows(f"{folios}, {human_size(self.bytes)}, {self.summary()}")

    def document(self) -> Document:
        return {
            "compatible": self.compatible,
            "magic": None if self.magic is None else hex(self.magic),
            "nr_folios": self.nr_folios,
            "csum": self.csum,
            "csum_ok": self.checksum_ok,
            "bytes": self.bytes,
            "folios_info": None if self.folios_info is None else self.folios_info.document(),
            "folios": [
                {"phys": hex(phys), "order": order}
                for phys, order in zip(self.phys.tolist(), self.order.tolist(), strict=True)
            ],
        }

    def items(self, geometry: PageGeometry) -> Iterator[Item]:
        """Each folio once: a hostile table names one page a hundred thousand times."""
        listed: set[PhysAddr] = set()
        for number, paddr in enumerate(self.phys.tolist()):
            if paddr not in listed:
                listed.add(paddr)
                size = geometry.page_size << int(self.order[number])
                yield Item(self.owner.of(number), size, [Piece(0, paddr, size)])

    def areas(self) -> Iterator[VmallocArea]:
        return iter(() if self.folios_info is None else (self.folios_info,))


def decode(context: Context, blob: Blob, kind: str) -> KhoTest:
    """The module's state, its folios, and their checksum recomputed."""
    assert blob.fdt is not None
    path = (Step(StepKind.SUBNODE, blob.name), Step(StepKind.NODE, "data"))
    data = blob.fdt.child("data")
    kind_of_fault = FaultKind.KHO_TEST_PROPERTY
    nr_folios, csum = context.read_integers(
        data, "nr_folios", "csum", size=4, kind=kind_of_fault, what="kho_test", path=path
    )
    area, entries = _folios_info(context, blob.owner, data, nr_folios or 0, path)
    phys = entries & ~np.uint64(FOLIO_ORDER_MASK)
    order = (entries & np.uint64(FOLIO_ORDER_MASK)).astype(np.int64)
    sound = order <= context.geometry.order0_bit
    if not sound.all():
        words = f"kho_test folio {sound.argmin()} has an impossible order"
        count = int((~sound).sum())
        context.faults.add(FaultKind.KHO_TEST_FOLIOS, words, path=path, count=count)
        phys, order = phys[sound], order[sound]
    shift = context.geometry.shift
    pfns = (phys >> np.uint64(shift)).astype(np.int64)
    context.claims.add_many(blob.owner, ClaimKind.TEST_FOLIO, pfns, np.int64(1) << order)
    sizes = [1 << (exponent + shift) for exponent in order.tolist()]
    return KhoTest(
        owner=blob.owner,
        compatible=kind,
        magic=blob.fdt.integer("magic", 4),
        nr_folios=nr_folios,
        folios_info=area,
        phys=phys,
        order=order,
        csum=csum,
        computed=_checksum(context, phys, sizes, (*path, _FOLIOS_INFO)),
        bytes=sum(sizes),
    )


def _folios_info(
    context: Context, owner: Owner, data: FdtNode | None, nr_folios: int, path: Path
) -> tuple[VmallocArea | None, NDArray[np.uint64]]:
    """The array of ``phys | order``: in a vmalloc area, up to 6.17 the property itself."""
    none = np.empty(0, dtype=np.uint64)
    raw = data.prop("folios_info") if data else None
    if raw is None or (len(raw) != kho_vmalloc.sizeof() and len(raw) != 8 * nr_folios):
        size = "missing" if raw is None else f"{len(raw)} bytes"
        words = f"kho_test property 'folios_info' is {size}, should be a 16-byte kho_vmalloc"
        context.faults.add(FaultKind.KHO_TEST_PROPERTY, words, path=path)
        return None, none
    if len(raw) != kho_vmalloc.sizeof() or _is_array(raw, nr_folios):
        return None, np.frombuffer(raw, dtype="<u8")
    geometry, descriptor, here = context.geometry, parse_vmalloc(raw), (*path, _FOLIOS_INFO)
    area = walk_vmalloc(
        context.memory, geometry, descriptor, here, context.faults, context.pages_left
    )
    context.pages_left -= len(area.chunks) + len(area.phys)
    for chunk in area.chunks:
        context.claims.add(owner, ClaimKind.FOLIOS_INFO_CHUNK, chunk, geometry.page_size)
    pfns = (area.phys >> np.uint64(geometry.shift)).astype(np.int64)
    context.claims.add_many(owner, ClaimKind.FOLIOS_INFO, pfns, 1 << min(area.order, 52))
    entries = context.read_table(area, np.dtype("<u8"), nr_folios)
    if len(entries) < nr_folios:
        words = f"nr_folios {nr_folios:,}, of which folios_info gives {len(entries):,}"
        context.faults.add(FaultKind.KHO_TEST_FOLIOS, f"kho_test has {words}", path=path)
    return area, entries


def _is_array(raw: bytes, nr_folios: int) -> bool:
    """Two array entries and one kho_vmalloc are both 16 bytes, but two entries fill one page."""
    area = parse_vmalloc(raw)
    known = area.flags & ~sum(KHO_VMALLOC_FLAGS) == 0
    return nr_folios == 2 and not (known and area.total_pages == 1)


def _checksum(
    context: Context, phys: NDArray[np.uint64], sizes: list[int], path: Path
) -> int | None:
    """Sum of little-endian 16-bit words of all folios, folded to 16 bits."""
    context.spent["summed"] += sum(sizes)
    if context.spent["summed"] > MAX_SUMMED:
        return None
    value = 0
    for paddr, size in zip(phys.tolist(), sizes, strict=True):
        data = _FOLIO.read(context.memory, paddr, size, path, context.faults)
        if data is None:
            return None
        value += int(np.frombuffer(data, dtype="<u2").sum(dtype=np.uint64))
    return _fold(value)


def _fold(value: int) -> int:
    """A sum in one's complement: what is above 16 bits is added to them."""
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value
