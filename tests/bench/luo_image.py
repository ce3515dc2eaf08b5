"""A Live Update Orchestrator with very many memfds, as a sparse raw dump."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.bench.maker import Maker
from tests.support.builder import Tree, fdt_blob

if TYPE_CHECKING:
    from numpy.typing import NDArray

    I64 = NDArray[np.int64]

ORDERS = (0, 2)
"""Orders of the folios: every other memfd's."""


def luo_image(
    folder: Path, memfds: int, folios: int, *, per_session: int = 1000, wild: bool = False
) -> tuple[Path, Path]:
    """Write dump.raw and kho.dtb: a luo-v5 with ``memfds`` files of ``folios`` folios each.

    ``wild``: a reserve_mem region that covers all of their content.

    Every other memfd has folios of order 2, one behind the other; those of the rest are single
    pages, all over memory and with gaps between them. Contents are holes of the dump.
    """
    maker = Maker(folder)
    page = maker.page
    ours: list[int] = []
    """Pages of structures, preserved as blocks of order 0."""

    def keep(pages: int = 1) -> int:
        at = maker.take(pages)
        ours.extend(range(at >> 12, (at >> 12) + pages))
        return at

    def chain(entries: list[bytes]) -> int:
        room = (page - 16) // len(entries[0])
        blocks = [keep() for _ in range(0, len(entries), room)]
        for number, (block, following) in enumerate(zip(blocks, [*blocks[1:], 0], strict=True)):
            held = entries[number * room : (number + 1) * room]
            maker.put(block, struct.pack("<QQ", following, len(held)) + b"".join(held))
        return blocks[0]

    table_pages = -(-folios * 16 // page)
    chunks = -(-table_pages // 511)
    # Structures first; content above them, aligned to the largest order.
    fixed = 64 + memfds * (1 + chunks + table_pages + 1) + memfds // 32 + memfds // per_session
    base = -(-(maker.next_page + fixed) // 4) * 4
    scattered = base + (-(-memfds // 2)) * folios * 4
    files, single, large = [], [], []
    for number in range(memfds):
        order = ORDERS[1] if number % 2 == 0 else ORDERS[0]
        each = np.arange(folios, dtype=np.int64)
        if order:
            pfns = base + (number // 2 * folios + each) * 4
            large.append(pfns)
        else:
            # Stride through memory, every fourth page left free.
            slot = each * (memfds // 2) + number // 2
            pfns = scattered + slot + slot // 3
            single.append(pfns)
        files.append(_file(maker, keep, number, pfns, order))
    sessions = []
    for at in range(0, memfds, per_session):
        mine = files[at : at + per_session]
        name = b"session-%d" % (at // per_session)
        sessions.append(struct.pack("<64sQQ", name, chain(mine), len(mine)))
    blob = keep()
    maker.put(blob, struct.pack("<8sQQQ", b"luo-v5", 1, chain(sessions), 0))
    props = [(b"preserved-data", struct.pack("<Q", blob)), (b"blob-size", struct.pack("<Q", 32))]
    maker.subnodes.append(Tree(b"LUO", props))
    if wild:
        size = memfds * folios * 4 << maker.shift
        maker.subnodes.append(_region(maker, keep(), base << maker.shift, size))
    assert maker.next_page <= base, (maker.next_page, base)
    pages = np.concatenate([np.array([1, *ours], dtype=np.int64), *single])
    # Bitmaps and tables stand above all content.
    maker.next_page = int(max(pages.max(), *(one.max() + 4 for one in large))) + 1
    _preserve(maker, 0, pages)
    _preserve(maker, 2, np.concatenate(large) >> 2)
    paths = maker.finish(1 << 62)
    end = (maker.next_page + 16) << 12
    maker.file.truncate(end)
    maker.file.close()
    return paths


def fill(dump: Path) -> None:
    """Write noise to all holes of a sparse file."""
    noise = os.urandom(1 << 20)
    with dump.open("r+b") as file:
        fd, size, at = file.fileno(), dump.stat().st_size, 0
        while at < size:
            at = os.lseek(fd, at, os.SEEK_HOLE)
            try:
                end = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # no data up to the end
                end = size
            while at < end:
                at += os.pwrite(fd, noise[: end - at], at)


def _region(maker: Maker, blob: int, start: int, size: int) -> Tree:
    """The sub-node of one reserve_mem region, and its blob."""
    numbers = [(b"start", struct.pack("<Q", start)), (b"size", struct.pack("<Q", size))]
    region = Tree(b"wild", [(b"compatible", b"reserve-mem-v1\0"), *numbers])
    data = fdt_blob(Tree(b"", [(b"compatible", b"memblock-v1\0")], [region]))
    maker.put(blob, data)
    properties = [(b"preserved-data", blob), (b"blob-size", len(data))]
    return Tree(b"memblock", [(name, struct.pack("<Q", value)) for name, value in properties])


def _file(maker: Maker, keep: object, number: int, pfns: I64, order: int) -> bytes:
    """One memfd and its ``luo_file_ser``."""
    assert callable(keep)
    table = np.empty((len(pfns), 2), dtype="<u8")
    table[:, 0] = pfns.astype(np.uint64) | np.uint64(3 << 52)
    table[:, 1] = np.arange(len(pfns), dtype=np.uint64) << np.uint64(order)
    data = table.tobytes()
    pages = [keep() for _ in range(0, len(data), maker.page)]
    for at, page in enumerate(pages):
        maker.put(page, data[at * maker.page : (at + 1) * maker.page])
    chunks = [keep() for _ in range(0, len(pages), 511)]
    for at, (chunk, following) in enumerate(zip(chunks, [*chunks[1:], 0], strict=True)):
        maker.words(chunk, following, *pages[at * 511 : (at + 1) * 511])
    size = len(pfns) << (order + maker.shift)
    descriptor = keep()
    fields = struct.pack("<QQIIQ", 0, size, 0, 0, len(pfns))
    maker.put(descriptor, fields + struct.pack("<QIHH", chunks[0], len(pages), 1, 0))
    return struct.pack("<48sQQ", b"memfd-v2", descriptor, number)


def _preserve(maker: Maker, order: int, blocks: I64) -> None:
    """Set the bits of blocks, given as multiples of their size."""
    numbers = blocks >> maker.bitmap_bits
    by_number = np.argsort(numbers, kind="stable")
    blocks, numbers = blocks[by_number], numbers[by_number]
    bounds = np.flatnonzero(np.diff(numbers, prepend=-1))
    for low, high in zip(bounds.tolist(), [*bounds[1:].tolist(), len(blocks)], strict=True):
        bits = np.zeros(1 << maker.bitmap_bits, dtype=np.uint8)
        bits[blocks[low:high] & ((1 << maker.bitmap_bits) - 1)] = 1
        data = np.packbits(bits, bitorder="little").tobytes()
        maker.bitmap(order, int(numbers[low]), data)
