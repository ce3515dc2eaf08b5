"""Kernel images, and what they come in.

``Documentation/arch/x86/boot.rst``, ``Documentation/arch/arm64/booting.rst``,
``drivers/firmware/efi/libstub/zboot-header.S``, ``lib/decompress_unlzo.c`` [7.3]; ``ar(5)``.
"""

from construct import Bytes, Int8ub, Int8ul, Int16ub, Int16ul, Int32ub, Int32ul, Int64ul, Struct

HDRS = b"HdrS"
PAYLOAD_VERSION = 0x208
"""Boot protocol from which on the header has the payload's place."""

x86_setup_header = Struct(
    "before" / Bytes(0x1F1),
    "setup_sects" / Int8ul,
    "skipped" / Bytes(0x10),
    "header" / Bytes(4),
    "version" / Int16ul,
    "more" / Bytes(0x40),
    "payload_offset" / Int32ul,
    "payload_length" / Int32ul,
)
"""The first sector of a bzImage and what follows; ``payload_offset`` is from the end of setup."""

ARM64_MAGIC = b"ARM\x64"
ARM64_PAGE_SHIFTS = {1: 12, 2: 14, 3: 16}
"""Bits 1 and 2 of ``flags``; 0 is unspecified."""

arm64_image_header = Struct(
    "code" / Bytes(8),
    "text_offset" / Int64ul,
    "image_size" / Int64ul,
    "flags" / Int64ul,
    "res" / Bytes(24),
    "magic" / Bytes(4),
    "res5" / Int32ul,
)

ZBOOT_MAGIC = b"MZ\0\0zimg"

efi_zboot_header = Struct(
    "magic" / Bytes(8),
    "payload_offset" / Int32ul,
    "payload_size" / Int32ul,
    "reserved" / Bytes(8),
    "comp_type" / Bytes(32),
)

LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"
LZ4_LEGACY_BLOCK = 8 << 20
"""Bytes that a block unpacks to at most."""
lz4_legacy_block = Struct("size" / Int32ul)

LZOP_MAGIC = b"\x89LZO\0\r\n\x1a\n"
LZOP_BLOCK = 256 << 10
LZOP_CHECKSUMS = ((0x001, 0x100), (0x002, 0x200))
"""Flags that add a checksum of the unpacked data, and of the packed data if that is smaller."""

lzop_header = Struct(
    "magic" / Bytes(9),
    "version" / Int16ub,
    "lib_version" / Int16ub,
    "version_needed" / Int16ub,
    "method" / Int8ub,
    "level" / Int8ub,
    "flags" / Int32ub,
    "mode" / Int32ub,
    "mtime_low" / Int32ub,
    "mtime_high" / Int32ub,
    "name_length" / Int8ub,
)
"""From version 0x940; the name and a checksum of 4 bytes follow."""

lzop_block = Struct("unpacked" / Int32ub, "packed" / Int32ub)
"""Checksums follow; the last block is a zero instead of ``unpacked``."""

AR_MAGIC = b"!<arch>\n"

ar_header = Struct(
    "name" / Bytes(16), "dates_and_mode" / Bytes(32), "size" / Bytes(10), "magic" / Bytes(2)
)
"""A member of an archive; ``size`` is decimal, and its data padded to an even length."""
