"""The printk ring buffer: descriptors, what is known of each record, and blocks of text.

``kernel/printk/printk_ringbuffer.c``. The ring is lockless: a record can be read when its
descriptor says so, holds the very id that is looked for, and its block of text begins with that id.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kho_inspect.kernel_log.translate import (
    AddressSpace,
    Shifted,
    pieces,
    read_filled,
    read_virtual,
)
from kho_inspect.kernel_log.vmcoreinfo import VmcoreInfo
from kho_inspect.layouts import printk
from kho_inspect.layouts.views import format_of
from kho_inspect.memory import PhysicalMemory
from kho_inspect.units import Extent, PhysAddr

MAX_COUNT_BITS = 26
MAX_SIZE_BITS = 31
"""Text of 2 GiB, LOG_BUF_LEN_MAX of the kernel's, and a record for every 32 bytes of it."""
WHOLE = 64 << 20
"""Bytes of text up to which all of a ring is read; of a larger one what it says is in use."""
MAX_STRUCT = 4096
"""Bytes of any struct of the ring."""
BATCH = 4096
"""Records that are read at a time."""
MAX_BLOCK = 4096
"""Bytes of one record's text, of which the kernel writes at most a quarter (LOG_LINE_MAX)."""
MAX_CARVED = 1 << 16
"""Records that are carved from one place."""

SCAN_BYTES = 1 << 20
MAX_BEFORE = 256
"""Records before the one that names the kernel: on arm64 there is one."""

_IDS = np.uint64(printk.ID_MASK)
_UPPER_HALF = 1 << 63
_ID = format_of(printk.prb_data_block)


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a kernel's log."""

    text: str
    """Without the line's end; bytes that are no UTF-8 are spelled ``\\xff``."""
    seq: int | None = None
    ts_nsec: int | None = None
    level: int | None = None
    """0 (emergency) to 7 (debug)."""
    facility: int | None = None
    """0: the kernel itself."""
    carved: bool = False
    """Its text was found where the ring no longer leads to it: order and end may be wrong."""

    @property
    def seconds(self) -> float | None:
        """Since boot."""
        return None if self.ts_nsec is None else self.ts_nsec / 1e9


@dataclass(frozen=True, slots=True)
class RingLayout:
    """Where the fields of the ring's structs stand."""

    ring: np.dtype[Any]
    desc: np.dtype[Any]
    info: np.dtype[Any]


def ring_layout(info: VmcoreInfo | None) -> RingLayout | None:
    """As ``info`` says, without one as the known kernels have it; None where that cannot be."""
    if info is None:
        return RingLayout(
            *(printk.placed(name, lambda _: None, lambda _: None) for name in printk.RECORDS)
        )
    try:
        found = [printk.placed(name, info.offset, info.size) for name in printk.RECORDS]
    except (ValueError, OverflowError):
        return None
    return RingLayout(*found) if all(one.itemsize <= MAX_STRUCT for one in found) else None


@dataclass(frozen=True, slots=True)
class Ring:
    """All that was read of one ring."""

    entries: tuple[Entry, ...] = field(repr=False)
    lost: int
    """Records of which nothing could be read."""
    data: tuple[Extent, ...]
    """Where its text stands in memory."""


@dataclass(slots=True)
class Work:
    """What may still be read of rings, in bytes: a dump may hold thousands that share memory."""

    left: int

    def take(self, size: int) -> bool:
        """Whether ``size`` bytes more may be read; they are counted then."""
        if size > self.left:
            return False
        self.left -= size
        return True


def read_ring(
    memory: PhysicalMemory,
    space: AddressSpace,
    vaddr: int,
    layout: RingLayout,
    work: Work,
    *,
    checked: bool = False,
) -> Ring | None:
    """The ring whose ``printk_ringbuffer`` is at ``vaddr``; None where there is none.

    None too where it is more than ``work`` has left, which no ring is that the dump has room for.
    ``checked``: only one whose newest descriptor is the one that it says, for a place that was
    guessed.
    """
    raw = read_virtual(memory, space, vaddr, layout.ring.itemsize)
    if raw is None:
        return None
    reader = _Reader(memory, space, layout, raw)
    sound = reader.plausible and (reader.ends_at_head or not checked)
    return reader.result() if sound and work.take(reader.cost) else None


