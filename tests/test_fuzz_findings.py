"""What fuzzing found, each under the name of its symptom."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kho_inspect.errors import UnreadableInputError
from kho_inspect.memory import Presence, RamBlock, open_memory
from kho_inspect.memory.mapped import MappedMemory
from kho_inspect.model.contents import Item, Piece
from kho_inspect.model.identity import ClaimKind, Owner, Subsystem
from kho_inspect.ownership.claims import ClaimLog
from kho_inspect.recover.extract import Extractor
from kho_inspect.render.addresses import MAX_OWNERS
from kho_inspect.render.findings import MAX_ALIKE
from kho_inspect.rules.base import MAX_PLACES
from kho_inspect.units import Extent
from tests.fuzz.entries import BytesFile
from tests.support import luo_builder as write
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.kdump_writer import write_kdump
from tests.support.running import document, in_process, save

PAGE = 4096


def test_a_kdump_that_ends_in_the_middle_of_a_descriptor_is_no_traceback(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    layout = write_kdump(dump, {pfn: b"page".ljust(PAGE, b"\0") for pfn in range(1, 4)})
    with dump.open("r+b") as file:
        file.truncate(layout.descriptors + 24 + 10)
    with pytest.raises(UnreadableInputError, match="ends within its page descriptors"):
        open_memory(str(dump))


@pytest.mark.parametrize("shift", [12, 14, 16])
def test_no_claim_reaches_beyond_64_bits_whatever_the_page_size(shift: int) -> None:
    log = ClaimLog(shift)
    log.add(Owner(Subsystem.KHO), ClaimKind.BLOB, (1 << 64) - 8, 64)
    log.add_many(Owner(Subsystem.LUO), ClaimKind.FOLIO, np.array([1, (1 << 52) - 1]), 1 << 40)
    claims = log.result()
    assert len(claims) == 2
    assert (claims.starts < claims.ends).all()
    assert int(claims.ends.max()) == 1 << (64 - shift)


def test_thousands_of_findings_do_not_keep_the_terminal_busy_for_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    image = Image()
    again = [write.File(1, compatible=b"x", data=0), write.File(1, compatible=b"x", data=0)]
    write.luo_v5(image, [write.Session(b"same", again) for _ in range(300)])
    files = save(image, tmp_path, image.finish())
    places: Counter[str] = Counter()
    for finding in document("check", *files)["findings"]:
        places[finding["code"]] += finding["count"]
    (most,) = places.most_common(1)
    assert most[1] > 100
    result = in_process("check", *files)
    assert result.status == 1
    assert f"… {most[1] - MAX_ALIKE:,} more: --json lists them" in result.stdout
    assert len(result.stdout.splitlines()) < 100


def test_json_is_not_said_to_list_places_that_were_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image()
    file = write.File(1, compatible=b"x", data=0)
    write.luo_v5(image, [write.Session(b"same", [file] * (2 * MAX_PLACES))])
    files = save(image, tmp_path, image.finish())
    found = {one["code"]: one for one in document("check", *files)["findings"]}
    most = max(found.values(), key=lambda one: one["count"])
    assert most["count"] > len(most["places"]) == MAX_PLACES
    left = f"… {most['count'] - MAX_ALIKE:,} more: --json lists {MAX_PLACES - MAX_ALIKE:,} of them"
    monkeypatch.setenv("COLUMNS", "80")
    assert left in in_process("check", *files).stdout
    monkeypatch.delenv("COLUMNS")
    assert f"… {most['count'] - MAX_PLACES:,} more\n" in in_process("check", *files).stdout


def test_a_page_with_thousands_of_owners_is_not_a_screen_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    image = Image()
    page = image.alloc()
    image.preserve(page, 0)
    count = 3000
    table = image.vmalloc(struct.pack("<Q", page) * count)
    props = [(b"nr_folios", struct.pack("<I", count)), (b"folios_info", table)]
    root = [(b"compatible", b"kho-test-v1\0"), (b"magic", struct.pack("<I", write.KHO_TEST_MAGIC))]
    blob = fdt_blob(Tree(b"", root, [Tree(b"data", [*props, (b"csum", bytes(4))])]))
    image.subnode("kho_test", image.blob(blob), len(blob))
    files = save(image, tmp_path, image.finish())
    assert len(document("addr", *files, hex(page))["addresses"][0]["owners"]) == count
    result = in_process("addr", *files, hex(page))
    assert f"… {count - MAX_OWNERS:,} more: --json lists them" in result.stdout
    assert len(result.stdout.splitlines()) < 2 * MAX_OWNERS


def kdump_with_a_damaged_page(folder: Path) -> tuple[Path, Path, int]:
    """DUMP, DTB, and the second page of a memfd of four, whose data does not unpack."""
    image = Image()
    file = write.memfd(image, write.pattern(4 * PAGE, 1), layout=[(0, 2)])
    write.luo_v5(image, [write.Session(b"s", [write.File(1, file)])])
    dump, dtb = folder / "dump", folder / "kho.dtb"
    dtb.write_bytes(image.finish())
    pages = {paddr // PAGE: bytes(data) for paddr, data in image.pages.items()}
    layout = write_kdump(dump, pages, known=range(image.ram_start // PAGE, image.ram_end // PAGE))
    damaged = file.folios[0].paddr + PAGE
    content = bytearray(dump.read_bytes())
    at = layout.descriptors + 24 * sorted(pages).index(damaged // PAGE)
    offset, size = struct.unpack_from("<qI", content, at)
    content[offset : offset + size] = b"\xff" * size
    dump.write_bytes(content)
    return dump, dtb, damaged


def test_a_damaged_page_of_a_kdump_costs_extract_that_page_only(tmp_path: Path) -> None:
    dump, dtb, _ = kdump_with_a_damaged_page(tmp_path)
    out = tmp_path / "out"
    result = in_process("extract", dump, dtb, "LUO", "-o", out)
    assert (result.status, "content is lacking" in result.stderr) == (1, True)
    (item,) = json.loads((out / "manifest.json").read_text())["items"]
    assert item["gaps"] == [{"start": PAGE, "end": 2 * PAGE, "why": "not stored"}]
    want = bytearray(write.pattern(4 * PAGE, 1))
    want[PAGE : 2 * PAGE] = bytes(PAGE)
    assert (out / item["file"]).read_bytes() == want


def test_a_damaged_page_of_a_kdump_costs_pack_that_page_only(tmp_path: Path) -> None:
    dump, dtb, damaged = kdump_with_a_damaged_page(tmp_path)
    packed = tmp_path / "packed.elf"
    result = in_process("pack", dump, dtb, "-o", packed, "--content")
    assert (result.status, result.stderr) == (0, "")
    memory = open_memory(str(packed))
    assert memory.presence(damaged, PAGE) is Presence.NOT_STORED
    for there in (damaged - PAGE, damaged + PAGE):
        assert memory.presence(there, PAGE) is Presence.STORED


def test_a_range_over_thousands_of_extents_is_no_work_for_minutes(tmp_path: Path) -> None:
    count = 20_000
    blocks = [RamBlock(2 * PAGE * at, 0, PAGE) for at in range(count)]
    memory = MappedMemory(BytesFile(b"x" * PAGE), "elf", blocks, declared=[Extent(0, 1 << 40)])
    size = 2 * PAGE * count
    item = Item(Extent(0, size), size, [Piece(0, 0, size)])
    (entry,) = Extractor(memory, tmp_path).run([item])
    assert len(entry["gaps"]) == len(entry["sources"]) == count
