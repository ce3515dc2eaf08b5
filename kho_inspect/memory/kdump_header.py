"""The headers of a kdump-compressed file: read once, checked against the file, then trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts import diskdump
from kho_inspect.memory.files import DumpFile
from kho_inspect.units import human_size

BLOCK_SIZES = tuple(1 << shift for shift in range(12, 17))
"""4 KiB to 64 KiB: the pages of x86-64 and arm64, and what QEMU dumps arm64 by."""

MAX_PADDR_BITS = 52
"""Physical addresses of x86-64 and arm64 have no more."""

_AGAIN = "the dump was cut short or damaged: take it again"
_CONVERT = "convert it to an ELF core: makedumpfile -E"


@dataclass(frozen=True, slots=True)
class KdumpHeader:
    """Where things are in a kdump-compressed file; all of it lies inside the file."""

    block_size: int
    """Bytes of a page, as the dump counts pages: the kernel's own may be others."""
    pages: int
    """Page frames that the bitmaps have a bit for."""
    status: int
    """``DUMP_DH_*``"""
    known_bitmap: int
    """File offset of the bitmap of pages that exist."""
    dumped_bitmap: int
    """File offset of the bitmap of pages that the dump holds; some dumps have but one for both."""
    descriptors: int
    """File offset of the page descriptors."""


def read_header(file: DumpFile) -> KdumpHeader:
    """Raises UnreadableInputError with the field that is wrong."""

    def refuse(message: str, hint: str) -> UnreadableInputError:
        return UnreadableInputError(
            f"{file.path}: this kdump-compressed file {message}", hint=hint, source=file.path
        )

    layout = diskdump.disk_dump_header
    if file.size < layout.sizeof():
        raise refuse(f"ends within its header, after {human_size(file.size)}", _AGAIN)
    header = layout.parse(file.view[: layout.sizeof()])
    block = header.block_size
    if block not in BLOCK_SIZES:
        if int.from_bytes(block.to_bytes(4, "little", signed=True), "big") in BLOCK_SIZES:
            raise refuse("is big-endian", "KHO exists on x86-64 and arm64 only")
        raise refuse(f"has block_size {block}, should be a power of two, 4096 to 65536", _AGAIN)
    kdump = header.signature == diskdump.KDUMP_SIGNATURE
    if kdump and header.header_version not in diskdump.KDUMP_VERSIONS:
        last = diskdump.KDUMP_VERSIONS[-1]
        raise refuse(f"has header version {header.header_version}, 1 to {last} are known", _CONVERT)
    pages = header.max_mapnr
    if kdump and header.header_version >= 1:
        sub = _read_sub_header(file, header, refuse)
        if header.header_version >= 2 and sub.split:
            span = (sub.start_pfn, sub.end_pfn)
            if header.header_version >= 6:
                span = (sub.start_pfn_64, sub.end_pfn_64)
            raise refuse(
                f"is one part of a split dump: page frames {span[0]:#x} to {span[1]:#x} only",
                "put the parts together: makedumpfile --reassemble PART PART... DUMP",
            )
        if header.header_version >= 6:
            pages = sub.max_mapnr_64
    if not 0 < pages <= 1 << MAX_PADDR_BITS >> block.bit_length() - 1:
        raise refuse(
            f"has max_mapnr {pages:#x}: {human_size(pages * block)} of memory, should be more than "
            f"nothing and at most {1 << MAX_PADDR_BITS - 50} PiB",
            _AGAIN,
        )
    if header.sub_hdr_size < 0:
        raise refuse(f"has sub_hdr_size {header.sub_hdr_size}", _AGAIN)
    bitmaps = (1 + header.sub_hdr_size) * block
    length = header.bitmap_blocks * block
    one = -(-pages // 8)
    if length < one:
        raise refuse(
            f"has bitmaps of {human_size(length)}, too short for max_mapnr {pages:#x}", _AGAIN
        )
    if bitmaps + length > file.size:
        raise refuse(
            f"ends within its bitmaps, which run from {bitmaps:#x} to {bitmaps + length:#x}: "
            f"it has {human_size(file.size)}",
            _AGAIN,
        )
    # diskdump wrote one bitmap where nothing was left out, else one behind the other.
    partial = header.bitmap_blocks >= 2 * -(-one // block)
    return KdumpHeader(
        block,
        pages,
        header.status,
        bitmaps,
        bitmaps + length // 2 if partial else bitmaps,
        bitmaps + length,
    )


def _read_sub_header(file: DumpFile, header: Any, refuse: Any) -> Any:
    """Fields that came later than the file's version are whatever follows: the caller knows."""
    layout = diskdump.kdump_sub_header
    start = header.block_size
    if header.sub_hdr_size < 1 or start + layout.sizeof() > file.size:
        raise refuse(f"has no room for its sub-header (sub_hdr_size {header.sub_hdr_size})", _AGAIN)
    return layout.parse(file.view[start : start + layout.sizeof()])
