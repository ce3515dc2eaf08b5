"""The parts of the SARIF 2.1.0 schema that a log of ``check`` has to do with.

By the OASIS standard (sections 3.13 to 3.52): which properties an object has, which it must
have, and of what type. No object of the schema allows properties that it does not name, except
property bags.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

_BAG = "properties:bag"
_LEVEL = "level:none|note|warning|error"
_OBJECTS: dict[str, str] = {
    "log": "$schema:uri version!:2.1.0 runs!:run[] inlineExternalProperties:any " + _BAG,
    "run": "tool!:tool results:result[] columnKind:utf16CodeUnits|unicodeCodePoints "
    "invocations:invocation[] conversion:any language:any versionControlProvenance:any "
    "originalUriBaseIds:any artifacts:any logicalLocations:any graphs:any automationDetails:any "
    "runAggregates:any baselineGuid:any redactionTokens:any defaultEncoding:any "
    "defaultSourceLanguage:any newlineSequences:any externalPropertyFileReferences:any "
    "threadFlowLocations:any taxonomies:any addresses:any translations:any policies:any "
    "webRequests:any webResponses:any specialLocations:any " + _BAG,
    "invocation": "executionSuccessful!:bool exitCode:any commandLine:any arguments:any "
    "responseFiles:any startTimeUtc:any endTimeUtc:any exitCodeDescription:any "
    "exitSignalName:any exitSignalNumber:any processStartFailureMessage:any machine:any "
    "account:any processId:any executableLocation:any workingDirectory:any "
    "environmentVariables:any stdin:any stdout:any stderr:any stdoutStderr:any "
    "ruleConfigurationOverrides:any notificationConfigurationOverrides:any "
    "toolExecutionNotifications:notification[] toolConfigurationNotifications:notification[] "
    + _BAG,
    "notification": f"message!:message {_LEVEL} locations:location[] descriptor:any threadId:any "
    f"timeUtc:any exception:any associatedRule:any {_BAG}",
    "tool": "driver!:component extensions:component[] " + _BAG,
    "component": "name!:string version:string semanticVersion:string informationUri:uri "
    "fullName:string organization:string product:string downloadUri:uri guid:any "
    "shortDescription:multiformat fullDescription:multiformat rules:descriptor[] "
    "notifications:descriptor[] taxa:descriptor[] language:string contents:any "
    "isComprehensive:any globalMessageStrings:any dottedQuadFileVersion:any "
    "releaseDateUtc:any productSuite:any supportedTaxonomies:any translationMetadata:any "
    "associatedComponent:any locations:any localizedDataSemanticVersion:any "
    "minimumRequiredLocalizedDataSemanticVersion:any " + _BAG,
    "descriptor": "id!:string name:string guid:any shortDescription:multiformat "
    "fullDescription:multiformat help:multiformat helpUri:uri defaultConfiguration:config "
    "messageStrings:any deprecatedIds:any deprecatedGuids:any deprecatedNames:any "
    "relationships:any " + _BAG,
    "config": f"enabled:any {_LEVEL} rank:any parameters:bag {_BAG}",
    "multiformat": f"text!:string markdown:string {_BAG}",
    "result": f"message!:message ruleId:string ruleIndex:index {_LEVEL} "
    "kind:notApplicable|pass|fail|review|open|informational locations:location[] "
    "rule:any analysisTarget:any guid:any correlationGuid:any occurrenceCount:any "
    "partialFingerprints:any fingerprints:any stacks:any codeFlows:any graphs:any "
    "graphTraversals:any relatedLocations:any suppressions:any baselineState:any rank:any "
    "attachments:any hostedViewerUri:uri workItemUris:any provenance:any fixes:any taxa:any "
    "webRequest:any webResponse:any " + _BAG,
    "message": f"text:string markdown:string id:string arguments:any {_BAG}",
    "location": "id:index physicalLocation:physical logicalLocations:logical[] message:message "
    "annotations:any relationships:any " + _BAG,
    "physical": "artifactLocation:artifact address:address region:any contextRegion:any " + _BAG,
    "artifact": f"uri:uri uriBaseId:string index:index description:message {_BAG}",
    "address": "absoluteAddress:index relativeAddress:any length:any kind:string name:string "
    "fullyQualifiedName:string offsetFromParent:any index:index parentIndex:index " + _BAG,
    "logical": "name:string index:index fullyQualifiedName:string decoratedName:string "
    "parentIndex:index kind:string " + _BAG,
}
"""Object → ``name:type``; ``!`` is required, ``[]`` an array, ``a|b`` one of these strings."""


def check_log(document: Any) -> None:
    """Assert that a parsed log is one of SARIF 2.1.0."""
    _check("log", document, "log")
    for run in document["runs"]:
        rules = run["tool"]["driver"].get("rules", [])
        ids = [rule["id"] for rule in rules]
        assert len(ids) == len(set(ids)), "two rules of one id"
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
            assert {"text", "id"} & set(result["message"]), "a message of neither text nor id"
            for location in result["locations"]:
                physical = location["physicalLocation"]
                assert {"artifactLocation", "address"} & set(physical)


def _check(kind: str, value: Any, path: str) -> None:
    if kind == "any":
        return
    if kind.endswith("[]"):
        assert isinstance(value, list), path
        for number, one in enumerate(value):
            _check(kind[:-2], one, f"{path}[{number}]")
    elif kind in _OBJECTS:
        _check_object(kind, value, path)
    elif kind == "bag":
        assert isinstance(value, dict), path
    elif kind == "bool":
        assert isinstance(value, bool), path
    elif kind == "index":
        assert isinstance(value, int), path
        assert -1 <= value < 1 << 63, path
    else:
        assert isinstance(value, str), path
        if kind == "uri":
            assert re.fullmatch(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*", value), path
            assert not re.search(r"%(?![0-9A-Fa-f]{2})", value), path
            urlsplit(value)
        elif kind != "string":
            assert value in kind.split("|"), f"{path} is {value!r}"


def _check_object(kind: str, value: Any, path: str) -> None:
    assert isinstance(value, dict), path
    known = dict(word.split(":") for word in _OBJECTS[kind].split())
    for name in known:
        assert not name.endswith("!") or name[:-1] in value, f"{path} has no {name[:-1]}"
    known = {name.rstrip("!"): inner for name, inner in known.items()}
    for name, one in value.items():
        assert name in known, f"{path} has {name!r}"
        _check(known[name], one, f"{path}.{name}")
