"""Virtual addresses against drgn, which walks the page tables of a vmcore by itself."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pytest

from kho_inspect.errors import MissingMemoryError
from kho_inspect.kernel_log.kernels import find_kernels, scan_traces
from kho_inspect.kernel_log.translate import address_space
from kho_inspect.kernel_log.vmcoreinfo import VmcoreInfo
from kho_inspect.memory import PhysicalMemory, open_memory
from tests.kernel_log.test_printk import PHYS, RAM
from tests.support.builder import Image
from tests.support.captures import HOME, unpack
from tests.support.dump_files import Segment, write_elf
from tests.support.kernel_builder import PAGINGS, Kernel

drgn = pytest.importorskip("drgn")


def program(memory: PhysicalMemory, info: VmcoreInfo, path: Path) -> Any:
    """drgn on the same memory, as a vmcore of this kernel."""
    text = "".join(f"{name}={value}\n" for name, value in info.values.items()).encode()
    text += bytes(-len(text) % 4)
    name = b"VMCOREINFO\0\0"
    note = struct.pack("<III", len(name) - 1, len(text), 0) + name + text
    stored = [Segment(one.start, bytes(memory.read(one.start, one.size))) for one in memory.stored]
    write_elf(path, stored, note=note)
    made = drgn.Program()
    made.set_core_dump(str(path))
    return made


def assert_same(path: Path, folder: Path) -> None:
    memory, rng = open_memory(str(path)), random.Random(1)
    kernels = [one for one in find_kernels(memory, scan_traces(memory)) if one.info is not None]
    assert kernels
    for number, kernel in enumerate(kernels):
        info = kernel.info
        assert info is not None
        space = address_space(memory, info)
        assert space is not None
        other = program(memory, info, folder / f"{number}.elf")
        known = [int(value, 16) for name, value in info.values.items() if name[:7] == "SYMBOL("]
        known = [one for one in known if one >> 47]
        assert len(known) > 2
        # Near what is mapped, and where hardly anything is.
        near = [rng.choice(known) + rng.randrange(1 << 24) for _ in range(200)]
        found = 0
        for vaddr in [*known, *near, *(rng.randrange(0xFFFF << 48, 1 << 64) for _ in range(100))]:
            vaddr = vaddr & -8 & (1 << 64) - 1
            try:
                theirs = other.read(vaddr, 8)
            except drgn.FaultError:
                theirs = None
            try:
                here = space.walk(vaddr)
                ours = None if here is None else bytes(memory.read(here[0], 8))
            except MissingMemoryError:
                ours = None
            assert ours == theirs, f"{vaddr:#x}"
            found += ours is not None
        assert found >= len(known) // 2


@pytest.mark.parametrize("name", ["late-v3", "refused-v4-by-7.1"])
def test_virtual_addresses_of_real_kernels_read_as_drgn_reads_them(
    name: str, tmp_path: Path
) -> None:
    packed = HOME.parent / "went-wrong" / name / "dump.raw.xz"
    if not packed.exists():
        pytest.skip("no dumps of handovers that went wrong")
    unpack(packed, tmp_path / "dump.raw")
    assert_same(tmp_path / "dump.raw", tmp_path)


@pytest.mark.parametrize("name", [name for name in PAGINGS if "x86" in name])
def test_virtual_addresses_of_built_kernels_read_as_drgn_reads_them(
    name: str, tmp_path: Path
) -> None:
    paging = PAGINGS[name]
    kernel = Kernel(Image(paging.page_shift, "kho-v4", RAM), paging, PHYS)
    kernel.boot("line")
    kernel.image.write_elf(tmp_path / "dump.elf", declare_ram=True)
    assert_same(tmp_path / "dump.elf", tmp_path)
