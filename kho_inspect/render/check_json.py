"""Verdicts as JSON."""

from __future__ import annotations

from kho_inspect.model.contents import Document
from kho_inspect.render.json import SCHEMA_VERSION, address
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
        }
        for finding in verdict.findings
    ]


def check_document(verdict: Verdict, dump: str, dtb: str | None) -> Document:
    """``check --json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": {"path": dump, "dtb": dtb},
        "verdict": verdict.word,
        "rules_checked": verdict.checked,
        "findings": findings_json(verdict),
        "not_checked": [{"code": one.code, "why": one.why} for one in verdict.not_checked],
    }
