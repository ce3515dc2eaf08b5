"""What kernels are compressed with, each bounded by what a kernel may unpack to."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from kho_inspect.errors import UnreadableInputError
from kho_inspect.layouts import kernel_image as layout
from kho_inspect.memory.codecs import optional_module
from kho_inspect.memory.compressed import FED, MAX_WINDOW, PACKINGS, Packing
from kho_inspect.units import human_size

MAX_KERNEL = 1 << 30
"""Bytes of an unpacked kernel; one with debug information is a few hundred MiB."""


class DamagedPayloadError(Exception):
    """A payload that does not unpack, and why; never leaves ``kernels``."""


class Method(NamedTuple):
    """One way of compressing a kernel."""

    name: str
    magic: bytes
    pieces: Callable[[memoryview, str], Iterator[bytes]]
    """Packed bytes and the file's name → what is in it; raises DamagedPayloadError."""


def _stream(packing: Packing) -> Method:
    def pieces(data: memoryview, path: str) -> Iterator[bytes]:
        module = optional_module(packing.module, path)
        damage = getattr(module, packing.error, OSError)  # bz2 has none of its own
        decoder = packing.decoder(module)
        for at in range(0, len(data), FED):
            try:
                yield decoder.decompress(data[at : at + FED])
            except damage as error:
                raise DamagedPayloadError(f"is damaged ({error})") from error
            if decoder.eof:  # behind it: the unpacked size, zeros
                return
        raise DamagedPayloadError("is cut short")

    return Method(packing.name, packing.magic, pieces)


def _lz4(data: memoryview, path: str) -> Iterator[bytes]:
    cramjam = optional_module("cramjam", path, codec="lz4")
    block, at = bytearray(layout.LZ4_LEGACY_BLOCK), len(layout.LZ4_LEGACY_MAGIC)
    head = layout.lz4_legacy_block.sizeof()
    while len(data) - at > head:
        if data[at : at + head] == layout.LZ4_LEGACY_MAGIC:
            at += head
            continue
        size = layout.lz4_legacy_block.parse(data[at : at + head]).size
        packed = data[at + head :][:size]
        if len(packed) < size:
            raise DamagedPayloadError("is cut short")
        try:
            yield bytes(block[: cramjam.lz4.decompress_block_into(bytes(packed), block)])
        except cramjam.DecompressionError as error:
            raise DamagedPayloadError(f"is damaged ({error})") from error
        at += head + size


def _lzo(data: memoryview, path: str) -> Iterator[bytes]:
    lzo = optional_module("lzallright", path)
    header = layout.lzop_header.parse(bytes(data[: layout.lzop_header.sizeof()]))
    at, head = layout.lzop_header.sizeof() + header.name_length + 4, layout.lzop_block.sizeof()
    sums = [sum(bool(header.flags & flag) for flag in flags) for flags in layout.LZOP_CHECKSUMS]
    while any(data[at : at + 4]):
        block = layout.lzop_block.parse(bytes(data[at : at + head]).ljust(head, b"\0"))
        stored = block.packed == block.unpacked
        at += head + 4 * (sums[0] + (0 if stored else sums[1]))
        packed = bytes(data[at : at + block.packed])
        if len(packed) < block.packed or not packed or block.unpacked > layout.LZOP_BLOCK:
            raise DamagedPayloadError("is damaged, or cut short")
        try:
            yield packed if stored else lzo.LZOCompressor.decompress(packed, block.unpacked)
        except lzo.LZOError as error:
            raise DamagedPayloadError(f"is damaged ({error})") from error
        at += block.packed
    if at + 4 > len(data):
        raise DamagedPayloadError("is cut short")


METHODS = (
    *map(_stream, PACKINGS),
    _stream(Packing("bzip2", b"BZh", "bz2", "OSError", lambda bz2: bz2.BZ2Decompressor())),
    _stream(
        Packing(
            "lzma",
            b"\x5d\0\0",
            "lzma",
            "LZMAError",
            lambda lzma: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MAX_WINDOW),
        )
    ),
    Method("lz4", layout.LZ4_LEGACY_MAGIC, _lz4),
    Method("lzo", layout.LZOP_MAGIC, _lzo),
)


def find_method(head: bytes) -> Method | None:
    """How a payload that starts so is compressed."""
    return next((method for method in METHODS if head.startswith(method.magic)), None)


def unpack(data: memoryview, method: Method, path: str, limit: int = MAX_KERNEL) -> bytes:
    """The whole payload. Raises UnreadableInputError for damage, or more than ``limit`` bytes."""
    whole = bytearray()
    try:
        for piece in method.pieces(data, path):
            whole += piece
            if len(whole) > limit:
                raise DamagedPayloadError(f"unpacks to more than {human_size(limit)}")
    except DamagedPayloadError as error:
        raise UnreadableInputError(
            f"{path}: the {method.name} payload {error}",
            hint="is the file whole? Fetch or build it again",
            source=path,
        ) from error
    return bytes(whole)
