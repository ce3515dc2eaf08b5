"""The kernel's log: ``kernel/printk/printk_ringbuffer.h``, of 64-bit kernels from 5.10 to 7.3.

VMCOREINFO says where the fields stand in a kernel of its own; :func:`placed` follows it. What is
declared here says of what type they are, and where they stand when no VMCOREINFO is left.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul, Struct
from numpy.typing import NDArray

from kho_inspect.layouts.views import dtype_of

prb_desc_ring = Struct(
    "count_bits" / Int32ul,
    "pad" / Int32ul,
    "descs" / Int64ul,
    "infos" / Int64ul,
    "head_id" / Int64ul,
    "tail_id" / Int64ul,
    "last_finalized_seq" / Int64ul,
)
prb_data_ring = Struct(
    "size_bits" / Int32ul,
    "pad" / Int32ul,
    "data" / Int64ul,
    "head_lpos" / Int64ul,
    "tail_lpos" / Int64ul,
)
printk_ringbuffer = Struct(
    "desc_ring" / prb_desc_ring, "text_data_ring" / prb_data_ring, "fail" / Int64ul
)
prb_data_blk_lpos = Struct("begin" / Int64ul, "next" / Int64ul)
prb_desc = Struct("state_var" / Int64ul, "text_blk_lpos" / prb_data_blk_lpos)
printk_info = Struct(
    "seq" / Int64ul,
    "ts_nsec" / Int64ul,
    "text_len" / Int16ul,
    "facility" / Int8ul,
    "flags_level" / Int8ul,
    "caller_id" / Int32ul,
    "dev_info" / Bytes(64),
)
"""``flags_level``: bit fields of 5 and 3 bits."""
prb_data_block = Struct("id" / Int64ul)
"""What a block of text begins with."""

RING_WORDS = printk_ringbuffer.sizeof() // 8

STATE_SHIFT = 62
ID_MASK = (1 << STATE_SHIFT) - 1
COMMITTED, FINALIZED = 1, 2
"""States of a descriptor, above its id, in which its record can be read."""
NO_TEXT = 1
"""Bit of a position that stands for no block at all."""
EMPTY_LINE = 3
"""Both positions of a record whose text is empty; others with NO_TEXT lost theirs."""
_KERNEL = np.uint64(0xFF << 56)
LEVEL_SHIFT = 5
"""Of ``flags_level``."""

RECORDS = ("printk_ringbuffer", "prb_desc", "printk_info")
_STRUCTS = {
    "printk_ringbuffer": printk_ringbuffer,
    "prb_desc_ring": prb_desc_ring,
    "prb_data_ring": prb_data_ring,
    "prb_desc": prb_desc,
    "prb_data_blk_lpos": prb_data_blk_lpos,
    "printk_info": printk_info,
}
_TYPES = {
    "desc_ring": "prb_desc_ring",
    "text_data_ring": "prb_data_ring",
    "text_blk_lpos": "prb_data_blk_lpos",
}
"""Fields that are one of these structs."""
_BEHIND = {"facility": ("text_len", 2), "flags_level": ("text_len", 3)}
"""Fields that VMCOREINFO does not name: so many bytes behind one that it does."""
_UNUSED = {"pad", "last_finalized_seq", "fail", "caller_id", "dev_info"}


def may_be_rings(words: NDArray[np.uint64], at: NDArray[np.intp]) -> NDArray[np.intp]:
    """Those of some of memory's words at which a ``printk_ringbuffer`` may begin, by its numbers.

    Its arrays lie in the upper half of all addresses, and no more is in use than there is.
    """
    at = at[at + RING_WORDS <= len(words)]
    rows = words[at[:, None] + np.arange(RING_WORDS)]
    ring = rows.view(dtype_of(printk_ringbuffer))[:, 0]
    descs, texts = ring["desc_ring"], ring["text_data_ring"]
    one, ids = np.uint64(1), np.uint64(ID_MASK)
    count_bits = descs["count_bits"].astype(np.uint64)
    size_bits = texts["size_bits"].astype(np.uint64)
    sound = (count_bits > 0) & (count_bits < 32) & (size_bits > 3) & (size_bits < 32)
    count, size = (one << np.minimum(bits, np.uint64(31)) for bits in (count_bits, size_bits))
    for pointer in (descs["descs"], descs["infos"], texts["data"]):
        sound &= pointer >= _KERNEL
    sound &= (descs["head_id"] <= ids) & (descs["tail_id"] <= ids)
    sound &= (descs["head_id"] - descs["tail_id"] & ids) < count
    sound &= (texts["head_lpos"] - texts["tail_lpos"]) <= size
    sound &= (descs["pad"] == 0) & (texts["pad"] == 0)
    kept: NDArray[np.intp] = at[sound]
    return kept


def placed(
    name: str, offset: Callable[[str], int | None], size: Callable[[str], int | None]
) -> np.dtype[Any]:
    """The dtype of one of :data:`RECORDS`, as VMCOREINFO's OFFSET and SIZE lay it out.

    Structs in a struct have no offsets of their own: those of their type apply. Raises ValueError
    where a field would lie outside.
    """
    declared = dtype_of(_STRUCTS[name])
    formats, offsets = [], []
    names = [one for one in declared.names or () if one not in _UNUSED]
    for field in names:
        nested = field in _TYPES
        formats.append(placed(_TYPES[field], offset, size) if nested else declared[field])
        beside, distance = _BEHIND.get(field, (field, 0))
        at = offset(f"{name}.{beside}")
        offsets.append(offset_in(declared, field) if at is None else at + distance)
    whole = size(name)
    return np.dtype(
        {
            "names": names,
            "formats": formats,
            "offsets": offsets,
            "itemsize": declared.itemsize if whole is None else whole,
        }
    )


def offset_in(dtype: np.dtype[Any], *names: str) -> int:
    """Where a field, or one of a struct in it, begins."""
    at = 0
    for name in names:
        assert dtype.fields is not None
        at += int(dtype.fields[name][1])
        dtype = dtype[name]
    return at
