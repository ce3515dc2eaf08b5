"""Verdicts and findings in words, for every form of output: Rich is not imported."""

from kho_inspect.render.explain import sections
from kho_inspect.render.names import message_text, path_name
from kho_inspect.rules.base import Evidence, Finding, Observation, Severity
from kho_inspect.rules.engine import BY_CODE, Verdict


def decision_reasons(verdict: Verdict) -> list[str]:
    """``KHO105: kho_populate() …``: the kernel's function and message for each deciding rule.

    What a kernel in the dump itself printed stands for its own. Where it accepts: what it was
    accepted without.
    """
    printed = {one.code: one for one in verdict.findings if one.evidence is Evidence.LOG}
    return [
        f"{code}: {message_text(printed[code].message)}"
        if code in printed
        else f"{code}: {sections(BY_CODE[code])['Enforced by']}"
        for code in verdict.decision.reasons
    ] + [need.value for need in verdict.decision.unjudged]


def states(verdict: Verdict) -> dict[str, str]:
    """Name → value of each statement, for reports that have properties."""
    return {
        "capture": verdict.capture.state.value,
        "decision": verdict.decision.state.value,
        "target": verdict.decision.target,
        "integrity": verdict.integrity.value,
        "expectations": verdict.expectations.value,
    }


def level(severity: Severity, mildest: str) -> str:
    """``error``, ``warning``, or what a format calls information: for forms with three levels."""
    if severity is Severity.INFO:
        return mildest
    return "warning" if severity is Severity.WARNING else "error"


def counted(finding: Finding) -> str:
    """The message, and how many more places show the same."""
    more = f" (and {finding.count - 1:,} more)" if finding.count > 1 else ""
    return message_text(finding.message) + more


def place(found: Finding | Observation) -> str:
    """Structure path and address."""
    address = "" if found.paddr is None else f"{found.paddr:#x}"
    path = path_name(found.path)
    return f"{path} ({address})" if path and address else path or address
