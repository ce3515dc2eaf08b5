"""What the command line says of the contents of real captures, against truth.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.captures import Capture
from tests.support.running import document


def ask(capture: Capture, command: str, *args: str) -> dict[str, Any]:
    return document(command, capture.dump, capture.dtb, *args, "--base", hex(capture.base))


@pytest.fixture(scope="module")
def blobs(capture: Capture) -> dict[str, Any]:
    """``show --json``: blobs by name."""
    found = ask(capture, "show")
    assert found["faults"] == []
    return {blob["name"]: blob for blob in found["blobs"]}


def truth_of(capture: Capture, name: str) -> dict[str, Any]:
    """truth.json's sub-node of that name."""
    for node in capture.truth["subnodes"]:
        if node["name"] == name:
            assert isinstance(node, dict)
            return node
    pytest.skip(f"no {name} in this capture")


def test_every_blob_is_decoded(capture: Capture, blobs: dict[str, Any]) -> None:
    assert list(blobs) == [node["name"] for node in capture.truth["subnodes"]]
    for blob in blobs.values():
        assert blob["decoded"] is not None
        assert blob["kind"] not in ("fdt", "data")


def test_live_update_state(capture: Capture, blobs: dict[str, Any]) -> None:
    truth, found = truth_of(capture, "LUO")["luo"], blobs["LUO"]["decoded"]
    assert found["compatible"] == blobs["LUO"]["kind"] == truth["compatible"]
    assert found["liveupdate_num"] == truth["liveupdate_num"]
    assert found["serialized"] is True
    assert [{**flb, "data": int(flb["data"], 16)} for flb in found["flb"]] == truth["flb"]


def test_sessions_and_files(capture: Capture, blobs: dict[str, Any]) -> None:
    truth, found = truth_of(capture, "LUO")["luo"], blobs["LUO"]["decoded"]
    assert [
        {
            "name": session["name"],
            "count": session["count"],
            "files": [
                {
                    "compatible": file["compatible"],
                    "token": file["token"],
                    "data": int(file["data"], 16),
                }
                for file in session["files"]
            ],
        }
        for session in found["sessions"]
    ] == [
        {
            "name": session["name"],
            "count": session["count"],
            "files": [
                {key: file[key] for key in ("compatible", "token", "data")}
                for file in session["files"]
            ],
        }
        for session in truth["sessions"]
    ]


SEALS = ["SEAL", "SHRINK", "GROW", "WRITE"]


