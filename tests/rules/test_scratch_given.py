"""Scratch areas that were given, the dump's own table, and a table that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kho_inspect.inspection import Options, examine
from kho_inspect.render.names import message_text
from kho_inspect.rules.base import About, Need
from kho_inspect.rules.case import Case
from kho_inspect.rules.engine import judge
from kho_inspect.rules.statements import Integrity
from kho_inspect.units import Extent
from tests.support.builder import Tree, boot_dtb, fdt_blob
from tests.support.reference import MIB, PAGE, RAM_END, Reference
from tests.support.verdicts import codes, options_for

FREE = 0x6000_0000
"""RAM that the dump does not store."""


def opened(it: Reference, folder: Path, options: Options | None = None) -> Case:
    paths = it.write(folder)
    return examine(*paths, options or options_for(it))


def test_scratch_that_contradicts_the_table_is_said_and_changes_no_statement(
    tmp_path: Path,
) -> None:
    it = Reference()
    it.given = ((0x7200_0000, 0x7300_0000),)
    case = opened(it, tmp_path)
    assert case.handover.scratch is not None and case.handover.scratch_found is not None
    assert [area for area, _ in case.handover.scratch.entries] == [0x7200_0000]
    assert case.handover.scratch_found.entries == tuple(it.scratch)
    verdict = judge(case)
    (finding,) = verdict.findings
    assert (finding.code, finding.about) == ("KHO311", About.CAPTURE)
    assert verdict.integrity is Integrity.NO_DEFECT


def test_scratch_that_repeats_the_table_in_another_order_is_no_finding(tmp_path: Path) -> None:
    it = Reference()
    it.given = tuple((start, start + size) for start, size in reversed(it.scratch))
    assert judge(opened(it, tmp_path)).findings == ()


def test_a_boot_dtb_that_contradicts_the_table_is_said(tmp_path: Path) -> None:
    it = Reference()
    table = it.image.alloc()
    it.image.write_u64(table, 0x7200_0000, MIB)
    it.boot = boot_dtb(it.fdt, table, 16)
    (finding,) = judge(opened(it, tmp_path)).findings
    assert finding.code == "KHO311"
    assert message_text(finding.message).startswith("/chosen of ")
    assert "boot.dtb names 0x72000000-0x72100000; setup_data at " in message_text(finding.message)


@pytest.mark.parametrize(("before", "after"), [(PAGE // 2, 0), (0, PAGE // 2)])
def test_an_area_with_one_unaligned_end_is_misaligned(
    before: int, after: int, tmp_path: Path
) -> None:
    it = Reference()
    it.scratch.append((0x7300_0000 + before, MIB - before + after))
    (finding,) = judge(opened(it, tmp_path)).findings
    assert (finding.code, finding.paddr) == ("KHO306", 0x7300_0000 + before)


@pytest.mark.parametrize(("before", "after"), [(PAGE // 2, 0), (0, PAGE // 2)])
def test_a_table_of_areas_outside_ram_with_one_unaligned_end_was_overwritten(
    before: int, after: int, tmp_path: Path
) -> None:
    it = Reference()
    it.scratch[:] = [(RAM_END + MIB + before, MIB - before + after)]
    trouble = opened(it, tmp_path).scratch_trouble
    assert trouble == "no scratch area is aligned or in RAM: the table was overwritten"
    it.scratch[:] = [(RAM_END + MIB, MIB)]  # of another machine, but a table
    assert opened(it, tmp_path).scratch_trouble is None


@pytest.mark.parametrize(("size", "malformed"), [(MIB, False), (MIB + PAGE, True)])
def test_an_area_that_ends_past_64_bits_is_malformed(
    size: int, malformed: bool, tmp_path: Path
) -> None:
    it = Reference()
    it.scratch.append(((1 << 64) - MIB, size))
    assert ("KHO304" in codes(judge(opened(it, tmp_path)).findings)) is malformed


def test_many_areas_are_summed_up(tmp_path: Path) -> None:
    it = Reference()
    it.given = tuple((0x7000_0000 + n * MIB, 0x7000_0000 + n * MIB + PAGE) for n in range(20))
    (finding,) = judge(opened(it, tmp_path)).findings
    assert "0x70700000-0x70701000 and 12 more; setup_data at " in message_text(finding.message)


def test_a_boot_dtb_without_a_handover_leaves_the_dumps_own_table_in_use(tmp_path: Path) -> None:
    it = Reference()
    it.boot = fdt_blob(Tree(b"", [], [Tree(b"chosen", [])]))
    case = opened(it, tmp_path)
    assert codes(judge(case).findings) == ["KHO115"]
    assert case.handover.scratch == case.handover.scratch_found is not None


def zeroed(it: Reference) -> None:
    it.last.append(lambda: it.image.write(it.scratch_table, bytes(PAGE)))


def elsewhere(it: Reference) -> None:
    it.last.append(lambda: it.image.write_u64(it.setup_data + 32, FREE))


def emptied(it: Reference) -> None:
    it.last.append(lambda: it.image.write_u64(it.setup_data + 40, 0))


def short(it: Reference) -> None:
    it.last.append(lambda: it.image.write_u64(it.setup_data + 40, 15))


def of_one_entry(it: Reference) -> None:
    zeroed(it)
    it.last.append(lambda: it.image.write_u64(it.setup_data + 40, 16))


SIZES: dict[Callable[[Reference], None], int] = {emptied: 0, short: 15, of_one_entry: 16}


@pytest.mark.parametrize(
    ("damage", "state"),
    [
        (zeroed, "zero"),
        (elsewhere, "not stored in the dump"),
        (emptied, "0 bytes, less than an entry"),
        (short, "15 bytes, less than an entry"),
        (of_one_entry, "zero"),
    ],
)
def test_a_table_that_setup_data_names_but_cannot_be_read_is_not_called_missing(
    damage: Callable[[Reference], None], state: str, tmp_path: Path
) -> None:
    it = Reference()
    size = SIZES.get(damage, 32)
    table = FREE if damage is elsewhere else it.scratch_table
    damage(it)
    blocked = {
        code: one.reason for one in judge(opened(it, tmp_path)).blocked for code in one.codes
    }
    named = f"setup_data at {it.setup_data:#x} names, {Extent(table, table + size)}, is {state}"
    assert blocked["KHO304"] == (
        f"the scratch table that {named}: --scratch START+LEN, or --boot-dtb FILE"
    )


def test_a_table_that_a_boot_dtb_names_but_cannot_be_read_is_not_called_missing(
    tmp_path: Path,
) -> None:
    it = Reference()
    it.boot = boot_dtb(it.fdt, FREE, 32)
    case = opened(it, tmp_path)
    assert case.handover.scratch is None  # the dump's own table is not what was asked for
    reason = case.why(Need.SCRATCH)
    assert "boot.dtb names, 0x60000000-0x60000020, is not stored in the dump" in reason


def test_no_table_named_at_all_is_called_that(tmp_path: Path) -> None:
    case = opened(Reference(), tmp_path)
    none = replace(case, opened=replace(case.handover, pointers=(), scratch=None))
    assert none.why(Need.SCRATCH) == Need.SCRATCH.value


def test_scratch_is_compared_where_a_truncated_dtb_led_to_the_root_fdt(tmp_path: Path) -> None:
    it = Reference()
    it.given = ((0x7200_0000, 0x7300_0000),)
    it.last.append(lambda: setattr(it, "dtb", it.image.read(it.fdt, 200)))
    case = opened(it, tmp_path)
    assert case.handover.fdt.recovered
    assert "KHO311" in codes(judge(case).findings)
