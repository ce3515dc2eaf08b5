"""Every rule of the catalogue: silent on what is healthy, right about what is broken."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from kho_inspect.inspection import Options, Question, examine
from kho_inspect.render.names import message_text, path_name
from kho_inspect.rules import (
    base,
    blobs,
    expected,
    luo,
    memfd,
    memory,
    root_fdt,
    subnodes,
    systemd,
    tree,
)
from kho_inspect.rules.case import Case
from kho_inspect.rules.engine import BY_CODE, RULES, Verdict, judge
from kho_inspect.rules.expectations import parse_expectations
from kho_inspect.rules.statements import CaptureState, Integrity
from tests.support.broken import BROKEN
from tests.support.broken_base import Seen
from tests.support.captures import HOME, Capture
from tests.support.reference import Reference
from tests.support.running import in_process
from tests.support.verdicts import EXPECT, above_info, codes, find_kernel, options_for, with_foreign

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "broken"
LEVELS = ("info", "warning", "error", "fatal")
SECTIONS = ("Matters", "Causes", "Enforced by")
GROUPS = {
    root_fdt: "1",
    tree: "2",
    memory: "3",
    subnodes: "4",
    luo: "5",
    memfd: "5",
    systemd: "5",
    blobs: "6",
    expected: "7",
}
"""First digit of the codes of each module."""

WISHES = """
compatible = "kho-v4"
page_size = "4K"
max_orphan_bytes = 0
[subnodes]
required = ["LUO", "memblock"]
forbidden = ["hugetlb"]
[sessions]
required = ["kho-memfds"]
forbidden = ["vm-alpha"]
[preserved]
min_bytes = "2G"
max_bytes = "3G"
[owners]
LUO = "4M"
[[files]]
session = "kho-508"
token = 0x5080
size = 8192
[[ranges]]
start = "0x80000000"
size = "2G"
"""
"""What the reference does meet, of every kind."""


def opened(it: Reference, target: str, expect: str) -> Case:
    kernel = find_kernel(target)
    wishes = parse_expectations(expect, EXPECT) if expect else None
    question = Question(target=kernel, target_name=target, expectations=wishes)
    with TemporaryDirectory() as folder:
        case = examine(*it.write(Path(folder)), options_for(it), question)
        return with_foreign(case, it.foreign)


@cache
def healthy() -> Verdict:
    return judge(opened(Reference(), "kho-v4", WISHES))


@cache
def broken(code: str) -> tuple[Case, Seen]:
    it = Reference()
    seen = BROKEN[code].damage(it)
    return opened(it, BROKEN[code].target, BROKEN[code].expect), seen


# -- healthy


@pytest.mark.parametrize("code", BY_CODE)
def test_silent_on_the_reference(code: str) -> None:
    assert code not in healthy().blocked_codes
    assert [finding for finding in healthy().findings if finding.code == code] == []


def test_every_rule_is_applied_to_the_reference() -> None:
    verdict = healthy()
    assert verdict.ran + len(verdict.not_applicable) == len(RULES)
    assert {code[:4] for code in verdict.not_applicable} <= {"KHO2"}  # a tree, or a chunk list
    assert verdict.integrity is Integrity.NO_DEFECT


def recycled(capture: Capture) -> bool:
    """Whether the next kernel had zeroed the scratch table by the time of the dump."""
    areas = capture.truth.get("scratch") or []
    return bool(areas) and not any(int(size, 16) for _, size in areas)


@pytest.mark.parametrize("scratch", [True, False])
def test_silent_on_captures(capture: Capture, scratch: bool) -> None:
    boot = HOME / capture.name / "boot.dtb"
    options = Options(base=capture.base, boot_dtb=str(boot) if boot.exists() else None)
    case = examine(str(capture.dump), str(capture.dtb), options)
    assert (case.handover.scratch is None) == recycled(capture)
    if not scratch:
        case = replace(case, opened=replace(case.handover, scratch=None))
    verdict = judge(case)
    assert above_info(verdict.findings) == []
    assert ("KHO304" in verdict.blocked_codes) == (not scratch or recycled(capture))


def test_captures_end_with_exit_status_0(capture: Capture) -> None:
    result = in_process("check", capture.dump, capture.dtb, "--base", hex(capture.base))
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("✔ capture    complete\n✔ decision ")


# -- broken


@pytest.mark.parametrize("code", BROKEN)
def test_fires_on_its_broken_image(code: str) -> None:
    case, seen = broken(code)
    found = judge(case).findings
    mine = [finding for finding in found if finding.code == code]
    assert [(one.severity.label, one.paddr, path_name(one.path)) for one in mine] == [
        (BROKEN[code].severity, seen.paddr, seen.path)
    ]
    assert seen.words in message_text(mine[0].message)
    assert mine[0].hint == BY_CODE[code].hint
    others = [one for one in above_info(found) if one.code != code]
    assert set(codes(others)) == BROKEN[code].also


@pytest.mark.parametrize("code", BROKEN)
def test_what_check_says_of_a_broken_image(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the letter; ``KHO_UPDATE_GOLDEN=1`` in the environment rewrites the files."""
    case, _ = broken(code)
    monkeypatch.setattr("kho_inspect.inspection.examine", lambda *_, **__: case)
    result = in_process("check", "dump", "kho.dtb")
    text = re.sub(r"/\S*/(?=\w+\.dtb|dump)", "", result.stdout)
    seen = f"{text}$ echo $?\n{result.status}\n"
    path = GOLDEN / f"{code}.txt"
    if os.environ.get("KHO_UPDATE_GOLDEN"):
        path.write_text(seen)
    assert seen == path.read_text()


