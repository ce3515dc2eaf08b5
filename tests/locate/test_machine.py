"""The RAM of the machine, out of the x86 boot parameters that a whole dump holds."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from kho_inspect.locate.scan import locate
from kho_inspect.units import Extent
from tests.support.builder import Image
from tests.support.looking import open_image

RAM, RESERVED = 1, 2
AT = 0x140000


def boot_params(entries: list[tuple[int, int, int]], count: int | None = None) -> bytes:
    """``struct boot_params``, as far as it is read."""
    page = bytearray(4096)
    page[0x1E8] = len(entries) if count is None else count
    page[0x202:0x206] = b"HdrS"
    for number, entry in enumerate(entries):
        struct.pack_into("<QQI", page, 0x2D0 + 20 * number, *entry)
    return bytes(page)


def ram_of(*pages: bytes) -> tuple[Extent, ...]:
    image = Image()
    for number, page in enumerate(pages):
        image.write(AT + 4096 * number, page)
    image.finish()
    return locate(open_image(image)).ram


def test_ram_is_what_the_firmware_gives_not_the_length_of_the_file() -> None:
    page = boot_params([(0, 0x9FC00, RAM), (0xF0000, 0x10000, RESERVED), (1 << 32, 1 << 30, RAM)])
    assert ram_of(page) == (Extent(0, 0x9FC00), Extent(1 << 32, (1 << 32) + (1 << 30)))


def test_what_only_looks_like_boot_parameters_is_passed_over() -> None:
    good = boot_params([(0x1000, 0x1000, RAM)])
    overlapping = boot_params([(0x1000, 0x2000, RAM), (0x2000, 0x1000, RAM)])
    endless = boot_params([(1 << 63, (1 << 64) - 1, RAM)])
    too_many = boot_params([(0, 0x1000, RAM)], count=255)
    assert ram_of(overlapping, endless, too_many, good) == (Extent(0x1000, 0x2000),)
    assert ram_of(overlapping, endless, too_many) == ()


@given(st.binary(max_size=2560))
def test_any_table_gives_rising_extents_within_the_address_space(table: bytes) -> None:
    page = bytearray(boot_params([], count=len(table) // 20))
    page[0x2D0 : 0x2D0 + len(table)] = table
    reach = 0
    for start, end in ram_of(bytes(page)):
        assert reach <= start < end <= 1 << 64
        reach = end
