"""kho_test: the kernel's own test module, ``lib/test_kho.c`` (kho-test-v1) [6.16 …]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kho_inspect.decoders.context import BlobDecoder, is_fdt
from kho_inspect.layouts.kho_test import FOLIO_ORDER_MASK
from kho_inspect.layouts.vmalloc import KHO_VMALLOC_FLAGS, kho_vmalloc
from kho_inspect.model.contents import KhoTest
from kho_inspect.model.faults import FaultKind
from kho_inspect.walk.pages import Target
from kho_inspect.walk.vmalloc import parse_vmalloc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kho_inspect.decoders.context import Context
    from kho_inspect.intervals import I64
    from kho_inspect.model.contents import VmallocArea
    from kho_inspect.model.fdt_node import FdtNode
    from kho_inspect.model.handover import Blob

_FOLIO = Target(
    "kho_test folio of {size}", FaultKind.KHO_TEST_FOLIOS, FaultKind.KHO_TEST_NOT_STORED
)
MAX_SUMMED = 1 << 30
"""Folio bytes beyond which the checksum is not computed."""


def decode(context: Context, blob: Blob, kind: str) -> KhoTest:
    """The module's state, its folios, and their checksum recomputed."""
    assert blob.fdt is not None
    path = f"/{blob.name}/data"
    data = blob.fdt.child("data")
    nr_folios = data.u32("nr_folios") if data else None
    csum = data.u32("csum") if data else None
    for name, value in (("nr_folios", nr_folios), ("csum", csum)):
        if value is None:
            context.faults.add(
                FaultKind.KHO_TEST_PROPERTY,
                f"kho_test property {name!r} is missing or not 4 bytes",
                path=path,
            )
    area, entries = _folios_info(context, blob.name, data, nr_folios or 0, path)
    phys = entries & ~np.uint64(FOLIO_ORDER_MASK)
    order = (entries & np.uint64(FOLIO_ORDER_MASK)).astype(np.int64)
    sound = order <= context.geometry.order0_bit
    if not sound.all():
        context.faults.add(
            FaultKind.KHO_TEST_FOLIOS,
            f"kho_test folio {int(np.flatnonzero(~sound)[0])} has an impossible order",
            path=path,
            count=int((~sound).sum()),
        )
        phys, order = phys[sound], order[sound]
    shift = context.geometry.shift
    pfns = (phys >> np.uint64(shift)).astype(np.int64)
    context.claims.add_many(blob.name, "test folio", pfns, np.int64(1) << order)
    total = sum(1 << (one + shift) for one in order.tolist())
    return KhoTest(
        kind,
        blob.fdt.u32("magic"),
        nr_folios,
        area,
        phys,
        order,
        csum,
        _checksum(context, phys, order, total),
        total,
    )


def _folios_info(
    context: Context, owner: str, data: FdtNode | None, nr_folios: int, path: str
) -> tuple[VmallocArea | None, NDArray[np.uint64]]:
    """The array of ``phys | order``: in a vmalloc area, up to 6.17 the property itself."""
    none = np.empty(0, dtype=np.uint64)
    raw = data.prop("folios_info") if data else None
    if raw is None or (len(raw) != kho_vmalloc.sizeof() and len(raw) != 8 * nr_folios):
        size = "missing" if raw is None else f"{len(raw)} bytes"
        context.faults.add(
            FaultKind.KHO_TEST_PROPERTY,
            f"kho_test property 'folios_info' is {size}, should be a 16-byte kho_vmalloc",
            path=path,
        )
        return None, none
    if len(raw) != kho_vmalloc.sizeof() or _is_array(raw, nr_folios):
        return None, np.frombuffer(raw, dtype="<u8")
    area = context.vmalloc(parse_vmalloc(raw), f"{path}/folios_info", owner, "folios_info")
    held = context.read_table(area, 8 * nr_folios)
    if len(held) < 8 * nr_folios:
        context.faults.add(
            FaultKind.KHO_TEST_FOLIOS,
            f"kho_test has nr_folios {nr_folios:,}, of which folios_info gives {len(held) // 8:,}",
            path=path,
        )
    return area, np.frombuffer(held[: len(held) // 8 * 8], dtype="<u8")


def _is_array(raw: bytes, nr_folios: int) -> bool:
    """Two array entries and one kho_vmalloc are both 16 bytes, but two entries fill one page."""
    area = parse_vmalloc(raw)
    known = area.flags & ~sum(KHO_VMALLOC_FLAGS) == 0
    return nr_folios == 2 and not (known and area.total_pages == 1)


def _checksum(context: Context, phys: NDArray[np.uint64], order: I64, total: int) -> int | None:
    """Sum of little-endian 16-bit words of all folios, folded to 16 bits."""
    if total > MAX_SUMMED:
        return None
    value = 0
    for paddr, one in zip(phys.tolist(), order.tolist(), strict=True):
        size, path = 1 << (one + context.geometry.shift), "/kho_test/data/folios_info"
        data = _FOLIO.read(context.memory, paddr, size, path, context.faults)
        if data is None:
            return None
        value += int(np.frombuffer(data, dtype="<u2").sum(dtype=np.uint64))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value


DECODERS = (BlobDecoder("kho-test-v1", "kho_test", is_fdt("kho-test-v1"), decode),)
