"""The seeds: small valid handovers, trees, device trees and dump files, made by the builders.

All of them are cheap to copy: no content but a word or two, no memory that nobody looks at.
"""

from __future__ import annotations

import lzma
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.fuzz.patches import Seed, seed_of
from tests.support import kdump_writer as kdumps
from tests.support import luo_builder as contents
from tests.support.builder import Image, Tree, fdt_blob, fdt_container, u32s
from tests.support.dump_files import Segment, write_elf
from tests.support.kernel_builder import PAGINGS, Kernel
from tests.support.luo_builder import File, Session, u64

PAGE = 4096
RAM = 64 << 20


@dataclass(frozen=True)
class MemorySeed(Seed):
    """Memory page by page, one behind the other, and the root FDT behind all of them."""

    pages: tuple[int, ...]
    """Physical addresses, in the order of the data."""
    shift: int
    abi: str
    ram: tuple[int, int]
    root: int
    """Address of the map."""

    @property
    def page_size(self) -> int:
        return 1 << self.shift

    @property
    def dtb_at(self) -> int:
        """Offset of the root FDT."""
        return len(self.pages) << self.shift


def memory_seed(name: str, image: Image, dtb: bytes, root: int | None = None) -> MemorySeed:
    """A finished image as a seed."""
    pages = sorted(image.pages)
    data = b"".join(bytes(image.pages[page]) for page in pages) + dtb
    plain = seed_of(name, data, pages, image.page_size)
    return MemorySeed(
        name,
        data,
        plain.places,
        plain.values,
        plain.unit,
        tuple(pages),
        image.page_shift,
        image.abi,
        (image.ram_start, image.ram_end),
        image.root if root is None else root,
    )


# -- memory: preserved-memory maps


def _tree(name: str, shift: int, abi: str, blocks: list[tuple[int, int]]) -> MemorySeed:
    image = Image(shift, abi)
    for number, order in blocks:
        image.preserve(number << (shift + order), order)
    return memory_seed(name, image, image.finish())


def _chunks(name: str, bitmap: int) -> MemorySeed:
    """A kho-v1 list of three chunks; ``bitmap`` is the size of one."""
    image = Image(12, "kho-v1")
    chunks = [image.alloc() for _ in range(3)]
    room = image.alloc(4)
    span = PAGE * 8 * bitmap
    for number, (chunk, order) in enumerate(zip(chunks, (0, 3, 9), strict=True)):
        following = chunks[number + 1] if number < 2 else 0
        elements = b""
        for element in range(2):
            at = room + (2 * number + element) * (bitmap if bitmap < PAGE else 0)
            if bitmap == PAGE:
                at = image.alloc()
            image.write(at, struct.pack("<QQ", 0x8001 << number, 3 << 62))
            elements += u64(element * span << order, at)
        image.write(chunk, struct.pack("<QII", following, order, 2) + elements)
    image.root = chunks[0]
    return memory_seed(name, image, fdt_blob(_v1_root(image.root, [])))


def _v1_root(first: int, subnodes: list[Tree]) -> Tree:
    props = [(b"compatible", b"kho-v1\0"), (b"preserved-memory-map", u64(first))]
    return Tree(b"", props, subnodes)


@cache
def maps() -> tuple[MemorySeed, ...]:
    """Radix trees of every page size, and kho-v1 lists of both bitmap sizes."""
    some = [(300, 0), (301, 0), (4000, 0), (90, 2), (7, 9), (1, 18)]
    return (
        _tree("4K-v4", 12, "kho-v4", some),
        _tree("4K-v2", 12, "kho-v2", some),
        _tree("16K-v3", 14, "kho-v3", [(300, 0), (90, 2), (3, 11)]),
        _tree("16K-v2", 14, "kho-v2", [(90, 2), (3, 11)]),
        _tree("64K-v4", 16, "kho-v4", [(30, 0), (31, 0), (9, 2)]),
        _chunks("v1", PAGE),
        _chunks("v1-small", 512),
    )


