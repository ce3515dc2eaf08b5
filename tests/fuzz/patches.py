"""Inputs as patches over valid files: a few bytes reach deep, where random files stop early.

An input names a seed and then changes to it: an operation, a place, a value. Places are where the
seed has something, values are biased to what is worth pointing to. Any bytes are an input, so a
fuzzer needs no mutator of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

WORD = 4
"""Granularity of places."""
MAX_PATCHES = 64
ALL_ONES = (1 << 64) - 1

SPECIALS = (
    *(0, 1, 2, 3, 7, 8, 15, 16, 255, 256, 511, 512, 4095, 4096, 4097, 0xFFFF),
    *(1 << 20, (1 << 26) - 1, 1 << 26, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32),
    *(1 << 40, 1 << 48, (1 << 52) - 1, 1 << 52, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63),
    *(ALL_ONES - 4095, ALL_ONES - 15, ALL_ONES - 7, ALL_ONES - 1, ALL_ONES),
)
"""Where sizes and addresses change their nature."""

TEXTS = (
    b"\x1b[31mred\x1b[0m\0",
    b"[bold red]m[/]\0",
    b"a\nb\r\t\0",
    "\u202egnp.exe\u200b\0".encode(),
    b"\xff\xfe\x80\0",
    b"../../../x\0",
    b"/\0",
    b"..\0",
    b"\x9b2J\x07\0",
    b'"]]>&<\\\0',
    b"::error::x%0A\0",
    b"n" * 72,
    b"memfd-v1\0",
    b"memfd-v2\0",
    b"luo-v5\0\0",
    b"LUO\0",
    b"kho-v3\0",
    b"kho-v4;x\0",
    b"kho_test\0",
    b"luo-v1\0",
)
"""Names that terminals, file systems, markup or we ourselves might take for something."""


class Cursor:
    """Bytes from front to back; past the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        part = self._data[self._at : self._at + size]
        self._at += size
        return part.ljust(size, b"\0")

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def rest(self) -> bytes:
        """All that is left."""
        part = self._data[self._at :]
        self._at = len(self._data)
        return part


@dataclass(frozen=True)
class Seed:
    """A valid file, or memory image, to be changed."""

    name: str
    data: bytes
    places: tuple[int, ...]
    """Offsets of words that hold something, and of their neighbours."""
    values: tuple[int, ...]
    """What a pointer in it could well say: addresses of pages, or file offsets."""
    unit: int
    """Bytes of a page, where there is a value for each."""


def seed_of(name: str, data: bytes, values: Iterable[int], unit: int = 0) -> Seed:
    """A seed whose places are found by looking for what is not zero."""
    words = struct.unpack(f"<{len(data) // WORD}I", data[: len(data) // WORD * WORD])
    held = {at + near for at, word in enumerate(words) if word for near in (-1, 0, 1, 2)}
    places = tuple(at * WORD for at in sorted(held) if 0 <= at < len(words))
    return Seed(name, data, places or (0,), tuple(values) or (0,), unit)


@dataclass
class Patched:
    """What became of a seed."""

    data: bytearray
    dropped: list[int]
    """Offsets whose page (of memory) or rest (of a file) is to go away."""


def patch(seed: Seed, cursor: Cursor) -> Patched:
    """The seed with all changes that are left in the input."""
    data, dropped = bytearray(seed.data), []
    for _ in range(MAX_PATCHES):
        if not cursor:
            break
        what = cursor.u8()
        at = seed.places[cursor.u16() % len(seed.places)]
        new = _change(what % 13, seed, data, at, cursor)
        if new is None:
            dropped.append(at)
        else:
            # Not longer than it was: what stands behind memory is something else.
            data[at : at + len(new)] = new[: len(data) - at]
    return Patched(data, dropped)


def _change(what: int, seed: Seed, data: bytearray, at: int, cursor: Cursor) -> bytes | None:
    """New bytes for the place, None to drop it."""
    old = int.from_bytes(data[at : at + 8], "little")
    match what:
        case 0:
            new = cursor.u64()
        case 1:
            new = seed.values[cursor.u16() % len(seed.values)]
        case 2:  # the page that the place is in: a list that ends nowhere
            number = at // seed.unit if seed.unit else cursor.u8()
            new = seed.values[number % len(seed.values)]
        case 3:
            new = SPECIALS[cursor.u8() % len(SPECIALS)]
        case 4:
            other = seed.places[cursor.u16() % len(seed.places)]
            return bytes(data[other : other + 8])
        case 5:
            new = old ^ 1 << cursor.u8() % 64
        case 6:
            new = old + cursor.u8() - 128
        case 7:  # a narrow field, of either byte order
            return cursor.take(1 + cursor.u8() % 4)
        case 8:  # a page frame number with flags, or an address with an order
            page = seed.values[cursor.u16() % len(seed.values)]
            low = cursor.u8()
            new = page + low if low & 1 else page >> 12 | low >> 1 << 52
        case 9:
            return TEXTS[cursor.u8() % len(TEXTS)]
        case 10:
            return bytes([cursor.u8()]) * (8 << cursor.u8() % 10)
        case 11:  # a long piece, copied
            other = seed.places[cursor.u16() % len(seed.places)]
            return bytes(data[other : other + (8 << cursor.u8() % 10)])
        case _:
            return None
    return (new & ALL_ONES).to_bytes(8, "little")
