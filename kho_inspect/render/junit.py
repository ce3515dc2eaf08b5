"""Verdicts as JUnit XML."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from kho_inspect.render.findings import counted, place, states
from kho_inspect.render.safe import safe
from kho_inspect.rules.base import Finding
from kho_inspect.rules.engine import BY_CODE, RULES, Verdict


def junit(verdict: Verdict, dump: str, fail_on: int) -> Iterator[str]:
    """One test case per rule; findings of severity ``fail_on`` and above are failures."""
    skipped = {code: f"does not apply: no {_subject(code)}" for code in verdict.not_applicable}
    skipped |= {code: group.reason for group in verdict.blocked for code in group.codes}
    found: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        found.setdefault(finding.code, []).append(finding)
    suite = ElementTree.Element("testsuite", name="kho-inspect check")
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in states(verdict).items():
        ElementTree.SubElement(properties, "property", name=name, value=safe(value))
    failures = 0
    for rule in RULES:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"kho-inspect.{safe(dump)}", name=rule.code
        )
        case.set("file", safe(dump))
        if rule.code in skipped:
            ElementTree.SubElement(case, "skipped", message=skipped[rule.code])
        bad = [one for one in found.get(rule.code, []) if one.severity >= fail_on]
        if bad:
            failures += 1
            failure = ElementTree.SubElement(
                case,
                "failure",
                type=bad[0].severity.label,
                message=safe(counted(bad[0])),
            )
            lines = [f"{_line(one)} [{safe(place(one))}]" for one in bad]
            failure.text = "\n".join([*lines, f"hint: {rule.hint}"])
        mild = [one for one in found.get(rule.code, []) if one.severity < fail_on]
        if mild:
            ElementTree.SubElement(case, "system-out").text = "\n".join(map(_line, mild))
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


def _subject(code: str) -> str:
    subject = BY_CODE[code].subject
    return subject.value if subject else ""


def _line(finding: Finding) -> str:
    return f"{finding.severity.label}: {safe(counted(finding))}"
