"""The printk ring buffer through VMCOREINFO and page tables: what was printed must be read."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.kernel_log.kernel import Kernel as Found
from kho_inspect.kernel_log.kernels import find_kernels, scan_traces
from kho_inspect.kernel_log.printk import Entry
from kho_inspect.memory import open_memory
from tests.support.builder import Image
from tests.support.kernel_builder import PAGINGS, Kernel, Paging

RAM = (0x40000000, 4 << 30)
PHYS = 0x60000000
"""On a boundary of every size that one entry can map."""


def made(name: str = "x86-64", **values: Any) -> Kernel:
    paging: Paging = PAGINGS[name]
    return Kernel(Image(paging.page_shift, ram=RAM), paging, PHYS, **values)


def kernels_of(image: Image, declare_ram: bool = True) -> tuple[Found, ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump.elf"
        image.write_elf(path, declare_ram=declare_ram)
        memory = open_memory(str(path))
        return find_kernels(memory, scan_traces(memory))


def only(image: Image) -> Found:
    (kernel,) = kernels_of(image)
    return kernel


def plain(entries: tuple[Entry, ...]) -> list[tuple[Any, ...]]:
    return [(one.seq, one.ts_nsec, one.level, one.text.encode()) for one in entries]


@pytest.mark.parametrize("block", [True, False], ids=["image in a block", "image in pages"])
@pytest.mark.parametrize("name", PAGINGS)
def test_a_wrapped_ring_is_read_whole_through_the_page_tables(name: str, block: bool) -> None:
    kernel = made(name, block=block)
    kernel.boot("first")
    for number in range(300):
        kernel.printk(f"line {number} {'x' * (number % 50)}", number * 1_234_567, number % 8)
    found = only(kernel.image)
    assert len(kernel.live) > 30
    assert plain(found.entries) == kernel.live
    assert (found.lost, any(one.carved for one in found.entries)) == (0, False)
    assert found.architecture == kernel.paging.arch
    assert (found.release, found.build_id) == (kernel.release, kernel.build_id)
    # The banner is no longer in the ring; init_uts_ns says whose the image's is.
    assert found.version == kernel.banner


@pytest.mark.parametrize(
    ("name", "far"),
    [
        ("x86-64", 0x000F_0000_4000_0000),
        ("arm64 4K 52", 0x000D_0000_4000_0000),
        ("arm64 16K 52", 0x000E_0000_4000_0000),
        ("arm64 64K 52", 0x000B_0000_4000_0000),
    ],
)
def test_the_highest_bits_of_an_address_are_read_from_where_the_entry_has_them(
    name: str, far: int
) -> None:
    kernel = made(name, far=far)
    kernel.boot("in a page beyond 48 bits")
    (found,) = kernels_of(kernel.image, declare_ram=False)
    assert plain(found.entries) == kernel.live


def test_fields_are_where_vmcoreinfo_says() -> None:
    kernel = made(skew=16)
    kernel.boot("a kernel whose structs have grown")
    assert plain(only(kernel.image).entries) == kernel.live


def test_an_image_whose_page_tables_are_not_stored_is_found_by_its_base() -> None:
    for name in ("x86-64", "arm64 16K"):
        kernel = made(name, static=True, block=False)
        kernel.boot("without tables")
        for table in kernel.tables.values():
            kernel.image.pages.pop(table, None)
        assert plain(only(kernel.image).entries) == kernel.live


LINES = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=120),
        st.sampled_from(["", "a\nb", "x" * 200]),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(LINES, st.integers(2, 6), st.integers(9, 12), st.booleans())
def test_what_is_printed_is_read(
    lines: list[str], count_bits: int, size_bits: int, old_wrap: bool
) -> None:
    kernel = made(count_bits=count_bits, size_bits=size_bits, old_wrap=old_wrap)
    for number, line in enumerate(lines):
        if len(line.encode()) < kernel.size // 4:
            kernel.printk(line, number * 999_999_937, number % 8)
    found = only(kernel.image)
    assert plain(found.entries) == kernel.live
    assert found.lost == 0


def test_a_record_that_found_no_room_is_lost_and_one_in_the_making_is_none() -> None:
    kernel = made()
    kernel.boot("before")
    kernel.printk("no room", no_room=True)
    kernel.printk("committed, may still grow", state=1)
    shown = list(kernel.live)
    kernel.printk("reserved", state=0)
    found = only(kernel.image)
    assert (plain(found.entries), found.lost) == (shown, 1)


def test_bytes_that_are_no_utf8_are_spelled() -> None:
    kernel = made()
    kernel.boot()
    kernel.printk(b"caf\xe9 \xff")
    assert only(kernel.image).entries[-1].text == "caf\\xe9 \\xff"


# -- broken rings


def test_text_that_no_descriptor_leads_to_is_carved_with_its_time() -> None:
    kernel = made(count_bits=8)
    kernel.boot(*(f"line {number}" for number in range(40)))
    at = kernel.descs + 20 * kernel.desc_size
    kernel.place(at, b"\xa5" * kernel.desc_size * 5)
    found = only(kernel.image)
    assert plain(found.entries) == [tuple(one) for one in kernel.live]
    assert [one.seq for one in found.entries if one.carved] == [20, 21, 22, 23, 24]


def test_text_without_descriptor_and_time_is_carved_without_them() -> None:
    kernel = made(count_bits=8)
    kernel.boot(*(f"line {number}" for number in range(40)))
    for array, size in ((kernel.descs, kernel.desc_size), (kernel.infos, kernel.info_size)):
        kernel.place(array + 20 * size, b"\xa5" * size * 5)
    carved = [one for one in only(kernel.image).entries if one.carved]
    assert [one.text.encode() for one in carved] == [one.text for one in kernel.live[20:25]]
    assert [(one.seq, one.ts_nsec, one.level) for one in carved] == [
        (seq, None, None) for seq in range(20, 25)
    ]


def test_a_page_of_text_that_is_not_stored_costs_its_records_only() -> None:
    kernel = made(size_bits=15, count_bits=9)
    kernel.boot(*(f"line {number} {'x' * 60}" for number in range(300)))
    step = kernel.image.page_size
    page = kernel.data + step - kernel.data % step
    kernel.image.pages.pop(kernel.pages[page])
    found = only(kernel.image)
    assert 30 < found.lost < 60
    assert len(found.entries) + found.lost == len(kernel.live)
    by_seq = {record.seq: record for record in kernel.live}
    (cut,) = [one for one in found.entries if one.carved]
    assert cut.seq is not None and by_seq[cut.seq].text.startswith(cut.text.encode())
    others = [one for one in found.entries if one is not cut]
    assert all(one in kernel.live for one in plain(tuple(others)))


def test_the_log_is_carved_where_only_its_text_is_left() -> None:
    kernel = made()
    kernel.boot("first", "second", "third ends twice twice")
    for vaddr in range(kernel.structs, kernel.structs + 0x200, 8):
        kernel.image.write_u64(vaddr, 0)
    for page in kernel.texts_at:
        kernel.image.pages.pop(page)
    found = only(kernel.image)
    assert [one.text.encode() for one in found.entries] == [one.text for one in kernel.live]
    assert all(one.carved and one.ts_nsec is None for one in found.entries)
    assert (found.release, found.info, found.order) == (kernel.release, None, 1)


@pytest.mark.parametrize("name", ["x86-64", "arm64 16K"])
def test_a_ring_without_vmcoreinfo_is_found_by_its_text(name: str) -> None:
    kernel = made(name, static=True)
    kernel.boot("first", "second")
    for page in kernel.texts_at:
        kernel.image.pages.pop(page)
    found = only(kernel.image)
    assert plain(found.entries) == kernel.live
    assert not any(one.carved for one in found.entries)
    assert found.architecture == kernel.paging.arch


# -- a dump that lies


def test_page_tables_that_lead_in_a_circle_end_in_no_log() -> None:
    kernel = made("x86-64 l5", block=False)
    kernel.boot("lost")
    for table in kernel.tables.values():
        kernel.image.write_u64(table, *(kernel.root | 0x67 for _ in range(512)))
    assert all(found.lost < 1 << 20 for found in kernels_of(kernel.image))


@pytest.mark.parametrize(
    "ring",
    [
        struct.pack("<I4xQQQQQI4xQQQQ", 31, U, U, 0, 1, 0, 12, U, 0, 0, 0)
        for U in (0xFFFFFFFF9F000000,)
    ]
    + [
        struct.pack("<I4xQQQQQI4xQQQQ", 21, U, U, 1 << 61, 5, 0, 26, U, 0, 0, 0)
        for U in (0xFFFFFFFF9F000000, 0xFFFF888000000000)
    ]
    + [b"\xff" * 88, bytes(88)],
    ids=["too many", "far too many lost", "not mapped", "ones", "zeros"],
)
def test_a_ring_of_nonsense_is_no_log(ring: bytes) -> None:
    kernel = made()
    kernel.boot("lost")
    kernel.image.write(kernel.structs + 0x100, ring)
    found = kernels_of(kernel.image)
    # Its text may still be carved.
    assert all(one.carved for kernel in found for one in kernel.entries)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SIZE(printk_info)=88", "SIZE(printk_info)=99999999999999999999999"),
        ("SIZE(printk_info)=88", "SIZE(printk_info)=8"),
        ("OFFSET(prb_desc.state_var)=0", "OFFSET(prb_desc.state_var)=18446744073709551615"),
        ("SIZE(prb_desc)=24", "SIZE(prb_desc)=2000000000"),
        ("NUMBER(pgtable_l5_enabled)=0", "NUMBER(pgtable_l5_enabled)=7"),
        ("SYMBOL(prb)=ffff", "SYMBOL(prb)=zzzz"),
        ("NUMBER(phys_base)=", "NUMBER(phys_base)=-99999999"),
        ("PAGESIZE=4096\n", "PAGESIZE=4096\n\x1b[31mred\n"),
    ],
)
def test_vmcoreinfo_that_lies_ends_in_no_log_or_a_carved_one(old: str, new: str) -> None:
    kernel = made()
    kernel.boot("line")
    text = kernel.vmcoreinfo()
    assert old in text
    for page in kernel.texts_at:
        kernel.image.write(page, bytes(kernel.image.page_size))
    kernel.image.write(kernel.texts_at[0], text.replace(old, new).encode())
    for found in kernels_of(kernel.image):
        assert {one.text.encode() for one in found.entries} <= {one.text for one in kernel.live}


def test_a_page_full_of_beginnings_costs_a_few_readings() -> None:
    kernel = made()
    kernel.boot("line")
    lure = b"OSRELEASE=7.0\nPAGESIZE=4096\n\0".ljust(32, b"\0")
    for _ in range(40):
        kernel.image.write(
            kernel.image.alloc(), lure * 64 + b"Linux version 1 (a) (b) #1 x\0\0\0\0" * 64
        )
    assert len(kernels_of(kernel.image)) <= 16


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["x86-64 l5", "arm64 16K"]))
def test_no_damage_ends_in_an_exception_or_in_more_records_than_there_were(
    rng: Random, name: str
) -> None:
    kernel = made(name, static=rng.random() < 0.5, block=rng.random() < 0.5)
    kernel.boot(*(f"line {number}" for number in range(rng.choice((3, 200)))))
    pages = sorted(kernel.image.pages)
    for _ in range(rng.choice((1, 3, 20))):
        page = rng.choice([kernel.structs & -kernel.image.page_size, *pages])
        data = kernel.image.pages.get(page)
        if data is None or rng.random() < 0.1:
            kernel.image.pages.pop(page, None)
            continue
        used = [at for at in range(0, len(data), 8) if any(data[at : at + 8])] or [0]
        at = rng.choice(used)
        table = kernel.root | 0x67
        data[at : at + 8] = rng.choice([bytes(8), b"\xff" * 8, table.to_bytes(8, "little")])
    for found in kernels_of(kernel.image):
        assert len(found.entries) <= kernel.count
