"""What a file holds, as far as its first bytes tell: a hint, never a fact."""

import json
import struct
from enum import Enum

HEAD = 4096
"""Bytes of a file that are looked at."""


class Hint(Enum):
    """Kinds of content that begin in a way of their own; the value is the word for it."""

    JOURNAL = "systemd journal"
    CRIU = "CRIU image"
    ELF = "ELF"
    JSON = "JSON"
    TEXT = "text"
    ZEROS = "zeros"


_MAGICS = (
    (b"LPKSHHRH", Hint.JOURNAL),  # HEADER_SIGNATURE of systemd's journal-def.h
    (struct.pack("<I", 0x54564319), Hint.CRIU),  # IMG_COMMON_MAGIC of CRIU's magic.h
    (struct.pack("<I", 0x55105940), Hint.CRIU),  # IMG_SERVICE_MAGIC
    (b"\x7fELF", Hint.ELF),
)


def looks_like(head: bytes, whole: bool) -> Hint | None:
    """What begins with ``head``; ``whole``: nothing follows. None of what tells nothing."""
    for magic, hint in _MAGICS:
        if head.startswith(magic):
            return hint
    if head and not any(head):
        return Hint.ZEROS
    text = _text(head, whole)
    if text is None:
        return None
    return Hint.JSON if _is_json(text, whole) else Hint.TEXT


def _text(head: bytes, whole: bool) -> str | None:
    """The letters, where there are such only; the last one may be cut."""
    for cut in range(1 if whole else 4):
        try:
            text = head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
        lines = text.translate({9: " ", 10: " ", 13: " "})
        return text if lines.strip() and lines.isprintable() else None
    return None


def _is_json(text: str, whole: bool) -> bool:
    """Whether an object or array begins there, and is one as far as it goes."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) - 16 or error.msg.startswith("Unterminated string")
        return not whole and cut and error.pos > 0
    except (RecursionError, ValueError):
        return False
    return True
