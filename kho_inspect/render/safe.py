"""Strings of a dump made safe for a terminal, and for what reads the output."""

import re

_MARKS = str.maketrans(
    {
        **dict(zip("✔✘·×─│━╸", "+x|x-|--", strict=True)),
        **{"…": "...", "→": "->", "├": "|", "└": "`", "▶": ">", "—": "-", "≥": ">=", "≤": "<="},
    }
)
"""The marks and lines of the reports in ASCII."""
_COMMAND = re.compile(r"(?:(?<=[\n\r])|\A)([^\S\n\r]*:):|##\[")


def safe(text: str) -> str:
    """``text`` with everything that is not plainly printable spelled out.

    Control, bidi, zero-width and surrogate characters, line separators and unassigned code
    points become ``\\x1b``, ``\\u202e`` and the like, so that no name can move the cursor, colour
    the screen, reorder a line or break a table.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(ord(char)) for char in text)


def no_command(text: str) -> str:
    """``text`` without what GitHub's runner takes for a workflow command.

    That is ``::`` with nothing but blanks before it in its line, and ``##[`` anywhere.
    """
    if "::" not in text and "##[" not in text:
        return text
    return _COMMAND.sub(lambda found: f"{found[1]}\\x3a" if found[1] else "##\\x5b", text)


def no_json_command(text: str) -> str:
    """The same for JSON, in which no line begins with a string's contents."""
    return text.replace("##[", "#\\u0023[")


def ascii_marks(text: str) -> str:
    """``text`` with the marks of the reports in ASCII: ``->`` for an arrow."""
    return text if text.isascii() else text.translate(_MARKS)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
