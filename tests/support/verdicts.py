"""From a damaged reference to what ``check`` says of it, in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from kho_inspect.abi import Kernel, find_target
from kho_inspect.inspection import Options, Question, examine
from kho_inspect.limits import DEFAULT_LIMITS, Limits
from kho_inspect.model.claims import CODES, Claims, OwnerIndex, Part
from kho_inspect.model.identity import ClaimKind, Owner, Subsystem
from kho_inspect.model.kernel_image import KernelImage
from kho_inspect.ownership.account import account
from kho_inspect.rules.base import Finding, Severity
from kho_inspect.rules.case import Case
from kho_inspect.rules.engine import Verdict, judge
from kho_inspect.rules.expectations import parse_expectations
from kho_inspect.units import Extent
from tests.support.broken_base import Broken
from tests.support.reference import PAGE, Reference

IMAGES = {
    "16K": KernelImage(
        "16K", "kho-v4", ("luo-v5",), ("memfd-v2",), roots=("kho-v4",), page_shift=14
    ),
    "no LUO": KernelImage("no LUO", "kho-v4", roots=("kho-v4",), page_shift=12),
}
"""Targets that no release is, as an image would show them."""
EXPECT = "EXPECT"
"""Name of the expectation file, in paths of findings."""


def verdict_of(it: Reference, target: str = "", expect: str = "") -> Verdict:
    """All rules on a reference as it stands."""
    wishes = parse_expectations(expect, EXPECT) if expect else None
    kernel = find_kernel(target)
    with tempfile.TemporaryDirectory() as folder:
        question = Question(target=kernel, target_name=target, expectations=wishes)
        case = examine(*it.write(Path(folder)), options_for(it), question)
        return judge(with_foreign(case, it.foreign))


def find_kernel(target: str) -> Kernel | None:
    """The target of that name, of a release or an image."""
    return IMAGES.get(target) or find_target(target)


def options_for(it: Reference) -> Options:
    """How to read a reference that was written."""
    return Options(
        limits=DEFAULT_LIMITS if it.max_nodes is None else Limits(nodes=it.max_nodes),
        scratch=tuple(Extent(*area) for area in it.given),
        boot_dtb=it.boot_path,
    )


def with_foreign(case: Case, paddr: int | None) -> Case:
    """The case with a claim on a page by a structure of a kind that no rule has heard of."""
    if paddr is None or case.opened is None:
        return case
    claims = with_claim(case.handover.claims, paddr // PAGE)
    preserved = case.handover.preserved
    handover = replace(
        case.handover,
        claims=claims,
        index=OwnerIndex(preserved, claims),
        ownership=account(preserved, claims),
    )
    return replace(case, opened=handover)


def with_claim(claims: Claims, pfn: int) -> Claims:
    """The claims and one more, on a page, by a sub-node of a kind that no rule has heard of."""
    return replace(
        claims,
        owners=(*claims.owners, Owner(Subsystem.SUBNODE, ("pci",))),
        kinds=np.append(claims.kinds, CODES[ClaimKind.STRUCTURE]),
        owner=np.append(claims.owner, len(claims.owners)),
        parts=(
            *claims.parts,
            Part(len(claims), np.arange(2), np.array([pfn]), np.arange(1, 2), None),
        ),
    )


def broken_verdict(*damages: Broken) -> Verdict:
    """All rules on the reference with these damages done to it, in order."""
    it = Reference()
    for one in damages:
        one.damage(it)
    target = next((one.target for one in damages if one.target), "")
    return verdict_of(it, target, "".join(one.expect for one in damages))


def above_info(findings: Iterable[Finding]) -> list[Finding]:
    """What makes ``check`` fail."""
    return [finding for finding in findings if finding.severity > Severity.INFO]


def codes(findings: Iterable[Finding]) -> list[str]:
    """Their codes, repetitions included."""
    return sorted(finding.code for finding in findings)
