"""From a Construct declaration to numpy and :mod:`struct`, so that a layout is declared once.

``U64Array`` is a Construct field whose value is a numpy view of the bytes; ``dtype_of`` turns
a fixed-size Struct into the numpy dtype of the same bytes, for reading thousands at a time.
"""

import struct
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from construct import Adapter, Bytes, Construct, FormatField, Renamed, Struct
from numpy.typing import NDArray


class U64Array(Adapter):  # type: ignore[misc]  # construct publishes no types
    """``count`` little-endian u64; parses to a read-only ndarray of shape ``(count,)``."""

    element = struct.Struct("<Q")

    def __init__(self, count: int) -> None:
        super().__init__(Bytes(self.element.size * count))
        self.count = count

    def _decode(self, obj: bytes, context: Any, path: str) -> NDArray[np.uint64]:
        return np.frombuffer(obj, dtype="<u8")


Layout: TypeAlias = Struct
"""A declaration, for rooms that only pass one on."""


@cache
def dtype_of(layout: Construct) -> np.dtype[Any]:
    """The numpy dtype of a Struct made of integers, bytes, u64 arrays and such Structs.

    Raises TypeError for a field without a fixed numpy counterpart.
    """
    if isinstance(layout, Renamed):
        return dtype_of(layout.subcon)
    if isinstance(layout, U64Array):
        return np.dtype(("<u8", (layout.count,)))
    if isinstance(layout, FormatField):
        # Not fmtstr as it stands: struct's "L" is 4 bytes, numpy's is 8.
        order, code = layout.fmtstr
        return np.dtype(f"{order}{'u' if code.isupper() else 'i'}{layout.sizeof()}")
    if isinstance(layout, Struct):
        return np.dtype([(field.name, dtype_of(field)) for field in layout.subcons])
    if isinstance(layout, Bytes):
        return np.dtype(f"V{layout.sizeof()}")
    raise TypeError(f"no numpy counterpart for {layout!r}")


def parse_record(layout: Construct, data: bytes | memoryview) -> SimpleNamespace:
    """One fixed-size Struct by way of :mod:`struct`: for structs that are read by the thousand.

    Fields become attributes, nested Structs namespaces. ``data`` must be long enough.
    Raises TypeError for a field that is no integer, bytes or Struct.
    """
    fields, form = _record(layout)
    return _named(fields, iter(form.unpack_from(data)))


def format_of(layout: Construct) -> struct.Struct:
    """What :func:`parse_record` reads with: the bare values, for the hottest loops."""
    return _record(layout)[1]


@cache
def offset_of(layout: Construct, name: str) -> int:
    """Where a field of a Struct begins."""
    names = [field.name for field in layout.subcons]
    return sum(field.sizeof() for field in layout.subcons[: names.index(name)])


@cache
def _record(layout: Construct) -> tuple[list[tuple[str, Any]], struct.Struct]:
    """Names of the fields, each with those of the Struct that it is, and the format of them all."""
    fields, codes, orders = [], "", set()
    for field in layout.subcons:
        inner, nested = field.subcon, None
        if isinstance(inner, Struct):
            nested, form = _record(inner)[0], _record(inner)[1].format
        elif isinstance(inner, FormatField):
            form = inner.fmtstr
        elif isinstance(inner, Bytes):
            form = f"={inner.sizeof()}s"
        else:
            raise TypeError(f"{field!r} is no integer, bytes or Struct")
        fields.append((field.name, nested))
        codes += form[1:]
        orders |= {form[0]} - {"="}
    return fields, struct.Struct(("".join(orders) or "=") + codes)


def _named(fields: list[tuple[str, Any]], values: Iterator[Any]) -> SimpleNamespace:
    return SimpleNamespace(
        **{name: _named(nested, values) if nested else next(values) for name, nested in fields}
    )
