"""Live Update Orchestrator: ``kernel/liveupdate/luo_core.c`` and its neighbours.

luo-v1 [7.1] is an FDT that points to plain arrays, luo-v5 [7.2, 7.3] a raw struct that points to
chains of kho_blocks. Sessions are written at reboot only: none before that is normal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kho_inspect.decoders.context import BlobDecoder, is_fdt
from kho_inspect.layouts import luo as layout
from kho_inspect.layouts.views import parse_record
from kho_inspect.model.contents import Luo, LuoFile, LuoFlb, LuoSession
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import text_of
from kho_inspect.units import PhysAddr
from kho_inspect.walk.block import walk_blocks
from kho_inspect.walk.pages import Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from construct import Struct

    from kho_inspect.decoders.context import Context
    from kho_inspect.model.fdt_node import FdtNode
    from kho_inspect.model.handover import Blob

OWNER = "LUO"
_ARRAY = Target("LUO array", FaultKind.LUO_ARRAY_MISSING, FaultKind.LUO_ARRAY_NOT_STORED)


def decode_fdt(context: Context, blob: Blob, kind: str) -> Luo:
    """luo-v1: the FDT, then the session and FLB arrays that it points to."""
    assert blob.fdt is not None
    number = blob.fdt.u64("liveupdate-number")
    if number is None:
        _bad_property(context, "liveupdate-number", f"/{blob.name}")
    sessions_pa = _pointer(context, blob, "luo-session", "luo-session-header")
    flbs_pa = _pointer(context, blob, "luo-flb", "luo-flb-header")
    path = f"/{blob.name}"
    sessions: tuple[LuoSession, ...] = ()
    if sessions_pa:
        size = layout.LUO_SESSION_PGCNT << context.geometry.shift
        context.claims.add(OWNER, "session array", sessions_pa, size)
        entries = _read_array(
            context,
            sessions_pa,
            layout.luo_session_header_ser,
            layout.luo_session_ser,
            size,
            f"{path} → sessions",
        )
        sessions = _sessions(context, entries, _files_of_array, path)
    flbs = _flbs(context, flbs_pa, path)
    return Luo(kind, number, sessions_pa, flbs_pa, sessions, flbs)


def decode_raw(context: Context, blob: Blob, kind: str) -> Luo | None:
    """luo-v5: the struct, then the chains of blocks; None when the blob is too short."""
    path = f"/{blob.name}"
    if len(blob.data) < layout.luo_ser.sizeof():
        context.faults.add(
            FaultKind.LUO_SHORT,
            f"{kind} blob is {len(blob.data)} bytes, should be {layout.luo_ser.sizeof()}",
            paddr=blob.paddr,
            path=path,
        )
        return None
    fields = parse_record(layout.luo_ser, blob.data)
    entries = _read_chain(
        context, fields.sessions_pa, layout.luo_session_ser, OWNER, "session", f"{path} → sessions"
    )
    sessions = _sessions(context, entries, _files_of_chain, path)
    flbs = _flbs(context, fields.flbs_pa, path)
    return Luo(kind, fields.liveupdate_num, fields.sessions_pa, fields.flbs_pa, sessions, flbs)


def _pointer(context: Context, blob: Blob, child: str, name: str) -> PhysAddr:
    """An address in a child node; 0 when the child is not there, which is normal."""
    assert blob.fdt is not None
    node: FdtNode | None = blob.fdt.child(child)
    if node is None:
        return 0
    value = node.u64(name)
    if value is None:
        _bad_property(context, name, f"/{blob.name}/{child}")
    return value or 0


def _bad_property(context: Context, name: str, path: str) -> None:
    context.faults.add(
        FaultKind.LUO_PROPERTY, f"LUO property {name!r} is missing or not 8 bytes", path=path
    )


def _files_of_array(context: Context, session: Any, owner: str, path: str) -> list[Any]:
    size = layout.LUO_FILE_PGCNT << context.geometry.shift
    context.claims.add(owner, "file array", session.files, size)
    return _read_entries(context, session.files, session.count, layout.luo_file_ser, size, path)


def _files_of_chain(context: Context, session: Any, owner: str, path: str) -> list[Any]:
    return _read_chain(context, session.files, layout.luo_file_ser, owner, "file", path)


def _read_chain(
    context: Context, first: PhysAddr, entry: Struct, owner: str, what: str, path: str
) -> list[Any]:
    geometry, limit = context.geometry, context.room + 1
    chain = walk_blocks(context.memory, geometry, first, entry, path, context.faults, limit)
    for block in chain.blocks:
        context.claims.add(owner, f"{what} block", block, geometry.page_size)
    return [parse_record(entry, data) for data in context.afford(chain.entries, path)]


def _read_array(
    context: Context, paddr: PhysAddr, header: Struct, entry: Struct, size: int, path: str
) -> list[Any]:
    """Entries behind a header with a ``count``, in an area of ``size`` bytes."""
    start = header.sizeof()
    raw = _ARRAY.read(context.memory, paddr, start, path, context.faults)
    if raw is None:
        return []
    count = parse_record(header, raw).count
    return _read_entries(context, paddr + start, count, entry, size - start, path)


def _read_entries(
    context: Context, paddr: PhysAddr, count: int, entry: Struct, room: int, path: str
) -> list[Any]:
    step = entry.sizeof()
    capacity = max(room, 0) // step
    if count > capacity:
        context.faults.add(
            FaultKind.LUO_COUNT,
            f"count is {count:,}, the array at {paddr:#x} has room for {capacity:,}",
            paddr=paddr,
            path=path,
        )
        return []
    size = count * step
    data = _ARRAY.read(context.memory, paddr, size, path, context.faults) if size else None
    if data is None:
        return []
    offsets = context.afford(range(0, len(data), step), path)
    return [parse_record(entry, data[at : at + step]) for at in offsets]


def _sessions(
    context: Context, entries: Iterable[Any], files_of: Any, path: str
) -> tuple[LuoSession, ...]:
    sessions = []
    for number, entry in enumerate(entries):
        here = f"{path} → session {number}"
        name = _c_string(entry.name)
        owner = f"{OWNER} / session {name}"
        listed: list[Any] = []
        if entry.files and context.is_first(entry.files, owner, "file list", here):
            listed = files_of(context, entry, owner, here)
        files = _files(context, listed, owner, here)
        sessions.append(LuoSession(name, entry.name, entry.files, entry.count, files, here))
    return tuple(sessions)


def _files(context: Context, entries: Sequence[Any], owner: str, path: str) -> tuple[LuoFile, ...]:
    files = []
    for number, entry in enumerate(entries):
        here = f"{path} → file {number}"
        compatible = _c_string(entry.compatible)
        decoder = context.file_decoders.get(compatible)
        name = f"{owner} / file {entry.token:#x}"
        content = None
        if decoder and context.is_first(entry.data, name, "descriptor", here):
            content = decoder(context, entry.data, name, here)
        files.append(LuoFile(compatible, entry.data, entry.token, content, here))
    return tuple(files)


def _flbs(context: Context, paddr: PhysAddr, path: str) -> tuple[LuoFlb, ...]:
    """FLB data is opaque: the array is claimed, what its entries point to is not."""
    if not paddr:
        return ()
    here = f"{path} → flbs"
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
        context.claims.add(OWNER, "FLB array", paddr, 1)
        return ()
    size = pgcnt << context.geometry.shift
    context.claims.add(OWNER, "FLB array", paddr, size)
    entries = _read_array(context, paddr, header, layout.luo_flb_ser, size, here)
    return tuple(
        LuoFlb(_c_string(one.name), one.name, one.data, one.count, f"{here} → {number}")
        for number, one in enumerate(entries)
    )


@lru_cache(64)
def _c_string(raw: bytes) -> str:
    return text_of(raw.split(b"\0")[0])


def _is_raw(blob: Blob) -> bool:
    return layout.luo_compatible(blob.data).rstrip(b"\0") == b"luo-v5"


DECODERS = (
    BlobDecoder("luo-v1", "LUO", is_fdt("luo-v1"), decode_fdt),
    BlobDecoder("luo-v5", "LUO", _is_raw, decode_raw),
)
