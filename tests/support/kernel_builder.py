"""An independent writer of kernels: page tables, VMCOREINFO and the printk ring buffer, by struct.

Like ``builder``: it never imports kho_inspect. Written from ``printk_ringbuffer.c``,
``vmcore_info.c`` and the processors' page table formats.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support.builder import Image

U64 = (1 << 64) - 1
IDS = (1 << 62) - 1
START_KERNEL_MAP = 0xFFFFFFFF80000000
COMPILER = "(root@vm) (gcc (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld 2.40)"
BUILT = "#1 SMP PREEMPT Tue Nov 24 09:23:36 UTC 2026"


class Paging(NamedTuple):
    """One kind of page tables: what VMCOREINFO says, and what the tables are."""

    arch: str
    shifts: Sequence[int]
    """Of the addresses, at each level, the root's first."""
    image: int
    linear: int
    va_bits: int = 0
    t1sz: int = 0
    l5: int = 0
    top_bits: int = 0
    """That index the root, where they are more than the rest of the address's."""

    @property
    def root_bits(self) -> int:
        """Bits of an address that index the table at the root."""
        bits = 64 - self.t1sz if self.t1sz else 48 + 9 * self.l5
        return self.top_bits or bits - self.shifts[0]

    @property
    def page_shift(self) -> int:
        return self.shifts[-1]


IMAGE_ARM64, LINEAR_48, LINEAR_52 = 0xFFFF8000A0000000, 0xFFFF000000000000, 0xFFF0000000000000
PAGINGS = {
    "x86-64": Paging("x86_64", (39, 30, 21, 12), 0xFFFFFFFF9F000000, 0xFFFF888000000000),
    "x86-64 l5": Paging("x86_64", (48, 39, 30, 21, 12), 0xFFFFFFFF81000000, 0xFF11 << 48, l5=1),
    "arm64 4K": Paging("arm64", (39, 30, 21, 12), IMAGE_ARM64, LINEAR_48, 48, 16),
    "arm64 4K 39": Paging("arm64", (30, 21, 12), 0xFFFFFFC0A0000000, 0xFFFFFF8000000000, 39, 25),
    "arm64 4K 52": Paging("arm64", (48, 39, 30, 21, 12), IMAGE_ARM64, LINEAR_52, 52, 12),
    "arm64 4K 52 on 48": Paging("arm64", (39, 30, 21, 12), IMAGE_ARM64, LINEAR_48, 52, 16),
    "arm64 16K 47": Paging("arm64", (36, 25, 14), 0xFFFFC000A0000000, 0xFFFF800000000000, 47, 17),
    "arm64 16K": Paging("arm64", (47, 36, 25, 14), IMAGE_ARM64, LINEAR_48, 48, 16),
    "arm64 16K 52": Paging("arm64", (47, 36, 25, 14), IMAGE_ARM64, LINEAR_52, 52, 12),
    "arm64 64K": Paging("arm64", (42, 29, 16), IMAGE_ARM64, LINEAR_48, 48, 16),
    "arm64 64K 52": Paging("arm64", (42, 29, 16), IMAGE_ARM64, LINEAR_52, 52, 12),
    "arm64 64K 52 on 48": Paging(
        "arm64", (42, 29, 16), IMAGE_ARM64, LINEAR_48, 52, 16, top_bits=10
    ),
}


class Record(NamedTuple):
    """What was printed."""

    seq: int
    ts_nsec: int
    level: int
    text: bytes


