"""Live Update Orchestrator: ``include/linux/kho/abi/luo.h`` (luo-v1 [7.1], luo-v5 [7.2, 7.3])."""

from __future__ import annotations

from construct import Bytes, Int64ul, Struct

LUO_SESSION_PGCNT = 16
"""luo-v1: pages of the session header and array."""
LUO_FILE_PGCNT = 2
"""luo-v1: pages of a session's file array."""

LUO_FLB_MAX_PGCNT = 16
"""Far more than any writer uses (one): above, a ``pgcnt`` is damage."""

luo_ser = Struct(
    "compatible" / Bytes(8),
    "liveupdate_num" / Int64ul,
    "sessions_pa" / Int64ul,
    "flbs_pa" / Int64ul,
)
"""luo-v5: ``struct luo_ser``, the blob itself, 32 bytes."""


def luo_compatible(blob: bytes | memoryview) -> bytes:
    """``luo_ser.compatible``, which comes first, as far as a short blob has it."""
    return bytes(blob[: luo_ser.compatible.sizeof()])


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
