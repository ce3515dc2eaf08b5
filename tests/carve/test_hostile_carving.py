"""Decoys by the ten thousand, and damage of any kind: bounded work, and nothing is invented."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from functools import cache
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kho_inspect.carve import files, scan
from kho_inspect.carve.carver import carve
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import Item
from kho_inspect.render.names import item_name
from tests.support import luo_builder as write
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.carving import by_name, carved, content, lose, lose_map
from tests.support.looking import open_image
from tests.support.luo_builder import File, Luo, Session, pattern, u64

DECOYS = 2000
MANY = 1_500
RAM = (1 << 20, 128 << 20)


class Counted:
    """Counts what is read of a memory: calls, and bytes of them."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        self.calls = self.bytes = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.memory, name)

    def read(self, paddr: int, size: int) -> memoryview:
        self.calls += 1
        self.bytes += size
        return self.memory.read(paddr, size)

    def gather(self, paddrs: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any]:
        self.calls += 1
        self.bytes += len(paddrs) * dtype.itemsize
        return self.memory.gather(paddrs, dtype)


def good(image: Image, blob: bool = True) -> Luo:
    """Three sessions with files."""
    sessions = [
        Session(
            b"vm-%d" % number,
            [
                File(token, write.memfd(image, pattern(5000 * token, number << 4 | token)))
                for token in (1, 2)
            ],
        )
        for number in range(3)
    ]
    written = write.luo_v5(image, sessions)
    if not blob:
        image.subnodes.clear()
        lose(image, written.blob)
    return written


def session(name: bytes, files_pa: int, count: int) -> bytes:
    return struct.pack("<64sQQ", name, files_pa, count)


def file(handler: bytes, data: int, token: int) -> bytes:
    return struct.pack("<48sQQ", handler, data, token)


Decoy = Callable[[random.Random, Image, Luo], bytes]
"""The page of one more decoy."""


def anywhere(rng: random.Random, image: Image) -> int:
    """Mostly a page that is there: real, or another decoy."""
    inside = rng.randrange(image.ram_start, image._next) & -4096
    return rng.choice([inside, inside, inside, rng.randrange(image.ram_end) & -4096, 1 << 52])


def session_block(rng: random.Random, image: Image, luo: Luo) -> bytes:
    names = [session(b"d%d" % at, anywhere(rng, image), rng.randrange(1, 60)) for at in range(51)]
    return u64(rng.choice([0, anywhere(rng, image)]), 51) + b"".join(names)


def session_array(rng: random.Random, image: Image, luo: Luo) -> bytes:
    names = [session(b"d%d" % at, anywhere(rng, image), rng.randrange(1, 60)) for at in range(50)]
    return u64(50) + b"".join(names)


def session_of_a_real_list(rng: random.Random, image: Image, luo: Luo) -> bytes:
    """Names a real list of files, but counts wrongly."""
    return u64(0, 1) + session(b"decoy", rng.choice(luo.files).first, rng.choice([1, 3, 63]))


def file_block(rng: random.Random, image: Image, luo: Luo) -> bytes:
    names = [file(b"memfd-v2", anywhere(rng, image), at) for at in range(63)]
    return u64(0, 63) + b"".join(names)


def file_array(rng: random.Random, image: Image, luo: Luo) -> bytes:
    return b"".join(file(b"memfd-v1", anywhere(rng, image), at) for at in range(64))


def descriptor(rng: random.Random, image: Image, luo: Luo) -> bytes:
    area = struct.pack("<QIHH", anywhere(rng, image), 1, 1, 0)
    return u64(0, 4 * 4096, 0, 4) + area


