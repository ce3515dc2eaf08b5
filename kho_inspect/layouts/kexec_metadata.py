"""kexec-metadata: ``include/linux/kho/abi/kexec_metadata.h`` [7.1]."""

from construct import Bytes, Int32ul, Struct

KHO_KEXEC_METADATA_VERSION = 1

kho_kexec_metadata = Struct(
    "version" / Int32ul, "previous_release" / Bytes(65), "kexec_count" / Int32ul
)
"""``struct kho_kexec_metadata``, packed, 73 bytes."""
