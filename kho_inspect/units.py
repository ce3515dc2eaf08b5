"""Addresses, half-open extents and human sizes. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

PhysAddr: TypeAlias = int
"""A physical address in bytes, 0 <= paddr <= 2**64."""

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_SIZE = re.compile(r"(0x[0-9a-f]+|[0-9]+)\s*(?:([kmgtp])(?:ib?|b)?|b)?", re.IGNORECASE)
_NAMES = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class Extent(NamedTuple):
    """The physical bytes ``start <= paddr < end``."""

    start: PhysAddr
    end: PhysAddr

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    def contains(self, paddr: PhysAddr, size: int = 1) -> bool:
        """Whether all ``size`` bytes from ``paddr`` lie inside."""
        return self.start <= paddr and paddr + size <= self.end

    def overlaps(self, other: Extent) -> bool:
        """Whether the two share at least one byte."""
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.end:#x}"


def parse_size(text: str) -> int:
    """``4096``, ``0x1000``, ``16K``, ``1GiB`` → bytes (an address is read the same way).

    Raises ValueError with a message for people.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a number (use 0x… or decimal, with K, M, G or T)")
    value = int(match[1], 0 if match[1][:2].lower() == "0x" else 10)
    value <<= _UNITS[(match[2] or "").lower()]
    if value > 1 << 64:
        raise ValueError(f"{text!r} is beyond 64 bits")
    return value


def parse_extent(text: str) -> Extent:
    """``0x1000-0x3000`` or ``0x1000+8K`` → extent. Raises ValueError with a message for people."""
    mark = "+" if "+" in text else "-"
    try:
        start, other = (parse_size(part) for part in text.split(mark))
    except ValueError:
        raise ValueError(f"{text!r} is not START-END or START+LEN, in hex or decimal") from None
    end = other + (start if mark == "+" else 0)
    if start >= end:
        raise ValueError(f"{text!r} is a range of no size")
    if end > 1 << 64:
        raise ValueError(f"{text!r} is beyond 64 bits")
    return Extent(start, end)


def human_size(size: int) -> str:
    """Bytes in the largest binary unit that keeps the number at 1 or more: ``1.5 MiB``."""
    unit = min(max(0, size.bit_length() - 1) // 10, len(_NAMES) - 1)
    value = size / (1 << (10 * unit))
    if unit == 0:
        return "1 byte" if size == 1 else f"{size} bytes"
    number = f"{value:.0f}" if value == int(value) else f"{value:.1f}"
    return f"{number} {_NAMES[unit]}"


def exact_size(size: int) -> str:
    """The same, with the bytes where the number was rounded: ``1.5 KiB (1,560 bytes)``."""
    shown = human_size(size)
    number, unit = shown.split()
    rounded = unit in _NAMES[1:] and float(number) * (1 << 10 * _NAMES.index(unit)) != size
    return f"{shown} ({size:,} bytes)" if rounded else shown


def plural(count: int, noun: str, many: str | None = None) -> str:
    """``1 block``, ``1,234 blocks``."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def flag_names(value: int, names: Mapping[int, str]) -> list[str]:
    """``5, {1: "A", 4: "C"}`` → ``["A", "C"]``; what no name covers comes last, as hex."""
    found = [name for bit, name in names.items() if value & bit]
    rest = value & ~sum(names)
    return [*found, hex(rest)] if rest else found


def flag_text(value: int, names: Mapping[int, str]) -> str:
    """The names joined by ``|``, or ``none``."""
    return "|".join(flag_names(value, names)) or "none"
