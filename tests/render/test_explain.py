"""``explain``: the catalogue out of its docstrings."""

from __future__ import annotations

import json
import re

import pytest

from kho_inspect.rules.engine import BY_CODE, RULES
from tests.support.cli import kho_inspect
from tests.support.running import in_process


@pytest.mark.parametrize("code", ["KHO201", "kho514"])
def test_explain(code: str) -> None:
    result = in_process("explain", code)
    rule = BY_CODE[code.upper()]
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{rule.code}  {rule.severity.label}  {rule.title}")
    for label in ("Matters", "Causes", "Enforced by", "What to do"):
        assert f"\n  {label}: " in result.stdout


def test_explain_all() -> None:
    result = kho_inspect("explain", "--all")
    assert (result.status, result.stderr) == (0, "")
    found = re.findall(r"^(KHO\d{3})  ", result.stdout, re.MULTILINE)
    assert found == [rule.code for rule in RULES]


def test_explain_json() -> None:
    (one,) = json.loads(in_process("explain", "KHO105", "--json").stdout)["rules"]
    assert one["code"] == "KHO105"
    assert "kho_populate" in one["enforced_by"]
    every = json.loads(in_process("explain", "--all", "--json").stdout)
    assert set(every) == {"schema_version", "rules"}
    assert [rule["code"] for rule in every["rules"]] == [rule.code for rule in RULES]
    for rule in every["rules"]:
        assert all(rule[name] for name in ("checks", "matters", "causes", "enforced_by", "hint"))


@pytest.mark.parametrize("args", [[], ["KHO999"], ["KHO2"], ["KHO201", "x"]])
def test_explain_what_is_none(args: list[str]) -> None:
    result = in_process("explain", *args)
    assert (result.status, result.stdout) == (2, "")
