"""Budgets that no honest handover reaches.

A hostile dump can cost work and memory out of all proportion to its size. Each budget has a
``--max-…`` option of its name, which every message about it names.
"""

from dataclasses import dataclass, field, fields
from typing import Any


def _budget(default: int, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds; what lies beyond is left unread and reported as a fault."""

    fdt: int = _budget(16 << 20, "Bytes of one FDT.")
    blob: int = _budget(64 << 20, "Bytes of all sub-node blobs together.")
    # 16 GiB of 4K pages.
    nodes: int = _budget(4 << 20, "Nodes of the radix tree, or bitmaps of a kho-v1 list.")
    # About 80 bytes of memory each.
    runs: int = _budget(32 << 20, "Separate runs of preserved pages.")
    # About a kilobyte of memory each.
    files: int = _budget(1 << 20, "LUO sessions, FLBs and files.")
    # Some minutes, and as much disk where they are no zeros.
    unpacked: int = _budget(64 << 30, "Bytes of a dump inside gzip, xz or zstd.")


DEFAULT_LIMITS = Limits()
BUDGETS = tuple(
    (one.name, int(getattr(DEFAULT_LIMITS, one.name)), str(one.metadata["help"]))
    for one in fields(Limits)
)
"""Name, default and help text of each, for the command line."""


def exceeded(what: str, option: str, limit: int) -> str:
    """``more than 4,194,304 tree nodes; --max-nodes raises that``"""
    return f"more than {limit:,} {what}; --max-{option} raises that"
