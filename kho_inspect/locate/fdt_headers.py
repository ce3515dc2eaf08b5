"""Where device trees begin, as far as their headers tell."""

import numpy as np
from numpy.typing import NDArray

from kho_inspect.layouts.fdt import (
    FDT_LAST_SUPPORTED_VERSION,
    FDT_MAGIC,
    FDT_MAGIC_BYTES,
    fdt_header,
)
from kho_inspect.layouts.views import format_of, offset_of

MAX_BOOT_FDT = 2 << 20
"""The kernel's limit for a boot device tree."""

_CELL = 4
_MAGIC = np.frombuffer(FDT_MAGIC_BYTES, dtype="<u4")[0]
_BEGINS, _MIDDLE = (np.frombuffer(FDT_MAGIC_BYTES, "<u2", 1, at)[0] for at in (0, 1))
_FIELDS = (
    ("totalsize", format_of(fdt_header).size, MAX_BOOT_FDT),
    ("version", FDT_LAST_SUPPORTED_VERSION, (1 << 32) - 1),
)
"""With the least and the most that they may say."""


def fdt_headers(words: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Which of some memory's words begin a device tree."""
    at = _CELL * 2 * np.flatnonzero(words.view("<u4")[::2] == _MAGIC)
    return _sound(words.view(np.uint8), at) // (2 * _CELL)


def headers_anywhere(words: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The bytes of some memory at which a device tree begins, on 8 bytes or not."""
    halves = words.view("<u2")
    at = np.append(2 * _where(halves == _BEGINS), 2 * _where(halves == _MIDDLE) - 1)
    at = np.sort(at[at >= 0])
    data = words.view(np.uint8)
    found = at[_cells(data, at) == FDT_MAGIC] if len(at) else at
    return _sound(data, found) if len(found) else found


def _where(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The same as numpy.flatnonzero, in a fraction of the time where nothing is set."""
    return np.flatnonzero(mask) if mask.any() else np.empty(0, dtype=np.intp)


def _sound(data: NDArray[np.uint8], at: NDArray[np.intp]) -> NDArray[np.intp]:
    """Those of some headers whose fields may be; what goes on in the next piece may."""
    for name, least, most in _FIELDS:
        field = at + offset_of(fdt_header, name)
        value = _cells(data, field)
        at = at[(field + _CELL > len(data)) | (value >= least) & (value <= most)]
    return at


def _cells(data: NDArray[np.uint8], at: NDArray[np.intp]) -> NDArray[np.uint32]:
    """Big-endian cells at some bytes; past the end the last ones."""
    rows = np.minimum(at, len(data) - _CELL)[:, None] + np.arange(_CELL)
    cells: NDArray[np.uint32] = data[rows].view(">u4")[:, 0]
    return cells
