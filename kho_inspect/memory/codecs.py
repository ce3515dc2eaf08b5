"""Unpacking one page: zlib is always there, the others come with the package's extras.

Every codec gives at most the bytes it is asked for, whatever its input claims.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts import diskdump

EXTRAS = {"lzallright": "lzo", "cramjam": "snappy", "zstandard": "zstd"}
"""Optional module → the extra of this package that brings it."""

_MAX_WINDOW = 8 << 20
"""Memory that a zstd frame may ask for: every compression level's window for a page is less."""

Unpacker = Callable[[memoryview, int], bytes]
"""Packed bytes and the size they should have; raises :class:`BadPageError`."""


class BadPageError(Exception):
    """These bytes do not unpack to what they should; never leaves ``memory``."""


def optional_module(name: str) -> Any:
    """Import an optional module; raises UnreadableInputError that says how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        extra = EXTRAS[name]
        raise UnreadableInputError(
            f"{extra} compression needs the Python module {name}, which is not installed",
            hint=f"pip install 'kho-inspect[{extra}]'",
        ) from error


@dataclass(frozen=True, slots=True)
class Codec:
    """How the pages of a kdump may be compressed."""

    name: str
    load: Callable[[], Unpacker]
    """Raises UnreadableInputError when its module is missing."""


def _zlib() -> Unpacker:
    def unpack(data: memoryview, size: int) -> bytes:
        stream = zlib.decompressobj()
        try:
            # One byte more than wanted: else the end, with its checksum, is not reached.
            page = stream.decompress(data, size + 1)
        except zlib.error as error:
            raise BadPageError(str(error)) from error
        if len(page) == size and not stream.eof:
            raise BadPageError("the stream is cut short")
        return page

    return unpack


def _lzo() -> Unpacker:
    lzallright = optional_module("lzallright")

    def unpack(data: memoryview, size: int) -> bytes:
        try:
            # Not bounded by size, but by its input: LZO1X gives 255 times its input at most.
            page: bytes = lzallright.LZOCompressor.decompress(data, size)
        except lzallright.LZOError as error:
            raise BadPageError(str(error.args[0])) from error
        return page

    return unpack


def _snappy() -> Unpacker:
    cramjam = optional_module("cramjam")

    def unpack(data: memoryview, size: int) -> bytes:
        page = bytearray(size)
        try:
            have = cramjam.snappy.decompress_raw_into(data, page)
        except cramjam.DecompressionError as error:
            raise BadPageError(str(error)) from error
        return bytes(page[:have])

    return unpack


def _zstd() -> Unpacker:
    zstandard = optional_module("zstandard")
    context = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)

    def unpack(data: memoryview, size: int) -> bytes:
        try:
            # A frame that says its size is unpacked to that size, whatever the caller allows.
            claimed = zstandard.get_frame_parameters(data).content_size
            if claimed not in (size, zstandard.CONTENTSIZE_UNKNOWN):
                raise BadPageError(f"the frame says it holds {claimed} bytes")
            page: bytes = context.decompress(data, max_output_size=size)
        except zstandard.ZstdError as error:
            raise BadPageError(str(error)) from error
        return page

    return unpack


CODECS: dict[int, Codec] = {
    diskdump.DUMP_DH_COMPRESSED_ZLIB: Codec("zlib", _zlib),
    diskdump.DUMP_DH_COMPRESSED_LZO: Codec("lzo", _lzo),
    diskdump.DUMP_DH_COMPRESSED_SNAPPY: Codec("snappy", _snappy),
    diskdump.DUMP_DH_COMPRESSED_ZSTD: Codec("zstd", _zstd),
}
"""By the flag of a page descriptor, or of the header's status."""

ANY_CODEC = sum(CODECS)