@cache
def areas() -> tuple[MemorySeed, ...]:
    """vmalloc areas; the descriptor of each stands at its root."""
    made = []
    for name, shift, order, count in (
        ("one-page", 12, 0, 1),
        ("full-chunk", 12, 0, 511),
        ("huge", 12, 9, 3),
        ("64K", 16, 0, 3),
    ):
        image = Image(shift)
        page = 1 << shift
        pieces = [(8 + at) * (page << order) for at in range(count)]
        descriptor = image.vmalloc(pieces, order, flags=1 if order == 0 else 3)
        at = image.alloc()
        image.write(at, descriptor)
        made.append(memory_seed(name, image, b"", at))
    return tuple(made)


# -- memory: whole handovers


def _handover(name: str, abi: str, shift: int = 12) -> MemorySeed:
    """Every kind of blob that the ABI has, each with little in it."""
    image = Image(shift, abi, (1 << 20, RAM))
    page = image.page_size
    large = contents.memfd(image, b"a" * 8 + bytes(5 * page), layout=[(0, 1), (4, 0)])
    small = contents.memfd(image, b"b" * 8, version=1)
    empty = contents.memfd(image, b"")
    sessions = [
        Session(b"vm-a", [File(1, large), File(2, small), File(9, compatible=b"opaque", data=7)]),
        Session(b"vm-b", [File(1, empty)]),
        Session(b"none"),
    ]
    flbs = [(b"flb-a", 1 << 63, 1), (b"flb-b", 0, 2)]
    if abi != "kho-v1":
        luo = contents.luo_v5 if abi == "kho-v4" else contents.luo_v1
        luo(image, sessions, flbs)
        contents.metadata(image, b"7.3.4", 1)
    start = image.alloc(2)
    image.preserve_pages(start, 2)
    region = [(b"compatible", b"reserve-mem-v1\0"), (b"start", u64(start))]
    contents.memblock(image, [(b"trace", [*region, (b"size", u64(2 * page))])])
    contents.kho_test(image, [(0, b"one"), (1, b"two")], inline=abi == "kho-v1")
    opaque = image.blob(b"opaque")
    image.subnode("other", opaque, 6)
    if abi != "kho-v1":
        return memory_seed(name, image, image.finish())
    nodes = [Tree(node.name, [(b"fdt", node.props[0][1])]) for node in image.subnodes]
    blocks = sorted(image.preserved)
    image.root = _list_of(image, blocks)
    dtb = fdt_blob(_v1_root(image.root, nodes))
    image.write(image.blob(dtb), dtb)
    return memory_seed(name, image, dtb)


