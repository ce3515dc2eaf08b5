"""Preserved memfds: ``mm/memfd_luo.c`` (memfd-v1; memfd-v2 [7.1 …])."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kho_inspect.layouts.memfd import (
    FOLIO_PFN_BITS,
    memfd_luo_folio_ser,
    memfd_luo_ser,
    memfd_luo_ser_v1,
)
from kho_inspect.layouts.views import dtype_of, parse_record
from kho_inspect.model.contents import Folios, Memfd, VmallocArea
from kho_inspect.model.faults import FaultKind
from kho_inspect.units import PhysAddr, plural
from kho_inspect.walk.pages import Target

if TYPE_CHECKING:
    from kho_inspect.decoders.context import Context, FileDecoder

_LAYOUTS = {"memfd-v1": memfd_luo_ser_v1, "memfd-v2": memfd_luo_ser}
_DESCRIPTOR = Target("memfd descriptor", FaultKind.MEMFD_MISSING, FaultKind.MEMFD_NOT_STORED)
_FOLIO = dtype_of(memfd_luo_folio_ser)
_FLAGS = np.uint64(FOLIO_PFN_BITS)
_PFN = np.uint64((1 << FOLIO_PFN_BITS) - 1)


def _decoder(compatible: str) -> FileDecoder:
    layout = _LAYOUTS[compatible]
    size = layout.sizeof()

    def decode(context: Context, data: PhysAddr, owner: str, path: str) -> Memfd | None:
        """The descriptor at ``data`` and its folio table; both and the folios are claimed."""
        raw = _DESCRIPTOR.read(context.memory, data, size, path, context.faults)
        if raw is None:
            return None
        fields = parse_record(layout, raw)
        context.claims.add(owner, "memfd descriptor", data, size)
        area = context.vmalloc(fields.folios, f"{path} → folios", owner, "folio table")
        table = _read_table(context, area, fields.nr_folios, path)
        _claim_folios(context, owner, table)
        return Memfd(
            compatible,
            data,
            fields.pos,
            fields.size,
            getattr(fields, "seals", None),
            getattr(fields, "flags", None),
            fields.nr_folios,
            area,
            table,
            path,
        )

    return decode


def _read_table(context: Context, area: VmallocArea, nr_folios: int, path: str) -> Folios:
    room = (area.pages << context.geometry.shift) // _FOLIO.itemsize
    size = min(nr_folios, room) * _FOLIO.itemsize
    held = context.read_table(area, size)
    entries = np.frombuffer(held[: len(held) // _FOLIO.itemsize * _FOLIO.itemsize], dtype=_FOLIO)
    if len(entries) < nr_folios:
        context.faults.add(
            FaultKind.MEMFD_FOLIOS,
            f"memfd has nr_folios {nr_folios:,}, its table gives "
            f"{plural(len(entries), 'entry', 'entries')}",
            paddr=area.first or None,
            path=path,
        )
    word = entries["pfn_flags"]
    pfn = (word & _PFN).view(np.int64)
    return Folios(
        pfn,
        (word >> _FLAGS).astype(np.int16),
        entries["index"].copy(),
        np.empty(len(pfn), dtype=np.int8),
    )


def _claim_folios(context: Context, owner: str, table: Folios) -> None:
    """Claim the blocks of all folios, which gives :attr:`Folios.order`."""
    pfn, index, ends = table.pfn, table.index, np.empty(len(table), dtype=np.int64)
    context.find_blocks(pfn, table.order, ends)
    if len(pfn) and np.count_nonzero(pfn) == len(pfn) and pfn.max() < context.claims.end:
        context.claims.add_blocks(owner, "folio", pfn, ends, index)
        return
    context.look_up()
    held = np.flatnonzero(pfn)
    context.claims.add_many(owner, "folio", pfn[held], ends[held] - pfn[held], index[held])


FILE_DECODERS: dict[str, FileDecoder] = {name: _decoder(name) for name in _LAYOUTS}
