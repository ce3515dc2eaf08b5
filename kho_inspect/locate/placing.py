"""Where may a raw file's bytes stand in memory? What the blobs of a handover begin with is known.

Each pair of a blob pointer and such a beginning in the file votes for one difference between
address and file offset. Votes only propose: they prove nothing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kho_inspect.abi import Abi
from kho_inspect.layouts.fdt import fdt_header
from kho_inspect.layouts.kexec_metadata import KHO_KEXEC_METADATA_VERSION
from kho_inspect.layouts.v1 import khoser_mem_chunk_hdr
from kho_inspect.layouts.views import parse_record
from kho_inspect.locate.fdt_headers import fdt_headers
from kho_inspect.locate.scan import SCAN_BYTES
from kho_inspect.memory import PhysicalMemory, Presence, RamBlock, read_or_none
from kho_inspect.memory.files import DumpFile
from kho_inspect.memory.raw import open_raw
from kho_inspect.units import PhysAddr

MAX_SCANNED = 4 << 30
"""Bytes that are searched."""
MAX_BEGINNINGS = 4096
"""Beginnings of blobs that are kept."""
MAX_DIFFERENCES = 256
"""Differences with most votes that are proposed as a base."""
MAX_COMBINED = 8
"""Of them, those that are combined with one for the other side of 4 GiB."""

GRAIN = 4096
"""Blobs start on pages, of 4 KiB at the least."""
HOLE_END = 1 << 32
"""Where the RAM of a PC goes on behind the hole for devices."""
USUAL_BASES = (0, 1 << 30, 1 << 31)
"""Where RAM starts: PC; QEMU's arm64 ``virt``; Firecracker on arm64."""
USUAL_HOLES = (1 << 31, 3 << 30)
"""Where the hole below 4 GiB starts: QEMU's q35; its i440fx, and Firecracker."""

_LUO = int.from_bytes(b"luo-v", "little")
_LUO_MASK = (1 << 40) - 1


def propose_layouts(
    pointers: Sequence[PhysAddr], offsets: NDArray[np.uint64], size: int
) -> list[tuple[int, tuple[RamBlock, ...]]]:
    """Votes and layout of a file of ``size`` bytes with blobs at ``offsets``, best first.

    One block at a base, or two around the hole that PCs have below 4 GiB.
    """
    low = _votes([paddr for paddr in pointers if paddr < HOLE_END], offsets)
    high = _votes([paddr for paddr in pointers if paddr >= HOLE_END], offsets)
    found = [
        (low[blocks[0].paddr] + high[blocks[-1].paddr - blocks[-1].offset], blocks)
        for blocks in _layouts(low, high, size)
    ]
    return sorted(found, key=lambda one: (-one[0], len(one[1])))


def _layouts(low: Counter[int], high: Counter[int], size: int) -> Iterator[tuple[RamBlock, ...]]:
    """Ways to lay out ``size`` bytes of file: at one base, or around a hole below 4 GiB."""
    bases = [base for base, _ in (low + high).most_common(MAX_DIFFERENCES)]
    for base in dict.fromkeys([*bases, *USUAL_BASES]):
        if base + size <= 1 << 64:
            yield (RamBlock(base, 0, size),)
    starts = [0, *(start for start, _ in low.most_common(MAX_COMBINED))]
    shifts = [HOLE_END - hole for hole in USUAL_HOLES]
    shifts += [shift for shift, _ in high.most_common(MAX_COMBINED)]
    for start in dict.fromkeys(starts):
        for shift in dict.fromkeys(shifts):
            below = HOLE_END - shift
            if start < shift and 0 < below < size:
                yield RamBlock(start, 0, below), RamBlock(HOLE_END, below, size - below)


def _votes(pointers: Sequence[PhysAddr], offsets: NDArray[np.uint64]) -> Counter[int]:
    """How many pairs of pointer and file offset there are of each difference."""
    votes: Counter[int] = Counter()
    for paddr in set(pointers):
        if paddr % GRAIN == 0:
            votes.update((np.uint64(paddr) - offsets[offsets <= np.uint64(paddr)]).tolist())
    return votes


def addresses(blocks: Sequence[RamBlock], offsets: Sequence[int]) -> list[PhysAddr]:
    """Where file offsets stand in memory."""
    return [
        one.paddr + at - one.offset
        for at in offsets
        for one in blocks
        if one.offset <= at < one.offset + one.size
    ]


def may_be_map(memory: PhysicalMemory, abi: Abi, paddr: PhysAddr) -> bool:
    """Whether what stands at ``paddr`` looks like the start of a map, its first page alone."""
    if memory.presence(paddr, GRAIN) is not Presence.STORED:
        return False
    data = memory.read(paddr, GRAIN)
    words = np.frombuffer(data, dtype="<u8")
    used = words[words != 0]
    if not len(used):
        return False
    if abi.radix:
        return not (used % GRAIN).any() and bool(memory.stored_mask(used, GRAIN).all())
    chunk = parse_record(khoser_mem_chunk_hdr, data)
    # A bitmap of order 52 would be beyond any address; a 64K page has room for 4095 elements.
    return not (chunk.next % GRAIN or chunk.order > 52 or chunk.num_elms >= GRAIN)


def find_beginnings(file: DumpFile) -> NDArray[np.uint64]:
    """Offsets of the pages of a file that begin as a blob does."""
    memory = open_raw(file, base=0, blocks=())
    found: list[int] = []
    seen = 0
    for start, chunk in memory.data_chunks(SCAN_BYTES, 0):
        skip = -start % GRAIN
        words = np.frombuffer(chunk[skip : skip + max(0, len(chunk) - skip) // 8 * 8], dtype="<u8")
        found += [start + skip + 8 * at for at in _beginnings(words).tolist()]
        seen += len(chunk)
        if seen >= MAX_SCANNED or len(found) >= MAX_BEGINNINGS:
            break
    return np.array(found[:MAX_BEGINNINGS], dtype=np.uint64)


def _beginnings(words: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Which words, of those at every :data:`GRAIN` bytes, begin a known kind of blob."""
    step = GRAIN // 8
    fdts = fdt_headers(words)
    heads = words[::step]
    luo = heads & np.uint64(_LUO_MASK) == _LUO
    # kexec-metadata: its version, then a release such as "7.3.4".
    second = heads >> np.uint64(40) & np.uint64(0xFF)
    metadata = (heads & np.uint64(0xFFFFFFFF) == KHO_KEXEC_METADATA_VERSION) & (
        ((heads >> np.uint64(32) & np.uint64(0xFF)) - np.uint64(ord("1")) < 9)
        & ((second == ord(".")) | (second - np.uint64(ord("0")) < 10))
    )
    others = step * np.flatnonzero(luo | metadata)
    return np.union1d(fdts[fdts % step == 0], others)


def begins_blob(memory: PhysicalMemory, paddr: PhysAddr) -> bool:
    """Whether what stands at ``paddr`` begins as a blob does."""
    data = read_or_none(memory, paddr, fdt_header.sizeof() // 8 * 8)
    return data is not None and len(_beginnings(np.frombuffer(data, dtype="<u8"))) > 0
