"""How much of a dump is believed: budgets that no honest handover reaches.

A hostile dump can ask for work and memory out of all proportion to its size. Each budget has a
``--max-…`` option of its name, and whatever runs into one says so, by that option.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds; what lies beyond is left unread and told as a fault."""

    fdt: int = 16 << 20
    """Bytes of one FDT."""
    blob: int = 64 << 20
    """Bytes of one sub-node blob."""
    nodes: int = 4 << 20
    """Nodes of the radix tree, or bitmaps of a kho-v1 list: 16 GiB of 4K pages."""
    runs: int = 32 << 20
    """Separate runs of preserved pages, about 80 bytes of memory each."""
    files: int = 1 << 20
    """LUO sessions, FLBs and files, each about a kilobyte of memory."""


DEFAULT_LIMITS = Limits()


def exceeded(what: str, option: str, limit: int) -> str:
    """``more than 4,194,304 tree nodes; --max-nodes raises that``"""
    return f"more than {limit:,} {what}; --max-{option} raises that"
