"""The same selectors, globs too, in every command that takes one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import DTB, DUMP, REPO
from tests.support.reference import Reference
from tests.support.running import document, flip_key, in_process

SAMPLE = str(REPO / DUMP), str(REPO / DTB)
FILES = {
    "LUO/vm-alpha/0x1001",
    "LUO/vm-alpha/0x1002",
    "LUO/vm-beta/0x7",
    "LUO/vm-beta/0xfeedfacecafebeef",
    "LUO/db [bold]cache[%2F]/0x1",
}


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("LUO/vm-*/0x*", {one for one in FILES if "/vm-" in one}),
        ("*/0x1001", {"LUO/vm-alpha/0x1001"}),
        ("LUO/vm-alpha/0x100?", {"LUO/vm-alpha/0x1001", "LUO/vm-alpha/0x1002"}),
        ("LUO/vm-alpha/4097", {"LUO/vm-alpha/0x1001"}),
        ("LUO/db [bold]cache[/]/1", {"LUO/db [bold]cache[%2F]/0x1"}),
    ],
)
def test_one_selector_means_the_same_files_everywhere(
    selector: str, names: set[str], tmp_path: Path
) -> None:
    listed = {one["selector"] for one in document("files", *SAMPLE, selector)["files"]}
    owned = {one["owner"] for one in document("owners", *SAMPLE, selector)["ownership"]["owners"]}
    asked = json.loads(in_process("addr", *SAMPLE, selector, "--json").stdout)
    found = {one["asked"] for one in (*asked["addresses"], *asked["unresolved"])}
    out = tmp_path / "out"
    assert in_process("extract", *SAMPLE, selector, "-o", out).status == 0
    taken = {one["selector"] for one in json.loads((out / "manifest.json").read_text())["items"]}
    assert listed == owned == found == taken == names


def test_owners_of_a_selector_are_listed_without_the_rest_of_the_account() -> None:
    result = in_process("owners", *SAMPLE, "LUO/vm-beta", "--sort", "size")
    assert (result.status, result.stderr) == (0, "")
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        "owner",
        "LUO/vm-beta/0xfeedfacecafebeef",
        "LUO/vm-beta",
        "LUO/vm-beta/0x7",
    ]


def test_findings_on_ignored_owners_alone_are_left_out(tmp_path: Path) -> None:
    """Of two memfds the first folio is not preserved."""
    it = Reference()
    first, second = list(it.memfds.values())[:2]
    for one in first, second:
        flip_key(it.image, one.folios[0], 0)
    files = it.write(tmp_path)
    assert len(places(files)) == 2
    glob = first.owner.replace("LUO/kho-memfds", "*")
    (left,) = places(files, "--ignore-owner", glob)
    assert second.owner in left
    assert in_process("check", *files, "--ignore-owner", glob).status == 1
    both = in_process("check", *files, "--ignore-owner", glob, "--ignore-owner", second.owner)
    assert (both.status, both.stderr) == (0, "")
    assert in_process("check", *files, "--ignore-owner", "LUO/kho-memfds").status == 0


def test_a_finding_without_an_owner_in_its_words_is_known_by_its_path(tmp_path: Path) -> None:
    it = Reference()
    it.image.write_u64(it.memfds[413].entry + 64, 1 << 63)  # the handler of the next file
    files = it.write(tmp_path)
    assert places(files)
    left = places(files, "--ignore-owner", it.memfds[414].owner)
    assert [one for one in left if it.memfds[414].path in one] == []
    assert places(files, "--ignore-owner", it.memfds[415].owner) == places(files)


def test_what_makes_a_kernel_panic_is_found_whoever_owns_it(tmp_path: Path) -> None:
    it = Reference()
    it.image.write_u64(it.memfds[417].chunk, 1 << 63)
    files = it.write(tmp_path)
    (found,) = document("check", *files)["findings"]
    assert (found["code"], found["severity"]) == ("KHO417", "fatal")
    assert found["path"].startswith(it.memfds[417].path)
    assert places(files, "--ignore-owner", it.memfds[417].owner) == places(files)


def places(files: tuple[str, str], *options: str) -> list[str]:
    found = document("check", *files, *options)["findings"]
    return [f"{one['message']} {one['path']}" for f in found for one in f["places"]]


def test_memory_of_an_ignored_owner_that_another_claims_too_is_still_found(tmp_path: Path) -> None:
    it = Reference()
    first, second = list(it.memfds.values())[:2]
    page = it.image.read(second.table[0], 16)
    it.image.write(first.table[0], page)
    files = it.write(tmp_path)
    before = [one for one in places(files) if first.owner in one and second.owner in one]
    after = places(files, "--ignore-owner", first.owner)
    assert before
    assert [one for one in after if first.owner in one and second.owner in one] == before
