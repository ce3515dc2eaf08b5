"""Preserved memfds: ``mm/memfd_luo.c`` (memfd-v1 [6.19, 7.0]; memfd-v2 [7.1 …])."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from kho_inspect.decoders.context import Context, FileDecoder
from kho_inspect.geometry import PageGeometry
from kho_inspect.intervals import I64
from kho_inspect.layouts.features import luo_feature_hdr
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
from kho_inspect.layouts.views import Layout, dtype_of, parse_record
from kho_inspect.model.claims import CODES
from kho_inspect.model.contents import (
    Columns,
    Document,
    FileContent,
    FileContents,
    FileEntries,
    FileEntry,
    Pieces,
    VmallocArea,
    VmallocAreas,
)
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.features import Features
from kho_inspect.model.identity import ClaimKind, Owner, Path, Step, StepKind
from kho_inspect.units import PhysAddr, exact_size, flag_names, flag_text, plural
from kho_inspect.walk.faults import FaultLogs
from kho_inspect.walk.pages import Target
from kho_inspect.walk.vmalloc import joined, walk_areas

LAYOUTS = {"memfd-v1": memfd_luo_ser_v1, "memfd-v2": memfd_luo_ser, "memfd": memfd_luo_ser_features}
"""Handler → layout of its descriptor."""
_DESCRIPTOR = Target("memfd descriptor", FaultKind.MEMFD_MISSING, FaultKind.MEMFD_NOT_STORED)
_FOLIO = dtype_of(memfd_luo_folio_ser)
_FLAGS = np.uint64(FOLIO_PFN_BITS)
_PFN = np.uint64((1 << FOLIO_PFN_BITS) - 1)
_NONE = np.empty(0, dtype=np.int64)
TOGETHER = 2048
"""Files that are read together: as many pages as the cache of a compressed dump holds."""


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


@dataclass(frozen=True, eq=False)
class Memfds(FileContents):
    """Memfds in columns; one of them is a view, made when it is asked for.

    None for each whose descriptor cannot be read.
    """

    compatible: str
    entries: FileEntries
    read: NDArray[np.bool_]
    """Which descriptors could be read."""
    records: NDArray[Any]
    """The descriptor of each, as its layout says; zeros where it was not read."""
    features: dict[int, Features]
    """Feature headers, by the number of the memfd."""
    areas: VmallocAreas
    tables: Sequence[tuple[int, Folios]]
    """The folio tables of some, one behind the other, and the number of the first of these."""
    bounds: I64
    """First folio of each, and behind the last one, counted through all of them."""

    def __len__(self) -> int:
        return len(self.entries)

    def parts(self) -> Iterator[tuple[slice, Folios, I64]]:
        """Some memfds each: which, their folios, and the bounds of each among all."""
        ends = [*(first for first, _ in self.tables), len(self)][1:]
        for (first, table), end in zip(self.tables, ends, strict=True):
            yield slice(first, end), table, self.bounds[first : end + 1]

    @overload
    def __getitem__(self, number: int) -> Memfd | None: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Memfd | None]: ...
    def __getitem__(self, number: int | slice) -> Memfd | Sequence[Memfd | None] | None:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not self.read[number]:
            return None
        entry, record, features = self.entries[number], self.records[number], self.features
        names = _names(self.records)
        seals = int(record["seals"]) if "seals" in names else None
        if number in features and not features[number].has("seals"):
            seals = None
        first, table = self.tables[bisect_right(self.tables, number, key=itemgetter(0)) - 1]
        part = slice(*(self.bounds[number : number + 2] - self.bounds[first]).tolist())
        return Memfd(
            compatible=self.compatible,
            paddr=entry.data,
            pos=int(record["pos"]),
            size=int(record["size"]),
            seals=seals,
            flags=int(record["flags"]) if "flags" in names else None,
            nr_folios=int(record["nr_folios"]),
            folios=self.areas[number],
            table=Folios(*(getattr(table, name)[part] for name in Folios.__slots__)),
            features=features.get(number),
            owner=entry.owner,
            path=entry.path,
        )


def _names(records: NDArray[Any]) -> tuple[str, ...]:
    return records.dtype.names or ()


def _decode(compatible: str, context: Context, entries: FileEntries) -> Memfds:
    """The descriptor of each file and its folio table; both and the folios are claimed."""
    starts = range(0, max(len(entries), 1), TOGETHER)
    parts = [_read(compatible, context, entries[at : at + TOGETHER], at) for at in starts]
    found = Memfds(
        compatible,
        entries,
        np.concatenate([part.read for part in parts]),
        np.concatenate([part.records for part in parts]),
        {number: header for part in parts for number, header in part.features.items()},
        joined([part.areas for part in parts], partial(_area_path, entries)),
        [table for part in parts for table in part.tables],
        np.append(0, np.cumsum(np.concatenate([part.counts for part in parts]))),
    )
    for files, table, bounds in found.parts():
        pfn, index = table.pfn, table.index
        size = np.uint8 if table.order.max(initial=0) < 8 else np.int64
        pages = np.left_shift(1, np.maximum(table.order, 0), dtype=size, casting="unsafe")
        counts = np.diff(bounds)
        if not pfn.all():
            held = pfn > 0
            before = np.append(0, np.cumsum(held))
            counts = np.diff(before[bounds - bounds[0]])
            pfn, index, pages = pfn[held], index[held], pages[held]
        of = context.preserved if (table.order >= 0).all() else None
        owners, kind = entries.owners[files], CODES[ClaimKind.FOLIO]
        context.claims.add_columns(owners, kind, counts, pfn, pages, index, of)
    return found


class _Part(NamedTuple):
    """Some files, all but their folio tables."""

    read: NDArray[np.bool_]
    records: NDArray[Any]
    features: dict[int, Features]
    areas: VmallocAreas
    tables: list[tuple[int, Folios]]
    counts: I64
    """Folios of each."""


def _area_path(entries: FileEntries, number: int) -> Path:
    return (*entries[number].path, Step(StepKind.FOLIOS))


def _read(compatible: str, context: Context, entries: FileEntries, first: int) -> _Part:
    """Some files, ``first`` and those behind it, and their folios."""
    logs = FaultLogs()
    read, records = _descriptors(context, LAYOUTS[compatible], entries, logs)
    features: dict[int, Features] = {}
    if "features" in _names(records):
        features = {
            number + first: _header(context, records, number, entries[number], logs)
            for number in np.flatnonzero(read).tolist()
        }
    areas = walk_areas(
        context.memory,
        context.geometry,
        records["folios"],
        partial(_area_path, entries),
        logs,
        context.pages_left,
    )
    context.pages_left -= len(areas.chunks) + len(areas.phys)
    _claim(context, entries, read, areas)
    counted = records["nr_folios"]
    wanted = np.minimum(counted, np.uint64(1 << 62)).astype(np.int64)
    tables: list[tuple[int, Folios]] = []
    counts: list[I64] = []
    low = 0
    # One more than are counted, where the table has room for it.
    for folios, held in context.read_tables(areas, _FOLIO, wanted + 1):
        ends, high = np.cumsum(held), low + len(held)
        _check_counts(counted, low, held, folios["pfn_flags"], ends, entries, areas, logs)
        more = held > wanted[low:high]
        kept = np.ones(len(folios), dtype=bool)
        kept[ends[more] - 1] = False
        word, index = folios["pfn_flags"][kept], folios["index"][kept]
        flags = (word >> _FLAGS).astype(np.int16)
        pfn = np.bitwise_and(word, _PFN, out=word).view(np.int64)
        order = context.preserved.orders_at(pfn)
        tables.append((first + low, Folios(pfn, flags, index, order)))
        counts.append(held - more)
        low = high
    logs.pass_on(context.faults)
    return _Part(read, records, features, areas, tables, np.concatenate([_NONE, *counts]))


def _descriptors(
    context: Context, layout: Layout, entries: FileEntries, logs: FaultLogs
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Which descriptors can be read, and all of them: zeros for the others."""
    data = entries.data
    read = data % np.uint64(context.geometry.page_size) == 0
    read[read] = context.memory.stored_mask(data[read], layout.sizeof())
    for number in np.flatnonzero(~read).tolist():
        paddr, _, path = entries[number]
        if paddr % context.geometry.page_size:
            message = f"memfd descriptor {paddr:#x} is not aligned to a page"
            log = logs.of(number)
            log.add(FaultKind.MEMFD_MISALIGNED, message, paddr=paddr, path=path)
        else:
            _DESCRIPTOR.read(context.memory, paddr, layout.sizeof(), path, logs.of(number))
    records = np.zeros(len(entries), dtype_of(layout))
    records[read] = context.memory.gather(data[read], dtype_of(layout))
    return read, records


