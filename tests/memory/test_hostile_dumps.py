"""Dumps out of all proportion, or at odds with themselves: work is counted, not timed."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kho_inspect import fdt
from kho_inspect.decoders import memblock, subnode
from kho_inspect.errors import FdtError, UnreadableInputError
from kho_inspect.limits import Limits
from kho_inspect.locate import scan
from kho_inspect.memory import Presence, elf_core, mapped, open_memory
from kho_inspect.memory.kcore import open_kcore
from kho_inspect.model.faults import FaultKind
from kho_inspect.units import Extent
from tests.support import luo_builder as write
from tests.support.builder import Image, Tree, fdt_blob, fdt_container, u32s
from tests.support.dump_files import Segment, write_elf
from tests.support.looking import look, messages, open_image
from tests.support.running import in_process, save

PAGE = 4096
BEGIN, END_NODE, PROP, NOP, END = (u32s(token) for token in (1, 2, 3, 4, 9))
ROOT = BEGIN + u32s(0)


# -- overlapping memory


def overlap(folder: Path, *segments: Segment) -> Path:
    path = folder / "dump.elf"
    write_elf(path, segments)
    return path


def test_segments_that_overlap_and_differ_are_told(tmp_path: Path) -> None:
    low, high = Segment(0x1000, b"A" * 0x2000), Segment(0x2000, b"A" * 0x800 + b"B" * 0x1800)
    for segments in ((low, high), (high, low)):
        memory = open_memory(str(overlap(tmp_path, *segments)))
        (note,) = memory.notes
        assert "overlap at 0x2000, with different contents: the one that starts lower" in note
        assert memory.read(0x1000, 0x3000) == b"A" * 0x2000 + b"B" * 0x1000


def test_segments_that_overlap_and_agree_are_not_told(tmp_path: Path) -> None:
    """As the kernel's text does in every /proc/vmcore."""
    ram = bytes(range(256)) * 64
    text = Segment(0x2000, ram[0x1000:0x2000])
    memory = open_memory(str(overlap(tmp_path, Segment(0x1000, ram), text)))
    assert (memory.notes, memory.stored) == ((), (Extent(0x1000, 0x5000),))


def test_live_memory_that_overlaps_may_differ(tmp_path: Path) -> None:
    path = overlap(tmp_path, Segment(0x1000, b"A" * 0x2000), Segment(0x2000, b"B" * 0x1000))
    assert len(open_memory(str(path)).notes) == 1
    assert open_kcore(str(path)).notes == ()


def test_overlaps_are_compared_within_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = [Segment(0, bytes(16 * PAGE)), Segment(0, bytes(PAGE)), Segment(PAGE, b"x" * PAGE)]
    path = overlap(tmp_path, *segments)
    (note,) = open_memory(str(path)).notes
    assert "overlap at 0x1000, with different contents" in note
    monkeypatch.setattr(mapped, "MAX_COMPARED", PAGE)
    assert open_memory(str(path)).notes == ()


def test_overlapping_ranges_of_a_lime_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "dump.lime"
    parts = [(0x2000, b"B" * 0x2000), (0x1000, b"A" * 0x2000)]
    path.write_bytes(
        b"".join(
            struct.pack("<IIQQ8x", 0x4C694D45, 1, start, start + len(data) - 1) + data
            for start, data in parts
        )
    )
    memory = open_memory(str(path))
    assert "overlap at 0x2000" in memory.notes[0]
    assert memory.read(0x1000, 0x3000) == b"A" * 0x2000 + b"B" * 0x1000


def headers(path: Path, rows: Sequence[tuple[int, int, int, int]], data: bytes = b"") -> Path:
    """An ELF core of (p_offset from the data on, p_paddr, p_filesz, p_memsz)."""
    write_elf(path, [Segment(0, b"", 1) for _ in rows], xnum=True)
    size = path.stat().st_size
    packed = b"".join(
        struct.pack("<IIQQQQQQ", 1, 7, size + at, paddr, paddr, filesz, memsz, PAGE)
        for at, paddr, filesz, memsz in rows
    )
    with path.open("r+b") as file:
        file.seek(64)
        file.write(packed)
        file.seek(size)
        file.write(data)
    return path


