"""Why a tree does not read well: the base, the map, the DTB, the page size, or nothing known."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kho_inspect.abi import BY_COMPATIBLE
from kho_inspect.geometry import PAGE_SHIFTS, PageGeometry
from kho_inspect.limits import DEFAULT_LIMITS, Limits
from kho_inspect.locate.fit import Fit, find_fit
from kho_inspect.locate.page_size import find_page_size
from kho_inspect.locate.root_fdt import read_root_fdt
from kho_inspect.locate.scan import locate
from kho_inspect.memory import RamBlock, open_memory
from kho_inspect.memory.mapped import MappedMemory
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.captures import HOME, NAMES, Capture, unpack

GIB = 1 << 30
METADATA = b"\1\0\0\0" + b"7.3.4".ljust(65, b"\0") + b"\1\0\0\0"
LUO = b"luo-v5\0\0" + bytes(24)
ABIS = ["kho-v2", "kho-v3", "kho-v4"]


def fdt_named(name: bytes) -> bytes:
    return fdt_blob(Tree(b"", [(b"compatible", name + b"\0")]))


def handover(image: Image, skew: int = 1) -> Image:
    """Three blobs, ``skew`` pages apart, and some more preserved pages."""
    blobs = {"memblock": fdt_named(b"memblock-v1"), "kho_test": fdt_named(b"kho-test-v1")}
    blobs["LUO"] = fdt_named(b"luo-v1") if image.abi == "kho-v2" else LUO
    if image.abi != "kho-v2":
        blobs["kexec-metadata"] = METADATA
    for name, data in blobs.items():
        image.alloc(skew)
        image.subnode(name, image.blob(data), len(data))
    image.preserve_pages(image.alloc(37), 37)
    return image


def setup_data(fdt: int) -> bytes:
    """The entry that leads the next kernel to a root FDT."""
    return struct.pack("<QIIQQQQ", 0, 10, 32, fdt, 4096, 0, 0)


def fit(
    dump: Path,
    dtb: bytes,
    page_size: str = "auto",
    *,
    base: int = 0,
    blocks: tuple[RamBlock, ...] = (),
    scanned: bool = True,
    limits: Limits = DEFAULT_LIMITS,
) -> Fit | None:
    """What fits, of a dump opened in this way."""
    memory = open_memory(str(dump), base=base, blocks=blocks)
    tree = dump.with_name("given.dtb")
    tree.write_bytes(dtb)
    root = read_root_fdt(str(tree), memory)
    if page_size == "auto":
        best, _ = find_page_size(memory, root.abi, root.root, root.memory_map or 1)
        geometry = best.geometry
    else:
        geometry = PageGeometry(PAGE_SHIFTS[page_size], root.abi)
    return find_fit(memory, root, geometry, locate(memory) if scanned else None, limits)


def applied(dump: Path, dtb: bytes, found: Fit) -> Fit | None:
    """What fits once the option was given: nothing better."""
    words = found.option.split()
    blocks = tuple(RamBlock(*(int(part, 0) for part in word.split(":"))) for word in words[1::2])
    return fit(dump, dtb, blocks=blocks)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return tmp_path / "dump"


# -- base


@pytest.mark.parametrize("scanned", [True, False])
@pytest.mark.parametrize("base", [GIB, 0x1234000, 5 * GIB])
@pytest.mark.parametrize("size", ["4K", "64K"])
@pytest.mark.parametrize("abi", ABIS)
def test_a_forgotten_base_is_found(
    dump: Path, abi: str, size: str, base: int, scanned: bool
) -> None:
    image = handover(Image(PAGE_SHIFTS[size], abi, ram=(base & ~0xFFFF, 32 << 20)))
    dtb = image.finish()
    image.write_raw(dump, image.ram_start)
    found = fit(dump, dtb, scanned=scanned)
    assert found is not None
    assert found.option == f"--base {image.ram_start:#x}"
    assert f"the tree preserves the page of the root FDT, {image.fdt_paddr:#x}" in found.evidence
    count = len(image.subnodes)
    assert found.evidence[0] == f"{count} of {count} blobs and the tree root read there"
    assert fit(dump, dtb, base=image.ram_start) is None


@pytest.mark.parametrize("wrong", [1 << 20, GIB, 3 << 12])
def test_a_wrong_base_is_put_right(dump: Path, wrong: int) -> None:
    image = handover(Image())
    dtb = image.finish()
    image.write_raw(dump)
    found = fit(dump, dtb, base=wrong)
    assert found is not None
    assert found.option == "--base 0x0"


def test_a_base_for_one_blob_among_many_decoys(dump: Path) -> None:
    image = Image(ram=(0x7650_0000, 32 << 20))
    for number in range(200):
        image.write(image.alloc(2), fdt_named(b"decoy-%d" % number))
    image.subnode("one", image.blob(METADATA), len(METADATA))
    dtb = image.finish()
    image.write_raw(dump, image.ram_start)
    found = fit(dump, dtb)
    assert found is not None
    assert found.option == "--base 0x76500000"


def test_a_usual_base_is_found_without_any_blob(dump: Path) -> None:
    image = Image(ram=(GIB, 32 << 20))
    image.preserve_pages(image.alloc(5), 5)
    dtb = image.finish()
    image.write_raw(dump, GIB)
    found = fit(dump, dtb)
    assert found is not None
    assert found.option == "--base 0x40000000"
    assert found.evidence[0] == "the tree root read there"


# -- map


def pc_image(low: int, abi: str = "kho-v4", *, all_high: bool = False) -> tuple[Image, bytes]:
    """A PC with ``low`` bytes of RAM below 4 GiB: some blobs there, the others above."""
    image = Image(12, abi, ram=(1 << 20, 5 * GIB))
    if not all_high:
        image.subnode("memblock", image.blob(fdt_named(b"memblock-v1")), 100)
        image.alloc(3)
        image.subnode("more", image.blob(fdt_named(b"more-v1")), 100)
    image._next = (4 * GIB) + (64 << 20)
    handover(image, skew=2)
    return image, image.finish()


@pytest.mark.parametrize("low", [2 * GIB, 3 * GIB, 0x2345_6000])
def test_ram_around_the_hole_of_a_pc_is_found(dump: Path, low: int) -> None:
    image, dtb = pc_image(low)
    image.write_blocks(dump, [(0, low), (4 * GIB, GIB)])
    found = fit(dump, dtb)
    assert found is not None
    assert found.option == f"--map 0x0:0x0:{low:#x} --map 0x100000000:{low:#x}:0x40000000"
    assert found.evidence[0] == "6 of 6 blobs and the tree root read there"
    assert applied(dump, dtb, found) is None


def test_of_two_equal_layouts_a_pc_has_the_hole(dump: Path) -> None:
    """With all of the handover above 4 GiB, a base would do as well, but RAM starts at 0."""
    image, dtb = pc_image(2 * GIB, all_high=True)
    image.write_blocks(dump, [(0, 2 * GIB), (4 * GIB, GIB)])
    found = fit(dump, dtb)
    assert found is not None
    around_hole = "--map 0x0:0x0:0x80000000 --map 0x100000000:0x80000000:0x40000000"
    assert found.option == "--base 0x80000000"
    assert found.evidence[-1] == f"as good: {around_hole}"
    image.write(0x3000, setup_data(image.fdt_paddr))
    image.write_blocks(dump, [(0, 2 * GIB), (4 * GIB, GIB)])
    found = fit(dump, dtb)
    assert found is not None
    assert found.option == around_hole
    assert not found.evidence[-1].startswith("as good")


def test_a_wrong_map_is_put_right(dump: Path) -> None:
    image, dtb = pc_image(2 * GIB)
    placed = image.write_blocks(dump, [(0, 2 * GIB), (4 * GIB, GIB)])
    right = tuple(RamBlock(*block) for block in placed)
    wrong = RamBlock(0, 0, 3 * GIB), RamBlock(4 * GIB, 2 * GIB, GIB - 4096)
    assert fit(dump, dtb, blocks=right) is None
    for blocks in (wrong[:1], right[:1], (RamBlock(4 * GIB, 2 * GIB + 4096, 1 << 29),)):
        found = fit(dump, dtb, blocks=blocks)
        assert found is not None
        assert found.option == "--map 0x0:0x0:0x80000000 --map 0x100000000:0x80000000:0x40000000"


# -- DTB


@pytest.mark.parametrize("elf", [False, True])
def test_the_dtb_of_another_handover_is_told(dump: Path, elf: bool) -> None:
    image, other = handover(Image()), handover(Image(abi="kho-v3"), skew=7)
    image.finish()
    dtb = other.finish()
    image.write_elf(dump) if elf else image.write_raw(dump)
    found = fit(dump, dtb)
    assert found is not None
    assert found.option == "auto"
    assert f" stands at {image.fdt_paddr:#x}: " in found.evidence[0]
    assert "no copy of the DTB in the dump" in found.evidence


def test_the_next_kernels_own_fdt_does_not_make_the_dtb_wrong(dump: Path) -> None:
    """Of a late dump: ours stands there, its tree is gone, and there is a new one."""
    image = handover(Image())
    dtb = image.finish()
    for node in image.nodes:
        image.write(node, random.Random(node).randbytes(4096))
    blobs = [
        int.from_bytes(dict(node.props)[b"preserved-data"], "little") for node in image.subnodes
    ]
    new = handover(Image(ram=(32 << 20, 16 << 20)), skew=5)
    new.finish()
    image.pages |= new.pages
    image.write_raw(dump)
    assert fit(dump, dtb) is None
    image.write(image.fdt_paddr, bytes(4096))
    image.write_raw(dump)
    assert fit(dump, dtb) is None, "the blobs are still there"
    for paddr in blobs:
        image.write(paddr, bytes(4096))
    image.write(image.fdt_paddr, dtb)
    image.write_raw(dump)
    assert fit(dump, dtb) is None, "the root FDT is still there"
    for paddr in (*blobs, image.fdt_paddr):
        image.write(paddr, bytes(4096))
    image.write(0x200000, setup_data(image.fdt_paddr))
    image.write_raw(dump)
    assert fit(dump, dtb) is None, "what was handed over is not the root FDT that is there"
    image.write(0x200000, setup_data(new.fdt_paddr))
    image.write_raw(dump)
    found = fit(dump, dtb)
    assert found is not None
    assert found.option == "auto"
    assert f" stands at {new.fdt_paddr:#x}: " in found.evidence[0]


# -- page size


@pytest.mark.parametrize("abi", ["kho-v3", "kho-v4"])
@pytest.mark.parametrize("given", PAGE_SHIFTS)
@pytest.mark.parametrize("real", PAGE_SHIFTS)
def test_a_wrong_page_size_is_put_right(dump: Path, real: str, given: str, abi: str) -> None:
    image = handover(Image(PAGE_SHIFTS[real], abi))
    dtb = image.finish()
    image.write_raw(dump)
    found = fit(dump, dtb, given)
    if real == given:
        assert found is None
    else:
        assert found is not None
        assert found.option == f"--page-size {real}"
        assert (
            f"the tree preserves the page of the root FDT, {image.fdt_paddr:#x}" in found.evidence
        )


# -- nothing


def sound(image: Image) -> None:
    """Nothing is done to it."""


def zeroed_tree(image: Image) -> None:
    for node in image.nodes:
        image.write(node, bytes(image.page_size))


def recycled_tree(image: Image) -> None:
    for node in image.nodes:
        image.write(node, random.Random(node).randbytes(image.page_size))


def bad_pointer(image: Image) -> None:
    image.write_u64(image.root + 8 * 100, 0xDEADBEEF000)


def aliased_leaf(image: Image) -> None:
    key = image.key(image.fdt_paddr, 0)
    image.write_u64(image.node(key, 1) + 8 * 300, image.node(key, 0))


def zeroed_dump(image: Image) -> None:
    for page in image.pages:
        image.write(page, bytes(image.page_size))


def random_dump(image: Image) -> None:
    for page in image.pages:
        image.write(page, random.Random(page).randbytes(image.page_size))


@pytest.mark.parametrize("base", [0, 0x2000, GIB])
@pytest.mark.parametrize(
    "damage",
    [sound, zeroed_tree, recycled_tree, bad_pointer, aliased_leaf, zeroed_dump, random_dump],
)
@pytest.mark.parametrize("abi", ABIS)
def test_damage_is_no_matter_of_options(
    dump: Path, abi: str, damage: Callable[[Image], None], base: int
) -> None:
    image = handover(Image(abi=abi))
    dtb = image.finish()
    damage(image)
    image.write_raw(dump)
    found = fit(dump, dtb, base=base)
    assert (found is None) == (damage is not sound or base == 0)


def test_a_key_that_covers_all_memory_is_no_evidence(dump: Path) -> None:
    image = Image(ram=(GIB, 8 << 20))
    for name in ("one", "two"):
        paddr = image.alloc()
        image.write(paddr, METADATA)
        image.subnode(name, paddr, len(METADATA))
    image.finish(fdt_order=None)
    image.insert(2)
    image.write_raw(dump, GIB)
    assert fit(dump, image.root_fdt()) is None


def test_a_tree_beyond_the_limits_is_judged_by_what_was_read(dump: Path) -> None:
    image = handover(Image(ram=(GIB, 8 << 20)))
    image.preserve(2 * GIB, 0)
    dtb = image.finish()
    image.write_raw(dump, GIB)
    found = fit(dump, dtb, limits=Limits(nodes=len(image.nodes) - 1))
    assert found is not None
    assert found.option == "--base 0x40000000"
    assert fit(dump, dtb, limits=Limits(nodes=1)) is None


def test_two_equal_copies_of_a_machine_are_not_chosen_from(dump: Path) -> None:
    image = handover(Image(ram=(0x1000_0000, 8 << 20)))
    dtb = image.finish()
    image.write_raw(dump, image.ram_start)
    dump.write_bytes(dump.read_bytes() * 2)
    assert fit(dump, dtb) is None


def test_a_map_pointer_of_zero_or_an_unknown_abi_fits_nothing(dump: Path) -> None:
    image = handover(Image(ram=(GIB, 8 << 20)))
    image.finish()
    image.write_raw(dump, GIB)
    image.root = 0
    assert fit(dump, image.root_fdt()) is None
    image.root, image.abi = GIB, "nothing-v9"
    assert fit(dump, image.root_fdt()) is None


def test_a_16k_tree_of_kho_v2_loses_its_blobs_and_fits_nothing(dump: Path) -> None:
    image = handover(Image(14, "kho-v2"))
    dtb = image.finish()
    image.write_raw(dump)
    assert fit(dump, dtb) is None


@pytest.mark.parametrize("abi", BY_COMPATIBLE)
def test_a_hostile_dump_costs_bounded_work(
    dump: Path, abi: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages begin as blobs and are maps full of good pointers by turns, under any base."""
    work: Counter[int] = Counter()
    read, gather = MappedMemory.read, MappedMemory.gather

    def counted_read(self: MappedMemory, paddr: int, size: int) -> memoryview:
        work[pages] += size
        return read(self, paddr, size)

    def counted_gather(
        self: MappedMemory, paddrs: NDArray[np.uint64], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        work[pages] += len(paddrs) * dtype.itemsize
        return gather(self, paddrs, dtype)

    monkeypatch.setattr(MappedMemory, "read", counted_read)
    monkeypatch.setattr(MappedMemory, "gather", counted_gather)
    map_at = GIB + 4096
    name = BY_COMPATIBLE[abi].blob_property.encode()
    blob = (fdt_named(b"x") if abi in ("kho-v1", "kho-v2") else LUO).ljust(4096, b"\0")
    for pages in (1 << 9, 1 << 11):
        image, size = Image(abi=abi), pages << 12
        for number in range(500):
            value = (GIB + number * 8192).to_bytes(8, "little")
            image.subnodes.append(Tree(b"n%d" % number, [(name, value), (b"blob-size", value)]))
        image.root = map_at
        with dump.open("wb") as file:
            for at in range(0, size, 8192):
                file.write(blob)
                if abi == "kho-v1":
                    after = map_at + (at + 8192) % (size >> 1)
                    elements = [(at << 20 | n << 27, map_at + 8192 * n) for n in range(255)]
                    pairs = b"".join(struct.pack("<QQ", *pair) for pair in elements)
                    file.write(struct.pack("<QII", after, 0, 255) + pairs)
                else:
                    words = [map_at + (at + 8192 * n) % (size >> 1) for n in range(512)]
                    file.write(struct.pack("<512Q", *words))
        assert fit(dump, image.root_fdt()) is None
    assert 0 < work[1 << 11] < 2 * work[1 << 9]


# -- real captures


def test_the_base_of_a_capture_is_found(capture: Capture) -> None:
    for wrong in (0, GIB, 3 * GIB, 0x7000):
        memory = open_memory(str(capture.dump), base=wrong)
        located = locate(memory)
        for dtb in capture.dtbs:
            root = read_root_fdt(str(dtb), memory)
            best, _ = find_page_size(memory, root.abi, root.root, root.memory_map or 1)
            found = find_fit(memory, root, best.geometry, located, DEFAULT_LIMITS)
            if wrong == capture.base:
                assert found is None
                continue
            assert found is not None
            assert found.option == f"--base {capture.base:#x}"
            paddr = int(capture.truth["fdt_paddr"], 16)
            assert f"the tree preserves the page of the root FDT, {paddr:#x}" in found.evidence
            count = len(capture.truth["subnodes"])
            assert found.evidence[0] == f"{count} of {count} blobs and the tree root read there"


def test_the_page_size_of_a_capture_is_put_right(capture: Capture) -> None:
    real = f"{capture.truth['page_size'] >> 10}K"
    for given in PAGE_SHIFTS:
        memory = open_memory(str(capture.dump), base=capture.base)
        root = read_root_fdt(str(capture.dtb), memory)
        geometry = PageGeometry(PAGE_SHIFTS[given], root.abi)
        found = find_fit(memory, root, geometry, None, DEFAULT_LIMITS)
        option = f"--page-size {real}" if given != real else None
        assert (found and found.option) == option


def test_the_dtb_of_another_capture_is_told(capture: Capture) -> None:
    memory = open_memory(str(capture.dump), base=capture.base)
    located = locate(memory)
    for name in NAMES:
        if name == capture.name:
            continue
        root = read_root_fdt(str(HOME / name / "kho.dtb"), memory)
        best, _ = find_page_size(memory, root.abi, root.root, root.memory_map or 1)
        found = find_fit(memory, root, best.geometry, located, DEFAULT_LIMITS)
        assert found is not None, name
        assert found.option == "auto"
        paddr = int(capture.truth["fdt_paddr"], 16)
        assert f" stands at {paddr:#x}: " in found.evidence[0]


def test_a_late_dump_fits_nothing(tmp_path: Path) -> None:
    dtb = HOME.parent / "went-wrong" / "late-v3" / "kho.dtb"
    if not dtb.is_file():
        pytest.skip(f"no dump beside {dtb}")
    unpack(dtb.with_name("dump.raw.xz"), tmp_path / "dump")
    for base in (0, GIB):
        memory = open_memory(str(tmp_path / "dump"), base=base)
        root = read_root_fdt(str(dtb), memory)
        best, _ = find_page_size(memory, root.abi, root.root, root.memory_map or 1)
        located = locate(memory)
        assert find_fit(memory, root, best.geometry, located, DEFAULT_LIMITS) is None


@pytest.mark.parametrize("name", ["late-v3", "refused-v4-by-7.1"])
def test_the_fdt_that_the_next_kernel_prepares_is_no_fit(tmp_path: Path, name: str) -> None:
    """What was handed over is gone from the dump, and so is the root FDT."""
    packed = HOME.parent / "went-wrong" / name / "dump.raw.xz"
    if not packed.is_file():
        pytest.skip(f"no dump at {packed}")
    unpack(packed, tmp_path / "dump")
    memory = open_memory(str(tmp_path / "dump"))
    located = locate(memory)
    assert any(found.valid_tree for found in located.fdts)
    for capture in NAMES:
        root = read_root_fdt(str(HOME / capture / "kho.dtb"), memory)
        best, _ = find_page_size(memory, root.abi, root.root, root.memory_map or 1)
        assert find_fit(memory, root, best.geometry, located, DEFAULT_LIMITS) is None, capture
