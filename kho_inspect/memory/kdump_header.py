"""The headers of a kdump-compressed file: read once, checked against the file, then trusted."""

from typing import NamedTuple

from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts import diskdump
from kho_inspect.memory.files import DumpFile
from kho_inspect.units import human_size

BLOCK_SIZES = tuple(1 << shift for shift in range(12, 17))
"""4 KiB to 64 KiB: the pages of x86-64 and arm64, and what QEMU dumps arm64 by."""

MAX_PADDR_BITS = 52
"""Physical addresses of x86-64 and arm64 have no more."""

MAX_VMCOREINFO = 64 << 10
"""Bytes: the kernel has one page for it."""

AGAIN = "the dump was cut short or damaged: take it again"


class KdumpHeader(NamedTuple):
    """Where things are in a kdump-compressed file; the bitmaps lie inside the file."""

    block_size: int
    """Bytes of a page, as the dump counts pages: the kernel's own may be others."""
    pages: int
    """Page frames that the bitmaps have a bit for."""
    status: int
    """``DUMP_DH_*``"""
    known_bitmap: int
    """File offset of the bitmap of pages that exist."""
    dumped_bitmap: int
    """File offset of the bitmap of pages that the dump holds."""
    descriptors: int
    """File offset of the page descriptors."""
    vmcoreinfo: bytes
    """VMCOREINFO of the kernel that the dump is of; empty where the file has none."""


def refused(file: DumpFile, message: str, hint: str = AGAIN) -> UnreadableInputError:
    """The error for a kdump-compressed file that cannot be read."""
    return UnreadableInputError(
        f"{file.path}: this kdump-compressed file {message}", hint=hint, source=file.path
    )


def read_header(file: DumpFile) -> KdumpHeader:
    """Raises UnreadableInputError with the field that is wrong."""
    layout, sub_layout = diskdump.disk_dump_header, diskdump.kdump_sub_header
    if file.size < layout.sizeof():
        raise refused(file, f"ends within its header, after {human_size(file.size)}")
    header = layout.parse(file.view[: layout.sizeof()])
    version, block = header.header_version, header.block_size
    if version != diskdump.KDUMP_VERSION:
        raise refused(
            file,
            f"has header version {version}, should be {diskdump.KDUMP_VERSION}",
            "convert it to an ELF core: makedumpfile -E",
        )
    if block not in BLOCK_SIZES:
        raise refused(file, f"has block_size {block}, should be a power of two, 4096 to 65536")
    if header.sub_hdr_size < 1 or block + sub_layout.sizeof() > file.size:
        raise refused(file, f"has no room for its sub-header (sub_hdr_size {header.sub_hdr_size})")
    sub = sub_layout.parse(file.view[block : block + sub_layout.sizeof()])
    if sub.split:
        raise refused(
            file,
            f"is one part of a split dump: page frames {sub.start_pfn_64:#x} to "
            f"{sub.end_pfn_64:#x} only",
            "put the parts together: makedumpfile --reassemble PART PART... DUMP",
        )
    pages = sub.max_mapnr_64
    if not 0 < pages * block <= 1 << MAX_PADDR_BITS:
        raise refused(
            file,
            f"has max_mapnr {pages:#x}: {human_size(pages * block)} of memory, should be more than "
            f"nothing and at most {1 << MAX_PADDR_BITS - 50} PiB",
        )
    # Two bitmaps, one after the other, each in blocks of its own.
    bitmaps = (1 + header.sub_hdr_size) * block
    length = header.bitmap_blocks * block
    if length < 2 * -(-pages // 8):
        raise refused(
            file, f"has bitmaps of {human_size(length)}, too short for max_mapnr {pages:#x}"
        )
    if bitmaps + length > file.size:
        raise refused(
            file,
            f"ends within its bitmaps, which run from {bitmaps:#x} to {bitmaps + length:#x}: "
            f"it has {human_size(file.size)}",
        )
    start, size = sub.offset_vmcoreinfo, min(sub.size_vmcoreinfo, MAX_VMCOREINFO)
    return KdumpHeader(
        block_size=block,
        pages=pages,
        status=header.status,
        known_bitmap=bitmaps,
        dumped_bitmap=bitmaps + length // 2,
        descriptors=bitmaps + length,
        vmcoreinfo=bytes(file.view[start : start + size]) if start > 0 else b"",
    )
