"""Several faults at once: each root cause is named once, and nothing else is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect.inspection import examine
from kho_inspect.render.names import message_text
from kho_inspect.rules.base import Finding, Severity
from kho_inspect.rules.engine import judge
from tests.support.broken import BROKEN
from tests.support.broken_base import Broken
from tests.support.reference import PAGE, SAMPLE, Reference, offset_in_elf
from tests.support.verdicts import above_info, broken_verdict, codes, verdict_of

HIDDEN = ({"KHO413", "KHO611"}, {"KHO417", "KHO611"})
"""Pairs of which one is not seen by mistake: ``test_a_short_table_of_a_memfd_…``."""


def independent(one: Broken, other: Broken) -> bool:
    """Whether both are to be seen when both are there."""
    return one.independent_of(other) and {one.code, other.code} not in HIDDEN


# -- chosen combinations


@pytest.mark.parametrize(
    "chosen",
    [
        ("KHO202", "KHO522", "KHO509"),  # an L1 pointer, a leaf bit elsewhere, a session's name
        ("KHO204", "KHO205", "KHO206", "KHO308"),
        ("KHO301", "KHO302", "KHO303", "KHO210", "KHO211"),
        ("KHO304", "KHO305", "KHO306", "KHO307", "KHO303"),
        ("KHO401", "KHO402", "KHO403", "KHO404", "KHO405", "KHO110"),
        ("KHO413", "KHO417", "KHO419", "KHO421", "KHO422", "KHO519", "KHO530"),
        ("KHO504", "KHO505", "KHO506", "KHO507", "KHO508", "KHO511", "KHO512", "KHO513"),
        ("KHO601", "KHO602", "KHO603", "KHO604", "KHO606", "KHO607", "KHO609", "KHO612"),
        ("KHO105", "KHO501", "KHO103", "KHO612", "KHO213"),
    ],
    ids="+".join,
)
def test_each_cause_is_named_once(chosen: tuple[str, ...]) -> None:
    assert all(BROKEN[one].independent_of(BROKEN[other]) for one, other in combinations(chosen, 2))
    verdict = broken_verdict(*(BROKEN[code] for code in chosen))
    assert codes(above_info(verdict.findings)) == sorted(chosen)


def test_everything_that_is_independent_at_once() -> None:
    chosen: list[Broken] = []
    for one in BROKEN.values():
        if one.where and all(independent(one, other) for other in chosen):
            chosen.append(one)
    wanted = [one.code for one in chosen if one.severity != "info"]
    assert len(wanted) > 60
    assert codes(above_info(broken_verdict(*chosen).findings)) == sorted(wanted)


def test_the_order_of_the_damage_does_not_matter() -> None:
    chosen = [BROKEN[code] for code in ("KHO205", "KHO416", "KHO511", "KHO603")]
    said = {
        tuple((finding.code, finding.message) for finding in broken_verdict(*order).findings)
        for order in (chosen, chosen[::-1])
    }
    assert len(said) == 1


@pytest.mark.parametrize("other", ["KHO413", "KHO417"])
def test_a_short_table_of_a_memfd_does_not_hide_a_bad_kho_test_folio(other: str) -> None:
    verdict = broken_verdict(BROKEN[other], BROKEN["KHO611"])
    assert codes(above_info(verdict.findings)) == [other, "KHO611"]


# -- any combination


@st.composite
def independent_damages(draw: st.DrawFn) -> list[Broken]:
    """Two to four damages that do not hide each other: see ``Broken.where``."""
    chosen: list[Broken] = []
    for _ in range(draw(st.integers(2, 4))):
        left = [one for one in BROKEN.values() if all(independent(one, it) for it in chosen)]
        left = [one for one in left if one.where and one not in chosen]
        chosen.append(draw(st.sampled_from(left)))
    return chosen


@settings(max_examples=60, deadline=None)
@given(independent_damages())
def test_any_independent_damages(chosen: list[Broken]) -> None:
    found = broken_verdict(*chosen).findings
    assert {one.code for one in chosen} <= set(codes(found))
    assert codes(above_info(found)) == sorted(one.code for one in chosen if one.severity != "info")


LOCAL = [one for one in BROKEN.values() if one.where and one.severity != "info"]
WHOLE = [one for one in BROKEN.values() if not one.where and one.severity != "info"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(LOCAL), min_size=1, max_size=4, unique=True),
    st.none() | st.sampled_from(WHOLE),
)
def test_any_damages_come_to_a_verdict(chosen: list[Broken], last: Broken | None) -> None:
    """Whatever hides what: something is found, and nothing is raised."""
    verdict = broken_verdict(*chosen, *([last] if last else []))
    assert above_info(verdict.findings)


# -- late dumps

Recycle = Callable[[bytes, int, random.Random], bytes]
"""(page, its level, random numbers) → what stands there now."""

TEXT = b"Nov 22 22:51:13 host systemd[1]: Reached target Basic System.\n" * 70


def text_page(page: bytes, level: int, rng: random.Random) -> bytes:
    at = rng.randrange(63)
    return TEXT[at : at + PAGE]


def kernel_pointers(page: bytes, level: int, rng: random.Random) -> bytes:
    return b"".join(
        rng.choice((0, 0xFFFF888000000000 | rng.randrange(1 << 27) << 3)).to_bytes(8, "little")
        for _ in range(PAGE // 8)
    )


RECYCLED: dict[str, Recycle] = {
    "random": lambda page, level, rng: rng.randbytes(PAGE),
    "zeroed": lambda page, level, rng: bytes(PAGE),
    "text": text_page,
    "poison": lambda page, level, rng: b"\xaa" * PAGE,
    "kernel pointers": kernel_pointers,
    "leaves random": lambda page, level, rng: page if level else rng.randbytes(PAGE),
    "leaves zeroed": lambda page, level, rng: page if level else bytes(PAGE),
    "leaves text": lambda page, level, rng: page if level else text_page(page, level, rng),
    "leaves poisoned": lambda page, level, rng: page if level else b"\xaa" * PAGE,
    "root only": lambda page, level, rng: rng.randbytes(PAGE) if level == 5 else page,
    "root text": lambda page, level, rng: text_page(page, level, rng) if level == 5 else page,
    "tables random": lambda page, level, rng: rng.randbytes(PAGE) if level else page,
    "tables zeroed": lambda page, level, rng: bytes(PAGE) if level else page,
}


def assert_late(found: tuple[Finding, ...]) -> None:
    assert [(one.code, one.severity) for one in above_info(found)] == [("KHO201", Severity.FATAL)]
    (late,) = above_info(found)
    assert "the dump was taken too late" in message_text(late.message)
    assert "take the dump at the jump into the next kernel" in late.hint
    assert "before memblock_free_all()" in late.hint


@pytest.mark.parametrize("kind", RECYCLED)
def test_a_late_dump_of_the_reference(kind: str) -> None:
    it, rng = Reference(), random.Random(kind)
    for paddr, level in it.levels().items():
        it.image.write(paddr, RECYCLED[kind](it.image.read(paddr, PAGE), level, rng))
    assert_late(verdict_of(it).findings)


@pytest.mark.parametrize("kind", RECYCLED)
def test_a_late_dump_of_the_sample(kind: str, tmp_path: Path) -> None:
    rng, data = random.Random(kind), bytearray(SAMPLE.read_bytes())
    for level, paddr in json.loads(SAMPLE.with_suffix(".json").read_text())["tree_nodes"]:
        at = offset_in_elf(data, int(paddr, 16))
        data[at : at + PAGE] = RECYCLED[kind](bytes(data[at : at + PAGE]), int(level), rng)
    dump = tmp_path / "dump.elf"
    dump.write_bytes(data)
    case = examine(str(dump), str(SAMPLE.with_suffix(".dtb")))
    assert_late(judge(case).findings)


@pytest.mark.parametrize(("kind", "seed"), [("leaves random", 6), ("leaves text", 0)])
def test_a_late_dump_of_which_half_the_leaves_are_recycled(kind: str, seed: int) -> None:
    it, rng = Reference(), random.Random(seed)
    for paddr, level in it.levels().items():
        if rng.random() < 0.5:
            it.image.write(paddr, RECYCLED[kind](it.image.read(paddr, PAGE), level, rng))
    assert_late(verdict_of(it).findings)


def test_a_late_dump_is_all_there_is_to_say_of_the_tree() -> None:
    """Nothing behind the tree is judged, and the report says why."""
    found = broken_verdict(BROKEN["KHO201"])
    why = {code: group.reason for group in found.blocked for code in group.codes}
    assert {"KHO202", "KHO308", "KHO401", "KHO504", "KHO601"} <= set(why)
    assert "KHO201" in why["KHO202"]
