"""The shared guards of pointers, and that every list of pages stands behind them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from kho_inspect.abi import BY_COMPATIBLE
from kho_inspect.geometry import PageGeometry
from kho_inspect.layouts.luo import luo_file_ser
from kho_inspect.limits import Limits
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.faults import Fault, FaultKind
from kho_inspect.model.identity import Path, Step, StepKind
from kho_inspect.render.names import message_text
from kho_inspect.walk.block import walk_blocks
from kho_inspect.walk.chunk_list import walk_chunks
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.pages import ListPage, PageList, Target
from kho_inspect.walk.vmalloc import parse_vmalloc, walk_vmalloc
from tests.support.builder import Image
from tests.support.looking import open_image

OUTSIDE = 1 << 45
NOT_STORED = 64 << 20
"""In an image's memory, but far beyond the pages that anybody writes."""

BLOB = Target("blob of {size}", FaultKind.BLOB_OUTSIDE, FaultKind.BLOB_NOT_STORED)
ITEM = ListPage(
    "item",
    FaultKind.BLOCK_OUTSIDE,
    FaultKind.BLOCK_NOT_STORED,
    link="item {at:#x}",
    cycle=(FaultKind.BLOCK_CYCLE, "{last:#x} of {number} links back to {at:#x}"),
    misaligned=FaultKind.BLOCK_MISALIGNED,
)

WAY: Path = (Step(StepKind.SUBNODE, "x"),)
"""To a list."""


def item(number: int) -> Path:
    """The way to an item of the list."""
    return *WAY, Step(StepKind.BLOCK, number)


class CountedMemory:
    """The stored pages of an image, and the address of every page whose beginning is read."""

    def __init__(self, image: Image) -> None:
        self.memory = open_image(image, elf=True)
        self.declared = self.memory.declared
        self.reads: list[int] = []

    def read(self, paddr: int, size: int) -> memoryview:
        self.reads.append(paddr)
        return self.memory.read(paddr, size)

    def gather(self, paddrs: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any]:
        self.reads += [paddr for paddr in paddrs.tolist() if not paddr % 4096]
        return self.memory.gather(paddrs, dtype)

    def stored_mask(self, paddrs: NDArray[np.uint64], size: int) -> NDArray[np.bool_]:
        return self.memory.stored_mask(paddrs, size)


def chain(count: int, end: int | None = None) -> tuple[CountedMemory, list[int]]:
    """Zeroed pages that begin with the address of the next; the last with ``end``, or its own."""
    image = Image()
    pages = [image.alloc() for _ in range(count)]
    for page, link in zip(pages, [*pages[1:], pages[-1] if end is None else end], strict=True):
        image.write_u64(page, link)
    return CountedMemory(image), pages


def geometry(abi: str = "kho-v4") -> PageGeometry:
    return PageGeometry(12, BY_COMPATIBLE[abi])


def page_list(memory: CountedMemory) -> tuple[PageList, FaultLog]:
    faults = FaultLog()
    return PageList(ITEM, cast(PhysicalMemory, memory), geometry(), faults), faults


# -- one read


def test_what_is_stored_is_read() -> None:
    memory, (page,) = chain(1, 7)
    faults = FaultLog()
    data = BLOB.read(cast(PhysicalMemory, memory), page, 8, WAY, faults)
    assert data is not None
    assert int.from_bytes(data, "little") == 7
    assert faults.result() == ()


@pytest.mark.parametrize(
    ("paddr", "kind"),
    [
        (OUTSIDE, FaultKind.BLOB_OUTSIDE),
        ((1 << 64) - 8, FaultKind.BLOB_OUTSIDE),
        (NOT_STORED, FaultKind.BLOB_NOT_STORED),
    ],
)
def test_what_cannot_be_read_is_a_fault(paddr: int, kind: FaultKind) -> None:
    memory, _ = chain(1)
    faults = FaultLog()
    assert BLOB.read(cast(PhysicalMemory, memory), paddr, 8192, WAY, faults) is None
    (fault,) = faults.result()
    assert (fault.kind, fault.paddr, fault.path) == (kind, paddr, WAY)
    assert message_text(fault.message).startswith(f"blob of 8 KiB: 8 KiB at {paddr:#x}: ")