def huge_descriptor(rng: random.Random, image: Image, luo: Luo) -> bytes:
    folios = (1 << 32) - 1
    area = struct.pack("<QIHH", anywhere(rng, image), folios // 256 + 1, 1, 0)
    return u64(0, folios << 12, 0, folios) + area


def device_tree(rng: random.Random, image: Image, luo: Luo) -> bytes:
    kind = rng.choice([b"luo-v1", b"memblock-v1", b"kho-test-v1", b"kho-v4"])
    child = Tree(b"data", [(b"start", u64(1 << 60)), (b"size", u64(1 << 12))])
    return fdt_blob(Tree(b"", [(b"compatible", kind + b"\0")], [child]))


def raw_luo(rng: random.Random, image: Image, luo: Luo) -> bytes:
    return struct.pack("<8sQQQ", b"luo-v5", 1, rng.choice([1 << 60, 0x1234]), 0)


DECOY_KINDS: list[Decoy] = [
    session_block,
    session_array,
    session_of_a_real_list,
    file_block,
    file_array,
    descriptor,
    huge_descriptor,
    device_tree,
    raw_luo,
]


def with_decoys(kinds: list[Decoy], count: int, blob: bool = True) -> tuple[Image, Image]:
    """An image with that many decoys before and behind what is real, and the same without."""
    rng = random.Random(14)
    images = []
    for hostile in (True, False):
        image = Image(ram=RAM)
        pages = [image.alloc() for _ in range(count // 2)]
        luo = good(image, blob)
        pages += [image.alloc() for _ in range(count - len(pages))]
        for page, kind in zip(pages, cycle(kinds), strict=False):
            if hostile:
                image.write(page, kind(rng, image, luo))
        lose_map(image)
        images.append(image)
    return images[0], images[1]


def contents(image: Image) -> dict[str, bytes]:
    return {name: content(image, item) for name, item in by_name(carved(image)).items()}


@pytest.mark.parametrize("kind", DECOY_KINDS, ids=[kind.__name__ for kind in DECOY_KINDS])
def test_decoys_yield_nothing_and_hide_nothing(kind: Decoy) -> None:
    for blob in (True, False):
        hostile, plain = with_decoys([kind], 300, blob)
        wanted = contents(plain)
        assert len(wanted) == 6 + blob
        assert contents(hostile) == wanted


def test_thousands_of_decoys_cost_in_proportion_and_invent_nothing() -> None:
    hostile, plain = with_decoys(DECOY_KINDS, DECOYS)
    few, _ = with_decoys(DECOY_KINDS, DECOYS // 10)
    work = []
    for image in (few, hostile):
        memory = Counted(open_image(image, elf=True))
        carving = carve(memory)  # type: ignore[arg-type]
        assert carving.passed_over == 0
        work.append(memory)
    found = {name: content(hostile, item) for name, item in by_name(carving).items()}
    assert found == contents(plain)
    assert work[1].calls < 12 * work[0].calls
    # Most decoys point to 50 or more others, and three page sizes are tried.
    assert work[1].calls < 20 * DECOYS
    assert work[1].bytes < 4 * 4096 * DECOYS


def test_thousands_of_copies_of_real_structures_give_each_file_once() -> None:
    image = Image(ram=RAM)
    luo = good(image)
    real = [luo.sessions.first, *(entries.first for entries in luo.files)]
    copied = [image.read(paddr, 4096) for paddr in real]
    wanted = contents(image)
    for number in range(MANY):
        image.write(image.alloc(), copied[number % len(copied)])
    lose_map(image)
    memory = Counted(open_image(image, elf=True))
    found = by_name(carve(memory))  # type: ignore[arg-type]
    assert {name: content(image, item) for name, item in found.items()} == wanted
    assert memory.calls < 20 * MANY


def test_a_long_chain_with_thousands_of_ways_in_is_not_read_thousands_of_times() -> None:
    image = Image(ram=RAM)
    good(image)
    target = image.alloc()
    image.write(target, file(b"memfd-v2", target, 1))
    pages = [image.alloc() for _ in range(MANY)]
    for page, following in zip(pages, [*pages[1:], 0], strict=True):
        image.write(page, u64(following, 1) + session(b"d", target, 1))
    lose_map(image)
    memory = Counted(open_image(image, elf=True))
    found = by_name(carve(memory))  # type: ignore[arg-type]
    assert len(found) == 7
    assert memory.calls < 20 * MANY


def test_more_anchors_than_are_kept_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_ANCHORS", 50)
    monkeypatch.setattr(files, "MAX_EXAMINED", 20)
    hostile, _ = with_decoys([session_block, descriptor], 300)
    assert carved(hostile).passed_over > 100


# -- damage of any kind


@cache
def whole() -> tuple[dict[int, bytes], dict[str, bytes]]:
    """The pages of a sound image, and what it yields."""
    image = Image()
    good(image)
    _, props = write.reserve_mem(image, 2)
    write.memblock(image, [(b"trace", props)])
    write.kho_test(image, [(1, pattern(8192, 3))])
    image.finish()
    return {paddr: bytes(page) for paddr, page in image.pages.items()}, contents(image)


VALUES = st.sampled_from([0, 1, 0xFFF, 0x1000, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096, 51, 63])


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Words to write: page, offset, value."""
    pages = sorted(whole()[0])
    words = VALUES | st.sampled_from(pages) | st.integers(0, (1 << 64) - 1)
    place = st.tuples(st.sampled_from(pages), st.integers(0, 24).map(lambda at: 8 * at), words)
    return draw(st.lists(place, max_size=8))


@settings(max_examples=60, deadline=None)
@given(damage())
def test_damage_of_any_kind_ends_in_fewer_items_and_never_in_an_error(
    damaged: list[tuple[int, int, int]],
) -> None:
    image = Image()
    image.pages = {paddr: bytearray(page) for paddr, page in whole()[0].items()}
    for page, offset, value in damaged:
        image.write_u64(page + offset, value)
    memory = open_image(image, elf=True)
    carving = carve(memory)
    assert carving.geometry.page_size in (4096, 16384, 65536)
    items: list[Item] = list(carving.items)
    assert len(items) <= 3 * len(whole()[1])
    for item in items:
        assert item_name(item.name).startswith("carved/")
        assert item.provenance is not None
        assert item.provenance.structures
        assert all(
            memory.presence(one.paddr).value == "stored" for one in item.provenance.structures
        )
    # What is as it was comes back as it was.
    touched = {page for page, _, _ in damaged}
    for name, found in by_name(carving).items():
        if name in whole()[1] and not touched:
            assert content(image, found) == whole()[1][name]
