"""The reference handover: healthy, with a piece of its own for every rule to be broken in.

Like ``builder``: standard library only, never kho_inspect. A kho-v4 handover on 4K pages with
LUO v5 sessions and memfds, memblock, kexec-metadata, kho_test, and an x86 setup_data entry that
leads to a scratch table. What a rule KHOnnn looks at has the number in its name: the memfd with
token 0xnnn, the session ``kho-nnn``, the region ``rnnn``. So the damage of one rule stays clear
of another's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support import luo_builder as contents
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.luo_builder import u64

SAMPLE = Path(__file__).parents[2] / "samples" / "x86_64-kho-v2.elf"
PAGE = 4096
MIB = 1 << 20
LEAF = 128 * MIB
"""Memory whose order-0 pages share one leaf."""
RAM_END = 1 << 32

MEMFDS = (413, 414, 415, 416, 417, 418, 419, 420, 421, 422, *range(516, 531), 535)
"""Rules that have a memfd of their own, in the session ``kho-memfds``."""
SESSIONS = (504, 505, 506, 507, 508, 509, 510, 511, 512, 513)
"""Rules that have a session of their own, with two memfds."""
TREE_REGIONS = (202, 203, 204, 205, 206, 210, 211)
"""Rules that have a region of two pages under a leaf of its own."""
REGIONS = (302, 303, 601, 603, 604)
"""Rules that have a region of one page."""


@dataclass
class Memfd:
    """Where the parts of one memfd stand, and what they are called."""

    memfd: contents.Memfd
    path: str
    owner: str
    entry: int = 0
    """Its ``luo_file_ser``."""

    @property
    def descriptor(self) -> int:
        return self.memfd.paddr

    @property
    def chunk(self) -> int:
        """The one vmalloc chunk of the folio table."""
        return self.memfd.area.chunks[0]

    @property
    def table(self) -> list[int]:
        """Pages of the folio table."""
        return self.memfd.area.pieces

    @property
    def folios(self) -> list[int]:
        return [folio.paddr for folio in self.memfd.folios]


@dataclass
class Session:
    """Where the parts of one session stand."""

    entry: int
    """Its ``luo_session_ser``."""
    block: int
    """The one kho_block of its files."""
    path: str


class Reference:
    """A finished handover that can still be damaged; :meth:`write` makes the two files."""

    def __init__(self) -> None:
        self.image = Image(12, "kho-v4", (MIB, RAM_END - MIB))
        self.props: dict[bytes, bytes] = {}
        self.subnodes: list[tuple[bytes, dict[bytes, bytes]]] = []
        self.regions: list[tuple[bytes, dict[bytes, bytes]]] = []
        self.test_props: dict[bytes, bytes] = {}
        """Root properties of the kho_test blob."""
        self.test_data: dict[bytes, bytes] = {}
        self.scratch = [(0x7000_0000, 16 * MIB), (0x7100_0000, 16 * MIB)]
        self.memfds: dict[int, Memfd] = {}
        self.sessions: dict[int, Session] = {}
        self.session_blocks: list[tuple[int, int]] = []
        """(paddr, order) of all that sessions and their files are made of."""
        self.blobs: dict[str, int] = {}
        self.test_folios: list[int] = []
        self.test_table = 0
        """The page that ``folios_info`` leads to."""
        self.dtb: bytes | None = None
        """Instead of the root FDT in memory."""
        self.dump: bytes | None = None
        """Instead of the image."""
        self.other: Image | None = None
        """Another image."""
        self.foreign: int | None = None
        """A page that a structure of a kind unknown to all rules is to claim."""
        self.cut = 0
        """Bytes missing at the end of the dump file."""
        self.given: tuple[tuple[int, int], ...] = ()
        """Scratch areas for the tool that reads it: start, end."""
        self.boot: bytes | None = None
        """A boot DTB for it."""
        self.boot_path: str | None = None
        """Where that was written."""
        self.max_nodes: int | None = None
        """A budget for the tool that reads it."""
        self.last: list[Callable[[], None]] = []
        """What is to happen after everything has been written to memory."""
        self._build()

    # -- making it

    def _build(self) -> None:
        image = self.image
        self.fdt = image.alloc(2, 2 * PAGE)
        image.preserve(self.fdt, 0)
        self._add_regions()
        self.blobs["kexec-metadata"] = contents.metadata(image, b"7.3.4-reference", 3)
        self._add_test()
        self._add_luo()
        self.subnodes = [(node.name, dict(node.props)) for node in image.subnodes]
        self.setup_data, self.scratch_table = image.alloc(), image.alloc()
        image.write(RAM_END - PAGE, b"\xa5" * PAGE)
        root = image.build_tree()
        self.props = {b"compatible": b"kho-v4\0", b"preserved-memory-map": u64(root)}

    def _add_regions(self) -> None:
        self.blobs["memblock"] = contents.memblock(self.image, [])
        for number, code in enumerate(TREE_REGIONS, 1):
            self.region(f"r{code}", number * LEAF + 16 * PAGE, 2 * PAGE)
        for code in REGIONS:
            self.region(f"r{code}", self.image.alloc(1, 2 * PAGE), PAGE)
        self.region("r212", 1 << 31, 1 << 31, order=18)

    def _add_test(self) -> None:
        pages = [(order, contents.pattern(PAGE << order, order + 7)) for order in (0, 1, 0)]
        test = contents.kho_test(self.image, pages)
        assert test.area is not None
        self.blobs["kho_test"] = test.blob
        self.test_folios = [folio.paddr for folio in test.folios]
        self.test_table = test.area.pieces[0]
        self.test_props = {
            b"compatible": b"kho-test-v1\0",
            b"magic": struct.pack("<I", contents.KHO_TEST_MAGIC),
        }
        self.test_data = {
            b"nr_folios": struct.pack("<I", len(pages)),
            b"folios_info": test.area.descriptor,
            b"csum": struct.pack("<I", test.csum),
        }

    def _add_luo(self) -> None:
        image = self.image
        before = set(image.preserved)
        plans = {0: ("kho-memfds", MEMFDS)}
        plans |= {code: (f"kho-{code}", (10 * code, 10 * code + 1)) for code in SESSIONS}
        sessions = []
        for number, (name, codes) in enumerate(plans.values()):
            files = [contents.File(token_of(code), self._memfd(code)) for code in codes]
            sessions.append(contents.Session(name.encode(), files))
            for index, (code, file) in enumerate(zip(codes, files, strict=True)):
                assert file.memfd is not None
                path = f"sub-node LUO → session {number} → file {index}"
                owner = f"LUO/{name}/{file.token:#x}"
                self.memfds[code] = Memfd(file.memfd, path, owner)
        flbs = [(b"iommu", 7, 1), (b"vfio", 8, 1)]
        luo = contents.luo_v5(image, sessions, flbs)
        self.blobs["LUO"], self.flbs = luo.blob, luo.flbs
        kept = {(luo.blob, 0), (luo.flbs, 0)}
        self.session_blocks = sorted(image.preserved - before - kept)
        for number, (code, (_, codes)) in enumerate(plans.items()):
            files_of = luo.files[number]
            path = f"sub-node LUO → session {number}"
            self.sessions[code] = Session(luo.sessions.entries[number], files_of.first, path)
            for index, memfd in enumerate(codes):
                self.memfds[memfd].entry = files_of.entries[index]

    def _memfd(self, code: int) -> contents.Memfd:
        """Two pages; for KHO523 one large folio, for KHO414 two pages of folio table."""
        if code == 523:
            return contents.memfd(self.image, contents.pattern(PAGE, code), layout=[(0, 2)])
        extra = [(0, 0)] * (PAGE // 16 - 1) if code == 414 else []
        content = contents.pattern(2 * PAGE, code)
        return contents.memfd(self.image, content, extra=extra, nr_folios=2)

    # -- adding and damaging

    def page(self) -> int:
        """A preserved page."""
        paddr = self.image.alloc()
        self.preserve(paddr)
        return paddr

    def blob(self, name: str, data: bytes) -> int:
        """A sub-node and its blob, in a preserved page."""
        paddr = self.page()
        self.image.write(paddr, data)
        self.subnode(name, paddr, len(data))
        return paddr

    def subnode(self, name: str, paddr: int, size: int) -> dict[bytes, bytes]:
        """A sub-node."""
        props = {b"preserved-data": u64(paddr), b"blob-size": u64(size)}
        self.subnodes.append((name.encode(), props))
        return props

    def node(self, name: str) -> dict[bytes, bytes]:
        """The properties of a sub-node."""
        return dict(self.subnodes)[name.encode()]

    def region(self, name: str, start: int, size: int, order: int = 0) -> dict[bytes, bytes]:
        """A reserve_mem region of blocks of one order."""
        for paddr in range(start, start + size, PAGE << order):
            self.preserve(paddr, order)
        props = {b"compatible": b"reserve-mem-v1\0", b"start": u64(start), b"size": u64(size)}
        self.regions.append((name.encode(), props))
        return props

    def start(self, name: str) -> int:
        """Where a region starts."""
        return int.from_bytes(dict(self.regions)[name.encode()][b"start"], "little")

    def preserve(self, paddr: int, order: int = 0) -> None:
        """Preserve a block, in the finished tree too."""
        self.image.preserve(paddr, order)
        if self.image.root:
            self.image.insert(self.image.key(paddr, order))

    def clear(self, paddr: int, order: int = 0) -> None:
        """Clear a key in the finished tree."""
        key = self.image.key(paddr, order)
        leaf = self.image.node(key, 0)
        self.image.pages[leaf][key % 32768 // 8] &= ~(1 << key % 8)

    def slot(self, key: int, level: int = 1) -> int:
        """Address of the entry of the node at ``level`` on the way to a key."""
        return self.image.node(key, level) + 8 * (key >> 15 + 9 * (level - 1) & 511)

    def levels(self) -> dict[int, int]:
        """The level of every node of the tree, by address."""
        found = {self.image.root: 5}
        for paddr in list(self.image.nodes):
            level = found[paddr]
            if level:
                for at in range(0, PAGE, 8):
                    child = self.image.read_u64(paddr + at)
                    if child:
                        found[child] = level - 1
        return found

    def key(self, paddr: int, order: int = 0) -> int:
        """The key of a block."""
        return self.image.key(paddr, order)

    # -- something else altogether

    def use_image(self, image: Image, dtb: bytes) -> None:
        """Another finished handover."""
        self.dtb = dtb
        self.other = image

    def use_sample(self, blob: str, change: Callable[[bytes], bytes]) -> int:
        """The shipped sample, one page of it changed: where that page stands."""
        truth = json.loads(SAMPLE.with_suffix(".json").read_text())
        paddr = next(int(one["phys"]) for one in truth["subnodes"] if one["name"] == blob)
        raw = SAMPLE.read_bytes()
        at = offset_in_elf(raw, paddr)
        page = change(raw[at : at + PAGE])
        assert page != raw[at : at + PAGE]
        self.dump = raw[:at] + page + raw[at + PAGE :]
        self.dtb = SAMPLE.with_suffix(".dtb").read_bytes()
        return paddr

    # -- the files

    def write(self, folder: Path) -> tuple[str, str]:
        """Dump and DTB."""
        image = self.image
        for name, tree in (("memblock", self._memblock()), ("kho_test", self._kho_test())):
            data = fdt_blob(tree)
            image.write(self.blobs[name], data)
            self.node(name)[b"blob-size"] = u64(len(data))
        table = b"".join(u64(addr) + u64(size) for addr, size in self.scratch)
        image.write(self.scratch_table, table)
        entry = struct.pack("<QII", 0, 10, 32) + u64(self.fdt) + u64(PAGE)
        image.write(self.setup_data, entry + u64(self.scratch_table) + u64(len(table)))
        dtb = fdt_blob(
            Tree(
                b"",
                list(self.props.items()),
                [Tree(name, list(props.items())) for name, props in self.subnodes],
            )
        )
        image.write(self.fdt, dtb)
        for action in self.last:
            action()
        paths = folder / "dump", folder / "kho.dtb"
        if self.dump is None:
            (self.other or image).write_elf(paths[0], declare_ram=True)
        else:
            paths[0].write_bytes(self.dump)
        if self.cut:
            with paths[0].open("r+b") as file:
                file.truncate(paths[0].stat().st_size - self.cut)
        paths[1].write_bytes(dtb if self.dtb is None else self.dtb)
        if self.boot is not None:
            boot = folder / "boot.dtb"
            boot.write_bytes(self.boot)
            self.boot_path = str(boot)
        return str(paths[0]), str(paths[1])

    def _memblock(self) -> Tree:
        children = [Tree(name, list(props.items())) for name, props in self.regions]
        return Tree(b"", [(b"compatible", b"memblock-v1\0")], children)

    def _kho_test(self) -> Tree:
        data = Tree(b"data", list(self.test_data.items()))
        return Tree(b"", list(self.test_props.items()), [data])


def offset_in_elf(raw: bytes | bytearray, paddr: int) -> int:
    """Where a physical address is in an ELF64 core."""
    phoff, count = struct.unpack_from("<Q", raw, 32)[0], struct.unpack_from("<H", raw, 56)[0]
    for number in range(count):
        _, _, offset, _, start, size, _, _ = struct.unpack_from(
            "<IIQQQQQQ", raw, phoff + 56 * number
        )
        if start <= paddr < start + size:
            return int(offset + paddr - start)
    raise KeyError(paddr)


def token_of(number: int) -> int:
    """413 → 0x413."""
    return int(str(number), 16)


def steps(key: int, level: int | None = None) -> str:
    """The way to a key's node at ``level``, to its very bit without one (six levels: 4K)."""
    found = []
    for above in range(5, 0 if level is None else level, -1):
        name = "root" if above == 5 else f"L{above}"
        found.append(f"{name}[{key >> 15 + 9 * (above - 1) & 511}]")
    last = f"leaf bit {key & 32767}" if level is None else f"L{level}" if level else "leaf"
    return " → ".join([*found, last])
