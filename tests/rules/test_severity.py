"""One rule, several severities: what the next kernel does depends on whose data it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.broken_base import BEYOND
from tests.support.luo_builder import u64
from tests.support.reference import LEAF, MIB, PAGE, Reference
from tests.support.verdicts import above_info, verdict_of


def without(node: str, prop: bytes) -> Callable[[Reference], object]:
    return lambda it: it.node(node).pop(prop)


def resized(node: str, prop: bytes) -> Callable[[Reference], object]:
    return lambda it: it.node(node).update({prop: bytes(4)})


def entry(offset: int, value: int) -> Callable[[Reference], object]:
    return lambda it: it.last.append(lambda: it.image.write_u64(it.setup_data + offset, value))


def first_handover(it: Reference) -> None:
    it.image.write(it.blobs["kexec-metadata"] + 69, b"\1")
    entry(16, 64 * MIB)(it)


CASES: dict[str, tuple[Callable[[Reference], object], str, str]] = {
    "LUO without an address": (without("LUO", b"preserved-data"), "KHO401", "fatal"),
    "LUO with a short address": (resized("LUO", b"preserved-data"), "KHO402", "fatal"),
    "LUO without a size": (without("LUO", b"blob-size"), "KHO403", "fatal"),
    "metadata without a size": (without("kexec-metadata", b"blob-size"), "KHO403", "warning"),
    "unknown blob with a short size": (
        lambda it: (it.blob("x", b"opaque"), resized("x", b"blob-size")(it)),
        "KHO404",
        "error",
    ),
    "LUO blob unpreserved": (lambda it: it.clear(it.blobs["LUO"]), "KHO408", "fatal"),
    "file block unpreserved": (lambda it: it.clear(it.sessions[505].block), "KHO516", "fatal"),
    "FLB page unpreserved": (lambda it: it.clear(it.flbs), "KHO516", "fatal"),
    "page in a section without RAM": (
        lambda it: it.region("far", BEYOND + 4 * LEAF, PAGE),
        "KHO301",
        "fatal",
    ),
    "region outside RAM": (
        lambda it: dict(it.regions)[b"r604"].update({b"start": u64(BEYOND)}),
        "KHO603",
        "error",
    ),
    "descriptor off its page": (
        lambda it: it.image.write_u64(it.memfds[519].entry + 48, it.memfds[519].descriptor + 8),
        "KHO518",
        "fatal",
    ),
    "list too long, next outside RAM": (
        lambda it: it.image.write_u64(it.memfds[519].chunk, BEYOND),
        "KHO417",
        "fatal",
    ),
    "block of sessions empty": (
        lambda it: it.image.write_u64((it.sessions[0].entry & -PAGE) + 8, 0),
        "KHO507",
        "fatal",
    ),
    "block of files empty": (
        lambda it: it.image.write_u64(it.sessions[505].block + 8, 0),
        "KHO507",
        "error",
    ),
    "sessions gone, FLBs in use": (
        lambda it: it.image.write_u64(it.blobs["LUO"] + 16, 0),
        "KHO517",
        "error",
    ),
    "FLB count too low": (lambda it: it.image.write_u64(it.flbs + 8, 1), "KHO532", "error"),
    "LUO under another name": (
        lambda it: it.subnodes.__setitem__(
            [name for name, _ in it.subnodes].index(b"LUO"), (b"LUX", it.node("LUO"))
        ),
        "KHO615",
        "error",
    ),
    "setup_data to another page": (first_handover, "KHO114", "fatal"),
    "the same after several handovers": (entry(16, 64 * MIB), "KHO114", "warning"),
    "scratch table outside RAM": (entry(32, BEYOND), "KHO114", "fatal"),
    "scratch table of size 0": (entry(40, 0), "KHO114", "fatal"),
    "scratch table of two entries and a half": (entry(40, 40), "KHO304", "warning"),
}


@pytest.mark.parametrize("name", CASES)
def test_severity(name: str) -> None:
    damage, code, severity = CASES[name]
    it = Reference()
    damage(it)
    found = above_info(verdict_of(it).findings)
    assert (code, severity) in {(one.code, one.severity.label) for one in found}


def test_any_of_several_compatible_strings_may_be_the_targets() -> None:
    it = Reference()
    it.props[b"compatible"] = b"kho-v4\0kho-v3\0"
    assert "KHO105" not in {one.code for one in verdict_of(it, "kho-v3").findings}


def test_a_root_fdt_without_its_magic_is_refused() -> None:
    it = Reference()

    def wipe() -> None:
        size = int.from_bytes(it.image.read(it.fdt + 4, 4), "big")
        it.image.write(it.fdt, bytes(4))
        it.dtb = it.image.read(it.fdt, size)

    it.last.append(wipe)
    found = above_info(verdict_of(it).findings)
    assert [(one.code, one.severity.label) for one in found] == [("KHO101", "fatal")]
