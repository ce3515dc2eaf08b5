"""Live Update Orchestrator: ``kernel/liveupdate/luo_core.c`` and its neighbours.

luo-v1 [6.19, 7.0, 7.1] is an FDT that points to plain arrays, luo-v5 [7.2, 7.3] a raw struct that
points to chains of kho_blocks. Sessions are written at reboot only: none before that is normal.
"""

from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kho_inspect.abi import (
    LUO_BY_COMPATIBLE,
    LUO_FEATURES,
    LuoAbi,
    find_luo,
    is_unknown,
    split_composite,
)
from kho_inspect.decoders.context import Context
from kho_inspect.layouts import luo as layout
from kho_inspect.layouts.features import luo_feature_hdr
from kho_inspect.layouts.views import Layout, dtype_of, parse_record
from kho_inspect.limits import exceeded
from kho_inspect.memory import Presence
from kho_inspect.model.contents import FileEntries, FileEntry
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import FdtNode, text_of
from kho_inspect.model.handover import Blob
from kho_inspect.model.identity import ClaimKind, Message, Owner, Path, Step, StepKind
from kho_inspect.model.luo import LUO, Handler, Luo, LuoFiles, LuoFlb, LuoSession
from kho_inspect.units import PhysAddr
from kho_inspect.walk.block import walk_blocks
from kho_inspect.walk.pages import Target

_ARRAY = Target("LUO array", FaultKind.LUO_ARRAY_MISSING, FaultKind.LUO_ARRAY_NOT_STORED)


def decode_fdt(context: Context, blob: Blob, kind: str) -> Luo:
    """luo-v1: the FDT, then the session and FLB arrays that it points to."""
    assert blob.fdt is not None
    path = (Step(StepKind.SUBNODE, blob.name),)
    number = _u64(context, blob.fdt, "liveupdate-number", path)
    sessions_pa = _pointer(context, blob, "luo-session", "luo-session-v2")
    flbs_pa = _pointer(context, blob, "luo-flb", "luo-flb-v1")
    entries = np.empty(0, dtype_of(layout.luo_session_ser))
    if sessions_pa:
        size = layout.LUO_SESSION_PGCNT << context.geometry.shift
        context.claims.add(LUO, ClaimKind.SESSION_ARRAY, sessions_pa, size)
        entries = _read_array(
            context,
            sessions_pa,
            layout.luo_session_header_ser,
            layout.luo_session_ser,
            size,
            (*path, Step(StepKind.SESSIONS)),
        )
    sessions, files = _sessions(context, entries, _files_of_array, path)
    return Luo(
        compatible=kind,
        abi=LUO_BY_COMPATIBLE[kind],
        features=None,
        liveupdate_num=number,
        sessions_pa=sessions_pa,
        flbs_pa=flbs_pa,
        sessions=sessions,
        files=files,
        flbs=_flbs(context, flbs_pa, path),
    )


def decode_raw(context: Context, blob: Blob, kind: str) -> Luo | None:
    """luo-v5: the struct, then the chains of blocks; None when the blob is too short."""
    text = layout.luo_compatible(blob.data)
    abi = find_luo(text_of(text))
    assert abi is not None
    return _decode_struct(context, blob, layout.luo_ser(len(text)), text_of(text), abi)


def decode_features(context: Context, blob: Blob, kind: str) -> Luo | None:
    """The same struct behind a feature header: what is not active is not read."""
    return _decode_struct(context, blob, layout.luo_ser_features, kind, LUO_FEATURES)


def _decode_struct(
    context: Context, blob: Blob, struct: Layout, compatible: str, abi: LuoAbi
) -> Luo | None:
    path = (Step(StepKind.SUBNODE, blob.name),)
    fields = context.read_struct(struct, blob, compatible, FaultKind.LUO_SHORT)
    if fields is None:
        return None
    paddr, features = blob.paddr or 0, None
    if abi.features:
        features = context.features(fields.features, abi.features, paddr, path)
    number, sessions_pa, flbs_pa = (
        None if context.inactive(features, name, held, paddr, path) else held
        for name, held in zip(
            LUO_FEATURES.features,
            (fields.liveupdate_num, fields.sessions_pa, fields.flbs_pa),
            strict=True,
        )
    )
    entries = np.empty(0, dtype_of(layout.luo_session_ser))
    if abi.reads_blocks:
        entries = _read_chain(
            context,
            sessions_pa or 0,
            layout.luo_session_ser,
            LUO,
            ClaimKind.SESSION_BLOCK,
            (*path, Step(StepKind.SESSIONS)),
        )
    sessions, files = _sessions(context, entries, _files_of_chain, path)
    return Luo(
        compatible=compatible,
        abi=abi,
        features=features,
        liveupdate_num=number,
        sessions_pa=sessions_pa or 0,
        flbs_pa=flbs_pa or 0,
        sessions=sessions,
        files=files,
        flbs=_flbs(context, flbs_pa or 0, path),
    )


