"""What is fuzzed: one function per entry, which takes any bytes.

An entry returns, or raises because a promise is broken: only a KhoError may come out of the
package, and what :mod:`tests.fuzz.oracles` says must hold. The first byte of an input names the
seed that the rest patches, see :mod:`tests.fuzz.patches`; beyond the seeds, the rest is the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import cast

from kho_inspect import fdt as fdt_module
from kho_inspect.abi import BY_COMPATIBLE
from kho_inspect.carve.carver import carve as carved_of
from kho_inspect.errors import FdtError, KhoError
from kho_inspect.geometry import PAGE_SHIFTS, PageGeometry, page_size_name
from kho_inspect.inspection import Opened, Options, case_of, inspect_opened
from kho_inspect.intervals import intersect, total
from kho_inspect.kernel_log.handed import printed_by
from kho_inspect.kernel_log.kernels import MAX_KERNELS, find_kernels, last_mapped, scan_traces
from kho_inspect.locate.root_fdt import read_root_fdt
from kho_inspect.memory import PhysicalMemory, RamBlock, open_memory
from kho_inspect.memory.mapped import MappedMemory
from kho_inspect.model.chunk_list import ChunkList
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import FdtNode
from kho_inspect.model.handover import Handover
from kho_inspect.model.identity import Step, StepKind
from kho_inspect.recover.content import Reader
from kho_inspect.recover.selectors import all_items, numbered
from kho_inspect.render.log import kernel_words, log_lines
from kho_inspect.render.names import item_name, message_text, path_name
from kho_inspect.rules.engine import judge
from kho_inspect.units import Extent
from kho_inspect.walk.chunk_list import walk_chunks
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.radix import walk_radix
from kho_inspect.walk.vmalloc import parse_vmalloc, walk_vmalloc
from tests.fuzz import images, oracles
from tests.fuzz.images import MemorySeed
from tests.fuzz.patches import Cursor, Patched, Seed, patch
from tests.support.builder import Tree, fdt_blob

Entry = Callable[[bytes], None]
SMALL = 1 << 22
"""Bytes of what is read whole."""


# -- files and memory


@contextmanager
def file_of(data: bytes | bytearray) -> Iterator[str]:
    """The path of a file that is nowhere but in memory."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


