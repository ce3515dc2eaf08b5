"""From a Construct declaration to numpy, so that a layout is declared once.

``U64Array`` is a Construct field whose value is a numpy view of the bytes; ``dtype_of`` turns
a fixed-size Struct into the numpy dtype of the same bytes, for reading thousands at a time.
"""

from __future__ import annotations

import struct
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from construct import Adapter, Bytes, Construct, FormatField, Renamed, Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class U64Array(Adapter):  # type: ignore[misc]  # construct publishes no types
    """``count`` little-endian u64; parses to a read-only ndarray of shape ``(count,)``."""

    def __init__(self, count: int) -> None:
        super().__init__(Bytes(8 * count))
        self.count = count

    def _decode(self, obj: bytes, context: Any, path: str) -> NDArray[np.uint64]:
        return np.frombuffer(obj, dtype="<u8")

    def _encode(self, obj: NDArray[np.uint64], context: Any, path: str) -> bytes:
        return np.ascontiguousarray(obj, dtype="<u8").tobytes()


@cache
def dtype_of(layout: Construct) -> np.dtype[Any]:
    """The numpy dtype of a Struct made of integers, bytes, u64 arrays and such Structs.

    Raises TypeError for a field without a fixed numpy counterpart.
    """
    dtype: np.dtype[Any]
    if isinstance(layout, Renamed):
        return dtype_of(layout.subcon)
    if isinstance(layout, U64Array):
        return np.dtype(("<u8", (layout.count,)))
    if isinstance(layout, FormatField):
        # Not fmtstr as it stands: struct's "L" is 4 bytes, numpy's is 8.
        order, code = layout.fmtstr
        dtype = np.dtype(f"{order}{'u' if code.isupper() else 'i'}{layout.sizeof()}")
        return dtype
    if isinstance(layout, Struct):
        dtype = np.dtype([(field.name, dtype_of(field)) for field in layout.subcons])
        if dtype.itemsize != layout.sizeof():
            raise TypeError(f"{layout!r} pads its fields")
        return dtype
    if isinstance(layout, Bytes):
        return np.dtype(f"V{layout.sizeof()}")
    raise TypeError(f"no numpy counterpart for {layout!r}")


def parse_record(layout: Construct, data: bytes | memoryview) -> SimpleNamespace:
    """One fixed-size Struct by way of :mod:`struct`: for structs that are read by the thousand.

    Fields become attributes, nested Structs namespaces. ``data`` must be long enough.
    Raises TypeError for a field that is no integer, bytes or Struct.
    """
    record = _record(layout)
    return record.build(iter(record.format.unpack_from(data)))


class _Record:
    """A Struct as :mod:`struct` reads it."""

    def __init__(self, layout: Construct) -> None:
        self.fields: list[tuple[str, _Record | None]] = []
        self.codes: str = ""
        for field in layout.subcons:
            inner = field.subcon
            nested = _record(inner) if isinstance(inner, Struct) else None
            self.fields.append((field.name, nested))
            if nested:
                self.codes += nested.codes
            elif isinstance(inner, FormatField) and inner.fmtstr[0] == "<":
                self.codes += inner.fmtstr[1:]
            elif isinstance(inner, Bytes):
                self.codes += f"{inner.sizeof()}s"
            else:
                raise TypeError(f"{field!r} is no little-endian integer, bytes or Struct")
        self.format = struct.Struct("<" + self.codes)

    def build(self, values: Iterator[Any]) -> SimpleNamespace:
        """Name the values of one record."""
        return SimpleNamespace(
            **{
                name: nested.build(values) if nested else next(values)
                for name, nested in self.fields
            }
        )


_record = cache(_Record)
