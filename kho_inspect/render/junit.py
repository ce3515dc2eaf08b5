"""Verdicts as JUnit XML."""

from collections.abc import Iterator
from xml.etree import ElementTree

from kho_inspect.errors import KhoError
from kho_inspect.render.safe import safe
from kho_inspect.render.verdicts import counted, place, states
from kho_inspect.rules.base import Finding
from kho_inspect.rules.engine import BY_CODE, RULES, Verdict


def junit(
    verdict: Verdict, dump: str, fail_on: int, error: KhoError | None = None
) -> Iterator[str]:
    """One test case per rule; findings of severity ``fail_on`` and above are failures.

    An ``error``, why nothing could be judged, is one more test case.
    """
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
    if error is not None:
        message = safe(error.message)
        said = ElementTree.SubElement(
            _case(suite, dump, "input"), "error", type=type(error).__name__, message=message
        )
        said.text = f"hint: {safe(error.hint)}" if error.hint else message
    for rule in RULES:
        case = _case(suite, dump, rule.code)
        if rule.code in skipped:
            ElementTree.SubElement(case, "skipped", message=safe(skipped[rule.code]))
        bad = [one for one in found.get(rule.code, []) if one.severity >= fail_on]
        if bad:
            failures += 1
            kind, message = bad[0].severity.label, safe(counted(bad[0]))
            failure = ElementTree.SubElement(case, "failure", type=kind, message=message)
            lines = [f"{_line(one)} [{safe(place(one))}]" for one in bad]
            failure.text = "\n".join([*lines, f"hint: {rule.hint}"])
        mild = [one for one in found.get(rule.code, []) if one.severity < fail_on]
        if mild:
            ElementTree.SubElement(case, "system-out").text = "\n".join(map(_line, mild))
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(failures))
    suite.set("errors", str(int(error is not None)))
    suite.set("skipped", str(len(skipped)))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    yield '<?xml version="1.0" encoding="utf-8"?>\n'
    # For GitHub's runner, which reads the log of a job.
    yield ElementTree.tostring(root, encoding="unicode").replace("##[", "##&#91;")
    yield "\n"


def _case(suite: ElementTree.Element, dump: str, name: str) -> ElementTree.Element:
    names = {"classname": f"kho-inspect.{safe(dump)}", "name": name, "file": safe(dump)}
    return ElementTree.SubElement(suite, "testcase", names)


def _subject(code: str) -> str:
    subject = BY_CODE[code].subject
    return subject.value if subject else ""


def _line(finding: Finding) -> str:
    return f"{finding.severity.label}: {safe(counted(finding))}"
