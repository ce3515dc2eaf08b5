"""KHO7xx: what the user expects of this image (``--expect FILE``)."""

from __future__ import annotations

from collections.abc import Iterator

from kho_inspect.geometry import page_size_name
from kho_inspect.rules.base import Catalogue, Found, Need, Severity
from kho_inspect.rules.case import Case
from kho_inspect.rules.expectations import Expectation
from kho_inspect.units import Extent, human_size

CATALOGUE = Catalogue(Need.FDT)
rule = CATALOGUE.rule

_EITHER = "the image changed, or the expectation is out of date: expect writes a fresh file"


def _unmet(case: Case, *kinds: str) -> Iterator[tuple[Expectation, str]]:
    for one in case.expectations or ():
        if one.kind.split(".")[0] in kinds:
            yield one, f"{one.file}:{one.line}"


@rule("KHO701", Severity.ERROR, _EITHER, Need.EXPECTATIONS)
def identity(case: Case) -> Iterator[Found]:
    """compatible and page_size are the expected ones.

    Matters: an image of another ABI is not the one that the job is about.
    Causes: another kernel, another configuration.
    Enforced by: the expectation file.
    """
    handover = case.there
    seen = {
        "compatible": handover.fdt.compatible,
        "page_size": page_size_name(handover.geometry.shift),
    }
    for one, path in _unmet(case, *seen):
        if seen[one.kind] != one.value:
            yield Found(f"{one.kind} is {seen[one.kind]!r}, should be {one.value!r}", None, path)


@rule("KHO702", Severity.ERROR, _EITHER, Need.EXPECTATIONS)
def names(case: Case) -> Iterator[Found]:
    """Required sub-nodes and sessions are there, forbidden ones are not.

    Matters: a subsystem that does not hand over loses its state silently.
    Causes: a module not loaded, a session not created.
    Enforced by: the expectation file.
    """
    there = {
        "subnodes": {node.name for node in case.there.fdt.root.children},
        "sessions": {session.name for session in case.sessions()},
    }
    for one, path in _unmet(case, *there):
        group, which = one.kind.split(".")
        for name in one.value:
            if (name in there[group]) != (which == "required"):
                state = "missing" if which == "required" else "there, should not be"
                yield Found(f"{group[:-1]} {name!r} is {state}", None, path)


@rule("KHO703", Severity.ERROR, _EITHER, Need.EXPECTATIONS)
def files(case: Case) -> Iterator[Found]:
    """Expected files are there, in their size.

    Matters: a file that is not handed over is lost.
    Causes: userspace did not preserve it.
    Enforced by: the expectation file.
    """
    there = {(session.name, file.token): file for session, file in case.files()}
    for one, path in _unmet(case, "files"):
        session, token, size = one.value["session"], one.value["token"], one.value.get("size")
        file = there.get((session, token))
        name = f"file {token:#x} of session {session!r}"
        if file is None:
            yield Found(f"{name} is missing", None, path)
        elif size is not None and (file.memfd is None or file.memfd.size != size):
            seen = "unknown" if file.memfd is None else f"{file.memfd.size:,} bytes"
            yield Found(f"{name} is {seen}, should be {size:,} bytes", file.data, path)


@rule("KHO704", Severity.ERROR, _EITHER, Need.EXPECTATIONS)
def sizes(case: Case) -> Iterator[Found]:
    """Preserved, orphan and owned memory is within its budget.

    Matters: preserved memory that grows from handover to handover is a leak.
    Causes: a user that preserves more than before, or does not clean up.
    Enforced by: the expectation file.
    """
    handover = case.there
    for one, path in _unmet(case, "preserved", "max_orphan_bytes", "owners"):
        what = "preserved memory"
        size = handover.preserved.bytes
        if one.kind == "max_orphan_bytes":
            what, size = "orphan memory", handover.ownership.size(handover.ownership.orphans)
        elif one.kind.startswith("owners."):
            name = one.kind.removeprefix("owners.")
            what = f"memory of {name}"
            size = sum(
                owner.bytes
                for owner in handover.ownership.owners
                if owner.name == name or owner.name.startswith(f"{name} / ")
            )
        if one.kind == "preserved.min_bytes":
            if size < one.value:
                yield Found(
                    f"{what} is {human_size(size)}, should be at least {human_size(one.value)}",
                    None,
                    path,
                )
        elif size > one.value:
            yield Found(
                f"{what} is {human_size(size)}, should be at most {human_size(one.value)}",
                None,
                path,
            )


@rule("KHO705", Severity.ERROR, _EITHER, Need.EXPECTATIONS)
def ranges(case: Case) -> Iterator[Found]:
    """Expected ranges are preserved.

    Matters: a region at a fixed address is lost when it is not.
    Causes: a region that moved or was not preserved.
    Enforced by: the expectation file.
    """
    for one, path in _unmet(case, "ranges"):
        start, size = one.value["start"], one.value["size"]
        if not case.there.preserved.covers(start, size):
            name = one.value.get("name", "range")
            extent = Extent(start, start + size)
            yield Found(f"{name} {extent} is not preserved, should be", start, path)
