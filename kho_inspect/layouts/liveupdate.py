"""The table of live update features in a kernel image: section ``.liveupdate_features``.

From a patch series on the mailing lists that is in no release yet.
"""

from construct import Bytes, Int32ul, Int64ul, Struct

FEATURES_SECTION = b".liveupdate_features"
FEATURES_MAGIC = b"PUVL"
"""u32 0x4c565550."""
FEATURES_VERSION = 1

features_header = Struct("magic" / Bytes(4), "version" / Int32ul)

features_entry = Struct(
    "name" / Bytes(48),
    "feature_bytes" / Int32ul,
    "reserved" / Int32ul,
    "supported" / Int64ul,
    "required" / Int64ul,
    "active" / Int64ul,
)
"""80 bytes; the entries follow the header up to the section's end."""