def session_of(context: Context, entry: NDArray[Any], chained: bool) -> LuoSession:
    """The session of one ``luo_session_ser``; its files are ``chained`` blocks or an array."""
    list_files = _files_of_chain if chained else _files_of_array
    return _sessions(context, entry, list_files, ())[0][0]


def _pointer(context: Context, blob: Blob, child: str, compatible: str) -> PhysAddr:
    """The address of a header, by the child node that is to be there; 0 when it is not."""
    assert blob.fdt is not None
    node = blob.fdt.child(child)
    path: Path = (Step(StepKind.SUBNODE, blob.name),)
    if node is None:
        context.faults.add(FaultKind.LUO_PROPERTY, f"LUO node {child!r} is missing", path=path)
        return 0
    path = (*path, Step(StepKind.NODE, child))
    if not node.is_compatible(compatible):
        found = f"{node.string('compatible')!r}, should be {compatible!r}"
        words = f"compatible of LUO node {child!r} is {found}"
        context.faults.add(FaultKind.LUO_PROPERTY, words, path=path)
    return _u64(context, node, f"{child}-header", path) or 0


def _u64(context: Context, node: FdtNode, name: str, path: Path) -> int | None:
    kind = FaultKind.LUO_PROPERTY
    return next(context.read_integers(node, name, size=8, kind=kind, what="LUO", path=path))


_ListFiles: TypeAlias = Callable[[Context, PhysAddr, int, Owner, Path], NDArray[Any]]
"""``(context, files, count, owner, path)`` of a session → its ``luo_file_ser``."""


def _files_of_array(
    context: Context, files: PhysAddr, count: int, owner: Owner, path: Path
) -> NDArray[Any]:
    size = layout.LUO_FILE_PGCNT << context.geometry.shift
    context.claims.add(owner, ClaimKind.FILE_ARRAY, files, size)
    return _read_entries(context, files, count, layout.luo_file_ser, size, path)


def _files_of_chain(
    context: Context, files: PhysAddr, count: int, owner: Owner, path: Path
) -> NDArray[Any]:
    kind = ClaimKind.FILE_BLOCK
    return _read_chain(context, files, layout.luo_file_ser, owner, kind, path)


def _afford(context: Context, entries: NDArray[Any], path: Path) -> NDArray[Any]:
    """As many entries of a list as the budget has room for; more are a fault."""
    if len(entries) > context.entries_left:
        message = exceeded("LUO sessions, files and FLBs", "files", context.limits.files)
        context.faults.add(FaultKind.LUO_LIMIT, message, path=path)
        entries = entries[: context.entries_left]
    context.entries_left -= len(entries)
    return entries


def _read_chain(
    context: Context, first: PhysAddr, entry: Layout, owner: Owner, kind: ClaimKind, path: Path
) -> NDArray[Any]:
    geometry, limit = context.geometry, context.entries_left + 1
    blocks, entries = walk_blocks(
        context.memory, geometry, first, entry, path=path, faults=context.faults, limit=limit
    )
    for block in blocks:
        context.claims.add(owner, kind, block, geometry.page_size)
    return _afford(context, entries, path)


def _read_array(
    context: Context, paddr: PhysAddr, header: Layout, entry: Layout, size: int, path: Path
) -> NDArray[Any]:
    """Entries behind a header with a ``count``, in an area of ``size`` bytes."""
    start = header.sizeof()
    raw = _ARRAY.read(context.memory, paddr, start, path, context.faults)
    if raw is None:
        return np.empty(0, dtype_of(entry))
    count = parse_record(header, raw).count
    return _read_entries(context, paddr + start, count, entry, size - start, path)


