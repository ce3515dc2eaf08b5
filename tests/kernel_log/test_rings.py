"""Rings that neither VMCOREINFO nor a banner leads to, and rings larger than most."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.kernel_log.kernel import UNKNOWN
from kho_inspect.kernel_log.kernels import find_kernels, scan_traces
from kho_inspect.kernel_log.traces import MAX_SIGHTINGS, Traces
from kho_inspect.memory import open_memory
from tests.kernel_log.test_kernels import two
from tests.kernel_log.test_printk import PHYS, RAM, kernels_of, made, only, plain
from tests.support.builder import Image
from tests.support.kernel_builder import PAGINGS, Kernel
from tests.support.running import document, in_process


def unnamed(name: str = "x86-64", *, banner: bool = False, **values: Any) -> Kernel:
    """A kernel whose ring has wrapped, without VMCOREINFO."""
    kernel = made(name, **values)
    kernel.boot(*(f"line {number}" for number in range(300)))
    for page in kernel.texts_at:
        kernel.image.pages.pop(page)
    kernel.image.write(kernel.image_phys + 0x30000, bytes(300))
    if banner:
        kernel.image.write(kernel.image_phys + 0x18000, kernel.banner.encode() + b"\n\0")
    return kernel


@pytest.mark.parametrize("where", [{"static": True}, {"dynamic": PHYS + (200 << 20)}])
@pytest.mark.parametrize("name", ["x86-64", "x86-64 l5", "arm64 4K", "arm64 16K", "arm64 64K 52"])
def test_a_wrapped_ring_that_nothing_names_was_not_found(name: str, where: dict[str, Any]) -> None:
    kernel = unnamed(name, **where)
    found = only(kernel.image)
    assert kernel.live[0].seq > 100
    assert plain(found.entries) == kernel.live
    assert (found.release, found.version, found.lost) == (UNKNOWN, None, 0)


def test_the_banner_in_its_image_names_such_a_kernel() -> None:
    kernel = unnamed(banner=True, static=True)
    found = only(kernel.image)
    assert (found.release, found.version) == (kernel.release, kernel.banner)
    assert found.build_id == kernel.build_id


def test_another_kernels_banner_does_not_name_it() -> None:
    image, old, new = two([f"line {number}" for number in range(200)], ["on"], same=False)
    image.write(old.image_phys + 0x30000, bytes(300))
    image.write(old.image_phys + 0x18008, new.banner.encode() + b"\n\0")
    releases = [one.release for one in kernels_of(image)]
    assert sorted(releases) == ["7.3.4", UNKNOWN]


def test_its_release_is_null(tmp_path: Path) -> None:
    unnamed(static=True).image.write_elf(tmp_path / "dump.elf", declare_ram=True)
    found = document("log", tmp_path / "dump.elf")
    assert [one["release"] for one in found["kernels"]] == [None]
    assert len(found["entries"]) > 30
    assert "kernel 1 unknown (" in in_process("locate", tmp_path / "dump.elf").stdout


def test_damaged_descriptors_leave_carved_records() -> None:
    kernel = unnamed(static=True)
    for seq in range(kernel.live[-1].seq - 9, kernel.live[-1].seq - 4):
        number = kernel.head - (kernel.live[-1].seq - seq)
        at = kernel.descs + number % kernel.count * kernel.desc_size
        kernel.place(at, b"\xa5" * kernel.desc_size)
    found = only(kernel.image)
    assert plain(found.entries) == kernel.live
    assert sum(one.carved for one in found.entries) == 5


def test_the_static_ring_is_the_beginning_of_the_one_that_went_on() -> None:
    image = Image(12, ram=RAM)
    early = Kernel(image, PAGINGS["x86-64"], PHYS, static=True)
    early.boot("early")
    late = Kernel(image, PAGINGS["x86-64"], PHYS + (1 << 20), dynamic=PHYS + (200 << 20))
    late.boot("early", *(f"line {number}" for number in range(200)))
    for page in (*early.texts_at, *late.texts_at):
        image.pages.pop(page)
    found = only(image)
    texts = [one.text.encode() for one in found.entries]
    assert texts == [one.text for one in (*early.live, *late.live)]
    assert found.lost == late.live[0].seq - early.live[-1].seq - 1
    assert (found.release, found.version) == ("7.3.4", late.banner)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 32))
def test_noise_is_no_ring(seed: int) -> None:
    rng = Random(seed)

    def word() -> int:
        small, pointer = rng.randrange(40), 0xFFFF888000000000 + rng.randrange(1 << 30)
        return rng.choice((0, 1, small, pointer, pointer, rng.getrandbits(64)))

    image = Image(12, ram=RAM)
    for _ in range(8):
        image.write(image.alloc(), struct.pack("<512Q", *(word() for _ in range(512))))
    assert kernels_of(image) == ()


def test_structs_that_lead_nowhere_are_no_kernels_and_cost_little() -> None:
    image = Image(12, ram=RAM)
    ids, vaddr = (1 << 62) - 60, 0xFFFFFFFF81000000
    for number in range(12):
        at = vaddr + 4096 * number
        ring = struct.pack("<6Q", 6, at, at + 64, ids, ids, 0)
        ring += struct.pack("<5Q", 12, at + 128, 4096, 0, 0)
        image.write(image.alloc(), ring.ljust(96, b"\0") * 42)
    assert kernels_of(image) == ()


def test_a_ring_across_two_pieces_is_seen() -> None:
    image = unnamed(static=True).image
    page = image.read(PHYS + 0x20000, 4096)
    words = np.frombuffer(page, dtype="<u8")
    first = 0x100 // 8
    for cut in range(first - 2, first + 14):
        traces = Traces()
        traces.look(PHYS, words[:cut])
        traces.look(PHYS + 8 * cut, words[cut:])
        assert traces.rings == [PHYS + 0x100], cut
    traces = Traces()
    for _ in range(100):
        traces.look(0, np.tile(words[first : first + 11], 10))
    assert len(traces.rings) == MAX_SIGHTINGS


# -- log_buf_len=


@pytest.mark.parametrize("bits", [27, 29, 31])
def test_a_log_buffer_of_more_than_64_mib_is_read(bits: int, tmp_path: Path) -> None:
    """Of which little is in use, as always after a boot."""
    image = Image(12, ram=(0x40000000, 16 << 30))
    kernel = Kernel(
        image, count_bits=bits - 5, size_bits=bits, dynamic=0x100000000, image_phys=PHYS
    )
    kernel.boot(*(f"line {number}" for number in range(50)))
    image.write_elf(tmp_path / "dump.elf", declare_ram=True)
    memory = open_memory(str(tmp_path / "dump.elf"))
    (found,) = find_kernels(memory, scan_traces(memory))
    assert plain(found.entries) == kernel.live


def test_a_large_ring_that_has_wrapped_is_read_on_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kho_inspect.kernel_log.printk.WHOLE", 1 << 10)
    kernel = made()
    for number in range(500):
        kernel.printk(f"line {number} {'x' * (number % 50)}", number)
        if number % 7 == 0:
            assert plain(only(kernel.image).entries) == kernel.live
