"""VMCOREINFO: the text in which a kernel describes itself to readers of its memory.

``kernel/vmcore_info.c``: lines ``KEY=VALUE`` in a page of their own, copied into an ELF note at
boot, and from there into the notes of a dump.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kho_inspect.memory import PhysicalMemory, read_or_none
from kho_inspect.units import PhysAddr

MAX_TEXT = 64 << 10
"""Bytes: the kernel has one page for it."""
PIECE = 4096
_LINE = re.compile(r"([A-Za-z_-]+(?:\([\w.]+\))?)=([\x20-\x7e]*)")


@dataclass(frozen=True, slots=True)
class VmcoreInfo:
    """One VMCOREINFO text."""

    values: Mapping[str, str] = field(repr=False)
    paddr: PhysAddr | None = None
    """Where the text stands in memory; None for one in the notes of the file."""

    @property
    def release(self) -> str:
        """``7.3.4``"""
        return self.values["OSRELEASE"]

    @property
    def build_id(self) -> str | None:
        """Hexadecimal digits, None where the kernel has none."""
        return self.values.get("BUILD-ID")

    @property
    def architecture(self) -> str | None:
        """``x86_64`` or ``arm64``; None for any other."""
        if self.number("kimage_voffset") is not None:
            return "arm64"
        return None if self.number("phys_base") is None else "x86_64"

    def number(self, name: str) -> int | None:
        """``NUMBER(name)``, an address as it is in 64 bits."""
        return _integer(self.values.get(f"NUMBER({name})"), 0)

    def symbol(self, name: str) -> int | None:
        """``SYMBOL(name)``: a virtual address."""
        return _integer(self.values.get(f"SYMBOL({name})"), 16)

    def offset(self, name: str) -> int | None:
        """``OFFSET(struct.field)``, in bytes."""
        return _integer(self.values.get(f"OFFSET({name})"), 10)

    def size(self, name: str) -> int | None:
        """``SIZE(struct)``, in bytes."""
        return _integer(self.values.get(f"SIZE({name})"), 10)

    @property
    def identity(self) -> tuple[str | None, ...]:
        """Equal for the copies of one kernel's text."""
        keys = ("OSRELEASE", "BUILD-ID", "SYMBOL(prb)", "NUMBER(phys_base)", "KERNELOFFSET")
        return tuple(self.values.get(key) for key in (*keys, "NUMBER(kimage_voffset)"))


def _integer(text: str | None, base: int) -> int | None:
    # Python refuses longer decimals, and underscores would be no number to others.
    if text is None or len(text) > 20 or "_" in text:
        return None
    try:
        return int(text, base) & (1 << 64) - 1
    except ValueError:
        return None


def parse_vmcoreinfo(data: bytes, paddr: PhysAddr | None = None) -> VmcoreInfo | None:
    """The text that ``data`` begins with, up to its first zero; None where it is none."""
    text = data[:MAX_TEXT].partition(b"\0")[0].decode("latin-1")
    values: dict[str, str] = {}
    for line in text.split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            break
        values.setdefault(match[1], match[2])
    # The format string of the first line stands in every kernel.
    release = values.get("OSRELEASE", "")
    known = release[:1].isdigit() and ("PAGESIZE" in values or "SYMBOL(_stext)" in values)
    return VmcoreInfo(values, paddr) if known else None


def read_vmcoreinfo(memory: PhysicalMemory, paddr: PhysAddr) -> VmcoreInfo | None:
    """The text at ``paddr``, as much of it as is stored; None where there is none."""
    data = b""
    while len(data) < MAX_TEXT and b"\0" not in data:
        at = paddr + len(data)
        piece = read_or_none(memory, at, PIECE - at % PIECE)
        if piece is None:
            break
        data += piece
    return parse_vmcoreinfo(data, paddr)
