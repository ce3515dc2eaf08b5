"""Strings of a dump made safe for a terminal."""

from __future__ import annotations


def safe(text: str) -> str:
    """``text`` with everything that is not plainly printable spelled out.

    Control, bidi, zero-width and surrogate characters, line separators and unassigned code
    points become ``\\x1b``, ``\\u202e`` and the like, so that no name can move the cursor, colour
    the screen, reorder a line or break a table.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(ord(char)) for char in text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
