"""Verdicts as JSON."""

from kho_inspect.errors import KhoError
from kho_inspect.model.contents import Document
from kho_inspect.render.json import address, head
from kho_inspect.render.verdicts import decision_reasons
from kho_inspect.rules.engine import Verdict


def findings_json(verdict: Verdict) -> list[Document]:
    """``findings`` of every JSON document that has them."""
    return [
        {
            "code": finding.code,
            "severity": finding.severity.label,
            "message": finding.message,
            "paddr": address(finding.paddr),
            "path": finding.path,
            "hint": finding.hint,
            "about": finding.about.value,
            "count": finding.count,
            "places": [
                {"message": spot.message, "paddr": address(spot.paddr), "path": spot.path}
                for spot in finding.places
            ],
        }
        for finding in verdict.findings
    ]


def statements_json(verdict: Verdict) -> Document:
    """The three statements, the expectations, and the findings."""
    capture, decision = verdict.capture, verdict.decision
    return {
        "capture": {
            "state": capture.state.value,
            "reasons": list(capture.reasons),
            "suggestion": capture.suggestion,
        },
        "decision": {
            "state": decision.state.value,
            "target": decision.target,
            "reasons": decision_reasons(verdict),
        },
        "integrity": {
            "state": verdict.integrity.value,
            "ran": verdict.ran,
            "not_applicable": len(verdict.not_applicable),
            "blocked": [
                {"codes": list(group.codes), "reason": group.reason} for group in verdict.blocked
            ],
        },
        "expectations": {"state": verdict.expectations.value},
        "findings": findings_json(verdict),
    }


def check_document(
    verdict: Verdict, dump: str, dtb: str | None, error: KhoError | None = None
) -> Document:
    """``check --json``; with an ``error`` that of any command that could not read its input."""
    failed = {} if error is None else {"error": _error(error)}
    return {**head(dump, dtb), **failed, **statements_json(verdict)}


def _error(error: KhoError) -> Document:
    return {
        "message": error.message,
        "hint": error.hint,
        "paddr": address(error.paddr),
        "path": None,  # no structure was reached
        "source": error.source,
    }