def test_no_file_is_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    rows = [(0, at << 30, 2 * PAGE, 2 * PAGE) for at in range(1000)]
    memory = open_memory(str(headers(tmp_path / "dump.elf", rows, b"x" * 2 * PAGE)))
    stored = sum(extent.size for extent in memory.stored)
    assert stored == memory.size == 2 * PAGE + 64 + 1000 * 56 + 64
    assert len(memory.declared) == 1000
    assert memory.presence(0, 2 * PAGE) is Presence.STORED
    assert memory.presence(999 << 30) is Presence.NOT_STORED
    (note,) = memory.notes
    assert "its segments share bytes of the file" in note
    assert "of 1,000 are not read to their end" in note


def test_segments_that_wrap_around_are_clipped(tmp_path: Path) -> None:
    top = (1 << 64) - PAGE
    rows = [(0, top, 2 * PAGE, (1 << 64) - 1), (PAGE, PAGE, PAGE, (1 << 64) - 1)]
    memory = open_memory(str(headers(tmp_path / "dump.elf", rows, b"x" * 2 * PAGE)))
    assert memory.declared == (Extent(PAGE, 1 << 64),)
    assert memory.stored == (Extent(PAGE, 2 * PAGE), Extent(top, 1 << 64))


def test_more_segments_than_fit_in_e_phnum(tmp_path: Path) -> None:
    count = 70_000
    rows = [(0, at << 20, 0, PAGE) for at in range(count)]
    rows[-1] = (0, count << 20, PAGE, PAGE)
    memory = open_memory(str(headers(tmp_path / "dump.elf", rows, b"x" * PAGE)))
    assert len(memory.declared) == count
    assert bytes(memory.read(count << 20, 4)) == b"xxxx"


def test_more_segments_than_any_machine_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = headers(tmp_path / "dump.elf", [(0, at << 20, 0, PAGE) for at in range(100)])
    assert len(open_memory(str(path)).declared) == 100
    monkeypatch.setattr(elf_core, "MAX_SEGMENTS", 99)
    with pytest.raises(UnreadableInputError, match="100 program headers are more than the 99"):
        open_memory(str(path))


def test_a_count_of_segments_beyond_the_file_is_refused(tmp_path: Path) -> None:
    path = headers(tmp_path / "dump.elf", [(0, 0, 0, PAGE)])
    with path.open("r+b") as file:
        file.seek(64 + 56 + 44)
        file.write(b"\xff" * 4)
    with pytest.raises(UnreadableInputError, match="4,294,967,295 program headers"):
        open_memory(str(path))


# -- many sub-nodes over one blob, many trees over one memory: counted, not timed


def test_one_large_blob_under_thousands_of_names_is_hashed_within_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = Image()
    paddr = image.blob(bytes(1 << 20))
    for number in range(3000):
        image.subnode(f"b{number}", paddr, 1 << 20)
    dtb = image.finish(fdt_order=6)
    hashed = 0
    real = hashlib.sha256

    def count(data: Any) -> Any:
        nonlocal hashed
        hashed += len(data)
        return real(data)

    monkeypatch.setattr(hashlib, "sha256", count)
    handover = look(image, dtb, limits=Limits(blob=8 << 20))
    assert hashed == 8 << 20
    assert len(handover.blobs) == subnode.MAX_SUBNODES
    assert "952 sub-nodes behind the first 2,048" in messages(handover, FaultKind.LIMIT)[0]


