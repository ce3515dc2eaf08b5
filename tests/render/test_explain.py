"""``explain``: the catalogue out of its docstrings."""

from __future__ import annotations

import json
import re

import pytest

from kho_inspect.render.explain import sections
from kho_inspect.rules.base import About
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


@pytest.mark.parametrize("code", BY_CODE)
def test_what_enforces_a_rule_names_a_kernel_release_or_says_that_no_kernel_does(code: str) -> None:
    rule = BY_CODE[code]
    enforced = sections(rule)["Enforced by"]
    if enforced.startswith("no kernel;"):  # of this tool, the capture, or what a user expects
        assert rule.about is not About.HANDOVER or "it concerns this tool" in enforced
    else:
        assert re.search(r"\b7\.[0-3]\b", enforced)
        assert "()" in enforced or "no kernel checks" in enforced.lower()
        assert len(enforced.split()) <= 70


@pytest.mark.parametrize("args", [[], ["KHO999"], ["KHO201,KHO9"], ["KHO201", "x"]])
def test_explain_what_is_none(args: list[str]) -> None:
    result = in_process("explain", *args)
    assert (result.status, result.stdout) == (2, "")