def _list_of(image: Image, blocks: list[tuple[int, int]]) -> int:
    """A kho-v1 list of some blocks: a chunk and a bitmap per order."""
    orders = sorted({order for _, order in blocks})
    chunks = [image.alloc() for _ in orders]
    for chunk, order, following in zip(chunks, orders, [*chunks[1:], 0], strict=True):
        bitmap = image.alloc()
        for paddr, one in blocks:
            if one == order:
                number = paddr >> (12 + order)
                image.pages[bitmap][number // 8] |= 1 << number % 8
        image.write(chunk, struct.pack("<QIIQQ", following, order, 1, 0, bitmap))
    return chunks[0]


def _scratched(name: str) -> MemorySeed:
    """A handover that a setup_data entry points to, with a table of scratch areas."""
    image = Image(12, "kho-v4", (1 << 20, 1 << 40))
    contents.luo_v5(image, [Session(b"s", [File(1, contents.memfd(image, b"c"))])])
    image.preserve(1 << 38, 18)
    dtb = image.finish()
    table, entry = image.alloc(), image.alloc()
    image.write(table, u64(1 << 33, 1 << 24, 1 << 34, 1 << 24))
    image.write(entry, struct.pack("<QIIQQQQ", 0, 10, 32, image.fdt_paddr, PAGE, table, 32))
    return memory_seed(name, image, dtb)


@cache
def handovers() -> tuple[MemorySeed, ...]:
    """Of every ABI."""
    return (
        _handover("v4", "kho-v4"),
        _handover("v3", "kho-v3"),
        _handover("v2", "kho-v2"),
        _handover("v1", "kho-v1"),
        _handover("v4-64K", "kho-v4", 16),
        _scratched("scratch"),
    )


# -- memory: kernels

KERNEL = 64 << 20
"""Where the image of the first one is."""


def _kernel(name: str, number: int = 0, *, image: Image | None = None, **values: Any) -> Kernel:
    paging = PAGINGS[name]
    image = image or Image(paging.page_shift, ram=(0x2000000, 1 << 32))
    kernel = Kernel(image, paging, KERNEL + (number << 26), **values)
    kernel.boot("KHO: disabling KHO revival", "KHO: exec from: 7.1.13 (count 1)")
    return kernel


def _unnamed(kernel: Kernel) -> Kernel:
    """Without VMCOREINFO, and its first lines gone."""
    for number in range(80):
        kernel.printk(f"line {number}", number)
    for page in kernel.texts_at:
        kernel.image.pages.pop(page)
    return kernel


@cache
def kernels() -> tuple[MemorySeed, ...]:
    """By VMCOREINFO, by text, by struct; of two architectures; two in one memory."""
    both = _unnamed(_kernel("x86-64", static=True, release="7.1.13"))
    _kernel("x86-64", 1, image=both.image)
    made = {
        "x86": _kernel("x86-64", block=False),
        "l5": _kernel("x86-64 l5", static=True),
        "arm64": _kernel("arm64 16K", static=True, block=False),
        "unnamed": _unnamed(_kernel("x86-64", static=True)),
        "large": _kernel("x86-64", dynamic=1 << 31, count_bits=22, size_bits=27),
        "both": both,
    }
    return tuple(memory_seed(name, one.image, b"", one.root) for name, one in made.items())


# -- device trees


def _odd_fdt() -> bytes:
    """NOPs, a reservation, a nested node, empty names: all that is legal and seldom seen."""
    strings = b"compatible\0fdt\0"
    deep = b"".join(u32s(1) + b"d\0\0\0" for _ in range(5)) + u32s(*[2] * 5)
    structure = (
        u32s(4, 1, 0)
        + u32s(3, 7, 0)
        + b"kho-v4\0\0"
        + u32s(4, 3, 0, 11)
        + u32s(3, 8, 11)
        + u64(1)
        + deep
        + u32s(2, 4, 9)
    )
    reservations = struct.pack(">QQQQ", 4096, 4096, 0, 0)
    return fdt_container(structure, strings, reservations=reservations)


def boot_fdt(fdt: int, scratch: int) -> bytes:
    """An arm64 boot DTB, whose /chosen leads to the root FDT and the scratch table."""
    cells = [(b"#address-cells", u32s(2)), (b"#size-cells", u32s(2))]
    chosen = [
        (b"linux,kho-fdt", struct.pack(">QQ", fdt, PAGE)),
        (b"linux,kho-scratch", struct.pack(">QQ", scratch, 32)),
    ]
    return fdt_blob(Tree(b"", cells, [Tree(b"chosen", chosen)]))


@cache
def device_trees() -> tuple[Seed, ...]:
    """Root FDTs, blobs, a boot DTB and an odd one."""
    found = [(one.name, one.data[one.dtb_at :]) for one in handovers()[:4]]
    found += [("odd", _odd_fdt()), ("boot", boot_fdt(handovers()[0].pages[-1], 1 << 30))]
    found.append(("cut", handovers()[0].data[handovers()[0].dtb_at :][:120]))
    return tuple(seed_of(name, data, _offsets(data)) for name, data in found)


def _offsets(data: bytes) -> Iterator[int]:
    """File offsets as an FDT has them, big-endian in the low half of a word."""
    for at in [*range(0, len(data), 4), len(data), 3, 9]:
        yield int.from_bytes(at.to_bytes(4, "big"), "little")


# -- dump files

_CONTENT = {0x100: b"one", 0x101: b"two", 0x105: b"", 0x10000: b"far"}


def _pages(block: int = PAGE) -> dict[int, bytes]:
    return {pfn: text.ljust(block, b"\0") for pfn, text in _CONTENT.items()}


def _written(write: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path)
        return path.read_bytes()


def _file(name: str, data: bytes) -> Seed:
    values = {*range(0, len(data) + 1, PAGE), len(data), len(data) - 1, 64, 120, 1 << 20, 1 << 28}
    return seed_of(name, data, sorted(values))


@cache
def elf_files() -> tuple[Seed, ...]:
    """ELF cores: plain, with notes, with the count in a section header, compressed."""
    segments = [
        Segment(1 << 20, b"one".ljust(PAGE, b"\0")),
        Segment((1 << 20) + PAGE, b"two".ljust(2 * PAGE, b"\0"), 8 * PAGE),
        Segment(1 << 28, b"", PAGE),
    ]
    plain = _written(lambda path: write_elf(path, segments, note=True))
    xnum = _written(lambda path: write_elf(path, segments, xnum=True))
    return (
        _file("plain", plain),
        _file("xnum", xnum),
        _file("gzip", _gzip(plain)),
        _file("xz", lzma.compress(plain)),
        _file("zstd", _codec("zstandard")[1](plain)),
    )


def _gzip(data: bytes) -> bytes:
    return (
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03"
        + zlib.compress(data, wbits=-15)
        + struct.pack("<II", zlib.crc32(data), len(data))
    )


def _lime(name: str, ranges: list[tuple[int, bytes]]) -> Seed:
    return _file(name, _written(lambda path: kdumps.write_lime(path, ranges)))


@cache
def lime_files() -> tuple[Seed, ...]:
    """Ranges that touch, that do not, and that overlap."""
    one, two = b"one".ljust(PAGE, b"\0"), b"two".ljust(PAGE, b"\0")
    return (
        _lime("apart", [(1 << 20, one), ((1 << 20) + PAGE, two), (1 << 28, one[:100])]),
        _lime("overlap", [(1 << 20, one), ((1 << 20) + 100, two), (1 << 19, one)]),
    )


def _codec(name: str) -> tuple[int, kdumps.Codec]:
    """Flag and compressor; zlib's where the optional module is not installed."""
    try:
        module = import_module(name)
    except ImportError:
        return kdumps.ZLIB, zlib.compress
    if name == "lzallright":
        return kdumps.LZO, module.LZOCompressor().compress
    if name == "zstandard":
        return kdumps.ZSTD, module.ZstdCompressor().compress
    return kdumps.SNAPPY, lambda page: bytes(module.snappy.compress_raw(page))


def _kdump(name: str, block: int = PAGE, **options: object) -> Seed:
    def write(path: Path) -> None:
        kdumps.write_kdump(path, _pages(block), block=block, known=[0x102], **options)  # type: ignore[arg-type]

    return _file(name, _written(write))


@cache
def kdump_files() -> tuple[Seed, ...]:
    """kdump-compressed files of several codecs, and flattened ones."""
    made = [_kdump("v6"), _kdump("16K", block=4 * PAGE), _kdump("stored", flag=0)]
    for module in ("lzallright", "cramjam", "zstandard"):
        flag, codec = _codec(module)
        made.append(_kdump(module, flag=flag, codec=codec))
    elf = elf_files()[0].data
    for name, data, size in (("flat", made[0].data, 5000), ("flat-elf", elf, 700)):
        with tempfile.TemporaryDirectory() as folder:
            source, flat = Path(folder) / "source", Path(folder) / "flat"
            source.write_bytes(data)
            kdumps.flatten(source, flat, size)
            made.append(_file(name, flat.read_bytes()))
    return tuple(made)
