"""Names from the dump are never taken for structure, whatever they look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from kho_inspect.model.identity import Place
from kho_inspect.render.names import message_text
from tests.support.broken import BROKEN
from tests.support.reference import Reference
from tests.support.running import document, in_process
from tests.support.verdicts import above_info, codes, verdict_of

FILE = 519
"""The memfd whose first folio a sub-node's blob is put on."""
SPELLED = (
    "evil",
    "KHO",
    "LUO",
    "memblock",
    "reserve_mem",
    "kho_test",
    "kexec-metadata",
    "blob",
    "blob/LUO",
    "LUO/kho-memfds",
    "LUO/kho-memfds/0x519",
    "LUO%2Fkho-memfds%2F0x519",
    "LUO / session kho-memfds",
    "LUO / session kho-memfds / file 0x519",
    "LUO / session vm",
    "LUO → session 0 → file 21",
    "sub-node LUO → session 0 → file 21",
    "/LUO",
    "reserve_mem/r601",
    "reserve_mem / r601",
    "kho_test/0",
    "root FDT",
    "folio",
    "",
)
"""Names that every owner and structure has, or had, in some spelling."""
TAKEN = ("LUO", "memblock", "kho_test", "kexec-metadata")
"""Names of sub-nodes that the reference has already."""


def on_a_folio(name: str) -> Reference:
    reference = Reference()
    reference.subnode(name, reference.memfds[FILE].folios[0], 64)
    return reference


@pytest.mark.parametrize("name", SPELLED)
def test_a_blob_on_a_files_folio_has_two_owners_whatever_its_name(name: str) -> None:
    findings = list(above_info(verdict_of(on_a_folio(name)).findings))
    # A second sub-node of a name is a finding of its own.
    wanted = {"KHO110", "KHO310"} if name in TAKEN else {"KHO310"}
    assert wanted <= set(codes(findings)) and (name in TAKEN or len(findings) == 1)
    (shared,) = [one for one in findings if one.code == "KHO310"]
    places = [part for part in shared.message if isinstance(part, Place)]
    assert len({place.owner for place in places}) == 2
    assert "LUO/kho-memfds/0x519 → folio 0" in message_text(shared.message)


@pytest.mark.parametrize("name", ["evil", "LUO / session kho-memfds / file 0x519"])
def test_check_exits_with_1_for_a_blob_on_a_files_folio(name: str, tmp_path: Path) -> None:
    assert in_process("check", *on_a_folio(name).write(tmp_path)).status == 1


@pytest.mark.parametrize(
    "name", ["LUO → session 0 → file 0", "sub-node LUO → session 0 → file 27", "evil"]
)
def test_a_subnode_named_like_a_file_hides_no_finding_of_the_file(name: str) -> None:
    reference = Reference()
    BROKEN["KHO528"].damage(reference)
    alone = codes(above_info(verdict_of(reference).findings))
    assert alone == ["KHO528"]
    reference.subnode(name, 0x6000_0000, 64)
    assert "KHO528" in codes(above_info(verdict_of(reference).findings))


def test_every_command_accounts_for_the_root_fdt(tmp_path: Path) -> None:
    """With its page unpreserved, one command said 4096 bytes dangling and another none."""
    reference = Reference()
    BROKEN["KHO109"].damage(reference)
    files = reference.write(tmp_path)
    for command in ("show", "owners"):
        ownership = document(command, *files)["ownership"]
        assert ownership["dangling_bytes"] == 4096
        (dangling,) = ownership["dangling"]
        assert dangling["owners"] == ["KHO → root FDT"]
        assert "KHO" in {one["owner"] for one in ownership["owners"]}


@pytest.mark.parametrize("name", [name for name in SPELLED if name not in TAKEN])
def test_a_shown_owner_can_be_pasted_back(name: str, tmp_path: Path) -> None:
    reference = Reference()
    reference.blob(name, b"content")
    files = reference.write(tmp_path)
    owners = [one["owner"] for one in document("owners", *files)["ownership"]["owners"]]
    assert len(owners) == len(set(owners))
    (mine,) = [one for one in owners if one.startswith("blob/")]
    out = tmp_path / "out"
    done = in_process("extract", *files, mine, "-o", out, "--json")
    assert done.stderr == ""
    (recovered,) = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".json"]
    assert recovered.read_bytes() == b"content"
