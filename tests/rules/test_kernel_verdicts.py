"""No finding is milder than what a real next kernel did of the same fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kho_inspect.abi import find_target
from kho_inspect.inspection import Question, examine
from kho_inspect.rules.base import ERROR, FATAL, INFO, WARNING, Severity
from kho_inspect.rules.engine import RULES, Verdict, judge
from tests.support.captures import HOME, unpack

VERDICTS = HOME.parent / "kernel-verdicts"
NEEDED = {"refuses": FATAL, "panics": FATAL, "hangs": FATAL, "data lost": ERROR}
TARGETS = {"a": "linux-7.3", "b": "linux-7.3", "c": "linux-7.1"}


def read() -> dict[str, Any]:
    path = VERDICTS / "verdicts.json"
    read: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return read


FAULTS = read().get("faults", [])
pytestmark = pytest.mark.skipif(not FAULTS, reason=f"no verdicts of kernels at {VERDICTS}")


Judged = list[tuple[dict[str, Any], Verdict]]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judged]:
    """Every fault with its verdict, by base; the first is the base itself."""
    return {name: list(verdicts_of(name, tmp_path_factory.mktemp(name))) for name in TARGETS}


def verdicts_of(base: str, folder: Path) -> Iterator[tuple[dict[str, Any], Verdict]]:
    dump, dtb, target = folder / "dump", folder / "kho.dtb", TARGETS[base]
    unpack(VERDICTS / f"base-{base}.raw.xz", dump)
    whole = (VERDICTS / f"base-{base}.dtb").read_bytes()
    for fault in ({}, *(one for one in FAULTS if one["base"] == base)):
        dtb.write_bytes(bytes.fromhex(fault["dtb"]) if fault.get("dtb") else whole)
        kept = []
        with dump.open("r+b") as image:
            for at, data in fault.get("patches") or []:
                at, new = int(at, 0) if isinstance(at, str) else at, bytes.fromhex(data)
                image.seek(at)
                kept.append((at, image.read(len(new))))
                image.seek(at)
                image.write(new)
        question = Question(find_target(target), target)
        yield fault, judge(examine(str(dump), str(dtb), None, question))
        with dump.open("r+b") as image:
            for at, old in reversed(kept):
                image.seek(at)
                image.write(old)


def worst(verdict: Verdict) -> Severity:
    return max((finding.severity for finding in verdict.findings), default=INFO)


@pytest.mark.parametrize("base", TARGETS)
def test_a_base_is_healthy(base: str, judged: dict[str, Judged]) -> None:
    assert worst(judged[base][0][1]) <= WARNING


@pytest.mark.parametrize("base", TARGETS)
def test_nothing_is_milder_than_the_kernel(base: str, judged: dict[str, Judged]) -> None:
    milder = []
    for fault, verdict in judged[base][1:]:
        needed = next(
            (level for word, level in NEEDED.items() if fault["next_kernel"].startswith(word)), INFO
        )
        if worst(verdict) < needed:
            milder.append(fault["fault"])
    assert milder == []


def test_what_explain_says_was_seen_is_among_the_verdicts(judged: dict[str, Judged]) -> None:
    found = {
        finding.code
        for verdicts in judged.values()
        for _, verdict in verdicts[1:]
        for finding in verdict.findings
    }
    said = {rule.code for rule in RULES if "seen" in rule.explanation.lower()}
    # The dump of base b does not store the scratch table, of which one area led outside RAM.
    assert said - found == {"KHO307"}
