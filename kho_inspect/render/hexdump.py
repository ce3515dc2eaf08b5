"""Hexdumps with physical addresses."""

from collections.abc import Iterator

from kho_inspect.units import PhysAddr

_PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))


def hexdump(data: bytes | memoryview, paddr: PhysAddr = 0) -> Iterator[str]:
    """16 bytes a line: address, two groups of eight, ASCII; equal lines fold to ``*``."""
    for at, text in rows(data):
        yield text if at is None else f"{paddr + at:#x}  {text}"


def rows(data: bytes | memoryview) -> Iterator[tuple[int | None, str]]:
    """Offset and text of each line; of equal ones a single ``*``, which has no offset."""
    previous, folded = None, False
    for at in range(0, len(data), 16):
        row = bytes(data[at : at + 16])
        last = at + 16 >= len(data)
        if row == previous and not last:
            if not folded:
                yield None, "*"
            folded = True
            continue
        previous, folded = row, False
        left, right = row[:8].hex(" "), row[8:].hex(" ")
        text = row.translate(_PRINTABLE).decode("ascii")
        yield at, f"{left:<23}  {right:<23}  |{text}|"
