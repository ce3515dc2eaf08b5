"""An independent writer of sub-node contents: memfds, LUO, memblock, metadata, kho_test.

Standard library only, like ``builder``, on top of whose Image it writes; from ABI.md §4, §5, §10.
Everything comes back with the addresses of its structures, so that tests can damage them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.builder import Image, Tree, fdt_blob

DIRTY, UPTODATE = 1, 2
SESSION, FILE, FLB = 80, 64, 64
"""Bytes of a ``luo_session_ser``, ``luo_file_ser``, ``luo_flb_ser``."""
SESSION_PAGES, FILE_PAGES = 16, 2
"""luo-v1: pages of the session array, and of a session's file array."""
KHO_TEST_MAGIC = 0x4B484F21


@dataclass(frozen=True)
class Area:
    """A vmalloc area."""

    descriptor: bytes
    chunks: list[int]
    pieces: list[int]


@dataclass(frozen=True)
class Folio:
    """One folio of a memfd, or of kho_test."""

    paddr: int
    order: int
    index: int
    """Page offset in the file."""


@dataclass(frozen=True)
class Memfd:
    """A memfd; ``content`` is what a reader of the file would get."""

    compatible: bytes
    paddr: int
    """The descriptor."""
    fields: dict[str, int]
    """Address of each of its fields."""
    area: Area
    folios: list[Folio]
    content: bytes


@dataclass(frozen=True)
class File:
    """One entry of a session's list of files."""

    token: int
    memfd: Memfd | None = None
    compatible: bytes | None = None
    """The memfd's own, when not given."""
    data: int | None = None
    """The memfd's descriptor, when not given."""

    def packed(self) -> bytes:
        """``struct luo_file_ser``."""
        memfd = self.memfd
        compatible = self.compatible or (memfd.compatible if memfd else b"")
        data = self.data if self.data is not None else memfd.paddr if memfd else 0
        return struct.pack("<48sQQ", compatible, data, self.token)


@dataclass(frozen=True)
class Session:
    """A session that is to be written."""

    name: bytes
    files: Sequence[File] = ()


@dataclass(frozen=True)
class Entries:
    """A list of structs as written: where it starts, its pages, each entry's address."""

    first: int
    pages: list[int]
    """Blocks of the chain, or the one array."""
    counts: list[int]
    """Address of each ``count`` field."""
    entries: list[int]


NOTHING = Entries(0, [], [], [])
"""A list that was never made."""


@dataclass(frozen=True)
class Luo:
    """What was written of LUO."""

    blob: int
    size: int
    sessions: Entries
    files: list[Entries]
    """Per session."""
    flbs: int
    """The FLB header, 0 without one."""


@dataclass(frozen=True)
class KhoTest:
    """What was written of kho_test."""

    blob: int
    size: int
    folios: list[Folio]
    area: Area | None
    csum: int


def u64(*values: int) -> bytes:
    """Little-endian words, cut to 64 bits."""
    return struct.pack(f"<{len(values)}Q", *(value % (1 << 64) for value in values))


def pattern(size: int, seed: int) -> bytes:
    """Bytes that differ from page to page and from seed to seed."""
    lines = (b"%-63d\n" % (seed << 32 | at) for at in range(0, size, 64))
    return b"".join(lines)[:size]


def area_of(image: Image, descriptor: bytes) -> Area:
    """The structures of an area that ``Image.vmalloc`` wrote."""
    chunks: list[int] = []
    pieces: list[int] = []
    at = int.from_bytes(descriptor[:8], "little")
    while at:
        chunks.append(at)
        words = struct.unpack(f"<{image.page_size // 8}Q", image.read(at, image.page_size))
        pieces.extend(word for word in words[1:] if word)
        at = words[0]
    return Area(descriptor, chunks, pieces)


# -- memfd


def feature_header(supported: int, required: int | None = None, active: int | None = None) -> bytes:
    """128 bytes; ``required`` and ``active`` are as ``supported`` when not given."""
    bits = [supported if one is None else one for one in (supported, required, active)]
    return u64(*bits) + bytes(104)


