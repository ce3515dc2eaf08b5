"""Verdicts for machines: JSON, JUnit XML, SARIF 2.1.0, GitHub workflow commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from kho_inspect import __version__
from kho_inspect.render.findings import place
from kho_inspect.render.json import SCHEMA_VERSION
from kho_inspect.render.safe import safe
from kho_inspect.rules.base import Severity
from kho_inspect.rules.engine import BY_CODE, RULES

if TYPE_CHECKING:
    from kho_inspect.rules.base import Finding
    from kho_inspect.rules.engine import Verdict

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_SARIF_LEVELS = {
    Severity.FATAL: "error",
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.INFO: "note",
}
_GITHUB = {**_SARIF_LEVELS, Severity.INFO: "notice"}


def findings_json(verdict: Verdict) -> list[dict[str, Any]]:
    """``findings`` of every JSON document that has them."""
    return [
        {
            "code": finding.code,
            "severity": finding.severity.label,
            "message": finding.message,
            "paddr": None if finding.paddr is None else hex(finding.paddr),
            "path": finding.path,
            "hint": finding.hint,
        }
        for finding in verdict.findings
    ]


def check_document(verdict: Verdict, dump: str, dtb: str | None) -> dict[str, Any]:
    """``check --json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": {"path": dump, "dtb": dtb},
        "verdict": verdict.word,
        "rules_checked": verdict.checked,
        "findings": findings_json(verdict),
        "not_checked": [{"code": one.code, "why": one.why} for one in verdict.not_checked],
    }


def junit(verdict: Verdict, dump: str, fail_on: int) -> Iterator[str]:
    """One test case per rule; findings of severity ``fail_on`` and above are failures."""
    skipped = {one.code: one.why for one in verdict.not_checked}
    found: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        found.setdefault(finding.code, []).append(finding)
    suite = ElementTree.Element("testsuite", name="kho-inspect check")
    failures = 0
    for rule in RULES:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"kho-inspect.{safe(dump)}", name=rule.code
        )
        case.set("file", safe(dump))
        if rule.code in skipped:
            ElementTree.SubElement(case, "skipped", message=skipped[rule.code])
        lines = []
        bad = [one for one in found.get(rule.code, []) if one.severity >= fail_on]
        for one in bad:
            lines.append(f"{one.severity.label}: {safe(one.message)} [{safe(place(one))}]")
        if bad:
            failures += 1
            failure = ElementTree.SubElement(
                case, "failure", type=bad[0].severity.label, message=safe(bad[0].message)
            )
            failure.text = "\n".join([*lines, f"hint: {rule.hint}"])
        mild = [one for one in found.get(rule.code, []) if one.severity < fail_on]
        if mild:
            ElementTree.SubElement(case, "system-out").text = "\n".join(
                f"{one.severity.label}: {safe(one.message)}" for one in mild
            )
    suite.set("tests", str(len(RULES)))
    suite.set("failures", str(failures))
    suite.set("errors", "0")
    suite.set("skipped", str(len(skipped)))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    yield '<?xml version="1.0" encoding="utf-8"?>\n'
    yield ElementTree.tostring(root, encoding="unicode")
    yield "\n"


def sarif(verdict: Verdict, dump: str) -> Iterator[str]:
    """A SARIF 2.1.0 log with one run."""
    codes = sorted({finding.code for finding in verdict.findings})
    document = {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "kho-inspect",
                        "version": __version__,
                        "rules": [_sarif_rule(code) for code in codes],
                    }
                },
                "results": [
                    _sarif_result(finding, codes.index(finding.code), dump)
                    for finding in verdict.findings
                ],
                "columnKind": "unicodeCodePoints",
            }
        ],
    }
    yield json.dumps(document, indent=2)
    yield "\n"


def _sarif_rule(code: str) -> dict[str, Any]:
    rule = BY_CODE[code]
    return {
        "id": code,
        "name": rule.check.__name__,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.explanation},
        "help": {"text": rule.hint},
        "defaultConfiguration": {"level": _SARIF_LEVELS[rule.severity]},
    }


def _sarif_result(finding: Finding, index: int, dump: str) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(dump)}},
    }
    if finding.paddr is not None and finding.paddr < 1 << 63:
        location["physicalLocation"]["address"] = {
            "absoluteAddress": finding.paddr,
            "kind": "physical",
        }
    if finding.path:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.path}]
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": _SARIF_LEVELS[finding.severity],
        "message": {"text": f"{finding.message}\n{finding.hint}"},
        "locations": [location],
        "properties": {"severity": finding.severity.label},
    }


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path.encode("utf-8", "surrogateescape"))


def github(verdict: Verdict, dump: str) -> Iterator[str]:
    """Workflow commands that GitHub shows as annotations, and the verdict in plain words."""
    for finding in verdict.findings:
        level = _GITHUB[finding.severity]
        text = f"{finding.message} [{place(finding)}] {finding.hint}"
        title = _escaped(f"{finding.code} {finding.severity.label}", True)
        yield f"::{level} file={_escaped(dump, True)},title={title}::{_escaped(text)}\n"
    yield f"verdict: {verdict.word}\n"


def _escaped(text: str, is_property: bool = False) -> str:
    text = safe(text).replace("%", "%25")
    return text.replace(":", "%3A").replace(",", "%2C") if is_property else text
