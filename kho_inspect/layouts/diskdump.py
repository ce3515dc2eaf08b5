"""kdump-compressed files, and makedumpfile's flattened format around them.

``diskdump_mod.h`` and ``IMPLEMENTATION`` of makedumpfile, ``include/sysemu/dump.h`` of QEMU;
as 64-bit little-endian machines write them.
"""

from construct import Bytes, Int32sl, Int32ul, Int64sb, Int64sl, Int64ul, Struct

KDUMP_SIGNATURE = b"KDUMP   "
KDUMP_VERSION = 6
"""Written by QEMU, and by every makedumpfile that supports a kernel with KHO."""

DUMP_DH_COMPRESSED_ZLIB = 0x1
DUMP_DH_COMPRESSED_LZO = 0x2
DUMP_DH_COMPRESSED_SNAPPY = 0x4
DUMP_DH_COMPRESSED_INCOMPLETE = 0x8
"""In the header only: the writer ran out of space."""
DUMP_DH_COMPRESSED_ZSTD = 0x20

new_utsname = Struct(
    "sysname" / Bytes(65),
    "nodename" / Bytes(65),
    "release" / Bytes(65),
    "version" / Bytes(65),
    "machine" / Bytes(65),
    "domainname" / Bytes(65),
)

timeval = Struct("tv_sec" / Int64sl, "tv_usec" / Int64sl)

disk_dump_header = Struct(
    "signature" / Bytes(8),
    "header_version" / Int32sl,
    "utsname" / new_utsname,
    "pad" / Bytes(6),
    "timestamp" / timeval,
    "status" / Int32ul,
    "block_size" / Int32sl,
    "sub_hdr_size" / Int32sl,
    "bitmap_blocks" / Int32ul,
    "max_mapnr" / Int32ul,
    "total_ram_blocks" / Int32ul,
    "device_blocks" / Int32ul,
    "written_blocks" / Int32ul,
    "current_cpu" / Int32ul,
    "nr_cpus" / Int32sl,
)
"""Block 0. ``sub_hdr_size`` and ``bitmap_blocks`` are in blocks; ``pad`` is the compiler's."""

kdump_sub_header = Struct(
    "phys_base" / Int64ul,
    "dump_level" / Int32sl,
    "split" / Int32sl,
    "start_pfn" / Int64ul,
    "end_pfn" / Int64ul,
    "offset_vmcoreinfo" / Int64sl,
    "size_vmcoreinfo" / Int64ul,
    "offset_note" / Int64sl,
    "size_note" / Int64ul,
    "offset_eraseinfo" / Int64sl,
    "size_eraseinfo" / Int64ul,
    "start_pfn_64" / Int64ul,
    "end_pfn_64" / Int64ul,
    "max_mapnr_64" / Int64ul,
)
"""Block 1. The ``_64`` fields replace those before, and ``max_mapnr`` of block 0."""

page_desc = Struct("offset" / Int64sl, "size" / Int32ul, "flags" / Int32ul, "page_flags" / Int64ul)
"""One for each page of the second bitmap, in order, right behind the bitmaps."""

MAKEDUMPFILE_SIGNATURE = b"makedumpfile"
"""Up to the first zero of ``signature``."""
MAX_SIZE_MDF_HEADER = 4096
"""The flattened header's room in the file; the records follow."""

makedumpfile_header = Struct("signature" / Bytes(16), "type" / Int64sb, "version" / Int64sb)

makedumpfile_data_header = Struct("offset" / Int64sb, "buf_size" / Int64sb)
"""Before ``buf_size`` bytes that belong at ``offset`` of the dump; both -1 at the end."""

END_FLAG_FLAT_HEADER = -1
