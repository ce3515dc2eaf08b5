"""``addr`` of kernel virtual addresses: by whose page tables, and what they do not map."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kho_inspect.kernel_log.vmcoreinfo import parse_vmcoreinfo
from tests.kernel_log.test_printk import PHYS, RAM
from tests.support.builder import Image
from tests.support.captures import HOME, unpack
from tests.support.kernel_builder import PAGINGS, Kernel
from tests.support.running import document, in_process

LEFT = "kexec_core: Starting new kernel"


def dumped(folder: Path, kernel: Kernel) -> Path:
    """A handover beside the kernels of an image."""
    image = kernel.image
    image.subnode("data", image.blob(b"x"), 1)
    image.finish()
    image.write_elf(folder / "dump.elf", declare_ram=True)
    return folder / "dump.elf"


def some(name: str, abi: str = "kho-v4") -> Kernel:
    paging = PAGINGS[name]
    kernel = Kernel(Image(paging.page_shift, abi, RAM), paging, PHYS)
    kernel.boot("line")
    return kernel


@pytest.mark.parametrize("name", PAGINGS)
def test_a_virtual_address_of_a_kernel_was_not_translated(name: str, tmp_path: Path) -> None:
    kernel = some(name)
    path = dumped(tmp_path, kernel)
    asked = [kernel.data + 5, kernel.infos, kernel.image_vaddr(0x20108)]
    wanted = [kernel.physical(one) for one in asked[:2]] + [kernel.image_phys + 0x20108]
    found = document("addr", path, "auto", *map(hex, asked), hex(PHYS))
    assert [one["paddr"] for one in found["addresses"]] == [*map(hex, wanted), hex(PHYS)]
    by = {"release": "7.3.4", "build_id": kernel.build_id, "order": 1}
    assert [one["translated_by"] for one in found["addresses"]] == [by, by, by, None]
    text = in_process("addr", path, "auto", hex(asked[0])).stdout.splitlines()[0]
    assert text == f"{asked[0]:#x} → {wanted[0]:#x} by the page tables of Linux 7.3.4"


@pytest.mark.parametrize("name", ["x86-64", "arm64 16K"])
def test_what_the_page_tables_do_not_map_has_no_address(name: str, tmp_path: Path) -> None:
    kernel = some(name)
    path = dumped(tmp_path, kernel)
    # One that differs above the bits that the tables translate, and one that nothing is at.
    for asked in (kernel.data ^ 1 << 53, 0xFFFFFFFFFFFFF000):
        result = in_process("addr", path, "auto", hex(asked))
        assert result.status == 1
        words = f"{asked:#x}: a virtual address, which the page tables of Linux 7.3.4 do not map"
        assert words in " ".join(result.stderr.split())


def test_a_page_table_that_is_not_in_the_dump_is_named(tmp_path: Path) -> None:
    kernel = some("x86-64")
    first = kernel.tables[1, kernel.data >> kernel.paging.shifts[0]]
    kernel.image.pages.pop(first)
    path = dumped(tmp_path, kernel)
    told = in_process("addr", path, "auto", hex(kernel.data)).stderr
    words = f"one of the page tables of Linux 7.3.4, at {first:#x}, is not in the dump"
    assert words in " ".join(told.split())


def test_of_two_kernels_the_last_one_translates(tmp_path: Path) -> None:
    image = Image(12, ram=RAM)
    paging = PAGINGS["x86-64"]
    old = Kernel(image, paging, PHYS, "7.1.13", "#7 SMP of old", "01" * 20, static=True)
    old.boot(LEFT)
    new = Kernel(image, paging, PHYS + (64 << 20))
    new.boot("on")
    path = dumped(tmp_path, new)
    (found,) = document("addr", path, "auto", hex(paging.image + 0x100))["addresses"]
    assert found["paddr"] == hex(new.image_phys + 0x100)
    assert (found["translated_by"]["release"], found["translated_by"]["order"]) == ("7.3.4", 2)


def test_without_a_kernel_a_virtual_address_stays_one(tmp_path: Path) -> None:
    image = Image()
    image.finish()
    image.write_raw(tmp_path / "dump")
    result = in_process("addr", tmp_path / "dump", "auto", "0xffff888000001000")
    assert result.status == 1
    assert "the dump has no kernel's page tables" in " ".join(result.stderr.split())


def test_real_page_tables_lead_to_what_the_kernel_has_there(tmp_path: Path) -> None:
    packed = HOME.parent / "went-wrong" / "refused-v4-by-7.1" / "dump.raw.xz"
    if not packed.is_file():
        pytest.skip(f"no dump at {packed}")
    dump = tmp_path / "dump.raw"
    unpack(packed, dump)
    data = dump.read_bytes()
    texts = (parse_vmcoreinfo(data[at:]) for at in _all(data, b"OSRELEASE=7.1.13"))
    info = next(filter(None, texts))
    names = info.symbol("init_uts_ns")
    assert names is not None
    names += info.offset("uts_namespace.name") or 0
    (found,) = json.loads(in_process("addr", dump, "auto", hex(names), "--json").stdout)[
        "addresses"
    ]
    at = int(found["paddr"], 16)
    assert data[at : at + 6] == b"Linux\0"
    assert data[at + 130 : at + 137] == b"7.1.13\0"
    assert found["translated_by"]["release"] == "7.1.13"


def _all(data: bytes, text: bytes) -> list[int]:
    found, at = [], data.find(text)
    while at >= 0:
        found.append(at)
        at = data.find(text, at + 1)
    return found
