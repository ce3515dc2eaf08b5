"""Unpacking: zlib and lzma are always there, the other modules come with the package's extras.

Every codec of a page gives hardly more than the bytes it is asked for, whatever its input claims.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

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


def optional_module(name: str, path: str, otherwise: str = "", codec: str = "") -> Any:
    """Import a module that ``path`` needs for ``codec``, by default what its extra is called.

    Raises UnreadableInputError that says how to get it, or what to do ``otherwise``.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        extra = EXTRAS[name]
        raise UnreadableInputError(
            f"{path}: {codec or extra} compression needs the Python module {name}, "
            "which is not installed",
            hint=f"pip install 'kho-inspect[{extra}]'{otherwise}",
            source=path,
        ) from error


class Codec(NamedTuple):
    """How the pages of a kdump may be compressed."""

    name: str
    module: str
    error: str
    """The module's exception for damaged input."""
    unpack: Callable[[Any, memoryview, int], bytes]
    """``(module, packed bytes, size)``"""

    def load(self, path: str) -> Unpacker:
        """Raises UnreadableInputError when the module is missing."""
        module = optional_module(self.module, path)
        damage = getattr(module, self.error)

        def unpack(data: memoryview, size: int) -> bytes:
            try:
                return self.unpack(module, data, size)
            except damage as error:
                raise BadPageError(str(error)) from error

        return unpack


def _zlib(zlib: Any, data: memoryview, size: int) -> bytes:
    # One byte more than wanted: else the end, with its checksum, is not reached.
    page: bytes = zlib.decompressobj().decompress(data, size + 1)
    return page


def _lzo(lzallright: Any, data: memoryview, size: int) -> bytes:
    # Not bounded by size, but by its input: LZO1X gives 255 times its input at most.
    page: bytes = lzallright.LZOCompressor.decompress(data, size)
    return page


def _snappy(cramjam: Any, data: memoryview, size: int) -> bytes:
    page = bytearray(size)
    return bytes(page[: cramjam.snappy.decompress_raw_into(data, page)])


def _zstd(zstandard: Any, data: memoryview, size: int) -> bytes:
    # Read as a stream: a frame that says its size is otherwise unpacked to that size.
    context = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    page: bytes = context.stream_reader(data).read(size + 1)
    return page


CODECS = {
    diskdump.DUMP_DH_COMPRESSED_ZLIB: Codec("zlib", "zlib", "error", _zlib),
    diskdump.DUMP_DH_COMPRESSED_LZO: Codec("lzo", "lzallright", "LZOError", _lzo),
    diskdump.DUMP_DH_COMPRESSED_SNAPPY: Codec("snappy", "cramjam", "DecompressionError", _snappy),
    diskdump.DUMP_DH_COMPRESSED_ZSTD: Codec("zstd", "zstandard", "ZstdError", _zstd),
}
"""By the flag of a page descriptor, or of the header's status."""

ANY_CODEC = sum(CODECS)