def memfd(
    image: Image,
    content: bytes,
    *,
    version: int = 2,
    features: bytes = b"",
    handler: bytes | None = None,
    layout: Sequence[tuple[int, int]] | None = None,
    size: int | None = None,
    pos: int = 0,
    seals: int = 0,
    flags: int = 0,
    folio_flags: int = DIRTY | UPTODATE,
    nr_folios: int | None = None,
    extra: Sequence[tuple[int, int]] = (),
) -> Memfd:
    """A memfd of ``content``.

    ``layout``: (index, order) of each folio, without which there is one page for each page of
    content. What no folio holds reads back as zeros. ``extra``: (pfn word, index) of entries more.
    ``features``: a header to put before it, then its handler is ``memfd``.
    ``size`` and ``nr_folios`` are for lying.
    """
    page = image.page_size
    if layout is None:
        layout = [(index, 0) for index in range(-(-len(content) // page))]
    folios, held = [], bytearray(len(content))
    table = b""
    for index, order in layout:
        paddr = image.alloc(1 << order, page << order)
        image.preserve(paddr, order)
        part = content[index * page : (index + (1 << order)) * page]
        image.write(paddr, part)
        held[index * page : index * page + len(part)] = part
        folios.append(Folio(paddr, order, index))
        table += u64(paddr >> image.page_shift | folio_flags << 52, index)
    table += b"".join(u64(*entry) for entry in extra)
    area = image.vmalloc(table) if table else bytes(16)
    count = len(table) // 16 if nr_folios is None else nr_folios
    whole = len(content) if size is None else size
    if version == 1:
        names = {"pos": 0, "size": 8, "nr_folios": 16, "folios": 24, "total_pages": 32}
        data = u64(pos, whole, count)
    else:
        names = {"pos": 0, "size": 8, "seals": 16, "flags": 20}
        names |= {"nr_folios": 24, "folios": 32, "total_pages": 40}
        data = u64(pos, whole) + struct.pack("<II", seals, flags) + u64(count)
    paddr = image.blob(features + data + area)
    return Memfd(
        handler or (b"memfd" if features else b"memfd-v%d" % version),
        paddr,
        {name: paddr + len(features) + offset for name, offset in names.items()},
        area_of(image, area),
        folios,
        bytes(held),
    )


# -- LUO


def chain(image: Image, entries: Sequence[bytes]) -> Entries:
    """A chain of kho_blocks, one at the least."""
    size = len(entries[0]) if entries else 1
    room = (image.page_size - 16) // size
    pages = [image.alloc() for _ in range(max(1, -(-len(entries) // room)))]
    places = []
    for number, page in enumerate(pages):
        image.preserve(page, 0)
        held = entries[number * room : (number + 1) * room]
        following = pages[number + 1] if number + 1 < len(pages) else 0
        image.write(page, u64(following, len(held)) + b"".join(held))
        places += [page + 16 + at * size for at in range(len(held))]
    return Entries(pages[0], pages, [page + 8 for page in pages], places)


def array(image: Image, entries: Sequence[bytes], pages: int, header: bytes = b"") -> Entries:
    """Entries behind a header, in one block of ``pages`` pages."""
    order = pages.bit_length() - 1
    start = image.alloc(pages, image.page_size << order)
    image.preserve(start, order)
    image.write(start, header + b"".join(entries))
    size = len(entries[0]) if entries else 1
    places = [start + len(header) + at * size for at in range(len(entries))]
    return Entries(start, [start], [start] if header else [], places)


def flb_array(image: Image, flbs: Sequence[tuple[bytes, int, int]]) -> int:
    """FLB header and entries (name, data, count) in one page; 0 for none."""
    if not flbs:
        return 0
    packed = b"".join(struct.pack("<48sQQ", *flb) for flb in flbs)
    return image.blob(u64(1, len(flbs)) + packed)


def luo_v5(
    image: Image,
    sessions: Sequence[Session],
    flbs: Sequence[tuple[bytes, int, int]] = (),
    *,
    number: int = 1,
    serialized: bool = True,
    start: bytes = b"luo-v5",
) -> Luo:
    """The raw struct and its chains, announced as sub-node ``LUO``.

    ``start``: a string, padded with its NUL to a multiple of 8, or a feature header.
    """
    files = [
        chain(image, [file.packed() for file in session.files]) if session.files else NOTHING
        for session in sessions
    ]
    written = chain(image, _packed(sessions, files)) if serialized else NOTHING
    flbs_pa = flb_array(image, flbs)
    if len(start) < 128:
        start += bytes(8 - len(start) % 8)
    data = start + struct.pack("<QQQ", number, written.first, flbs_pa)
    blob = image.blob(data)
    image.subnode("LUO", blob, len(data))
    return Luo(blob, len(data), written, files, flbs_pa)


def luo_v1(
    image: Image,
    sessions: Sequence[Session],
    flbs: Sequence[tuple[bytes, int, int]] = (),
    *,
    number: int = 1,
    serialized: bool = True,
) -> Luo:
    """The FDT and its arrays, announced as sub-node ``LUO``."""
    files = [
        array(image, [file.packed() for file in session.files], FILE_PAGES)
        if session.files
        else NOTHING
        for session in sessions
    ]
    packed = _packed(sessions, files) if serialized else []
    written = array(image, packed, SESSION_PAGES, u64(len(packed)))
    flbs_pa = flb_array(image, flbs)
    session_props = [(b"compatible", b"luo-session-v2\0")]
    flb_props = [(b"compatible", b"luo-flb-v1\0")]
    session_props.append((b"luo-session-header", u64(written.first)))
    flb_props.append((b"luo-flb-header", u64(flbs_pa)))
    props = [(b"compatible", b"luo-v1\0"), (b"liveupdate-number", u64(number))]
    children = [Tree(b"luo-session", session_props), Tree(b"luo-flb", flb_props)]
    data = fdt_blob(Tree(b"", props, children))
    blob = image.blob(data)
    image.subnode("LUO", blob, len(data))
    return Luo(blob, len(data), written, files, flbs_pa)


def _packed(sessions: Sequence[Session], files: Sequence[Entries]) -> list[bytes]:
    return [
        struct.pack("<64sQQ", session.name, held.first, len(session.files))
        for session, held in zip(sessions, files, strict=True)
    ]


# -- the others


def memblock(image: Image, regions: Sequence[tuple[bytes, Sequence[tuple[bytes, bytes]]]]) -> int:
    """The memblock FDT: (name, properties) of each child."""
    children = [Tree(name, props) for name, props in regions]
    data = fdt_blob(Tree(b"", [(b"compatible", b"memblock-v1\0")], children))
    blob = image.blob(data)
    image.subnode("memblock", blob, len(data))
    return blob


def reserve_mem(image: Image, pages: int) -> tuple[int, list[tuple[bytes, bytes]]]:
    """A preserved region: where it is, and the properties that say so."""
    start = image.alloc(pages)
    image.preserve_pages(start, pages)
    image.write(start, pattern(pages * image.page_size, start))
    props = [(b"compatible", b"reserve-mem-v1\0"), (b"start", u64(start))]
    return start, [*props, (b"size", u64(pages * image.page_size))]


def metadata(image: Image, release: bytes, count: int, *, version: int = 1, size: int = 73) -> int:
    """kexec-metadata; ``size`` is the blob's, for versions shorter or longer."""
    data = (struct.pack("<I65sI", version, release, count) + bytes(max(0, size - 73)))[:size]
    blob = image.blob(data)
    image.subnode("kexec-metadata", blob, len(data))
    return blob


def checksum(data: bytes) -> int:
    """``csum_partial()``: one's complement sum of 32-bit words, not folded."""
    total = sum(int(word) for word in struct.unpack(f"<{len(data) // 4}I", data))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def kho_test(
    image: Image,
    folios: Sequence[tuple[int, bytes]],
    *,
    csum: int | None = None,
    inline: bool = False,
    nr_folios: int | None = None,
    leave_out: Sequence[bytes] = (),
) -> KhoTest:
    """kho_test with folios of (order, content); ``inline`` is the form of 6.16 and 6.17."""
    placed, words = [], b""
    everything = b""
    for order, content in folios:
        size = image.page_size << order
        paddr = image.alloc(1 << order, size)
        image.preserve(paddr, order)
        image.write(paddr, content)
        everything += content.ljust(size, b"\0")
        placed.append(Folio(paddr, order, 0))
        words += u64(paddr | order)
    csum = checksum(everything) if csum is None else csum
    area = None if inline else area_of(image, image.vmalloc(words))
    count = len(folios) if nr_folios is None else nr_folios
    props = [
        (b"nr_folios", struct.pack("<I", count)),
        (b"folios_info", area.descriptor if area else words),
        (b"csum", struct.pack("<I", csum)),
    ]
    kept = [prop for prop in props if prop[0] not in leave_out]
    root = [(b"compatible", b"kho-test-v1\0"), (b"magic", struct.pack("<I", KHO_TEST_MAGIC))]
    data = fdt_blob(Tree(b"", root, [Tree(b"data", kept)]))
    blob = image.blob(data)
    image.subnode("kho_test", blob, len(data))
    return KhoTest(blob, len(data), placed, area, csum)
