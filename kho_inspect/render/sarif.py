"""Verdicts as SARIF 2.1.0."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from kho_inspect import __version__
from kho_inspect.errors import KhoError
from kho_inspect.render.names import message_text, path_name
from kho_inspect.render.safe import no_json_command
from kho_inspect.render.verdicts import counted, level, states
from kho_inspect.rules.base import Finding, Observation
from kho_inspect.rules.engine import BY_CODE, Verdict

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(verdict: Verdict, dump: str, error: KhoError | None = None) -> Iterator[str]:
    """A SARIF log with one run; an ``error``, why nothing could be judged, made it fail."""
    codes = sorted({finding.code for finding in verdict.findings})
    failed = {} if error is None else {"invocations": [_failed(error, dump)]}
    driver = {"name": "kho-inspect", "version": __version__, "rules": [*map(_rule, codes)]}
    results = [_result(one, codes.index(one.code), dump) for one in verdict.findings]
    run = {
        "tool": {"driver": driver},
        **failed,
        "results": results,
        "properties": states(verdict),
        "columnKind": "unicodeCodePoints",
    }
    document = {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}
    yield no_json_command(json.dumps(document, indent=2))
    yield "\n"


def _failed(error: KhoError, dump: str) -> dict[str, Any]:
    notification = {
        "level": "error",
        "message": {"text": "\n".join(filter(None, (error.message, error.hint)))},
        "locations": [_location(Observation(error.message, error.paddr, ()), error.source or dump)],
    }
    return {"executionSuccessful": False, "toolExecutionNotifications": [notification]}


def _rule(code: str) -> dict[str, Any]:
    rule = BY_CODE[code]
    return {
        "id": code,
        "name": rule.check.__name__,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.explanation},
        "help": {"text": rule.hint},
        "defaultConfiguration": {"level": level(rule.severity, "note")},
    }


def _result(finding: Finding, index: int, dump: str) -> dict[str, Any]:
    related = [
        {**_location(place, dump), "message": {"text": message_text(place.message)}}
        for place in finding.places[1:]
    ]
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": level(finding.severity, "note"),
        "message": {"text": f"{counted(finding)}\n{finding.hint}"},
        "locations": [_location(finding.places[0], dump)],
        **({"relatedLocations": related} if related else {}),
        "properties": {
            "severity": finding.severity.label,
            "about": finding.about.value,
            "count": finding.count,
        },
    }


def _location(place: Observation, dump: str) -> dict[str, Any]:
    uri = quote(dump.encode("utf-8", "surrogateescape"))
    physical: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    if place.paddr is not None and place.paddr < 1 << 63:
        physical["address"] = {"absoluteAddress": place.paddr, "kind": "physical"}
    location: dict[str, Any] = {"physicalLocation": physical}
    if place.path:
        location["logicalLocations"] = [{"fullyQualifiedName": path_name(place.path)}]
    return location