def test_one_tree_of_many_tokens_under_many_names_is_parsed_within_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fdt, "MAX_TOKENS", 5000)

    def begin(tokens: fdt.Tokens, left: int = 5000) -> None:
        tokens.left = left

    monkeypatch.setattr(fdt.Tokens, "__init__", begin)
    image = Image()
    inner = fdt_container(ROOT + NOP * 2000 + END_NODE + END)
    paddr = image.blob(inner)
    for number in range(40):
        image.subnode(f"b{number}", paddr, len(inner))
    handover = look(image, image.finish())
    assert [blob.fdt is not None for blob in handover.blobs] == [True] * 2 + [False] * 38
    refused = messages(handover, FaultKind.LIMIT)
    assert len(refused) == 38
    assert all("more than 5,000 tokens" in message for message in refused)


def test_regions_without_number_are_looked_at_within_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memblock, "MAX_REGIONS", 5)
    image = Image()
    regions = [(b"r%d" % number, write.reserve_mem(image, 1)[1]) for number in range(4)]
    write.memblock(image, regions)
    write.memblock(image, regions)
    handover = look(image, image.finish())
    found = [blob.content for blob in handover.blobs]
    assert [len(one.regions) for one in found if isinstance(one, memblock.Memblock)] == [4, 1]
    (message,) = messages(handover, FaultKind.LIMIT)
    assert message.startswith("3 regions behind the first 1 not looked at")


def test_sixteen_mebibytes_of_nops_are_refused() -> None:
    with pytest.raises(FdtError, match=r"more than 262,144 tokens"):
        fdt.parse(fdt_container(ROOT + NOP * ((4 << 20) - 100) + END_NODE + END))


def test_a_property_as_large_as_the_budget_is_read() -> None:
    size = (16 << 20) - 4096
    root = fdt.parse(fdt_blob(Tree(b"", [(b"huge", bytes(size))])))
    assert [len(prop.data) for prop in root.props] == [size]


def overlapping_headers(image: Image) -> int:
    """A MiB of headers of device trees that reach over all the others; returns how many."""
    start = image.alloc(256)
    header = u32s(0xD00DFEED, 60000, 56, 56, 40, 17, 16, 0, 0, 1000)
    image.write(start, (header * (1 << 20))[: 1 << 20])
    return (1 << 20) // len(header)


def test_headers_of_device_trees_every_few_bytes_are_scanned_within_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan, "MAX_EXAMINED", 4 << 20)
    image = Image()
    image.finish()
    headers = overlapping_headers(image)
    memory = open_image(image)
    read = 0
    real = type(memory).read

    def count(self: Any, paddr: int, size: int) -> memoryview:
        nonlocal read
        read += size
        return real(self, paddr, size)

    monkeypatch.setattr(type(memory), "read", count)
    located = scan.locate(memory)
    assert read < 6 << 20
    assert headers - 200 < located.passed_over < headers
    assert [found.paddr for found in located.fdts] == [image.fdt_paddr]


def test_copies_of_a_root_fdt_everywhere_are_parsed_within_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan, "MAX_TOKENS", 1000)
    image = Image()
    dtb = image.finish()
    start = image.alloc(16)
    for number in range(200):
        image.write(start + 320 * number, dtb)
    located = scan.locate(open_image(image))
    assert len(located.fdts) + located.passed_over == 201
    assert 30 < len(located.fdts) < 60


def test_setup_data_everywhere_is_kept_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_POINTERS", 50)
    image = Image()
    image.finish()
    start = image.alloc(4)
    image.write(start, struct.pack("<QII", 0, 10, 32) * 1024)
    located = scan.locate(open_image(image))
    assert (len(located.pointers), located.passed_over) == (50, 1024 - 50)


def test_what_a_scan_passes_over_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_EXAMINED", 4 << 20)
    image = Image()
    dump, _ = save(image, tmp_path, image.finish())
    assert "not looked at" not in in_process("locate", dump).stdout
    overlapping_headers(image)
    dump, _ = save(image, tmp_path, b"")
    assert (
        "places more that may be a root FDT were not looked at" in in_process("locate", dump).stdout
    )
    assert json.loads(in_process("locate", dump, "--json").stdout)["passed_over"] > 0