class _Reader:
    def __init__(
        self, memory: PhysicalMemory, space: AddressSpace, layout: RingLayout, raw: bytes
    ) -> None:
        self.memory, self.space, self.layout = memory, space, layout
        ring = np.frombuffer(raw, layout.ring, count=1)[0]
        descs, texts = ring["desc_ring"], ring["text_data_ring"]
        self.count_bits, self.size_bits = int(descs["count_bits"]), int(texts["size_bits"])
        self.descs, self.infos = int(descs["descs"]), int(descs["infos"])
        self.head, self.tail = int(descs["head_id"]), int(descs["tail_id"])
        self.data_at = int(texts["data"])
        self.begin, self.end = int(texts["tail_lpos"]), int(texts["head_lpos"])
        self.lost = 0

    @property
    def plausible(self) -> bool:
        """Whether this may be a ring at all, and one that the dump has room for."""
        if not (0 < self.count_bits <= MAX_COUNT_BITS and 3 < self.size_bits <= MAX_SIZE_BITS):
            return False
        record = self.layout.desc.itemsize + self.layout.info.itemsize
        size = (record << self.count_bits) + (1 << self.size_bits)
        return (
            min(self.descs, self.infos, self.data_at) >= _UPPER_HALF
            and max(self.head, self.tail) <= printk.ID_MASK
            and size <= sum(extent.size for extent in self.memory.declared)
        )

    @property
    def ends_at_head(self) -> bool:
        """Whether the newest descriptor is the head's: two kernels of one build are told apart."""
        ids = []
        for number in (self.head, self.head + 1):
            index = number & (1 << self.count_bits) - 1
            descs, whole = self.items(self.descs, self.layout.desc, index, 1)
            ids.append(int(descs[0]["state_var"]) & printk.ID_MASK if whole[0] else None)
        return ids[0] == self.head and ids[1] != self.head + 1 & printk.ID_MASK

    @property
    def count(self) -> int:
        """Records: no more than there are descriptors, whatever the two ids say."""
        return min((self.head - self.tail & printk.ID_MASK) + 1, 1 << self.count_bits)

    @property
    def cost(self) -> int:
        """Bytes to read."""
        record = self.layout.desc.itemsize + self.layout.info.itemsize
        return self.count * record + sum(end - start for start, end in self.used)

    @property
    def used(self) -> list[tuple[int, int]]:
        """The parts of the text that are read."""
        size, length = 1 << self.size_bits, self.end - self.begin & (1 << 64) - 1
        if size <= WHOLE or length >= size:
            return [(0, size)]
        start = self.begin % size & -_ID.size
        end = start + length + _ID.size & -_ID.size
        # A block that would wrap around stands at the start of the ring.
        return [(start, min(end, size))] + ([(0, end - size)] if end > size else [])

    def batches(self) -> Iterator[tuple[int, int]]:
        """The same in parts of 1 MiB at the most."""
        for start, end in self.used:
            yield from ((at, min(at + SCAN_BYTES, end)) for at in range(start, end, SCAN_BYTES))

    @cached_property
    def data(self) -> tuple[memoryview, list[tuple[int, int]]]:
        """The text, zeros where it is not used, and which parts of it lack."""
        text, missing = np.zeros(1 << self.size_bits, dtype=np.uint8), []
        for start, end in self.batches():
            raw, lacks = read_filled(self.memory, self.space, self.data_at + start, end - start)
            text[start:end] = np.frombuffer(raw, dtype=np.uint8)
            missing += [(start + first, start + last) for first, last in lacks]
        return text.data.toreadonly(), missing

    def result(self) -> Ring:
        places = tuple(
            Extent(paddr, paddr + size)
            for start, end in self.used
            for paddr, size in pieces(self.space, self.data_at + start, end - start)
            if paddr is not None
        )
        entries = tuple(self.entries())
        return Ring(entries, self.lost, places)

    def entries(self) -> Iterator[Entry]:
        count, number = 1 << self.count_bits, self.count
        first = self.head - number + 1 & printk.ID_MASK
        done = 0
        while done < number:
            start = first + done & printk.ID_MASK
            index = start & count - 1
            batch = min(BATCH, number - done, count - index)
            descs, have_desc = self.items(self.descs, self.layout.desc, index, batch)
            wanted = np.uint64(start) + np.arange(batch, dtype=np.uint64) & _IDS
            there = led_to = have_desc & (descs["state_var"] & _IDS == wanted)
            if not led_to.all():
                # Of a ring of which nothing is left, millions of records need no look each.
                there = led_to | np.isin(wanted, self.block_ids)
                self.lost += int(np.count_nonzero(~there))
            done += batch
            if not there.any():
                continue
            infos, have_info = self.items(self.infos, self.layout.info, index, batch)
            for at in np.flatnonzero(there).tolist():
                entry = self.record(
                    int(wanted[at]),
                    descs[at] if led_to[at] else None,
                    infos[at] if have_info[at] else None,
                )
                if entry is not None:
                    yield entry

    def items(
        self, vaddr: int, dtype: np.dtype[Any], index: int, count: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Items of an array, and which of them are whole."""
        size = dtype.itemsize
        raw, missing = read_filled(self.memory, self.space, vaddr + index * size, count * size)
        whole = np.ones(count, dtype=bool)
        for start, end in missing:
            whole[start // size : -(-end // size)] = False
        return np.frombuffer(raw, dtype), whole

    def record(self, wanted: int, desc: Any, info: Any) -> Entry | None:
        """One record, without ``desc`` if none leads there; None where it is lost or unwritten."""
        if desc is None:
            return self.carve(wanted, info)
        state_var = int(desc["state_var"])
        if state_var >> printk.STATE_SHIFT not in (printk.COMMITTED, printk.FINALIZED):
            return None
        begin, end = (int(desc["text_blk_lpos"][name]) for name in ("begin", "next"))
        if begin & end & printk.NO_TEXT:
            if begin == end == printk.EMPTY_LINE and info is not None:
                return self.known(info, b"")
            self.lost += 1
            return None
        text = self.block(wanted, begin, end)
        if text is None or info is None:
            return self.carve(wanted, info)
        return self.known(info, text[: int(info["text_len"])])

    def block(self, wanted: int, begin: int, end: int) -> memoryview | None:
        """The text in the block from ``begin`` to ``end``, its head off; None where it is not.

        Blocks do not wrap around: one that would stands at the start of the ring instead.
        """
        size = 1 << self.size_bits
        length = end - begin & (1 << 64) - 1
        start = begin % size
        for at, stop in ((start, start + length), (0, end % size)):
            if _ID.size <= stop - at and stop <= size and self.id_at(at) == wanted:
                if any(first < stop and at < last for first, last in self.data[1]):
                    return None
                return memoryview(self.data[0])[at + _ID.size : stop]
        return None

    def id_at(self, at: int) -> int:
        return int(_ID.unpack_from(self.data[0], at)[0])

    def known(self, info: Any, text: bytes | memoryview, carved: bool = False) -> Entry:
        return Entry(
            bytes(text).decode(errors="backslashreplace"),
            int(info["seq"]),
            int(info["ts_nsec"]),
            int(info["flags_level"]) >> printk.LEVEL_SHIFT,
            int(info["facility"]),
            carved,
        )

    # -- a ring that is broken

    @cached_property
    def blocks(self) -> dict[int, int]:
        """Where in the text each id stands that one of the records may have."""
        found: dict[int, int] = {}
        for start, end in self.batches():
            words = np.frombuffer(self.data[0][start:end], dtype="<u8")
            age = np.uint64(self.head) - words & _IDS
            at = np.flatnonzero((age >> np.uint64(self.count_bits) == 0) & (words <= _IDS))
            found.update(zip(words[at].tolist(), (at + start // 8).tolist(), strict=True))
        return found

    @cached_property
    def block_ids(self) -> NDArray[np.uint64]:
        return np.array(list(self.blocks), dtype=np.uint64)

    @cached_property
    def block_starts(self) -> list[int]:
        return sorted(self.blocks.values())

    def carve(self, wanted: int, info: Any) -> Entry | None:
        """A record that no descriptor leads to, by the id that its text begins with."""
        word = self.blocks.get(wanted)
        if word is None:
            self.lost += 1
            return None
        starts = self.block_starts
        after = bisect_right(starts, word)
        end = 8 * starts[after] if after < len(starts) else 1 << self.size_bits
        at = 8 * word + _ID.size
        gaps = (first for first, last in self.data[1] if last > at)
        raw = bytes(self.data[0][at : min(end, at + MAX_BLOCK, *gaps)])
        # The first id is minus the number of descriptors, that of record 0.
        seq = wanted + (1 << self.count_bits) & printk.ID_MASK
        if info is not None and int(info["seq"]) == seq:
            return self.known(info, raw[: int(info["text_len"])], carved=True)
        return Entry(carved_text(raw), seq, carved=True)


def carved_text(raw: bytes) -> str:
    """The text at the start of ``raw``, whose length is not known.

    ``printk_sprint()`` takes the prefix of the level out by moving the rest up, so that the last
    two characters stand there twice, with the end of the line behind them.
    """
    text = raw.partition(b"\0")[0].rstrip(b"\n")
    if len(text) >= 4 and text[-2:] == text[-4:-2]:
        text = text[:-2]
    return text.decode(errors="backslashreplace")


def first_block(memory: PhysicalMemory, block: PhysAddr) -> PhysAddr:
    """The first of the blocks that lead up to ``block``, each with the id before the next one's."""
    for _ in range(MAX_BEFORE):
        near = _read_near(memory, block - MAX_BLOCK, block)
        (number,) = _ID.unpack(memory.read(block, _ID.size))
        before = near.rfind(_ID.pack(number - 1 & printk.ID_MASK))
        if before < 0 or (len(near) - before) % _ID.size:
            break
        block -= len(near) - before
    return block


def carve_blocks(memory: PhysicalMemory, block: PhysAddr) -> tuple[tuple[Entry, ...], Extent]:
    """The records around ``block``, as far as each is followed by that of the next id."""
    start = at = first_block(memory, block)
    entries: list[Entry] = []
    (number,) = _ID.unpack(memory.read(at, _ID.size))
    while len(entries) < MAX_CARVED:
        text = at + _ID.size
        near = _read_near(memory, text, text + MAX_BLOCK)
        number = number + 1 & printk.ID_MASK
        after = near.find(_ID.pack(number))
        entries.append(Entry(carved_text(near[:after] if after >= 0 else near), carved=True))
        if after < 0 or after % _ID.size:
            break
        at = text + after
    return tuple(entries), Extent(start, at + MAX_BLOCK)


def _read_near(memory: PhysicalMemory, start: PhysAddr, end: PhysAddr) -> bytes:
    """What is stored of a range, next to that end of it which is."""
    found, missing = read_filled(memory, Shifted(0), max(0, start), end - max(0, start))
    return bytes(found) if not missing else bytes(found[: missing[0][0]])
