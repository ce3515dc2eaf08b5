"""Root FDTs that stand anywhere in a dump, and decoys of them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kho_inspect.layouts.fdt import FDT_MAGIC_BYTES
from kho_inspect.locate import scan
from kho_inspect.locate.fdt_headers import fdt_headers, headers_anywhere
from kho_inspect.memory import open_memory
from tests.support.builder import Image
from tests.support.running import document, in_process

HEADER = struct.pack(">10I", 0xD00DFEED, 400, 56, 300, 40, 17, 16, 0, 60, 200)


def sample(folder: Path, *places: int, have: int | None = None, alone: bool = False) -> Path:
    """A handover, with copies of its root FDT at offsets in pages of their own."""
    image = Image()
    image.subnode("data", image.blob(b"x"), 1)
    data = image.finish()
    for place in places:
        image.write(image.alloc(2) + place, data[:have])
    if alone:
        image.write(image.fdt_paddr, bytes(4096))
    image.write_raw(folder / "dump")
    return folder / "dump"


@pytest.mark.parametrize("place", [*range(1, 8), 0x2E1, 4095])
def test_a_copy_off_8_bytes_was_found_only_with_a_dtb(tmp_path: Path, place: int) -> None:
    path = sample(tmp_path, place)
    own, copy = document("locate", path)["candidates"]
    assert (own["role"], copy["role"]) == ("outgoing", "stale")
    assert int(copy["paddr"], 16) % 4096 == place
    assert copy["why"] == "valid tree, own page not preserved: stale, not page-aligned"


@pytest.mark.parametrize("place", [0x2E0, 0x2E3])
def test_a_part_off_8_bytes_is_a_partial_copy(tmp_path: Path, place: int) -> None:
    found = document("locate", sample(tmp_path, place, have=90))["candidates"]
    assert [one["role"] for one in found] == ["outgoing", "partial"]


def test_copies_come_before_parts_and_aligned_ones_before_others(tmp_path: Path) -> None:
    found = document("locate", sample(tmp_path, 0x101, 0x100, 0))["candidates"]
    assert [int(one["paddr"], 16) % 4096 for one in found] == [0, 0, 0x100, 0x101]


def test_what_nothing_but_a_copy_off_8_bytes_is_left_of_is_read(tmp_path: Path) -> None:
    path = sample(tmp_path, 0x101, alone=True)
    shown = document("show", path)
    assert (shown["fdt"]["recovered"], shown["blobs"][0]["name"]) == (True, "data")
    assert in_process("locate", path).status == 0


def test_a_pointer_to_a_place_that_no_kernel_takes_makes_none_incoming(tmp_path: Path) -> None:
    image = Image()
    data = image.finish()
    copy = image.alloc() + 4
    image.write(copy, data)
    image.write(image.alloc(), struct.pack("<QIIQQQQ", 0, 10, 32, copy, 4096, 0x2000, 48))
    image.write_raw(tmp_path / "dump")
    found = document("locate", tmp_path / "dump")["candidates"]
    assert [one["role"] for one in found] == ["outgoing", "stale"]


def test_decoys_off_8_bytes_do_not_use_up_what_is_left_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "MAX_EXAMINED", 64 << 10)
    image = Image()
    for _ in range(8):
        image.write(image.alloc(), (b"\0" + HEADER + bytes(3)) * 93)
    image.subnode("data", image.blob(b"x"), 1)
    image.finish()
    image.write_raw(tmp_path / "dump")
    found = scan.locate(open_memory(str(tmp_path / "dump")))
    assert [one.paddr for one in found.fdts] == [image.fdt_paddr]
    assert found.passed_over > 600


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.sampled_from([HEADER, HEADER[:20], b"\xd0\x0d"]))),
    st.binary(max_size=300),
)
def test_headers_are_found_wherever_they_are(placed: list[tuple[int, bytes]], noise: bytes) -> None:
    data = bytearray(noise.ljust(1024, b"\xd0")[:1024])
    for at, header in placed:
        data[at : at + len(header)] = header[: len(data) - at]
    words = np.frombuffer(bytes(data), dtype="<u8")

    def sound(at: int) -> bool:
        size, version = (data[at + skip : at + skip + 4] for skip in (4, 20))
        return (len(size) < 4 or 40 <= int.from_bytes(size) <= 2 << 20) and (
            len(version) < 4 or int.from_bytes(version) >= 17
        )

    wanted = [at for at in range(1021) if data[at : at + 4] == FDT_MAGIC_BYTES and sound(at)]
    # What begins at the very end of a piece is looked at where it stands.
    assert [at for at in headers_anywhere(words).tolist() if at <= 1020] == wanted
    assert [8 * at for at in fdt_headers(words).tolist()] == [at for at in wanted if at % 8 == 0]