# -- one list


@pytest.mark.parametrize(
    ("link", "kind", "message"),
    [
        (OUTSIDE, FaultKind.BLOCK_OUTSIDE, "item: 4 KiB at"),
        (NOT_STORED, FaultKind.BLOCK_NOT_STORED, "item: 4 KiB at"),
        (OUTSIDE + 8, FaultKind.BLOCK_MISALIGNED, f"item {OUTSIDE + 8:#x} is not aligned"),
    ],
)
def test_a_link_that_must_not_be_followed(link: int, kind: FaultKind, message: str) -> None:
    memory, (page,) = chain(1)
    pages, faults = page_list(memory)
    assert pages.read(page, item(0)) is not None
    assert pages.read(link, item(1)) is None
    (fault,) = faults.result()
    assert (fault.kind, fault.paddr, fault.path) == (kind, link, item(1))
    assert message_text(fault.message).startswith(message)
    assert list(pages.addresses) == [page]


def test_the_last_page_is_told_to_link_back() -> None:
    memory, (first, second) = chain(2)
    pages, faults = page_list(memory)
    assert all(pages.read(page, item(0)) is not None for page in (first, second))
    assert pages.read(first, item(2)) is None
    (fault,) = faults.result()
    assert fault.message == f"{second:#x} of 2 links back to {first:#x}"
    assert memory.reads == list(pages.addresses) == [first, second]


@pytest.mark.parametrize("link", [OUTSIDE, OUTSIDE + 8])
def test_too_long_comes_before_a_bad_link_and_after_a_cycle(link: int) -> None:
    memory, (page,) = chain(1)
    pages, faults = page_list(memory)
    too_long = (FaultKind.LIMIT, "enough at {at:#x}")
    assert pages.read(page, ()) is not None
    assert pages.read(link, (), too_long) is None
    assert pages.read(page, (), too_long) is None
    limit, cycle = faults.result()
    assert (limit.kind, limit.message) == (FaultKind.LIMIT, f"enough at {link:#x}")
    assert cycle.kind is FaultKind.BLOCK_CYCLE
    assert memory.reads == [page]


# -- every list


def vmalloc(first: int, total_pages: int = (1 << 32) - 1) -> SimpleNamespace:
    return parse_vmalloc(first.to_bytes(8, "little") + total_pages.to_bytes(4, "little") + bytes(4))


def follow_vmalloc(memory: PhysicalMemory, first: int, faults: FaultLog) -> list[int]:
    return list(walk_vmalloc(memory, geometry(), vmalloc(first), WAY, faults).chunks)


def follow_blocks(memory: PhysicalMemory, first: int, faults: FaultLog) -> list[int]:
    return walk_blocks(memory, geometry(), first, luo_file_ser, WAY, faults, 1000)[0]


def follow_chunks(memory: PhysicalMemory, first: int, faults: FaultLog) -> list[int]:
    return [one.paddr for one in walk_chunks(memory, geometry("kho-v1"), first, faults)[0].chunks]


class Walker(NamedTuple):
    follow: Callable[[PhysicalMemory, int, FaultLog], list[int]]
    path: Path
    cycle: tuple[FaultKind, str]
    misaligned: tuple[FaultKind, str]
    outside: tuple[FaultKind, str]
    not_stored: tuple[FaultKind, str]