class BytesFile:
    """A DumpFile without a file."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.path = "image"
        self.size = len(data)
        self.view = memoryview(data).toreadonly()

    def data_extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        if start < end:
            yield start, end

    def forget(self, start: int, end: int) -> None:
        pass


def blocks_of(seed: MemorySeed, patched: Patched) -> list[RamBlock]:
    """The pages that are still there, those next to each other in one block."""
    size = seed.page_size
    gone = {at >> seed.shift for at in patched.dropped}
    blocks: list[RamBlock] = []
    for number, page in enumerate(seed.pages):
        if number in gone:
            continue
        last = blocks[-1] if blocks else None
        if last and (last.end, last.offset + last.size) == (page, number * size):
            blocks[-1] = RamBlock(last.paddr, last.offset, last.size + size)
        else:
            blocks.append(RamBlock(page, number * size, size))
    return blocks


def memory_of(seed: MemorySeed, patched: Patched) -> MappedMemory:
    """A changed image as memory: all of its RAM is declared, its pages are stored."""
    file = BytesFile(patched.data[: seed.dtb_at])
    return MappedMemory(file, "raw", blocks_of(seed, patched), declared=[Extent(*seed.ram)])


def file_bytes(seeds: Sequence[Seed], cursor: Cursor) -> bytes | bytearray:
    """A patched seed, or the input itself."""
    number = cursor.u8() % (len(seeds) + 1)
    if number == len(seeds):
        return cursor.rest()
    patched = patch(seeds[number], cursor)
    return patched.data[: min(patched.dropped, default=len(patched.data))]


# -- device trees


@cache
def some_memory() -> PhysicalMemory:
    """What a DTB that is cut short is completed from."""
    seed = images.handovers()[0]
    return memory_of(seed, Patched(bytearray(seed.data), []))


def fdt(data: bytes) -> None:
    """A device tree: what parses can be written and reads back the same."""
    blob = bytes(file_bytes(images.device_trees(), Cursor(data)))
    with suppress(FdtError):
        root = fdt_module.parse(blob)
        # A backslash may stand for itself, or begin the \\xNN of what is not UTF-8.
        if not any("\\" in name for name in _names(root)):
            assert fdt_module.parse(fdt_blob(_tree(root))) == root
    with file_of(blob) as path, suppress(KhoError):
        found = read_root_fdt(path, some_memory())
        assert len(found.data) == found.size or found.start is not None


def _names(node: FdtNode) -> Iterator[str]:
    yield node.name
    yield from (prop.name for prop in node.props)
    for child in node.children:
        yield from _names(child)


def _tree(node: FdtNode) -> Tree:
    props = [(prop.name.encode(), prop.data) for prop in node.props]
    return Tree(node.name.encode(), props, [_tree(child) for child in node.children])


# -- dump files


def _dump(seeds: Sequence[Seed], data: bytes) -> None:
    cursor = Cursor(data)
    addresses = [cursor.u64(), cursor.u8() << 12]
    content = file_bytes(seeds, cursor)
    with file_of(content) as path, suppress(KhoError):
        memory = open_memory(path)
        oracles.check_memory(memory, addresses)


def elf(data: bytes) -> None:
    """An ELF core, compressed or not."""
    _dump(images.elf_files(), data)


def lime(data: bytes) -> None:
    """A LiME file."""
    _dump(images.lime_files(), data)


def kdump(data: bytes) -> None:
    """A kdump-compressed file, flattened or not."""
    _dump(images.kdump_files(), data)


# -- maps


def tree(data: bytes) -> None:
    """A radix tree, a kho-v1 list, or a vmalloc area."""
    cursor = Cursor(data)
    maps, areas = images.maps(), images.areas()
    number = cursor.u8() % (len(maps) + len(areas))
    if number >= len(maps):
        _vmalloc(areas[number - len(maps)], cursor)
        return
    seed = maps[number]
    # Its own page size, or (seldom) another.
    shift = {1: 12, 2: 14, 3: 16}.get(cursor.u8(), seed.shift)
    patched = patch(seed, cursor)
    memory = oracles.Metered(memory_of(seed, patched))
    geometry = PageGeometry(shift, BY_COMPATIBLE[seed.abi])
    faults = FaultLog()
    walk = walk_radix if geometry.abi.radix else walk_chunks
    found, preserved = walk(cast(PhysicalMemory, memory), geometry, seed.root, faults)
    assert memory.given <= 2 * len(patched.data) + geometry.page_size, "pages were read again"
    oracles.check_preserved(preserved, found)
    blocks = oracles.blocks_of(preserved)
    if faults.result() or blocks is None:
        return
    if isinstance(found, ChunkList):
        assert blocks == oracles.naive_list(memory.memory, shift, found.bitmap_size, seed.root)
    else:
        assert blocks == oracles.naive_tree(memory.memory, shift, seed.abi, seed.root)


def _vmalloc(seed: MemorySeed, cursor: Cursor) -> None:
    patched = patch(seed, cursor)
    memory = oracles.Metered(memory_of(seed, patched))
    geometry = PageGeometry(seed.shift, BY_COMPATIBLE[seed.abi])
    try:
        descriptor = parse_vmalloc(memory.read(seed.root, 16))
    except KhoError:
        return
    faults, path = FaultLog(), (Step(StepKind.SUBNODE, "area"),)
    area = walk_vmalloc(cast(PhysicalMemory, memory), geometry, descriptor, path, faults)
    assert memory.given <= 2 * len(patched.data), "chunks were read again"
    assert len(set(area.phys.tolist())) == len(area.phys)
    assert len(set(area.chunks)) == len(area.chunks)
    assert area.whole or faults.result()


# -- handovers


def blobs(data: bytes) -> None:
    """A whole handover: everything decoded, accounted for and judged."""
    cursor = Cursor(data)
    seeds = images.handovers()
    seed = seeds[cursor.u8() % len(seeds)]
    sizes = [page_size_name(seed.shift)] * 8 + [*PAGE_SHIFTS, "auto"]
    options = Options(page_size=sizes[cursor.u8() % len(sizes)])
    patched = patch(seed, cursor)
    memory = memory_of(seed, patched)
    with file_of(patched.data[seed.dtb_at :]) as path, suppress(KhoError):
        root = read_root_fdt(path, memory)
        handover = inspect_opened(Opened(memory, root), options)
        check_handover(handover)
        verdict = judge(case_of(handover))
        for finding in verdict.findings:
            assert message_text(finding.message)
            assert path_name(finding.path).isprintable()


def check_handover(handover: Handover) -> None:
    """What the numbers of a report rest on."""
    preserved, owned = handover.preserved, handover.ownership
    oracles.check_preserved(preserved, handover.tree)
    limit = 1 << (64 - handover.geometry.shift)
    for pages in (owned.owned, owned.unclaimed, owned.dangling, owned.shared):
        oracles.check_runs(*pages, limit)
    assert total(owned.owned) + total(owned.unclaimed) == total(preserved.merged)
    assert not len(intersect(owned.owned, owned.unclaimed)[0])
    assert not len(intersect(owned.dangling, preserved.merged)[0])
    assert len(handover.faults) <= 257 * len(FaultKind)
    for item in all_items(handover):
        assert item.size >= 0
        assert all(piece.offset >= 0 and piece.size >= 0 for piece in item.pieces)


# -- what a dump tells without a handover


def log(data: bytes) -> None:
    """The kernels of a dump, and the log of each."""
    cursor = Cursor(data)
    seeds = images.kernels()
    seed = seeds[cursor.u8() % len(seeds)]
    patched = patch(seed, cursor)
    memory = memory_of(seed, patched)
    found = find_kernels(memory, scan_traces(memory))
    assert len(found) <= MAX_KERNELS
    orders = [kernel.order for kernel in found if kernel.order is not None]
    assert orders == list(range(1, len(orders) + 1))
    for kernel in found:
        # Each record has an id of 8 bytes, or a descriptor of 24.
        assert len(kernel.entries) <= len(patched.data) // 8
        assert kernel_words(kernel).isprintable() or not kernel.release.isprintable()
        for line in log_lines(kernel.entries, levels=True, meanings=True):
            assert line.removesuffix("\n").replace("\t", "").isprintable()
    list(printed_by(found))
    if known := last_mapped(memory, found):
        for vaddr in (cursor.u64(), known[1].image_start, (1 << 64) - 1):
            with suppress(KhoError):
                known[1].walk(vaddr)


def carve(data: bytes) -> None:
    """What a dump yields by contents: nothing that is not in it, each under a name of its own."""
    cursor = Cursor(data)
    seeds = images.handovers()
    seed = seeds[cursor.u8() % len(seeds)]
    sessions = seed.pages[cursor.u8() % len(seed.pages)] if cursor.u8() & 1 else None
    patched = patch(seed, cursor)
    memory = memory_of(seed, patched)
    with suppress(KhoError):
        found = carved_of(memory, sessions=sessions)
        items = list(numbered(list(found.items)))
        assert len({(item.name, item.number) for item in items}) == len(items)
        reader = Reader(memory)
        for item in items:
            assert item_name(item.name, item.number).isprintable()
            assert item.size >= 0
            assert all(piece.offset >= 0 and piece.size >= 0 for piece in item.pieces)
            if item.size <= SMALL:
                reader.digest(item)
