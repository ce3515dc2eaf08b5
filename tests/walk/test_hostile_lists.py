"""Lists that go in circles, and many pointers to one thing: read once, within what a dump holds."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from kho_inspect.decoders.context import Context
from kho_inspect.decoders.kho_test import KhoTest
from kho_inspect.decoders.memfd import Memfd
from kho_inspect.decoders.registry import FILE_DECODERS
from kho_inspect.model.contents import FileEntries
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import Handover
from kho_inspect.model.luo import Luo
from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.looking import look
from tests.support.luo_builder import File, Session

PAGE = 4096


def luo_of(handover: Handover) -> Luo:
    found = next(blob.content for blob in handover.blobs if blob.name == "LUO")
    assert isinstance(found, Luo)
    return found


def kinds_of(handover: Handover) -> set[FaultKind]:
    return {fault.kind for fault in handover.faults}


@pytest.mark.parametrize("link", [0, 1, 2])
def test_a_cycle_of_session_blocks_is_read_once(link: int) -> None:
    image = Image()
    luo = write.luo_v5(image, [Session(b"s%d" % number) for number in range(120)])
    dtb = image.finish()
    assert len(luo.sessions.pages) == 3
    image.write_u64(luo.sessions.pages[2], luo.sessions.pages[link])
    handover = look(image, dtb)
    assert kinds_of(handover) == {FaultKind.BLOCK_CYCLE}
    assert len(luo_of(handover).sessions) == 120
    assert handover.ownership.size(handover.ownership.unclaimed) == 0


def test_a_cycle_of_file_blocks_is_read_once() -> None:
    image = Image()
    files = [File(token, compatible=b"opaque") for token in range(70)]
    luo = write.luo_v5(image, [Session(b"vm-a", files), Session(b"vm-b", files[:1])])
    dtb = image.finish()
    first, second = luo.files[0].pages
    image.write_u64(second, first)
    handover = look(image, dtb)
    assert kinds_of(handover) == {FaultKind.BLOCK_CYCLE}
    assert [len(session.files) for session in luo_of(handover).sessions] == [70, 1]


@pytest.mark.parametrize("link", [0, 1])
def test_a_cycle_of_vmalloc_chunks_is_read_once(link: int) -> None:
    image = Image()
    made = write.memfd(image, b"", extra=[(0, at) for at in range(520 * 256)])
    assert len(made.area.chunks) == 2
    write.luo_v5(image, [Session(b"vm", [File(1, made)])])
    dtb = image.finish()
    image.write_u64(made.area.chunks[1], made.area.chunks[link])
    handover = look(image, dtb)
    assert kinds_of(handover) == {FaultKind.VMALLOC_CYCLE}
    (file,) = luo_of(handover).files
    assert isinstance(file.content, Memfd)
    assert len(file.content.table) == 520 * 256


# -- many pointers to one thing: work is bounded by the dump, not by what its pointers multiply to


class TooMuchError(Exception):
    """More work than any dump of this size could ask for."""


def bounded(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Stop at so many memfds decoded."""
    decode, count = FILE_DECODERS["memfd-v2"], 0

    def counted(context: Context, entries: FileEntries) -> Any:
        nonlocal count
        count += len(entries)
        if count > most:
            raise TooMuchError
        return decode(context, entries)

    monkeypatch.setitem(FILE_DECODERS, "memfd-v2", counted)


@pytest.mark.parametrize("abi", ["kho-v3", "kho-v4"])
def test_many_sessions_over_one_list_of_files(monkeypatch: pytest.MonkeyPatch, abi: str) -> None:
    image = Image(12, abi)
    made = write.memfd(image, b"x")
    files = [File(token, made) for token in range(120)]
    sessions = [Session(b"all", files), *(Session(b"s%d" % number) for number in range(400))]
    luo = (write.luo_v5 if abi == "kho-v4" else write.luo_v1)(image, sessions)
    dtb = image.finish()
    for entry in luo.sessions.entries:
        image.write_u64(entry + 64, luo.files[0].first, len(files))
    bounded(monkeypatch, PAGE * len(image.pages) // write.FILE)
    look(image, dtb)


def test_many_files_over_one_table_of_folios() -> None:
    image = Image()
    made = write.memfd(image, b"", extra=[(0, at) for at in range(40 * 256)])
    write.luo_v5(image, [Session(b"vm", [File(token, made) for token in range(63)])])
    handover = look(image, image.finish())
    memfds = [file.content for file in luo_of(handover).files if isinstance(file.content, Memfd)]
    assert memfds
    assert 16 * sum(len(memfd.table) for memfd in memfds) <= PAGE * len(image.pages)


def test_a_table_of_one_piece_named_many_times() -> None:
    image = Image()
    piece = image.alloc(64, 64 * PAGE)
    made = write.memfd(image, b"x", nr_folios=1 << 40)
    write.luo_v5(image, [Session(b"vm", [File(1, made)])])
    dtb = image.finish()
    image.write_u64(made.area.chunks[0] + 8, *[piece] * 32)
    image.write(made.fields["total_pages"], struct.pack("<IHH", 64 * 32, 0, 6))
    (file,) = luo_of(look(image, dtb)).files
    assert isinstance(file.content, Memfd)
    assert 16 * len(file.content.table) <= PAGE * len(image.pages)


def test_one_folio_of_kho_test_named_many_times() -> None:
    image = Image()
    made = write.kho_test(image, [(0, b"x")] + [(9, b"")] * 20)
    assert made.area is not None
    dtb = image.finish()
    image.write_u64(made.area.pieces[0], *[made.folios[1].paddr | 9] * 512)
    handover = look(image, dtb)
    (found,) = [blob.content for blob in handover.blobs]
    assert isinstance(found, KhoTest)
    assert set(found.phys.tolist()) == {made.folios[1].paddr}
    assert (len(found.phys), found.bytes, found.checksum_ok) == (21, 21 << 21, False)
