"""Live Update Orchestrator: ``include/linux/kho/abi/luo.h``.

luo-v1 [6.19, 7.0, 7.1], luo-v5 [7.2, 7.3]; composite strings and feature headers are proposals.
"""

from functools import cache

from construct import Bytes, Int64ul, Struct

from kho_inspect.layouts.features import luo_feature_hdr

LUO_SESSION_PGCNT = 16
"""luo-v1: pages of the session header and array."""
LUO_FILE_PGCNT = 2
"""luo-v1: pages of a session's file array."""

LUO_FLB_MAX_PGCNT = 16
"""Far more than any writer uses (one): above, a ``pgcnt`` is damage."""

MAX_LUO_COMPATIBLE = 256
"""Bytes that a composite string is shorter than; a longer one is not read."""

_AFTER_STRING = ("liveupdate_num" / Int64ul, "sessions_pa" / Int64ul, "flbs_pa" / Int64ul)


@cache
def luo_ser(length: int) -> Struct:
    """``struct luo_ser``, the blob itself, 32 bytes for luo-v5; ``length``: of its string.

    The field is the string and its NUL, padded to a multiple of 8.
    """
    return Struct("compatible" / Bytes((length + 8) // 8 * 8), *_AFTER_STRING)


luo_ser_features = Struct("features" / luo_feature_hdr, *_AFTER_STRING)
"""``struct luo_ser`` with a feature header, 152 bytes."""


def luo_compatible(blob: bytes | memoryview) -> bytes:
    """``luo_ser.compatible``, which comes first, up to its NUL; 8 bytes when it is no composite."""
    text = bytes(blob[:MAX_LUO_COMPATIBLE]).split(b"\0")[0]
    return text if b";" in text else text[:8]


luo_session_header_ser = Struct("count" / Int64ul)
"""luo-v1: followed by ``count`` sessions."""

luo_session_ser = Struct("name" / Bytes(64), "files" / Int64ul, "count" / Int64ul)
"""``struct luo_session_ser``, 80 bytes."""

luo_file_ser = Struct("compatible" / Bytes(48), "data" / Int64ul, "token" / Int64ul)
"""``struct luo_file_ser``, 64 bytes."""

luo_flb_header_ser = Struct("pgcnt" / Int64ul, "count" / Int64ul)
"""``struct luo_flb_header_ser``, followed by ``count`` entries within ``pgcnt`` pages."""

luo_flb_ser = Struct("name" / Bytes(48), "data" / Int64ul, "count" / Int64ul)
"""``struct luo_flb_ser``, 64 bytes; ``data`` is opaque."""