def _read_entries(
    context: Context, paddr: PhysAddr, count: int, entry: Layout, room: int, path: Path
) -> NDArray[Any]:
    step = dtype_of(entry).itemsize
    capacity = max(room, 0) // step
    if count > capacity:
        context.faults.add(
            FaultKind.LUO_COUNT,
            f"count is {count:,}, the array at {paddr:#x} has room for {capacity:,}",
            paddr=paddr,
            path=path,
        )
        return np.empty(0, dtype_of(entry))
    if count < capacity and _is_record(context, paddr + count * step):
        words = (
            f"count is {count:,}, one more entry stands behind them at {paddr + count * step:#x}"
        )
        context.faults.add(FaultKind.RECORD_UNCOUNTED, words, paddr=paddr, path=path)
    size = count * step
    data = _ARRAY.read(context.memory, paddr, size, path, context.faults) if size else None
    return _afford(context, np.frombuffer(data or b"", dtype_of(entry)), path)


def _is_record(context: Context, paddr: PhysAddr) -> bool:
    """Whether the text that every entry starts with is there at all."""
    return (
        context.memory.presence(paddr) is Presence.STORED and context.memory.read(paddr, 1)[0] > 0
    )


def _sessions(
    context: Context, entries: NDArray[Any], list_files: _ListFiles, path: Path
) -> tuple[tuple[LuoSession, ...], LuoFiles]:
    """All sessions; the files of all of them are decoded together, handler by handler."""
    listed: list[tuple[bytes, PhysAddr, int, Owner, Path, int]] = []
    files = _Files(context)
    for number, (raw_name, files_pa, count) in enumerate(entries.tolist()):
        here = (*path, Step(StepKind.SESSION, number))
        owner = LUO.of(_c_string(raw_name))
        if files_pa:
            one = [FileEntry(files_pa, owner, here)]
            stored = context.memory.presence(files_pa) is Presence.STORED
            if not stored or _is_first(context, files_pa, one.__getitem__, 0, "file list"):
                files.add(list_files(context, files_pa, count, owner, here), owner, here)
        listed.append((raw_name, files_pa, count, owner, here, files.bounds[-1]))
    found, at = files.result(), 0
    sessions = []
    for raw_name, files_pa, count, owner, here, end in listed:
        name, held = _c_string(raw_name), found[at:end]
        sessions.append(LuoSession(name, raw_name, files_pa, count, held, owner, here))
        at = end
    return tuple(sessions), found


class _Files:
    """The files of all sessions in columns, as they are found."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.records = [np.empty(0, dtype_of(layout.luo_file_ser))]
        self.sessions: list[tuple[Owner, Path]] = []
        """Owner and path of each list of files that was read."""
        self.bounds = [0]
        """First file of each, and behind the last one."""
        self.handlers: dict[bytes, tuple[int, Handler]] = {}
        self.handler = [np.empty(0, dtype=np.int64)]
        self.owners = [np.empty(0, dtype=np.int64)]
        """Number of each file's owner; -1 for one that no decoder is to read."""

    def add(self, records: NDArray[Any], owner: Owner, path: Path) -> None:
        """The files of one session."""
        context, first = self.context, self.bounds[-1]
        self.records.append(records)
        self.sessions.append((owner, path))
        self.bounds.append(first + len(records))
        named = [
            self.handlers.get(name) or self._enter(name) for name in records["compatible"].tolist()
        ]
        self.handler.append(np.array([number for number, _ in named], dtype=np.int64))
        wanted = np.array([handler.decoder is not None for _, handler in named], dtype=bool)
        stored = np.flatnonzero(wanted & context.memory.stored_mask(records["data"], 1))
        data = records["data"][stored].tolist()
        pairs = zip(data, (stored + first).tolist(), strict=True)
        if len(set(data)) == len(data) and context.followed.keys().isdisjoint(data):
            context.followed.update({at: (self.entry, number) for at, number in pairs})
        else:
            for at, number in pairs:
                wanted[number - first] = _is_first(context, at, self.entry, number, "descriptor")
        self.owners.append(np.full(len(records), -1))
        tokens = records["token"][wanted].tolist()
        self.owners[-1][wanted] = context.claims.add_owners(map(owner.of, tokens))

    def _enter(self, compatible: bytes) -> tuple[int, Handler]:
        name = _c_string(compatible)
        found = len(self.handlers), Handler(name, *_handler(self.context, name))
        return self.handlers.setdefault(compatible, found)

    def entry(self, number: int) -> FileEntry:
        """One of all files."""
        at = bisect_right(self.bounds, number) - 1
        owner, path = self.sessions[at]
        record = self.records[at + 1][number - self.bounds[at]]
        step = Step(StepKind.FILE, number - self.bounds[at])
        return FileEntry(int(record["data"]), owner.of(int(record["token"])), (*path, step))

    def result(self) -> LuoFiles:
        """All of them, decoded."""
        records, handler = np.concatenate(self.records), np.concatenate(self.handler)
        owners = np.concatenate(self.owners)
        numbers = np.arange(len(records))
        entries = FileEntries(records["data"].copy(), owners, self.entry, numbers)
        handlers = [one for _, one in self.handlers.values()]
        decoders = np.array([one.decoder or "" for one in handlers], dtype=str)[handler]
        decoders[owners < 0] = ""
        rows, contents = np.full(len(records), -1), {}
        for decoder in [name for name in dict.fromkeys(decoders.tolist()) if name]:
            these = np.flatnonzero(decoders == decoder)
            decode = self.context.file_decoders[decoder]
            contents[decoder] = decode(self.context, entries[these])
            rows[these] = np.arange(len(these))
        tokens = records["token"].copy()
        return LuoFiles(entries, tokens, handlers, handler, contents, rows, range(len(records)))


