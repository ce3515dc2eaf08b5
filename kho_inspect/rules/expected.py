"""KHO7xx: what the user expects of this image (``--expect FILE``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kho_inspect.geometry import page_size_name
from kho_inspect.model.contents import Item
from kho_inspect.model.identity import Owner, Path, Step, StepKind
from kho_inspect.model.selector import parse_owner
from kho_inspect.rules.base import ERROR, About, Need, Observation
from kho_inspect.rules.case import Case
from kho_inspect.rules.catalogue import Catalogue
from kho_inspect.units import Extent, human_size

if TYPE_CHECKING:
    from kho_inspect.rules.expectations import Expectation

CATALOGUE = Catalogue((Need.FDT, Need.EXPECTATIONS), about=About.EXPECTATION)
rule = CATALOGUE.rule

_EITHER = "the image changed, or the expectation is out of date: expect writes a fresh file"


def _expected(case: Case, *kinds: str) -> Iterator[tuple[Expectation, Path]]:
    for expectation in case.expectations or ():
        if expectation.kind.split(".")[0] in kinds:
            yield expectation, (Step(StepKind.EXPECTATION, expectation.file, expectation.line),)


@rule("KHO701", ERROR, _EITHER)
def identity(case: Case) -> Iterator[Observation]:
    """compatible and page_size are the expected ones.

    Matters: an image of another ABI is not the one that the job is about.
    Causes: another kernel, another configuration.
    Enforced by: no kernel; the expectation file does.
    """
    fdt, page_size = case.handover.fdt, page_size_name(case.handover.geometry.shift)
    held = {"compatible": fdt.compatible, "page_size": page_size}
    for expectation, path in _expected(case, *held):
        value = held[expectation.kind]
        if value != expectation.value:
            words = f"{expectation.kind} is {value!r}, should be {expectation.value!r}"
            yield Observation(words, None, path)


@rule("KHO702", ERROR, _EITHER)
def names(case: Case) -> Iterator[Observation]:
    """Required sub-nodes and sessions are there, forbidden ones are not.

    Matters: the state of a subsystem that does not hand over is lost, with nothing printed.
    Causes: a module not loaded, a session not created.
    Enforced by: no kernel; the expectation file does.
    """
    held = {
        "subnodes": {node.name for node in case.handover.fdt.root.children},
        "sessions": {session.name for session in case.sessions()},
    }
    for expectation, path in _expected(case, *held):
        group, which = expectation.kind.split(".")
        for name in expectation.value:
            if (name in held[group]) != (which == "required"):
                state = "missing" if which == "required" else "present, should not be"
                yield Observation(f"{group[:-1]} {name!r} is {state}", None, path)


@rule("KHO703", ERROR, _EITHER)
def files(case: Case) -> Iterator[Observation]:
    """Expected files are there, in their size, with their content.

    Matters: a file that is not handed over, or was overwritten, is lost.
    Causes: userspace did not preserve it, or changed it.
    Enforced by: no kernel; the expectation file does.
    """
    held = {(session.name, file.token): file for session, file in case.files()}
    for expectation, path in _expected(case, "files"):
        session, token = expectation.value["session"], expectation.value["token"]
        file, size = held.get((session, token)), expectation.value.get("size")
        name = f"file {token:#x} of session {session!r}"
        if file is None:
            yield Observation(f"{name} is missing", None, path)
        elif size is not None and (file.content is None or file.content.size != size):
            now = "unknown" if file.content is None else f"{file.content.size:,} bytes"
            yield Observation(f"{name} is {now}, should be {size:,} bytes", file.data, path)
        elif wanted := expectation.value.get("sha256"):
            content, geometry = file.content, case.handover.geometry
            pieces = content.pieces(geometry) if content else ()
            found = content and case.digest(Item(file.owner, content.size, pieces))
            if found != wanted:
                lacking = "is not known (content is lacking, or holes are too large)"
                state = f"is {found[:16]}…" if found else lacking
                words = f"SHA-256 of {name} {state}, should be {wanted[:16]}…"
                yield Observation(words, file.data, path)


@rule("KHO704", ERROR, _EITHER)
def sizes(case: Case) -> Iterator[Observation]:
    """Preserved, orphan and owned memory is within its budget.

    Matters: preserved memory that grows from handover to handover is a leak.
    Causes: a user that preserves more than before, or does not clean up.
    Enforced by: no kernel; the expectation file does.
    """
    preserved, ownership = case.handover.preserved, case.handover.ownership
    for expectation, path in _expected(case, "preserved", "max_orphan_bytes", "owners"):
        memory: tuple[str | Owner, ...] = ("preserved memory",)
        size, wanted = preserved.bytes, expectation.value
        if expectation.kind == "max_orphan_bytes":
            memory = (f"{case.handover.unclaimed.value} memory",)
            size = ownership.size(ownership.unclaimed)
        elif expectation.kind.startswith("owners."):
            name = expectation.kind.removeprefix("owners.")
            owner = parse_owner(name)
            assert owner is not None  # parse_expectations() refuses any other
            memory = "memory of ", owner
            size = sum(share.bytes for share in ownership.shares if share.owner.within(owner))
        least = expectation.kind == "preserved.min_bytes"
        if size < wanted if least else size > wanted:
            bound = f"{'at least' if least else 'at most'} {human_size(wanted)}"
            yield Observation((*memory, f" is {human_size(size)}, should be {bound}"), None, path)


@rule("KHO705", ERROR, _EITHER)
def ranges(case: Case) -> Iterator[Observation]:
    """Expected ranges are preserved.

    Matters: a region at a fixed address is lost when it is not.
    Causes: a region that moved or was not preserved.
    Enforced by: no kernel; the expectation file does.
    """
    for expectation, path in _expected(case, "ranges"):
        start, size = expectation.value["start"], expectation.value["size"]
        if not case.handover.preserved.covers(start, size):
            name = expectation.value.get("name", "range")
            extent = Extent(start, start + size)
            yield Observation(f"{name} {extent} is not preserved, should be", start, path)
