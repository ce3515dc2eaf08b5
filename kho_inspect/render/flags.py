"""Flag words by name; unknown bits survive as a hex remainder."""

from __future__ import annotations

from collections.abc import Mapping


def flag_names(value: int, names: Mapping[int, str]) -> list[str]:
    """``5, {1: "A", 4: "C"}`` → ``["A", "C"]``; what no name covers comes last, as hex."""
    found = [name for bit, name in names.items() if value & bit]
    rest = value & ~sum(names)
    return [*found, hex(rest)] if rest else found


def flag_text(value: int, names: Mapping[int, str], none: str = "none") -> str:
    """The names joined by ``|``."""
    return "|".join(flag_names(value, names)) or none