def _handler(context: Context, compatible: str) -> tuple[str | None, tuple[str, ...]]:
    """The name of the decoder that reads files of a handler, and its parts that are not known."""
    if compatible in context.file_decoders:
        return compatible, ()
    base, unknown = split_composite(compatible, context.file_decoders.keys())
    return (None if is_unknown("vmalloc", unknown) else base), unknown


def _is_first(
    context: Context, paddr: PhysAddr, entry: Callable[[int], FileEntry], number: int, what: str
) -> bool:
    """Whether this pointer, of ``entry(number)``, to stored memory was not followed before.

    A list with two owners is a fault. A copy of an entry, with its owner's very name, is a finding
    of the rules.
    """
    found, at = context.followed.setdefault(paddr, (entry, number))
    first, here = found(at), entry(number)
    if first.path != here.path and first.owner != here.owner:
        words: Message = (
            f"{what} at {paddr:#x} belongs to two: ",
            first.owner,
            " and ",
            here.owner,
        )
        context.faults.add(FaultKind.LUO_SHARED, words, paddr=paddr, path=here.path)
    return first.path == here.path


def _flbs(context: Context, paddr: PhysAddr, path: Path) -> tuple[LuoFlb, ...]:
    """FLB data is opaque: the array is claimed, what its entries point to is not."""
    if not paddr:
        return ()
    here = (*path, Step(StepKind.FLBS))
    header = layout.luo_flb_header_ser
    raw = _ARRAY.read(context.memory, paddr, header.sizeof(), here, context.faults)
    if raw is None:
        return ()
    pgcnt = parse_record(header, raw).pgcnt
    if pgcnt > layout.LUO_FLB_MAX_PGCNT:
        context.faults.add(
            FaultKind.LUO_FLB,
            f"FLB array counts {pgcnt:,} pages, should be at most {layout.LUO_FLB_MAX_PGCNT}",
            paddr=paddr,
            path=here,
        )
        context.claims.add(LUO, ClaimKind.FLB_ARRAY, paddr, 1)
        return ()
    size = pgcnt << context.geometry.shift
    context.claims.add(LUO, ClaimKind.FLB_ARRAY, paddr, size)
    entries = _read_array(context, paddr, header, layout.luo_flb_ser, size, here)
    return tuple(
        LuoFlb(
            name=_c_string(raw_name),
            raw_name=raw_name,
            data=data,
            count=count,
            path=(*path, Step(StepKind.FLB, number)),
        )
        for number, (raw_name, data, count) in enumerate(entries.tolist())
    )


@lru_cache
def _c_string(raw: bytes) -> str:
    return text_of(raw.split(b"\0")[0])


def is_raw(blob: Blob) -> bool:
    """Whether a blob is a luo-v5 struct, or one with a composite string."""
    text = layout.luo_compatible(blob.data)
    abi = find_luo(text_of(text)) if len(text) < layout.MAX_LUO_COMPATIBLE else None
    return abi is not None and not abi.fdt


def is_features(blob: Blob) -> bool:
    """Whether a blob begins as a writer of feature headers leaves it."""
    if len(blob.data) < luo_feature_hdr.sizeof():
        return False
    header = parse_record(luo_feature_hdr, blob.data)
    stray = (header.req | header.active) & ~header.supp
    return header.supp != 0 and not stray and not any(header.reserved)
