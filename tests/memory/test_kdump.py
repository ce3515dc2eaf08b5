"""kdump-compressed dumps and their flattened form: sound, filtered, damaged, absurd."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.errors import (
    ExcludedMemoryError,
    KhoError,
    NotStoredMemoryError,
    OutsideMemoryError,
    UnreadableInputError,
)
from kho_inspect.inspection import inspect
from kho_inspect.memory import Presence, kdump, open_memory, page_bitmap
from kho_inspect.render.names import message_text
from kho_inspect.units import Extent
from tests.support.builder import Image
from tests.support.kdump_writer import (
    INCOMPLETE,
    LZO,
    SNAPPY,
    ZLIB,
    ZSTD,
    Layout,
    flatten,
    write_kdump,
)

PAGE = 4096
U64 = np.dtype("<u8")


def text_page(pfn: int, size: int = PAGE) -> bytes:
    """Compressible, and of this page only."""
    return (b"page frame %#x, " % pfn * size)[:size]


PAGES = {
    0x101: text_page(0x101),
    0x102: text_page(0x102),
    0x103: bytes(PAGE),
    0x104: random.Random(1).randbytes(PAGE),
    0x110: text_page(0x110),
    0x111: bytes(PAGE),
}
EXCLUDED = range(0x105, 0x110)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return tmp_path / "dump.kdump"


@pytest.fixture
def layout(dump: Path) -> Layout:
    return write_kdump(dump, PAGES, known=EXCLUDED)


def patch(path: Path, offset: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value)


def words(*paddrs: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(paddrs, dtype=np.uint64)


# -- sound dumps


def test_pages_are_where_their_frame_numbers_say(dump: Path, layout: Layout) -> None:
    memory = open_memory(str(dump))
    assert (memory.format, memory.path, memory.notes) == ("kdump", str(dump), ())
    assert memory.size == dump.stat().st_size
    assert memory.stored == (Extent(0x101000, 0x105000), Extent(0x110000, 0x112000))
    assert memory.declared == (Extent(0x101000, 0x112000),)
    for pfn, page in PAGES.items():
        assert memory.read(pfn * PAGE, PAGE) == page
    assert memory.read(0x101000, 4 * PAGE) == b"".join(PAGES[pfn] for pfn in range(0x101, 0x105))
    assert bytes(memory.read(0x101FFC, 8)) == PAGES[0x101][-4:] + PAGES[0x102][:4]
    assert bytes(memory.read(0x101000, 0)) == b""


def test_gathering_is_reading(dump: Path, layout: Layout) -> None:
    memory = open_memory(str(dump))
    paddrs = words(0x101000, 0x101FFC, 0x104123, 0x111FF8)
    assert memory.stored_mask(paddrs, 8).all()
    expected = [int.from_bytes(memory.read(int(at), 8), "little") for at in paddrs]
    assert memory.gather(paddrs, U64).tolist() == expected


def test_the_last_byte_before_an_excluded_page_is_stored(dump: Path, layout: Layout) -> None:
    memory, last = open_memory(str(dump)), EXCLUDED.start * PAGE - 1
    assert memory.presence(last) is memory.presence(last, 0) is Presence.STORED
    assert memory.presence(last, 2) is Presence.EXCLUDED


def test_chunks_smaller_than_a_page_are_pages(dump: Path, layout: Layout) -> None:
    chunks = [(at // PAGE, len(data)) for at, data in open_memory(str(dump)).data_chunks(100, 0)]
    assert [pfn for pfn, _ in chunks] == [0x101, 0x102, 0x104, 0x110]
    assert {length for _, length in chunks} == {PAGE}


def test_an_excluded_page_is_neither_missing_nor_zero(dump: Path, layout: Layout) -> None:
    memory = open_memory(str(dump))
    assert memory.presence(0x105000) is Presence.EXCLUDED
    assert memory.presence(0x104000, 2 * PAGE) is Presence.EXCLUDED
    assert memory.presence(0x100FFF, 2) is Presence.OUTSIDE
    assert memory.presence(0x111000, PAGE + 1) is Presence.OUTSIDE
    assert memory.presence((1 << 64) - 1, 1 << 63) is Presence.OUTSIDE
    with pytest.raises(ExcludedMemoryError, match="excluded in") as caught:
        memory.read(0x105000, 8)
    assert isinstance(caught.value, NotStoredMemoryError)
    assert (caught.value.paddr, caught.value.size) == (0x105000, 8)
    with pytest.raises(OutsideMemoryError):
        memory.read(0x112000, 1)
    asked = words(0x101000, 0x104FF9, 0x105000, 0x100FFF, 0x111FF9, (1 << 64) - 1, 0)
    assert memory.stored_mask(asked, 8).tolist() == [True] + 6 * [False]


def test_frames_beyond_32_bits(dump: Path) -> None:
    pfn = (1 << 33) + 5
    high = {pfn: text_page(pfn)}
    layout = write_kdump(dump, {}, known=[3], pages_max=pfn + 1)
    # The bitmap of 32 TiB as a hole, but for its last byte.
    patch(dump, layout.known + pfn // 8, bytes([1 << pfn % 8]))
    patch(dump, layout.dumped + pfn // 8, bytes([1 << pfn % 8]))
    packed = zlib.compress(high[pfn])
    patch(dump, layout.descriptors, struct.pack("<qIIQ", layout.data + 24, len(packed), ZLIB, 0))
    patch(dump, layout.data + 24, packed)
    memory = open_memory(str(dump))
    assert memory.stored == (Extent(pfn * PAGE, (pfn + 1) * PAGE),)
    assert memory.read(pfn * PAGE, PAGE) == high[pfn]


def test_pages_may_be_stored_as_they_are(dump: Path) -> None:
    write_kdump(dump, PAGES, flag=0)
    memory = open_memory(str(dump))
    assert all(memory.read(pfn * PAGE, PAGE) == page for pfn, page in PAGES.items())


def lzo(page: bytes) -> bytes:
    packed: bytes = pytest.importorskip("lzallright").LZOCompressor().compress(page)
    return packed


def snappy(page: bytes) -> bytes:
    return bytes(pytest.importorskip("cramjam").snappy.compress_raw(page))


def zstd(page: bytes) -> bytes:
    packed: bytes = pytest.importorskip("zstandard").compress(page)
    return packed


def zstd_without_size(page: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    packed: bytes = zstandard.ZstdCompressor(write_content_size=False).compress(page)
    return packed


CODECS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "zlib": (ZLIB, zlib.compress),
    "lzo": (LZO, lzo),
    "snappy": (SNAPPY, snappy),
    "zstd": (ZSTD, zstd),
    "zstd, size not said": (ZSTD, zstd_without_size),
}


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> tuple[int, Callable[[bytes], bytes]]:
    return CODECS[str(request.param)]


def test_every_codec(dump: Path, codec: tuple[int, Callable[[bytes], bytes]]) -> None:
    flag, compress = codec
    write_kdump(dump, PAGES, flag=flag, codec=compress)
    memory = open_memory(str(dump))
    assert all(memory.read(pfn * PAGE, PAGE) == page for pfn, page in PAGES.items())
    # A codec that the header does not mention is found page by page.
    write_kdump(dump, PAGES, flag=flag, codec=compress, status=0)
    assert open_memory(str(dump)).read(0x101000, PAGE) == PAGES[0x101]


@pytest.mark.parametrize("block", [4096, 16384, 65536])
def test_the_block_size_need_not_be_the_kernels(dump: Path, block: int) -> None:
    pages = {pfn: text_page(pfn, block) for pfn in (3, 4, 9)}
    write_kdump(dump, pages, block=block, known=[5])
    memory = open_memory(str(dump))
    assert memory.stored == (Extent(3 * block, 5 * block), Extent(9 * block, 10 * block))
    half = block // 2
    assert memory.read(3 * block + half, block) == (pages[3] + pages[4])[half : half + block]
    inside = words(3 * block, 4 * block - 2048, 5 * block - 4096, 5 * block - 2048)
    assert memory.stored_mask(inside, 4096).tolist() == [True, True, True, False]
    assert memory.stored_mask(words(3 * block, 4 * block), 2 * block).tolist() == [True, False]


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.integers(0, 400), st.sampled_from(["dumped", "zero", "excluded"])),
    st.integers(0, 20),
    st.lists(st.tuples(st.integers(0, 420 * PAGE), st.integers(1, 3 * PAGE)), max_size=20),
)
def test_any_filtered_dump_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    states: dict[int, str],
    more: int,
    asked: list[tuple[int, int]],
) -> None:
    pages = {
        pfn: text_page(pfn) if state == "dumped" else bytes(PAGE)
        for pfn, state in states.items()
        if state != "excluded"
    }
    dump = tmp_path_factory.mktemp("any") / "dump"
    write_kdump(dump, pages, known=states, pages_max=max(states, default=0) + 1 + more)
    memory = open_memory(str(dump))
    assert set(frames(memory.stored)) == set(pages)
    assert set(frames(memory.declared)) == set(states)
    for paddr, size in asked:
        touched = range(paddr // PAGE, (paddr + size - 1) // PAGE + 1)
        if any(pfn not in states for pfn in touched):
            expected = Presence.OUTSIDE
        elif any(pfn not in pages for pfn in touched):
            expected = Presence.EXCLUDED
        else:
            expected = Presence.STORED
            whole = b"".join(pages[pfn] for pfn in touched)
            assert bytes(memory.read(paddr, size)) == whole[paddr % PAGE :][:size]
        assert memory.presence(paddr, size) is expected
        assert memory.stored_mask(words(paddr), size)[0] == (expected is Presence.STORED)
    scanned = {
        paddr + at: bytes(data[at : at + PAGE])
        for paddr, data in memory.data_chunks(4 * PAGE, 0)
        for at in range(0, len(data), PAGE)
    }
    assert {at for at, page in scanned.items() if any(page)} == {
        pfn * PAGE for pfn, page in pages.items() if any(page)
    }
    assert all(page == pages[paddr // PAGE] for paddr, page in scanned.items())


def frames(extents: tuple[Extent, ...]) -> list[int]:
    return [pfn for e in extents for pfn in range(e.start // PAGE, e.end // PAGE)]


def test_scanning_pieces_share_the_overlap(dump: Path) -> None:
    write_kdump(dump, {pfn: text_page(pfn) for pfn in range(0x10, 0x16)})
    pieces = [(at, len(data)) for at, data in open_memory(str(dump)).data_chunks(2 * PAGE, 7)]
    expected = [(0x10000, 2 * PAGE + 7), (0x12000, 2 * PAGE + 7), (0x14000, 2 * PAGE)]
    assert pieces == expected


# -- refused in words


def refused(dump: Path, match: str) -> UnreadableInputError:
    with pytest.raises(UnreadableInputError, match=match) as caught:
        open_memory(str(dump))
    assert caught.value.source == str(dump)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def test_a_part_of_a_split_dump_is_refused(dump: Path) -> None:
    write_kdump(dump, PAGES, split=(0x100, 0x200))
    error = refused(dump, "part of a split dump: page frames 0x100 to 0x200")
    assert "makedumpfile --reassemble" in (error.hint or "")


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        (8, 7, "header version 7, should be 6"),
        (8, 5, "header version 5, should be 6"),
        (428, 0, "block_size 0"),
        (428, 4095, "block_size 4095"),
        (428, 1 << 30, "block_size 1073741824"),
        (432, 0, "no room for its sub-header"),
        (432, 1 << 20, "ends within its bitmaps"),
        (432, 0xFFFFFFFF, "no room for its sub-header"),
        (436, 0, "too short for max_mapnr"),
        (436, 0xFFFFFFFF, "ends within its bitmaps"),
    ],
)
def test_a_header_that_lies_is_refused(
    dump: Path, layout: Layout, offset: int, value: int, match: str
) -> None:
    patch(dump, offset, struct.pack("<I", value))
    refused(dump, match)


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        (0, "more than nothing and at most 4 PiB"),
        (1 << 40, "too short for max_mapnr 0x10000000000"),
        ((1 << 40) + 1, "more than nothing and at most 4 PiB"),
        ((1 << 64) - 1, "more than nothing and at most 4 PiB"),
    ],
)
def test_an_absurd_max_mapnr_is_refused(dump: Path, layout: Layout, pages: int, words: str) -> None:
    patch(dump, layout.sub_header + 96, struct.pack("<Q", pages))
    refused(dump, words)


@pytest.mark.parametrize("size", [8, 100, 463, 464, 4096, 4199, 4200, 8192, 12288])
def test_a_dump_cut_short_before_its_pages_is_refused(
    dump: Path, layout: Layout, size: int
) -> None:
    os.truncate(dump, size)
    refused(dump, "ends within|no room")


@pytest.mark.parametrize(
    ("flag", "name", "module"),
    [(LZO, "lzo", "lzallright"), (SNAPPY, "snappy", "cramjam"), (ZSTD, "zstd", "zstandard")],
)
def test_a_missing_codec_says_how_to_get_it(
    dump: Path, monkeypatch: pytest.MonkeyPatch, flag: int, name: str, module: str
) -> None:
    write_kdump(dump, PAGES, status=flag)
    monkeypatch.setitem(sys.modules, module, None)
    error = refused(dump, f"{name} compression needs .* module {module}")
    assert error.hint == f"pip install 'kho-inspect[{name}]'"
    # One odd page is no reason to refuse the dump.
    layout = write_kdump(dump, PAGES)
    patch(dump, layout.descriptors + 12, struct.pack("<I", flag))
    memory = open_memory(str(dump))
    assert memory.presence(0x101000) is Presence.NOT_STORED
    with pytest.raises(NotStoredMemoryError, match="pip install"):
        memory.read(0x101000, 1)
    assert memory.read(0x102000, PAGE) == PAGES[0x102]


# -- damage costs the page


def desc(offset: int, size: int, flags: int = ZLIB) -> bytes:
    return struct.pack("<qIIQ", offset, size, flags, 0)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (desc(0, 0), "page descriptor is empty"),
        (desc(-1, 100), "page descriptor is empty"),
        (desc(1 << 62, 100), "not in the file"),
        (desc(4096, 0xFFFFFFFF), "more than a page"),
        (desc(4096, 100, 0), "less than it"),
        (desc(4096, 100, ZLIB), "do not unpack as zlib"),
        (desc(4096, 100, ZLIB | LZO), "several compressions"),
        (desc(4096, 4096, LZO), "do not unpack as lzo"),
        (desc(4096, 4096, SNAPPY), "do not unpack as snappy"),
        (desc(4096, 4096, ZSTD), "do not unpack as zstd"),
    ],
)
def test_a_descriptor_that_lies_costs_its_page(
    dump: Path, layout: Layout, value: bytes, why: str
) -> None:
    for module in ("lzallright", "cramjam", "zstandard"):
        pytest.importorskip(module)
    patch(dump, layout.descriptors + 24, value)
    memory = open_memory(str(dump))
    assert memory.presence(0x102000) is Presence.NOT_STORED
    with pytest.raises(NotStoredMemoryError, match=why) as caught:
        memory.read(0x101000, 2 * PAGE)
    assert not isinstance(caught.value, ExcludedMemoryError)
    assert "page 0x102000" in caught.value.message
    assert memory.stored_mask(words(0x101000, 0x101FFF, 0x102000), 8).tolist() == [
        True,
        False,
        False,
    ]
    assert memory.read(0x103000, 2 * PAGE) == PAGES[0x103] + PAGES[0x104]
    scanned = {at: len(data) for at, data in memory.data_chunks(1 << 20, 0)}
    assert scanned[0x103000 if 0x103000 in scanned else 0x104000]
    assert not any(at <= 0x102000 < at + size for at, size in scanned.items())


def test_a_bomb_gives_no_more_than_a_page(
    dump: Path, codec: tuple[int, Callable[[bytes], bytes]]
) -> None:
    flag, compress = codec
    bomb = compress(bytes(16 * PAGE))
    layout = write_kdump(dump, PAGES, flag=flag, codec=compress)
    end = dump.stat().st_size
    patch(dump, end, bomb)
    patch(dump, layout.descriptors, desc(end, len(bomb), flag))
    with pytest.raises(NotStoredMemoryError, match=r"unpack|more than a page"):
        open_memory(str(dump)).read(0x101000, PAGE)


def test_too_little_data_is_no_page(
    dump: Path, codec: tuple[int, Callable[[bytes], bytes]]
) -> None:
    flag, compress = codec
    small = compress(bytes(PAGE - 1))
    layout = write_kdump(dump, PAGES, flag=flag, codec=compress)
    end = dump.stat().st_size
    patch(dump, end, small)
    patch(dump, layout.descriptors, desc(end, len(small), flag))
    with pytest.raises(NotStoredMemoryError, match="unpack"):
        open_memory(str(dump)).read(0x101000, PAGE)


def test_a_dump_cut_short_in_its_pages_keeps_the_others(dump: Path, layout: Layout) -> None:
    os.truncate(dump, layout.data + 200)
    memory = open_memory(str(dump))
    assert memory.notes == ("the file is cut short or damaged: 2 pages of 6 have no data in it",)
    assert memory.stored == (Extent(0x101000, 0x104000), Extent(0x111000, 0x112000))
    assert memory.declared == (Extent(0x101000, 0x112000),)
    assert memory.presence(0x104000) is Presence.NOT_STORED
    assert memory.read(0x101000, PAGE) == PAGES[0x101]


def test_a_dump_cut_short_in_its_descriptors_is_refused(dump: Path, layout: Layout) -> None:
    for size in (0, 24 * 6 - 1):
        os.truncate(dump, layout.descriptors + size)
        refused(dump, "ends within its page descriptors")


def test_more_runs_than_any_machine_has_are_refused(
    dump: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_bitmap, "MAX_RUNS", 1)
    refused(dump, "more than 1 runs of pages")


def test_an_incomplete_dump_says_so(dump: Path) -> None:
    write_kdump(dump, PAGES, status=ZLIB | INCOMPLETE)
    assert "ran out of space" in open_memory(str(dump)).notes[0]


def test_a_dump_without_any_page_is_no_crash(dump: Path) -> None:
    write_kdump(dump, {}, known=[1, 2])
    memory = open_memory(str(dump))
    assert memory.stored == ()
    assert memory.declared == (Extent(PAGE, 3 * PAGE),)
    assert memory.presence(PAGE) is Presence.EXCLUDED
    assert list(memory.data_chunks(1 << 20, 0)) == []


def test_a_sparse_file_of_terabytes_opens_at_once(dump: Path) -> None:
    layout = write_kdump(dump, PAGES, pages_max=1 << 38)
    assert dump.stat().st_size > 1 << 36
    memory = open_memory(str(dump))
    assert memory.read(0x101000, PAGE) == PAGES[0x101]
    assert memory.stored == (Extent(0x101000, 0x105000), Extent(0x110000, 0x112000))
    assert layout.descriptors > 1 << 36


def test_more_runs_than_can_be_held_are_joined_over_small_gaps(
    dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pfns = [1, 2, 4, 5, 0x80, 0x82, 0x400]
    write_kdump(dump, {pfn: text_page(pfn) for pfn in pfns})
    monkeypatch.setattr(kdump, "MAX_EXTENTS", 3)
    memory = open_memory(str(dump))
    assert [(e.start // PAGE, e.end // PAGE) for e in memory.stored] == [
        (1, 6),
        (0x80, 0x83),
        (0x400, 0x401),
    ]
    assert memory.presence(3 * PAGE) is Presence.OUTSIDE
    scanned = [(at // PAGE, len(data) // PAGE) for at, data in memory.data_chunks(1 << 20, 0)]
    assert scanned == [(1, 2), (4, 2), (0x80, 1), (0x82, 1), (0x400, 1)]


# -- a handover in it


def test_an_excluded_blob_is_a_fault_that_says_so(dump: Path, tmp_path: Path) -> None:
    image = Image()
    paddr = image.blob(b"data" * 100)
    image.subnode("blob", paddr, 400)
    dtb = tmp_path / "kho.dtb"
    dtb.write_bytes(image.finish())
    pages = {at // PAGE: bytes(page) for at, page in image.pages.items()}
    write_kdump(dump, pages)
    whole = inspect(str(dump), str(dtb))
    assert (whole.faults, whole.blobs[0].stored) == ((), True)
    del pages[paddr // PAGE]
    write_kdump(dump, pages, known=[paddr // PAGE])
    found = inspect(str(dump), str(dtb))
    assert [fault.kind.value for fault in found.faults] == ["blob-not-stored"]
    assert "excluded" in message_text(found.faults[0].message)


def small_handover(folder: Path) -> tuple[dict[int, bytes], Path]:
    image = Image()
    image.subnode("blob", image.blob(b"some data" * 900), 8100)
    image.vmalloc(b"words" * 2000)
    dtb = folder / "kho.dtb"
    dtb.write_bytes(image.finish())
    return {at // PAGE: bytes(page) for at, page in image.pages.items()}, dtb


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_flipped_bits_end_in_words_or_a_report(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "flips"
    folder.mkdir(exist_ok=True)
    plain = folder / "plain.kdump"
    if not plain.exists():
        pages, dtb = small_handover(folder)
        write_kdump(plain, pages, known=range(0x200, 0x300))
        flatten(plain, folder / "flat.kdump")
    dtb = folder / "kho.dtb"
    source = data.draw(st.sampled_from([plain, folder / "flat.kdump"]))
    content = bytearray(source.read_bytes())
    head = st.integers(0, 4400)
    for at in data.draw(st.lists(head | st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    damaged = folder / "damaged"
    damaged.write_bytes(content[: data.draw(st.integers(1, len(content)) | st.just(len(content)))])
    try:
        memory = open_memory(str(damaged), format_name="kdump")
        for _ in memory.data_chunks(1 << 20, 8):
            pass
        inspect(str(damaged), str(dtb))
    except KhoError as error:
        assert "\n" not in error.message


def test_an_excluded_tree_node_is_a_fault_that_says_so(dump: Path, tmp_path: Path) -> None:
    image = Image()
    image.blob(b"data" * 100)
    dtb = tmp_path / "kho.dtb"
    dtb.write_bytes(image.finish())
    pages = {at // PAGE: bytes(page) for at, page in image.pages.items()}
    leaf = image.nodes[-1]
    del pages[leaf // PAGE]
    write_kdump(dump, pages, known=[leaf // PAGE])
    faults = inspect(str(dump), str(dtb)).faults
    assert [fault.kind.value for fault in faults] == ["node-not-stored"]
    assert "excluded" in message_text(faults[0].message)


# -- a peer that reads the same


PEER = """
import hashlib, sys, kdumpfile
dump = kdumpfile.kdumpfile(file=sys.argv[1])
for paddr in map(int, sys.stdin.read().split()):
    try:
        page = dump.read(kdumpfile.KDUMP_MACHPHYSADDR, paddr, 4096)
    except kdumpfile.exceptions.NoDataException:
        print("no data")
    else:
        print(hashlib.sha256(page).hexdigest())
"""


def ask_libkdumpfile(path: Path, paddrs: list[int]) -> list[str]:
    python = "/usr/bin/python3"
    has = (
        Path(python).exists()
        and not subprocess.run(
            [python, "-c", "import kdumpfile"], capture_output=True, check=False
        ).returncode
    )
    if not has:
        pytest.skip("no libkdumpfile here (Debian: python3-libkdumpfile)")
    done = subprocess.run(
        [python, "-c", PEER, path],
        input=" ".join(map(str, paddrs)),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["zlib", "lzo", "snappy", "zstd"])
def test_libkdumpfile_reads_the_same(dump: Path, name: str) -> None:
    flag, compress = CODECS[name]
    # Like zero pages, excluded ones read as zeros there unless told otherwise: ask for neither.
    write_kdump(dump, PAGES, flag=flag, codec=compress)
    memory = open_memory(str(dump))
    paddrs = [pfn * PAGE for pfn in PAGES]
    ours = [hashlib.sha256(memory.read(paddr, PAGE)).hexdigest() for paddr in paddrs]
    assert ask_libkdumpfile(dump, paddrs) == ours
