"""Preserved memfds: ``mm/memfd_luo.c`` (memfd-v1 [6.19, 7.0]; memfd-v2 [7.1 …])."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kho_inspect.decoders.context import Context, FileDecoder, FileEntry
from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64
from kho_inspect.layouts.memfd import (
    FOLIO_FLAGS,
    FOLIO_PFN_BITS,
    MEMFD_FEATURES,
    MEMFD_SEALS,
    memfd_luo_folio_ser,
    memfd_luo_ser,
    memfd_luo_ser_features,
    memfd_luo_ser_v1,
)
from kho_inspect.layouts.views import dtype_of, parse_record
from kho_inspect.layouts.vmalloc import kho_vmalloc
from kho_inspect.model.contents import Columns, Document, FileContent, Pieces, VmallocArea
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.features import Features
from kho_inspect.model.identity import ClaimKind, Owner, Path, Step, StepKind
from kho_inspect.units import PhysAddr, exact_size, flag_names, flag_text, plural
from kho_inspect.walk.pages import Target

LAYOUTS = {
    "memfd-v1": memfd_luo_ser_v1,
    "memfd-v2": memfd_luo_ser,
    "memfd": memfd_luo_ser_features,
}
"""Handler → layout of its descriptor."""
_DESCRIPTOR = Target("memfd descriptor", FaultKind.MEMFD_MISSING, FaultKind.MEMFD_NOT_STORED)
_FOLIO = dtype_of(memfd_luo_folio_ser)
_FLAGS = np.uint64(FOLIO_PFN_BITS)
_PFN = np.uint64((1 << FOLIO_PFN_BITS) - 1)
_NO_FOLIOS = parse_record(kho_vmalloc, bytes(kho_vmalloc.sizeof()))
LOOKED_UP = 1 << 18
"""Folios whose blocks are looked up together: of many small tables, a fraction of the time."""


@dataclass(frozen=True, slots=True)
class Folios:
    """The folio table of a preserved memfd: parallel arrays of shape ``(n,)``."""

    pfn: I64
    """First page frame; 0 is a hole that the kernel passes over."""
    flags: NDArray[np.int16]
    index: NDArray[np.uint64]
    """Page offset in the file."""
    order: NDArray[np.int8]
    """Order of the preserved block that starts at ``pfn``; -1 when none does."""

    def __len__(self) -> int:
        return len(self.pfn)

    @property
    def flag_words(self) -> list[int]:
        """The distinct flag words, ascending."""
        # With the counts it does without numpy.ma, whose import takes 10 ms.
        flags: list[int] = np.unique(self.flags, return_counts=True)[0].tolist()
        return flags


@dataclass(frozen=True, slots=True)
class Memfd(FileContent):
    """A preserved memfd (``struct memfd_luo_ser``)."""

    compatible: str
    paddr: PhysAddr
    pos: int
    size: int
    """Bytes."""
    seals: int | None
    """F_SEAL_* bits; None in memfd-v1, which has none, and where they are no active feature."""
    flags: int | None
    nr_folios: int
    folios: VmallocArea
    """The area that holds the folio table."""
    table: Folios
    """As many entries of the table as could be read."""
    features: Features | None
    owner: Owner
    path: Path

    key = "memfd"

    def summary(self) -> str:
        words = [exact_size(self.size), f"pos {self.pos:,}", plural(self.nr_folios, "folio")]
        if self.nr_folios:
            flags = (flag_text(word, FOLIO_FLAGS) for word in self.table.flag_words)
            words.append(", ".join(flags) or "no folio")
        if self.seals:
            words.append(f"sealed {flag_text(self.seals, MEMFD_SEALS)}")
        return ", ".join(words)

    def document(self) -> Document:
        table = self.table
        columns = (table.pfn, table.order, table.flags, table.index)
        return {
            "features": self.features.document() if self.features else None,
            "pos": self.pos,
            "size": self.size,
            "seals": self.seals,
            "seal_names": flag_names(self.seals or 0, MEMFD_SEALS),
            "flags": self.flags,
            "nr_folios": self.nr_folios,
            "folios": self.folios.document(),
            "folio_flags": table.flag_words,
            "folio_table": [
                {"pfn": pfn, "order": order if order >= 0 else None, "flags": flags, "index": index}
                for pfn, order, flags, index in zip(
                    *(column.tolist() for column in columns), strict=True
                )
            ],
        }

    def facts(self) -> Document:
        seals = None if self.seals is None else flag_names(self.seals, MEMFD_SEALS)
        return {"folios": self.nr_folios, "pos": self.pos, "seals": seals}

    def pieces(self, geometry: PageGeometry) -> Pieces:
        return Pieces(partial(self._columns, geometry.page_size))

    def _columns(self, page: int) -> Columns:
        table = self.table
        held = np.flatnonzero(table.pfn)
        last_page = -(-self.size // page)
        held = held[table.index[held] < np.uint64(min(last_page, 1 << 63))]
        held = held[np.argsort(table.index[held], kind="stable")]
        pfn, index, order = table.pfn[held], table.index[held], np.maximum(table.order[held], 0)
        largest = page * max(1 << int(order.max(initial=0)), int(pfn.max(initial=0)), last_page)
        number = np.int64 if largest < 1 << 62 else object
        offset, folio = index.astype(number) * page, np.array(page, dtype=number)
        size = np.minimum(folio << order.astype(number), self.size - offset)
        return Columns(offset, pfn.astype(number) * page, size)

    def areas(self) -> Iterator[VmallocArea]:
        yield self.folios


def _decode(compatible: str, context: Context, entries: Sequence[FileEntry]) -> list[Memfd | None]:
    """The descriptor of each file and its folio table; both and the folios are claimed."""
    found: list[Memfd | None] = []
    held: list[_Read] = []
    room = LOOKED_UP
    for entry in entries:
        held.append(_read(compatible, context, entry))
        room -= len(held[-1].folios)
        if room < 0:
            found += _finish(context, held)
            held, room = [], LOOKED_UP
    return found + _finish(context, held)


@dataclass(frozen=True, slots=True)
class _Read:
    """A file as far as it can be read without knowing what is preserved."""

    owner: Owner
    folios: NDArray[Any]
    """Entries of the table, as they stand."""
    make: Callable[..., Memfd] | None
    """Makes the memfd of its table; None when its descriptor cannot be read."""


def _read(compatible: str, context: Context, entry: FileEntry) -> _Read:
    layout = LAYOUTS[compatible]
    data, owner, path = entry
    raw = None
    if data % context.geometry.page_size:
        message = f"memfd descriptor {data:#x} is not aligned to a page"
        context.faults.add(FaultKind.MEMFD_MISALIGNED, message, paddr=data, path=path)
    else:
        raw = _DESCRIPTOR.read(context.memory, data, layout.sizeof(), path, context.faults)
    if raw is None:
        return _Read(owner, np.empty(0, dtype=_FOLIO), None)
    fields = parse_record(layout, raw)
    context.claims.add(owner, ClaimKind.MEMFD_DESCRIPTOR, data, len(raw))
    seals, features = getattr(fields, "seals", None), None
    if hasattr(fields, "features"):
        features = context.features(fields.features, MEMFD_FEATURES, data, path)
        if context.inactive(features, "seals", fields.seals, data, path):
            seals = None
        if context.inactive(features, "folios", fields.nr_folios, data, path):
            fields.nr_folios, fields.folios = 0, _NO_FOLIOS
    area = context.vmalloc(
        fields.folios,
        (*path, Step(StepKind.FOLIOS)),
        owner,
        ClaimKind.FOLIO_TABLE,
        ClaimKind.FOLIO_TABLE_CHUNK,
    )
    make = partial(
        Memfd,
        compatible=compatible,
        paddr=data,
        pos=fields.pos,
        size=fields.size,
        seals=seals,
        flags=getattr(fields, "flags", None),
        nr_folios=fields.nr_folios,
        folios=area,
        features=features,
        owner=owner,
        path=path,
    )
    room = (area.pages << context.geometry.shift) // _FOLIO.itemsize
    entries = context.read_table(area, _FOLIO, min(fields.nr_folios + 1, room))
    if len(entries) < fields.nr_folios:
        context.faults.add(
            FaultKind.MEMFD_FOLIOS,
            f"memfd has nr_folios {fields.nr_folios:,}, its table gives "
            f"{plural(len(entries), 'entry', 'entries')}",
            paddr=area.first or None,
            path=path,
        )
    elif any(_is_folio(word) for word in entries["pfn_flags"][fields.nr_folios :].tolist()):
        context.faults.add(
            FaultKind.RECORD_UNCOUNTED,
            f"memfd has nr_folios {fields.nr_folios:,}, its table goes on behind them",
            paddr=area.first or None,
            path=path,
        )
    return _Read(owner, entries[: fields.nr_folios], make)


def _is_folio(word: int) -> bool:
    """Whether an entry is one that writers make, not what recycled memory holds."""
    return 0 < word >> FOLIO_PFN_BITS <= sum(FOLIO_FLAGS) and word & int(_PFN) != 0


def _finish(context: Context, held: list[_Read]) -> list[Memfd | None]:
    """The files with the orders of their folios, looked up together; the folios are claimed."""
    none = np.empty(0, dtype=_FOLIO)
    entries = np.concatenate([none, *(read.folios for read in held)])
    word = entries["pfn_flags"]
    pfn = (word & _PFN).view(np.int64)
    flags, index = (word >> _FLAGS).astype(np.int16), entries["index"].copy()
    order = context.preserved.orders_at(pfn)
    pages = np.int64(1) << np.maximum(order, 0)
    found: list[Memfd | None] = []
    at = 0
    for read in held:
        if read.make is None:
            found.append(None)
            continue
        part = slice(at, at + len(read.folios))
        at = part.stop
        table = Folios(pfn[part], flags[part], index[part], order[part])
        found.append(read.make(table=table))
        real = slice(None) if table.pfn.all() else np.flatnonzero(table.pfn)
        context.claims.add_many(
            read.owner, ClaimKind.FOLIO, table.pfn[real], pages[part][real], table.index[real]
        )
    return found


FILE_DECODERS: dict[str, FileDecoder] = {name: partial(_decode, name) for name in LAYOUTS}
