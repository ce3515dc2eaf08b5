"""Files of LUO by their contents: sessions, lists of files and descriptors, held to each other."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kho_inspect.abi import ABIS
from kho_inspect.carve.scan import HEAD, AnchorKind, are_memfds, are_sessions, end_of, padded
from kho_inspect.carve.verify import Verified, verify
from kho_inspect.decoders.context import Context
from kho_inspect.decoders.luo import session_of
from kho_inspect.decoders.memfd import LAYOUTS, Memfd
from kho_inspect.decoders.registry import FILE_DECODERS
from kho_inspect.geometry import PageGeometry
from kho_inspect.layouts import luo as layout
from kho_inspect.layouts.block import kho_block_header
from kho_inspect.layouts.views import Layout, dtype_of, parse_record
from kho_inspect.limits import Limits
from kho_inspect.memory import PhysicalMemory, read_or_none
from kho_inspect.model.contents import FileContent, FileEntries, FileEntry
from kho_inspect.model.faults import Fault, FaultKind
from kho_inspect.model.identity import ClaimKind
from kho_inspect.model.luo import LUO, LuoFile, LuoSession
from kho_inspect.model.preserved import Preserved
from kho_inspect.model.provenance import Doubt, DoubtKind, Structure
from kho_inspect.ownership.claims import ClaimLog
from kho_inspect.units import PhysAddr, plural
from kho_inspect.walk.block import walk_blocks
from kho_inspect.walk.faults import FaultLog

MAX_EXAMINED = 1 << 17
"""Lists of sessions or files, and descriptors, that are decoded: more pass no dump's comparison."""
HANDLERS = {AnchorKind.MEMFD_V1: "memfd-v1", AnchorKind.MEMFD_V2: "memfd-v2"}

_HEAD = np.dtype(f"V{HEAD}")
WORK = 16
"""How often all that one handover may have is read, for all places together."""
_BUDGETS = ("entries_left", "table_bytes_left", "pages_left")
_OF_LISTS = frozenset(
    kind
    for kind in FaultKind
    if kind.name.startswith("BLOCK_") or kind is FaultKind.RECORD_UNCOUNTED
)
"""What is wrong with a chain or an array; any but the last ends it."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A session whose list of files agrees with it, or such a list without a session."""

    session: LuoSession
    structures: tuple[Structure, ...]
    """What leads to its files, the list itself last."""
    doubts: tuple[Doubt, ...]
    named: bool
    """There is a session."""
    blob: PhysAddr | None
    """The sub-node's blob that points to the sessions."""
    weight: int
    """Files in the list of sessions that are verified."""

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """Sorts the most credible first."""
        return (not self.named, self.blob is None, bool(self.doubts), -self.weight)


