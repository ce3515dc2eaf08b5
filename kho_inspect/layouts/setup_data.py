"""x86 ``struct setup_data``: ``arch/x86/include/uapi/asm/setup_data.h`` [6.16 …]."""

from construct import Int32ul, Int64ul, Struct

SETUP_KEXEC_KHO = 10

setup_data = Struct("next" / Int64ul, "type" / Int32ul, "len" / Int32ul)
"""``struct setup_data``, 16 bytes; ``len`` bytes of data follow."""

kho_data = Struct(
    "fdt_addr" / Int64ul, "fdt_size" / Int64ul, "scratch_addr" / Int64ul, "scratch_size" / Int64ul
)
"""``struct kho_data``: the data of an entry of type SETUP_KEXEC_KHO."""

kho_scratch = Struct("addr" / Int64ul, "size" / Int64ul)
"""``struct kho_scratch``: one entry of the array at ``scratch_addr``."""
