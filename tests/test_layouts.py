"""The declarations, and the ways to read by them, against plain struct formats."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from construct import Int32ub, Int32ul, Int64ul, Struct

from kho_inspect.abi import BY_COMPATIBLE
from kho_inspect.geometry import PageGeometry
from kho_inspect.layouts import (
    block,
    diskdump,
    elf,
    fdt,
    kernel_image,
    kexec_metadata,
    lime,
    liveupdate,
    luo,
    memfd,
    page_table,
    printk,
    setup_data,
    v1,
    vmalloc,
)
from kho_inspect.layouts.radix import kho_radix_leaf, kho_radix_node
from kho_inspect.layouts.views import U64Array, dtype_of, format_of, offset_of, parse_record

FORMATS = {
    "fdt_header": (fdt.fdt_header, ">10I"),
    "fdt_header_start": (fdt.fdt_header_start, ">2I"),
    "fdt_reserve_entry": (fdt.fdt_reserve_entry, ">2Q"),
    "fdt_node_header": (fdt.fdt_node_header, ">I"),
    "fdt_property": (fdt.fdt_property, ">3I"),
    "makedumpfile_header": (diskdump.makedumpfile_header, ">16s2q"),
    "makedumpfile_data_header": (diskdump.makedumpfile_data_header, ">2q"),
    "disk_dump_header": (diskdump.disk_dump_header, "<8si" + "65s" * 6 + "6s2qIii6Ii"),
    "kdump_sub_header": (diskdump.kdump_sub_header, "<QiiQQqQqQqQQQQ"),
    "page_desc": (diskdump.page_desc, "<qIIQ"),
    "elf64_ehdr": (elf.elf64_ehdr, "<4s4B8sHHIQQQIHHHHHH"),
    "elf64_phdr": (elf.elf64_phdr, "<IIQQQQQQ"),
    "elf64_shdr": (elf.elf64_shdr, "<IIQQQQIIQQ"),
    "elf64_nhdr": (elf.elf64_nhdr, "<3I"),
    "lime_mem_range_header": (lime.lime_mem_range_header, "<IIQQ8s"),
    "x86_setup_header": (kernel_image.x86_setup_header, "<497sB16s4sH64sII"),
    "arm64_image_header": (kernel_image.arm64_image_header, "<8s3Q24s4sI"),
    "efi_zboot_header": (kernel_image.efi_zboot_header, "<8sII8s32s"),
    "lz4_legacy_block": (kernel_image.lz4_legacy_block, "<I"),
    "lzop_header": (kernel_image.lzop_header, ">9sHHHBBIIIIB"),
    "lzop_block": (kernel_image.lzop_block, ">II"),
    "ar_header": (kernel_image.ar_header, "16s32s10s2s"),
    "features_header": (liveupdate.features_header, "<4sI"),
    "features_entry": (liveupdate.features_entry, "<48sIIQQQ"),
    "setup_data": (setup_data.setup_data, "<QII"),
    "kho_data": (setup_data.kho_data, "<4Q"),
    "kho_scratch": (setup_data.kho_scratch, "<2Q"),
    "kho_kexec_metadata": (kexec_metadata.kho_kexec_metadata, "<I65sI"),
    "kho_block_header": (block.kho_block_header, "<2Q"),
    "luo_ser": (luo.luo_ser(6), "<8s3Q"),
    "luo_ser of a composite": (luo.luo_ser(15), "<16s3Q"),
    "luo_ser_features": (luo.luo_ser_features, "<3Q104s3Q"),
    "luo_session_ser": (luo.luo_session_ser, "<64s2Q"),
    "luo_file_ser": (luo.luo_file_ser, "<48s2Q"),
    "luo_flb_header_ser": (luo.luo_flb_header_ser, "<2Q"),
    "luo_flb_ser": (luo.luo_flb_ser, "<48s2Q"),
    "kho_vmalloc": (vmalloc.kho_vmalloc, "<QIHH"),
    "memfd_luo_ser_v1": (memfd.memfd_luo_ser_v1, "<QQQQIHH"),
    "memfd_luo_ser": (memfd.memfd_luo_ser, "<QQIIQQIHH"),
    "memfd_luo_ser_features": (memfd.memfd_luo_ser_features, "<3Q104sQQIIQQIHH"),
    "memfd_luo_folio_ser": (memfd.memfd_luo_folio_ser, "<2Q"),
    "printk_ringbuffer": (printk.printk_ringbuffer, "<IIQQQQQIIQQQQ"),
    "prb_desc": (printk.prb_desc, "<QQQ"),
    "printk_info": (printk.printk_info, "<QQHBBI64s"),
    "prb_data_block": (printk.prb_data_block, "<Q"),
    "page_table_entry": (page_table.page_table_entry, "<Q"),
    "khoser_mem_chunk_hdr": (v1.khoser_mem_chunk_hdr, "<QII"),
    "khoser_mem_bitmap_ptr": (v1.khoser_mem_bitmap_ptr, "<2Q"),
}
RANDOM = np.random.default_rng(4).bytes(1024)


def flat(values: Any) -> list[Any]:
    """The values of a record, those of structs within it in their place."""
    if isinstance(values, SimpleNamespace):
        values = vars(values).values()
    elif isinstance(values, dict):
        values = [value for name, value in values.items() if name != "_io"]
    if not isinstance(values, bytes | int):
        return [one for value in values for one in flat(value)]
    return [values]


@pytest.mark.parametrize("name", FORMATS)
def test_every_way_to_read_agrees_with_a_plain_format(name: str) -> None:
    layout, plain = FORMATS[name]
    values = list(struct.unpack_from(plain, RANDOM))
    assert layout.sizeof() == format_of(layout).size == struct.calcsize(plain)
    assert flat(layout.parse(RANDOM)) == values
    assert list(format_of(layout).unpack_from(RANDOM)) == values
    assert flat(parse_record(layout, RANDOM)) == values
    assert flat(np.frombuffer(RANDOM, dtype_of(layout), count=1).tolist()) == values
    assert format_of(layout).pack(*values) == RANDOM[: layout.sizeof()]


@pytest.mark.parametrize("name", FORMATS)
def test_the_offset_of_a_field_is_where_it_is_read(name: str) -> None:
    layout = FORMATS[name][0]
    record = layout.parse(RANDOM)
    for field in layout.subcons:
        assert field.parse(RANDOM[offset_of(layout, field.name) :]) == record[field.name]
    with pytest.raises(ValueError, match="not in list"):
        offset_of(layout, "no_such_field")


@pytest.mark.parametrize("shift", [12, 14, 16])
def test_nodes_are_one_page_of_words(shift: int) -> None:
    geometry = PageGeometry(shift, BY_COMPATIBLE["kho-v4"])
    page = np.random.default_rng(shift).bytes(1 << shift)
    words = list(struct.unpack(f"<{len(page) // 8}Q", page))
    assert [word for (word,) in U64Array.element.iter_unpack(page)] == words
    for layout, name in ((kho_radix_node(geometry), "table"), (kho_radix_leaf(geometry), "bitmap")):
        assert layout.parse(page)[name].tolist() == words
        assert np.frombuffer(page, dtype_of(layout))[name][0].tolist() == words
    chunk = vmalloc.kho_vmalloc_chunk(geometry)
    first, phys = np.frombuffer(page, dtype_of(chunk))[0].tolist()
    assert [first, *phys.tolist()] == words


def test_both_byte_orders_in_one_struct_are_refused() -> None:
    with pytest.raises(struct.error):
        format_of(Struct("little" / Int32ul, "big" / Int32ub))


def test_what_has_no_plain_format_is_refused() -> None:
    with pytest.raises(TypeError, match="no integer, bytes or Struct"):
        format_of(Struct("words" / Int64ul[4]))


@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (b"", b""),
        (b"luo", b"luo"),
        (b"luo-v5\0\0" + bytes(24), b"luo-v5"),
        (b"luo-v5\0x" + bytes(24), b"luo-v5"),
        (b"luo-v5;block-v1\0" + bytes(24), b"luo-v5;block-v1"),
        (b"x" * 100, b"x" * 8),
        (b";" * 300, b";" * 256),
    ],
)
def test_luo_compatible_ends_at_its_nul_and_only_a_composite_is_longer(
    blob: bytes, text: bytes
) -> None:
    assert luo.luo_compatible(blob) == luo.luo_compatible(memoryview(blob)) == text


@pytest.mark.parametrize(("length", "size"), [(0, 32), (7, 32), (8, 40), (15, 40), (16, 48)])
def test_the_string_of_luo_is_padded_with_its_nul(length: int, size: int) -> None:
    assert luo.luo_ser(length).sizeof() == size