WALKERS = {
    "vmalloc": Walker(
        follow_vmalloc,
        (*WAY, Step(StepKind.CHUNK, 3)),
        (FaultKind.VMALLOC_CYCLE, "vmalloc chunk {last:#x} links back to chunk {at:#x}"),
        (FaultKind.VMALLOC_CHUNK_MISALIGNED, "vmalloc chunk {at:#x} is not aligned to a page"),
        (FaultKind.VMALLOC_CHUNK_OUTSIDE, "vmalloc chunk: 4 KiB at {at:#x}: outside"),
        (FaultKind.VMALLOC_CHUNK_NOT_STORED, "vmalloc chunk: 4 KiB at {at:#x}: not stored"),
    ),
    "block": Walker(
        follow_blocks,
        (*WAY, Step(StepKind.BLOCK, 3)),
        (FaultKind.BLOCK_CYCLE, "kho_block {last:#x} links back to block {at:#x}"),
        (FaultKind.BLOCK_MISALIGNED, "kho_block {at:#x} is not aligned to a page"),
        (FaultKind.BLOCK_OUTSIDE, "kho_block: 4 KiB at {at:#x}: outside"),
        (FaultKind.BLOCK_NOT_STORED, "kho_block: 4 KiB at {at:#x}: not stored"),
    ),
    "chunk list": Walker(
        follow_chunks,
        (Step(StepKind.CHUNK, 3),),
        (FaultKind.NODE_CYCLE, "kho-v1 chunk 3 at {at:#x} stands earlier in the list"),
        (FaultKind.NODE_MISALIGNED, "kho-v1 chunk 3 at {at:#x} is not aligned to a page"),
        (FaultKind.NODE_OUTSIDE, "kho-v1 chunk 3: 4 KiB at {at:#x}: outside"),
        (FaultKind.NODE_NOT_STORED, "kho-v1 chunk 3: 4 KiB at {at:#x}: not stored"),
    ),
}


@pytest.mark.parametrize("name", WALKERS)
@pytest.mark.parametrize(
    ("wrong", "end"),
    [
        ("cycle", None),
        ("misaligned", OUTSIDE + 8),
        ("outside", OUTSIDE),
        ("not_stored", NOT_STORED),
    ],
)
def test_every_list_ends_at_a_bad_link(name: str, wrong: str, end: int | None) -> None:
    walker = WALKERS[name]
    memory, pages = chain(3, end)
    faults = FaultLog()
    assert walker.follow(cast(PhysicalMemory, memory), pages[0], faults) == pages
    kind, message = getattr(walker, wrong)
    at = pages[-1] if end is None else end
    # These kho_blocks have nothing but their links.
    (fault,) = (one for one in faults.result() if one.kind is not FaultKind.BLOCK_EMPTY)
    assert (fault.kind, fault.paddr, fault.path) == (kind, at, walker.path)
    assert message_text(fault.message).startswith(message.format(at=at, last=pages[-1]))
    assert memory.reads == pages + [end] * (wrong in ("outside", "not_stored"))


@pytest.mark.parametrize("name", WALKERS)
def test_a_long_circle_is_read_once(name: str) -> None:
    memory, pages = chain(300)
    assert WALKERS[name].follow(cast(PhysicalMemory, memory), pages[0], FaultLog()) == pages
    assert memory.reads == pages


# -- the order of checks, where it shows


def faults_of(walk: Callable[[PhysicalMemory, int, FaultLog], object], end: int | None) -> Fault:
    memory, (page,) = chain(1, end)
    faults = FaultLog()
    walk(cast(PhysicalMemory, memory), page, faults)
    assert memory.reads == [page]
    (fault,) = faults.result()
    return fault


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (None, FaultKind.VMALLOC_CYCLE),
        (OUTSIDE, FaultKind.VMALLOC_TOO_LONG),
        (OUTSIDE + 8, FaultKind.VMALLOC_TOO_LONG),
    ],
)
def test_vmalloc_tells_a_cycle_then_the_length_then_a_bad_link(
    end: int | None, kind: FaultKind
) -> None:
    def walk(memory: PhysicalMemory, first: int, faults: FaultLog) -> object:
        return walk_vmalloc(memory, geometry(), vmalloc(first, 0), WAY, faults)

    assert faults_of(walk, end).kind is kind


@pytest.mark.parametrize("end", [None, OUTSIDE, OUTSIDE + 8])
def test_a_chunk_list_tells_its_limit_first(end: int | None) -> None:
    def walk(memory: PhysicalMemory, first: int, faults: FaultLog) -> object:
        return walk_chunks(memory, geometry("kho-v1"), first, faults, Limits(nodes=1))

    assert faults_of(walk, end).kind is FaultKind.LIMIT