def _header(
    context: Context, records: NDArray[Any], number: int, entry: FileEntry, logs: FaultLogs
) -> Features:
    """The feature header of a record, in which the fields that are not active become zero."""
    record, log = records[number], logs.of(number)
    header = parse_record(luo_feature_hdr, record["features"].tobytes())
    features = context.features(header, MEMFD_FEATURES, entry.data, entry.path, log)
    context.inactive(features, "seals", int(record["seals"]), entry.data, entry.path, log)
    count = int(record["nr_folios"])
    if context.inactive(features, "folios", count, entry.data, entry.path, log):
        record["nr_folios"] = 0
        record["folios"] = np.zeros((), record["folios"].dtype)
    return features


def _claim(
    context: Context, entries: FileEntries, read: NDArray[np.bool_], areas: VmallocAreas
) -> None:
    """The descriptors and their areas, file by file."""
    data, shift = entries.data, np.uint64(context.geometry.shift)
    files = np.arange(len(data))
    pieces, chunks = np.diff(areas.bounds), np.diff(areas.chunk_bounds)
    pages = np.int64(1) << np.minimum(areas.descriptors["order"], 52).astype(np.int64)
    # Each kind: the files of its claims, and of their pieces the files, pages and lengths.
    kinds = (
        (ClaimKind.MEMFD_DESCRIPTOR, read.astype(np.int64), data[read], np.ones_like(files)),
        (ClaimKind.FOLIO_TABLE_CHUNK, chunks, areas.chunks, np.ones_like(files)),
        (ClaimKind.FOLIO_TABLE, pieces, areas.phys, pages),
    )
    whose = np.concatenate([np.repeat(files, counts) for _, counts, _, _ in kinds])
    starts = np.concatenate([paddrs for _, _, paddrs, _ in kinds]) >> shift
    length = np.concatenate([np.repeat(pages, counts) for _, counts, _, pages in kinds])
    of_claim = (read.astype(np.int64), chunks, (pieces > 0).astype(np.int64))
    claimer = np.concatenate([np.repeat(files, counts) for counts in of_claim])
    codes = np.repeat([CODES[kind] for kind, *_ in kinds], [counts.sum() for counts in of_claim])
    many = np.concatenate(
        [np.ones(len(claimer) - int((pieces > 0).sum()), np.int64), pieces[pieces > 0]]
    )
    by_file, by_claim = np.argsort(whose, kind="stable"), np.argsort(claimer, kind="stable")
    context.claims.add_columns(
        entries.owners[claimer[by_claim]],
        codes[by_claim].astype(np.int8),
        many[by_claim],
        starts.astype(np.int64)[by_file],
        length[by_file],
    )


