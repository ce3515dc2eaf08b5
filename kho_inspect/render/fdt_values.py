"""KHO's property values as text: native-endian numbers and strings, told apart by their shape."""

import re

from kho_inspect.render.safe import safe

MAX_HEX = 32
"""Bytes of a shapeless value that are spelled out."""

_STRINGS = re.compile(rb"(?:[ -~]+\0)+")


def fdt_value(data: bytes) -> str:
    """A property's raw bytes as quoted strings, native-endian numbers, or hex bytes."""
    if not data:
        return "(present)"
    if _STRINGS.fullmatch(data):
        return ", ".join(f'"{safe(part.decode())}"' for part in data[:-1].split(b"\0"))
    if len(data) in (4, 8):
        return _number(int.from_bytes(data, "little"))
    if len(data) % 8 == 0 and len(data) <= 64:
        words = (data[at : at + 8] for at in range(0, len(data), 8))
        return f"<{' '.join(hex(int.from_bytes(word, 'little')) for word in words)}>"
    shown = data[:MAX_HEX].hex(" ")
    return f"[{shown}]" if len(data) <= MAX_HEX else f"[{shown} …] ({len(data)} bytes)"


def _number(value: int) -> str:
    return str(value) if value < 4096 else hex(value)
