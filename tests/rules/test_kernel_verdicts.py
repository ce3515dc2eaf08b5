"""No finding is milder than what a real next kernel did of the same fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kho_inspect.abi import find_target
from kho_inspect.inspection import Question, examine
from kho_inspect.rules.base import ERROR, FATAL, INFO, WARNING, Severity
from kho_inspect.rules.engine import judge
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


@pytest.fixture(scope="module", params=TARGETS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    name: str = request.param
    unpack(VERDICTS / f"base-{name}.raw.xz", folder(tmp_path_factory) / f"{name}.raw")
    return name


def folder(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp()


def worst(dump: Path, dtb: Path, base: str) -> Severity:
    name = TARGETS[base]
    verdict = judge(examine(str(dump), str(dtb), None, Question(find_target(name), name)))
    return max((finding.severity for finding in verdict.findings), default=INFO)


def test_a_base_is_healthy(base: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    dump = folder(tmp_path_factory) / f"{base}.raw"
    assert worst(dump, VERDICTS / f"base-{base}.dtb", base) <= WARNING


def test_nothing_is_milder_than_the_kernel(
    base: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    dump, dtb = folder(tmp_path_factory) / f"{base}.raw", tmp_path / "kho.dtb"
    milder = []
    for fault in (one for one in FAULTS if one["base"] == base):
        whole = (VERDICTS / f"base-{base}.dtb").read_bytes()
        dtb.write_bytes(bytes.fromhex(fault["dtb"]) if fault.get("dtb") else whole)
        kept = []
        with dump.open("r+b") as image:
            for at, data in fault.get("patches") or []:
                at, new = int(at, 0) if isinstance(at, str) else at, bytes.fromhex(data)
                image.seek(at)
                kept.append((at, image.read(len(new))))
                image.seek(at)
                image.write(new)
        needed = next(
            (level for word, level in NEEDED.items() if fault["next_kernel"].startswith(word)), INFO
        )
        if worst(dump, dtb, base) < needed:
            milder.append(fault["fault"])
        with dump.open("r+b") as image:
            for at, old in reversed(kept):
                image.seek(at)
                image.write(old)
    assert milder == []