@dataclass
class Kernel:
    """A kernel in an :class:`Image`, that prints."""

    image: Image
    paging: Paging = PAGINGS["x86-64"]
    image_phys: int = 0x5600000
    release: str = "7.3.4"
    built: str = BUILT
    build_id: str = "65ef4ec9b8ffd6c8e535f1f0e069c2447ebc859f"
    count_bits: int = 6
    size_bits: int = 12
    skew: int = 0
    """Bytes by which the fields of the ring's structs stand elsewhere than in Linux 7."""
    static: bool = False
    """The ring is in the image, as until setup_log_buf(); else in scattered pages."""
    dynamic: int = 0
    """Physical address of the ring in the linear map, where setup_log_buf() allocated one."""
    block: bool = True
    """The image is mapped by one large entry."""
    far: int = 0
    """Physical address of one page of text, where the processor's widest ones are to be used."""
    old_wrap: bool = False
    """A block that ends with the ring counts as wrapped, as before Linux 6.19."""
    live: list[Record] = field(default_factory=list)
    """What the ring still holds."""

    def __post_init__(self) -> None:
        self.root = self.image_phys
        self.tables = {(0, 0): self.root}
        self.count, self.size = 1 << self.count_bits, 1 << self.size_bits
        self.head = self.tail = -(self.count + 1) & IDS
        self.head_lpos = self.tail_lpos = -self.size & U64
        self.nexts: dict[int, int | None] = {self.tail: None}
        self.seq = 0
        step = 1 << self.paging.page_shift
        self.pages: dict[int, int] = {}
        """Physical page of each virtual one of the ring."""
        self.structs = self.image_phys + 0x20000
        at = self.image_vaddr(0x40000) if self.static else self.paging.linear + (5 << 30)
        at = self.paging.linear + self.dynamic if self.dynamic else at
        self.infos = at + 0x1000
        self.info_size, self.desc_size, self.ring_size = (n + self.skew for n in (88, 24, 88))
        self.descs = self.infos + self.count * self.info_size + 8
        self.data = self.descs + self.count * self.desc_size + 24
        end = self.data + self.size
        if not self.static and not self.dynamic:
            vaddrs = range(at, end, step)
            pages = [self.image.alloc() for _ in vaddrs]
            pages = pages[1::2] + pages[::2]
            if self.far:
                pages[(self.data - at) // step] = self.far
            for vaddr, paddr in zip(vaddrs, pages, strict=True):
                self.map(vaddr, paddr, self.paging.page_shift)
                self.pages[vaddr] = paddr
        large = self.paging.shifts[-2]
        for vaddr in range(at, end, 1 << large) if self.dynamic else ():
            self.map(vaddr, vaddr - self.paging.linear & -(1 << large), large)
        shift = self.paging.shifts[-2] if self.block else self.paging.page_shift
        for offset in range(0, 0x100000 if not self.block else 1, 1 << shift):
            self.map(self.paging.image + offset, self.image_phys + offset, shift)
        self.write_struct()
        self.desc(self.tail, 3, 1, 1)
        self.image.write(self.image_phys + 0x30000, (self.banner + "\n").encode() + b"\0")
        names = ("Linux", "vm", self.release, self.built, "any", "(none)")
        self.image.write(
            self.image_phys + 0x38000, b"".join(n.encode().ljust(65, b"\0") for n in names)
        )
        self.write_build_id()
        self.write_vmcoreinfo()

    @property
    def banner(self) -> str:
        return f"Linux version {self.release} {COMPILER} {self.built}"

    def write_build_id(self) -> None:
        """The image's notes; the vDSO in it has a build id too."""
        salt = struct.pack("<III8sI", 6, 1, 0x100, b"Linux", 0)
        head = struct.pack("<III4s", 4, 20, 3, b"GNU")
        self.image.write(self.image_phys + 0x3A004, salt + head + bytes.fromhex(self.build_id))
        vdso = b"\x7fELF".ljust(512, b"\0") + salt + head + bytes(range(20))
        self.image.write(self.image_phys + 0x10000, vdso)

    def image_vaddr(self, offset: int) -> int:
        return self.paging.image + offset

    # -- page tables

    def entry(self, paddr: int, kind: str) -> int:
        """``table``, ``page`` or ``block``"""
        if self.paging.arch == "x86_64":
            return (
                paddr
                | {"table": 0x67, "page": 0x8000000000000163, "block": 0x80000000000001E3}[kind]
            )
        value = paddr & (1 << 48) - 1
        if self.paging.page_shift == 16:
            value |= (paddr >> 48 & 0xF) << 12
        elif self.paging.t1sz == 12:
            value = paddr & (1 << 50) - 1 | (paddr >> 50) << 8
        return value | (1 << 54 | 0x401 if kind == "block" else 0x403)

    def map(self, vaddr: int, paddr: int, shift: int) -> None:
        """One entry of the level with ``shift``."""
        shifts = self.paging.shifts
        width = self.paging.page_shift - 3
        table = self.root
        for level, here in enumerate(shifts):
            bits = self.paging.root_bits if level == 0 else width
            at = table + 8 * (vaddr >> here & (1 << bits) - 1)
            if here == shift:
                kind = "page" if level == len(shifts) - 1 else "block"
                self.image.write_u64(at, self.entry(paddr, kind))
                return
            prefix = vaddr >> here
            if (level + 1, prefix) not in self.tables:
                self.tables[level + 1, prefix] = self.image.alloc()
                self.image.write_u64(at, self.entry(self.tables[level + 1, prefix], "table"))
            table = self.tables[level + 1, prefix]

    def place(self, vaddr: int, data: bytes) -> None:
        """Write to a virtual address of the ring."""
        step = 1 << self.paging.page_shift
        while data:
            room = step - vaddr % step
            self.image.write(self.physical(vaddr), data[:room])
            vaddr, data = vaddr + room, data[room:]

    def physical(self, vaddr: int) -> int:
        """By what was mapped, not by the tables."""
        if vaddr >= self.paging.image and self.static:
            return self.image_phys + vaddr - self.paging.image
        if self.dynamic:
            return vaddr - self.paging.linear
        skip = vaddr % (1 << self.paging.page_shift)
        return self.pages[vaddr - skip] + skip

    # -- the ring

    def write_struct(self) -> None:
        """``prb``, and the printk_ringbuffer that it points to."""
        skew = self.skew
        ring = struct.pack(
            "<I4xQQQQQ", self.count_bits, self.descs, self.infos, self.head, self.tail, 0
        )
        ring += bytes(skew)
        ring += struct.pack(
            "<I4xQQQQ", self.size_bits, self.data, self.head_lpos, self.tail_lpos, 0
        )
        self.image.write(self.structs, struct.pack("<Q", self.image_vaddr(0x20100)))
        self.image.write(self.structs + 0x100, ring)

    def desc(self, number: int, state: int, begin: int, end: int) -> None:
        at = self.descs + number % self.count * self.desc_size
        self.place(at, bytes(self.skew) + struct.pack("<QQQ", state << 62 | number, begin, end))

    def printk(
        self,
        text: str | bytes,
        ts_nsec: int = 0,
        level: int = 6,
        *,
        state: int = 2,
        no_room: bool = False,
    ) -> None:
        """Print a line as vprintk_store() does: reserve, store, finalize."""
        raw = text.encode() if isinstance(text, str) else text
        number = self.head + 1 & IDS
        if (number - self.tail & IDS) >= self.count:
            self.pop()
        # The prefix "\0016", the end of the line and a zero have room too.
        need = 8 + -(-(len(raw) + 4) // 8) * 8
        begin, end = 3, 3
        if no_room:
            begin, end = 1, 1
        elif raw:
            begin = self.head_lpos
            end = begin + need & U64
            last = end if self.old_wrap else end - 1 & U64
            start = begin % self.size
            if begin // self.size != last // self.size:
                end, start = (last // self.size * self.size) + need, 0
            while (end - self.tail_lpos & U64) > self.size:
                self.pop()
            self.head_lpos = end
            after = raw + raw[-2:] + b"\n\0"
            self.place(self.data + start, struct.pack("<Q", number) + after[: need - 8])
        self.head = number
        self.nexts[number] = end if raw and not no_room else None
        self.desc(number, state, begin, end)
        info = struct.pack("<QQHBBI", self.seq, ts_nsec, len(raw), 0, level << 5 | 2, 1)
        self.place(self.infos + number % self.count * self.info_size, bytes(self.skew) + info)
        if not no_room:
            self.live.append(Record(self.seq, ts_nsec, level, raw))
        self.seq += 1
        self.write_struct()

    def pop(self) -> None:
        """Free the oldest record."""
        number = self.tail
        following = self.nexts.pop(number)
        if following is not None:
            self.tail_lpos = following
        seq = self.seq - 1 - (self.head - number & IDS)
        self.live = [one for one in self.live if one.seq > seq]
        self.tail = number + 1 & IDS
        at = self.descs + number % self.count * self.desc_size + self.skew
        self.place(at, struct.pack("<Q", 3 << 62 | number))

    def boot(self, *lines: str) -> None:
        """The first lines of any kernel, then ``lines``, a millisecond apart."""
        if self.paging.arch == "arm64":
            self.printk("Booting Linux on physical CPU 0x0000000000 [0x410fd034]")
        self.printk(self.banner, level=5)
        self.printk("Command line: console=ttyS0 kho=on")
        if self.paging.arch == "x86_64":
            self.printk("BIOS-provided physical RAM map:")
        for number, line in enumerate(lines):
            self.printk(line, 1_000_000 * number)

    # -- VMCOREINFO

    def vmcoreinfo(self) -> str:
        skew, paging = self.skew, self.paging
        lines = [
            f"OSRELEASE={self.release}",
            f"BUILD-ID={self.build_id}",
            f"PAGESIZE={1 << paging.page_shift}",
            f"SYMBOL(init_uts_ns)={self.image_vaddr(0x38000):x}",
            "OFFSET(uts_namespace.name)=0",
            f"SYMBOL(swapper_pg_dir)={paging.image:x}",
            f"SYMBOL(_stext)={paging.image:x}",
            f"SYMBOL(prb)={self.image_vaddr(0x20000):x}",
            f"SIZE(printk_ringbuffer)={self.ring_size}",
            "OFFSET(printk_ringbuffer.desc_ring)=0",
            f"OFFSET(printk_ringbuffer.text_data_ring)={48 + skew}",
            f"OFFSET(printk_ringbuffer.fail)={80 + skew}",
            "SIZE(prb_desc_ring)=48",
            "OFFSET(prb_desc_ring.count_bits)=0",
            "OFFSET(prb_desc_ring.descs)=8",
            "OFFSET(prb_desc_ring.infos)=16",
            "OFFSET(prb_desc_ring.head_id)=24",
            "OFFSET(prb_desc_ring.tail_id)=32",
            f"SIZE(prb_desc)={self.desc_size}",
            f"OFFSET(prb_desc.state_var)={skew}",
            f"OFFSET(prb_desc.text_blk_lpos)={8 + skew}",
            "SIZE(prb_data_blk_lpos)=16",
            "OFFSET(prb_data_blk_lpos.begin)=0",
            "OFFSET(prb_data_blk_lpos.next)=8",
            f"SIZE(printk_info)={self.info_size}",
            f"OFFSET(printk_info.seq)={skew}",
            f"OFFSET(printk_info.ts_nsec)={8 + skew}",
            f"OFFSET(printk_info.text_len)={16 + skew}",
            "SIZE(prb_data_ring)=32",
            "OFFSET(prb_data_ring.size_bits)=0",
            "OFFSET(prb_data_ring.data)=8",
            "OFFSET(prb_data_ring.head_lpos)=16",
            "OFFSET(prb_data_ring.tail_lpos)=24",
        ]
        if paging.arch == "x86_64":
            base = self.image_phys - (paging.image - START_KERNEL_MAP)
            lines += [f"NUMBER(phys_base)={base}", f"NUMBER(pgtable_l5_enabled)={paging.l5}"]
            lines += [f"KERNELOFFSET={paging.image - 0xFFFFFFFF81000000:x}", "NUMBER(sme_mask)=0"]
        else:
            lines += [
                f"NUMBER(VA_BITS)={paging.va_bits}",
                f"NUMBER(kimage_voffset)=0x{paging.image - self.image_phys:x}",
                f"NUMBER(TCR_EL1_T1SZ)=0x{paging.t1sz:x}",
                "KERNELOFFSET=20000000",
            ]
        return "\n".join(lines) + "\n"

    def note(self) -> bytes:
        text = self.vmcoreinfo().encode()
        return (
            struct.pack("<III12s", 11, len(text), 0, b"VMCOREINFO") + text + bytes(-len(text) % 4)
        )

    def write_vmcoreinfo(self) -> None:
        """The page with the text, and the note made of it."""
        self.texts_at: list[int] = []
        for data in (self.vmcoreinfo().encode(), self.note()):
            pages = [self.image.alloc() for _ in range(0, len(data), self.image.page_size)]
            assert pages[-1] - pages[0] < len(data)
            self.image.write(pages[0], data)
            self.texts_at += pages