def _check_counts(
    counted: NDArray[np.uint64],
    low: int,
    held: I64,
    words: NDArray[np.uint64],
    ends: I64,
    entries: FileEntries,
    areas: VmallocAreas,
    logs: FaultLogs,
) -> None:
    """Faults of files, from ``low`` on, whose table is shorter than its count, or goes on."""
    counted, given = counted[low : low + len(held)], held.astype(np.uint64)
    more = np.flatnonzero(given > counted)
    last = words[ends[more] - 1]
    flags = last >> _FLAGS
    # What writers make, not what recycled memory holds.
    more = more[(flags > 0) & (flags <= sum(FOLIO_FLAGS)) & (last & _PFN != 0)]
    for number in sorted([*more.tolist(), *np.flatnonzero(given < counted).tolist()]):
        goes_on, area = given[number] > counted[number], areas[low + number]
        what = "goes on behind them"
        if not goes_on:
            what = f"gives {plural(int(held[number]), 'entry', 'entries')}"
        logs.of(low + number).add(
            FaultKind.RECORD_UNCOUNTED if goes_on else FaultKind.MEMFD_FOLIOS,
            f"memfd has nr_folios {int(counted[number]):,}, its table {what}",
            paddr=area.first or None,
            path=entries[low + number].path,
        )


FILE_DECODERS: dict[str, FileDecoder] = {name: partial(_decode, name) for name in LAYOUTS}