def test_memfds(capture: Capture, blobs: dict[str, Any]) -> None:
    truth, found = truth_of(capture, "LUO")["luo"], blobs["LUO"]["decoded"]
    pairs = [
        (one["memfd"], other["memfd"])
        for left, right in zip(truth["sessions"], found["sessions"], strict=True)
        for one, other in zip(left["files"], right["files"], strict=True)
    ]
    assert len(pairs) == 5
    page = capture.truth["page_size"]
    for wanted, memfd in pairs:
        for key in ("pos", "size", "seals", "flags", "nr_folios", "folio_flags"):
            assert memfd[key] == wanted[key], key
        assert memfd["seal_names"] == SEALS[: wanted["seals"].bit_count()]
        assert len(memfd["folio_table"]) == wanted["nr_folios"]
        covered = sum(1 << folio["order"] for folio in memfd["folio_table"])
        assert covered == -(-wanted["size"] // page)


def test_metadata(capture: Capture, blobs: dict[str, Any]) -> None:
    truth = truth_of(capture, "kexec-metadata")["metadata"]
    assert blobs["kexec-metadata"]["decoded"] == truth


def test_reserve_mem(capture: Capture, blobs: dict[str, Any]) -> None:
    truth = truth_of(capture, "memblock")["reserve_mem"]
    found = blobs["memblock"]["decoded"]["reserve_mem"]
    assert [[one["name"], int(one["start"], 16), one["size"]] for one in found] == truth
    assert {one["compatible"] for one in found} == {"reserve-mem-v1"}


def test_kho_test(capture: Capture, blobs: dict[str, Any]) -> None:
    truth = truth_of(capture, "kho_test")["kho_test"]
    found = blobs["kho_test"]["decoded"]
    assert {key: found[key] for key in truth} == truth
    assert (found["magic"], found["csum_ok"]) == ("0x4b484f21", True)
    assert len(found["folios"]) == truth["nr_folios"]


# -- addr


def escaped(name: str) -> str:
    """As one part of an owner's name."""
    return name.replace("%", "%25").replace("/", "%2F")


def claimed(capture: Capture, blobs: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """(address, start of its owner's name) for every kind of owner, from the decoded facts."""
    yield int(capture.truth["fdt_paddr"], 16), "KHO → root FDT"
    for name, blob in blobs.items():
        yield int(blob["paddr"], 16), f"{name} → blob"
    found = blobs["kho_test"]["decoded"]
    for folio in found["folios"]:
        yield int(folio["phys"], 16) + 5, "kho_test → test folio"
    if found["folios_info"]:
        yield int(found["folios_info"]["first"], 16), "kho_test → folios_info vmalloc chunk"
    for region in blobs["memblock"]["decoded"]["reserve_mem"]:
        yield int(region["start"], 16) + region["size"] - 1, "reserve_mem/tracebuf → region"
    if "LUO" not in blobs:
        return
    luo = blobs["LUO"]["decoded"]
    raw = luo["compatible"] == "luo-v5"
    yield int(luo["sessions_pa"], 16), f"LUO → session {'block' if raw else 'array'}"
    if luo["flb"]:
        yield int(luo["flbs_pa"], 16), "LUO → FLB array"
    for session in luo["sessions"]:
        owner = f"LUO/{escaped(session['name'])}"
        yield int(session["files_pa"], 16), f"{owner} → file {'block' if raw else 'array'}"
        for file in session["files"]:
            name = f"{owner}/{file['token']:#x}"
            yield int(file["data"], 16), f"{name} → memfd descriptor"
            for chunk in file["memfd"]["folios"]["chunks"]:
                yield int(chunk, 16), f"{name} → folio table vmalloc chunk"


def test_addr_names_every_kind_of_owner(capture: Capture, blobs: dict[str, Any]) -> None:
    wanted = list(claimed(capture, blobs))
    found = ask(capture, "addr", *(hex(paddr) for paddr, _ in wanted))["addresses"]
    for (paddr, owner), info in zip(wanted, found, strict=True):
        assert info["paddr"] == hex(paddr)
        assert info["preserved"]
        assert [one["owner"].startswith(owner) for one in info["owners"]] == [True], owner


def test_addr_on_every_page_of_every_memfd(capture: Capture, blobs: dict[str, Any]) -> None:
    truth_of(capture, "LUO")
    page = capture.truth["page_size"]
    wanted: list[tuple[int, str, int]] = []
    for session in blobs["LUO"]["decoded"]["sessions"]:
        for file in session["files"]:
            owner = f"LUO/{escaped(session['name'])}/{file['token']:#x} → folio "
            for number, folio in enumerate(file["memfd"]["folio_table"]):
                for at in range(1 << folio["order"]):
                    start = (folio["pfn"] + at) * page + 0x321
                    offset = (folio["index"] + at) * page + 0x321
                    wanted.append((start, f"{owner}{number}, file offset {offset:#x}", offset))
    found = ask(capture, "addr", *(hex(paddr) for paddr, _, _ in wanted))["addresses"]
    assert [info["owners"] for info in found] == [
        [{"owner": owner, "given_name": None, "file_offset": hex(offset)}]
        for _, owner, offset in wanted
    ]
    # And what stands there is what the file holds at that offset.
    lines = []
    with capture.dump.open("rb") as dump:
        for paddr, _, offset in wanted:
            dump.seek(paddr - 0x321 - capture.base)
            lines.append((dump.read(64), offset - 0x321))
    # The first session's files are written from end to end.
    whole = sum(owner.startswith("LUO/vm-alpha/") for _, owner, _ in wanted)
    assert whole > 1
    assert all(b"offset=%012x " % offset in line for line, offset in lines[:whole])