class Files:
    """Finds and holds to each other what belongs to LUO, for one page size."""

    def __init__(self, memory: PhysicalMemory, shift: int, limits: Limits) -> None:
        self.memory = memory
        self.geometry = PageGeometry(shift, ABIS[-1])
        self.rejected: Counter[str] = Counter()
        self.examined, self.most = 0, MAX_EXAMINED
        self.passed_over = 0
        self.end = end_of(memory)
        self.verified: dict[tuple[str, PhysAddr], Verified | None] = {}
        """Handler and descriptor → what came of it."""
        self.read_before: set[PhysAddr] = set()
        """Blocks and arrays of sessions."""
        decoders = {handler: partial(self._decode, handler) for handler in LAYOUTS}
        none = Preserved(shift, {})
        self.context = Context(
            memory, self.geometry, none, ClaimLog(shift), FaultLog(), decoders, limits
        )
        self.left = {name: WORK * getattr(self.context, name) for name in _BUDGETS}
        """What may still be read for all places together."""

    @contextmanager
    def decoding(self) -> Iterator[Context]:
        """A context for one place: with logs and budgets of its own, within those of all."""
        context = copy(self.context)
        context.claims, context.faults = ClaimLog(self.geometry.shift), FaultLog()
        context.followed, context.spent = {}, Counter()
        given = {name: min(getattr(context, name), self.left[name]) for name in _BUDGETS}
        vars(context).update(given)
        yield context
        for name, size in given.items():
            self.left[name] -= size - getattr(context, name)

    def afford(self) -> bool:
        """Whether one place more may be looked into."""
        if self.examined >= self.most or min(self.left.values()) <= 0:
            self.passed_over += 1
            return False
        self.examined += 1
        return True

    def _decode(
        self, handler: str, context: Context, entries: Sequence[FileEntry]
    ) -> list[FileContent | None]:
        """The memfds of some files, each descriptor decoded and verified once."""
        new = {one.data: one for one in entries if (handler, one.data) not in self.verified}
        self.verified.update(((handler, data), None) for data in new)
        like = [new[data] for data in self._descriptors(handler, list(new))]
        self.rejected["memfd: does not begin as one"] += len(new) - len(like)
        files = FileEntries(
            np.array([one.data for one in like], dtype=np.uint64),
            context.claims.add_owners(one.owner for one in like),
            like.__getitem__,
            np.arange(len(like)),
        )
        decoded = FILE_DECODERS[handler](context, files)
        for one, memfd in zip(like, decoded, strict=True):
            if isinstance(memfd, Memfd):
                found = verify(self.memory, self.geometry, memfd)
                if isinstance(found, Verified):
                    self.verified[handler, one.data] = found
                else:
                    self.rejected[f"memfd: {found}"] += 1
        every = (self.verified[handler, one.data] for one in entries)
        return [None if one is None else one.memfd for one in every]

    def _descriptors(self, handler: str, paddrs: Sequence[PhysAddr]) -> list[PhysAddr]:
        """Which addresses have what begins like a descriptor, or like that of an empty file."""
        places = np.array(paddrs, dtype=np.uint64)
        places = places[places % self.geometry.page_size == 0]
        places = places[self.memory.stored_mask(places, HEAD)]
        heads = self.memory.gather(places, _HEAD).view(np.uint8).reshape(len(places), HEAD)
        # An empty file has a position, and nothing else.
        begins = are_memfds(heads, self.end, handler) | ~heads[:, 8:].any(axis=1)
        found: list[PhysAddr] = places[begins].tolist()
        return found

    def _beginning(self, records: NDArray[Any]) -> int:
        """How many files of a list have a descriptor that begins like one."""
        found = 0
        for handler in LAYOUTS:
            data = records["data"][records["compatible"] == _name(handler)]
            found += len(self._descriptors(handler, data.tolist()))
        return found

    def lone(self, handler: str, data: PhysAddr) -> Verified | None:
        """The memfd whose descriptor is at ``data``, which no list needs to name."""
        if (handler, data) not in self.verified and self.afford():
            with self.decoding() as context:
                self._decode(handler, context, [FileEntry(data, LUO, ())])
        found = self.verified.get((handler, data))
        # The kernel sets both flags of every folio; without a list, only what it writes is one.
        return found if found is not None and found.memfd.table.flags.all() else None

    # -- lists

    def sessions(
        self, chained: bool, paddr: PhysAddr, blob: PhysAddr | None = None, vouched: bool = False
    ) -> list[Listed]:
        """The sessions of a block or array that agree with their files; none if it is no such.

        From a block that a blob or the user (``vouched``) names, its chain is followed; what a
        session that the user names counts may be wrong.
        """
        found: list[tuple[PhysAddr, LuoSession, tuple[Doubt, ...]]] = []
        blocks = [paddr]
        if chained and (vouched or blob is not None):
            entry, limit = layout.luo_session_ser, self.context.limits.files
            way = self.memory, self.geometry, paddr
            blocks = walk_blocks(*way, entry, (), FaultLog(), limit)[0]
        for block in blocks:
            self.read_before.add(block)
            found += ((block, *one) for one in self._sessions(chained, block, vouched))
        weight = sum(self._weight(session) for _, session, _ in found)
        if not weight:
            return []
        block_kind = ClaimKind.SESSION_BLOCK if chained else ClaimKind.SESSION_ARRAY
        list_kind = ClaimKind.FILE_BLOCK if chained else ClaimKind.FILE_ARRAY
        above = [] if blob is None else [Structure(ClaimKind.BLOB, blob)]
        return [
            Listed(
                session,
                (*above, Structure(block_kind, block), Structure(list_kind, session.files_pa)),
                doubts,
                True,
                blob,
                weight,
            )
            for block, session, doubts in found
        ]

    def _sessions(
        self, chained: bool, paddr: PhysAddr, vouched: bool
    ) -> Iterator[tuple[LuoSession, tuple[Doubt, ...]]]:
        """The sessions of one block or array, each with what is doubtful about it."""
        header = kho_block_header if chained else layout.luo_session_header_ser
        most = self.geometry.page_size * (1 if chained else layout.LUO_SESSION_PGCNT)
        record = layout.luo_session_ser
        records = self._records(header, record, paddr, most)
        good = are_sessions(records, self.end) & (records["files"] > 0)
        if not vouched:
            good[good] = self._counts_agree(chained, records[good])
        for number in np.flatnonzero(good).tolist():
            entry = records[number]
            files = self._list(chained, int(entry["files"]))[: int(entry["count"])]
            if not (vouched or self._beginning(files)):
                self.rejected["session: no file of its list begins as one"] += 1
                continue
            if not self.afford():
                return
            with self.decoding() as context:
                session = session_of(context, records[number : number + 1], chained)
            doubts = self._judge(session, context.faults.result(), vouched)
            if doubts is not None:
                yield session, doubts

    def unnamed(
        self, chained: bool, paddr: PhysAddr, taken: Container[PhysAddr], known: Container[PhysAddr]
    ) -> Listed | None:
        """The list of files at ``paddr``, if most of it reads as files and none is ``taken``.

        ``known``: lists that a session names. Files of other handlers count neither way.
        """
        records = self._list(chained, paddr)
        begins = 0 if paddr in known or not len(records) else self._beginning(records)
        ours = sum(int((records["compatible"] == _name(handler)).sum()) for handler in LAYOUTS)
        if not begins or 2 * begins < ours or not self.afford():
            return None
        fields = [(b"", paddr, len(records))]
        entry = np.array(fields, dtype_of(layout.luo_session_ser))
        with self.decoding() as context:
            session = session_of(context, entry, chained)
        doubts = self._judge(session, context.faults.result(), vouched=chained)
        weight = self._weight(session)
        others = any(file.content is not None and file.data in taken for file in session.files)
        if doubts is None or others or 2 * weight < sum(file.known for file in session.files):
            self.rejected["file list: too few that read as files"] += not others
            return None
        kind = ClaimKind.FILE_BLOCK if chained else ClaimKind.FILE_ARRAY
        words = "no session names the list that it stands in"
        doubts = (*doubts, Doubt(DoubtKind.UNNAMED, words))
        return Listed(session, (Structure(kind, paddr),), doubts, False, None, weight)

    def _weight(self, session: LuoSession) -> int:
        """Files with content that reads well: an empty one proves nothing."""
        return sum(file.content is not None and file.content.size > 0 for file in session.files)

    def _judge(
        self, session: LuoSession, faults: Iterable[Fault], vouched: bool
    ) -> tuple[Doubt, ...] | None:
        """What is doubtful about a session; None if it is none."""
        files = session.files
        tokens = {file.token for file in files}
        if not files or len(tokens) < len(files) or not all(map(_is_file, files)):
            self.rejected["session: its list holds no files"] += 1
            return None
        faults = [fault for fault in faults if fault.kind in _OF_LISTS]
        agrees = len(files) == session.count
        broken = any(fault.kind is not FaultKind.RECORD_UNCOUNTED for fault in faults)
        if not (agrees or vouched or (broken and len(files) < session.count)):
            self.rejected["session: count and list of files do not fit"] += 1
            return None
        doubts = [Doubt(DoubtKind.FAULT, fault.message) for fault in faults]
        lost = sum(file.known and file.content is None for file in files)
        if lost or not agrees:
            words = f"of the {plural(session.count, 'file')} of its session, "
            words += f"{len(files) - lost:,} read as such"
            doubts.append(Doubt(DoubtKind.SESSION_INCOMPLETE, words))
        return tuple(doubts)

    # -- what is compared before anything is decoded

    def _counts_agree(self, chained: bool, records: NDArray[Any]) -> NDArray[np.bool_]:
        """Which sessions have a list of files as long as they count, as far as its ends show."""
        files, counts = records["files"], records["count"]
        size = dtype_of(layout.luo_file_ser).itemsize
        head = kho_block_header.sizeof() if chained else 0
        room = (self.geometry.page_size * (1 if chained else layout.LUO_FILE_PGCNT) - head) // size
        agree = np.ones(len(records), dtype=bool)
        if not chained:
            agree &= counts <= room
        agree &= files % self.geometry.page_size == 0
        last = files + np.uint64(head) + (np.minimum(counts, room) - np.uint64(1)) * np.uint64(size)
        for at in (files + np.uint64(head), last):
            agree &= self.memory.stored_mask(at, size)
            entries = self.memory.gather(at[agree], dtype_of(layout.luo_file_ser))
            agree[agree] = padded(entries["compatible"]) & (entries["data"] > 0)
        if chained:
            header = self.memory.gather(files[agree], dtype_of(kho_block_header))
            agree[agree] = header["count"] == np.minimum(counts[agree], room)
        return agree

    def _records(self, header: Layout, record: Layout, paddr: PhysAddr, most: int) -> NDArray[Any]:
        """The entries behind a header, none where their count or the memory does not allow it."""
        dtype, start = dtype_of(record), header.sizeof()
        none = np.empty(0, dtype)
        if paddr % self.geometry.page_size:
            return none
        head = read_or_none(self.memory, paddr, start)
        count = parse_record(header, head).count if head else 0
        if not 0 < count <= (most - start) // dtype.itemsize:
            return none
        records = read_or_none(self.memory, paddr + start, count * dtype.itemsize)
        return none if records is None else np.frombuffer(records, dtype)

    def _list(self, chained: bool, paddr: PhysAddr) -> NDArray[Any]:
        """Files of a list: a block says how many, an array goes on as far as it reads as one."""
        page = self.geometry.page_size
        if chained:
            return self._records(kho_block_header, layout.luo_file_ser, paddr, page)
        dtype = dtype_of(layout.luo_file_ser)
        for pages in range(0 if paddr % page else layout.LUO_FILE_PGCNT, 0, -1):
            if (raw := read_or_none(self.memory, paddr, pages * page)) is not None:
                records = np.frombuffer(raw, dtype)
                good = padded(records["compatible"]) & (records["data"] > 0)
                return records if good.all() else records[: int(good.argmin())]
        return np.empty(0, dtype)


def _name(handler: str) -> np.void:
    """A handler's name as an entry has it."""
    size = dtype_of(layout.luo_file_ser)["compatible"].itemsize
    return np.void(handler.encode().ljust(size, b"\0"))


def _is_file(file: LuoFile) -> bool:
    """Whether an entry has a handler's name: printable text, in which no byte is escaped."""
    name = file.compatible
    return bool(name) and name.isascii() and name.isprintable() and "\\" not in name