@pytest.mark.parametrize("code", [code for code in BROKEN if BROKEN[code].where])
def test_orphans_are_judged_unless_the_damage_hides_owners(code: str) -> None:
    skipped = judge(broken(code)[0]).blocked_codes
    assert ("KHO308" in skipped) == BROKEN[code].blind


@pytest.mark.parametrize("code", BROKEN)
def test_exit_status(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, _ = broken(code)
    monkeypatch.setattr("kho_inspect.inspection.examine", lambda *_, **__: case)
    worst = LEVELS.index(BROKEN[code].severity)
    verdict = judge(case)
    incomplete = Integrity.UNDECIDED is verdict.integrity or (
        verdict.capture.state is not CaptureState.COMPLETE
    )
    for number, level in enumerate(LEVELS):
        result = in_process("check", "dump", "kho.dtb", "--fail-on", level)
        expected = {1, 4} if incomplete else {int(worst >= number)}
        assert (result.status in expected, result.stderr) == (True, "")
    assert in_process("check", "dump", "kho.dtb", "--fail-on", "never").status == 0


# -- the catalogue


def test_every_rule_has_a_broken_image_and_only_rules_have() -> None:
    assert sorted(BROKEN) == sorted(BY_CODE)
    assert all(BROKEN[code].code == code for code in BROKEN)


def test_codes_are_unique_and_in_the_group_of_their_module() -> None:
    assert [code for code, count in Counter(rule.code for rule in RULES).items() if count > 1] == []
    for module, digit in GROUPS.items():
        for rule in module.CATALOGUE.rules:
            assert re.fullmatch(rf"KHO{digit}\d\d", rule.code)
    assert sum(len(module.CATALOGUE.rules) for module in GROUPS) == len(RULES)


def test_codes_of_a_module_are_in_order() -> None:
    for module in GROUPS:
        numbers = [rule.code for rule in module.CATALOGUE.rules]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("code", BY_CODE)
def test_a_rule_explains_itself(code: str) -> None:
    rule = BY_CODE[code]
    title, _, body = rule.explanation.partition("\n")
    assert title.endswith(".")
    labels = re.findall(r"^([A-Z][a-z ]+):", body, re.MULTILINE)
    assert labels == list(SECTIONS)
    for label in SECTIONS:
        assert re.search(rf"^{label}: \S.+", body, re.MULTILINE)
    assert rule.hint.strip()
    assert rule.hint == rule.hint.strip().rstrip(".")


def test_functions_are_named_apart() -> None:
    names = Counter(rule.check.__name__ for rule in RULES)
    assert [name for name, count in names.items() if count > 1] == []


def test_severities_are_all_in_use() -> None:
    assert {rule.severity for rule in RULES} == set(base.Severity)
