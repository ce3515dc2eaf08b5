"""``check`` of several images: one line each, and none that costs another."""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

import kho_inspect
from kho_inspect.cli import many
from kho_inspect.memory.files import MappedFile
from kho_inspect.model.handover import Handover
from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.cli import DTB, DUMP, REPO
from tests.support.running import in_process, save


def made(folder: Path, name: str, *, sound: bool = True) -> tuple[Path, Path]:
    """A dump ``name.elf`` and its device tree ``name.dtb``; with ``sound`` nothing is found."""
    image = Image()
    write.metadata(image, b"7.1.0", 1)
    dtb = image.finish()
    if not sound:
        image.preserve(image.alloc(), 0)
        dtb = image.finish()
        image.drop(image.root)
    folder.mkdir(exist_ok=True)
    files = save(image, folder, dtb)
    return files[0].rename(folder / f"{name}.elf"), files[1].rename(folder / f"{name}.dtb")


def rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_each_image_has_the_status_that_it_has_alone(tmp_path: Path) -> None:
    good, bad = made(tmp_path, "good"), made(tmp_path, "bad", sound=False)
    alone = [in_process("check", *files).status for files in (good, bad)]
    assert alone[0] == 0 != alone[1]
    result = in_process("check", *good, *bad)
    assert [row[:2] for row in rows(result.stdout)] == [
        [str(status), str(files[0])] for status, files in zip(alone, (good, bad), strict=True)
    ]
    assert (result.status, result.stderr) == (alone[1], "")


def test_a_line_has_the_three_statements_and_the_worst_finding(tmp_path: Path) -> None:
    bad = made(tmp_path, "bad", sound=False)
    found = json.loads(in_process("check", *bad, "--json").stdout)
    (row, _) = rows(in_process("check", *bad, *bad).stdout)
    words = f"{found['decision']['target']} {found['decision']['state']}"
    assert row[2:5] == [found["capture"]["state"], words, found["integrity"]["state"]]
    first = found["findings"][0]
    assert row[5].startswith(f"{first['severity']} {first['code']}: {first['message']}")


def test_an_image_that_cannot_be_read_costs_one_line(tmp_path: Path) -> None:
    good, gone = made(tmp_path, "good"), tmp_path / "gone.elf"
    junk = tmp_path / "junk.elf"
    junk.write_bytes(bytes(1 << 16))
    result = in_process("check", gone, junk, *good)
    assert [row[0] for row in rows(result.stdout)] == ["3", "3", "0"]
    assert "No such file" in rows(result.stdout)[0][5]
    assert result.status == 3


def test_a_dump_without_device_tree_takes_the_one_beside_it(tmp_path: Path) -> None:
    """Or, with ``-``, it is searched for: this dump has no other copy of it."""
    dump, dtb = made(tmp_path, "one")
    compressed = tmp_path / "two.elf.zst"
    shutil.copy(dump, compressed)
    shutil.copy(dtb, tmp_path / "two.dtb")
    documents = json.loads(in_process("check", dump, "auto", dump, compressed, "--json").stdout)
    taken = [document["source"]["dtb"] for document in documents]
    assert taken == [None, str(dtb), str(tmp_path / "two.dtb")]


def test_a_list_holds_arguments_one_a_line(tmp_path: Path) -> None:
    good, bad = made(tmp_path / "with space", "good"), made(tmp_path, "bad", sound=False)
    names = tmp_path / "list"
    names.write_text(f"{good[0]}\n{good[1]}\r\n\n{bad[0]}\n")
    result = in_process("check", f"@{names}")
    assert [row[1] for row in rows(result.stdout)] == [str(good[0]), str(bad[0])]
    once_more = in_process("check", good[0], f"@{names}")
    assert len(rows(once_more.stdout)) == 3


def test_a_file_called_as_a_list_is_the_dump_that_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump, dtb = made(tmp_path, "x")
    dump.rename(tmp_path / "@x")
    monkeypatch.chdir(tmp_path)
    assert "capture" in in_process("check", "@x", dtb).stdout


def test_two_dumps_are_a_dump_and_a_device_tree_as_ever(tmp_path: Path) -> None:
    good = made(tmp_path, "good")
    result = in_process("check", good[0], good[0])
    assert (result.status, result.stdout) == (3, "")
    assert "not a usable FDT" in result.stderr


@pytest.mark.parametrize("form", ["json", "github", "line"])
def test_the_documents_are_those_of_single_runs(tmp_path: Path, form: str) -> None:
    images = [made(tmp_path, "good"), made(tmp_path, "bad", sound=False)]
    alone = [in_process("check", *files, "--format", form).stdout for files in images]
    found = in_process("check", *images[0], *images[1], "--format", form).stdout
    if form == "json":
        assert json.loads(found) == [json.loads(one) for one in alone]
    elif form == "github":
        assert found == "".join(alone)
    else:
        lines = [line.split("\t", 1) for line in found.splitlines()]
        assert {name for name, _ in lines} == {str(images[1][0])}
        assert [rest for _, rest in lines] == "".join(alone).splitlines()


def test_an_error_has_its_document_among_the_others(tmp_path: Path) -> None:
    good = made(tmp_path, "good")
    result = in_process("check", tmp_path / "gone", *good, "--json")
    first, second = json.loads(result.stdout)
    assert "No such file" in first["error"]["message"]
    assert "error" not in second


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("DTB", "DUMP", "DUMP"), "no dump stands before it"),
        (("DUMP", "DTB", "DTB"), "no dump stands before it"),
        (("DUMP", "DTB", "DUMP", "--format", "junit"), "of one image"),
        (("DUMP", "DTB", "DUMP", "--format", "sarif"), "of one image"),
    ],
)
def test_what_means_no_set_of_images_is_exit_2(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    dump, dtb = made(tmp_path, "good")
    given = [{"DUMP": str(dump), "DTB": str(dtb)}.get(one, one) for one in arguments]
    result = in_process("check", *given)
    assert (result.status, result.stdout) == (2, "")
    assert words in result.stderr


def test_a_list_that_is_not_there_is_exit_3(tmp_path: Path) -> None:
    result = in_process("check", f"@{tmp_path / 'gone'}")
    assert (result.status, result.stdout) == (3, "")


def test_names_from_a_list_are_escaped(tmp_path: Path) -> None:
    names = tmp_path / "list"
    names.write_bytes(b"\x1b[31mred\xff\ta\n")
    (row,) = rows(in_process("check", f"@{names}").stdout)
    assert "\x1b" not in row[1]
    assert len(row) == 6


def test_descriptors_do_not_grow_with_the_images(tmp_path: Path) -> None:
    good = made(tmp_path, "good")
    counts = [len(os.listdir("/proc/self/fd"))]  # noqa: PTH208
    for _ in range(2):
        in_process("check", *good * 20)
        counts.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208
    assert counts[2] <= counts[0] + 3


def test_the_dumps_of_a_hundred_images_did_not_all_stay_mapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapped: WeakSet[MappedFile] = WeakSet()
    most, begin, answer = [], MappedFile.__init__, many._answer

    def note(file: MappedFile, *args: Any) -> None:
        begin(file, *args)
        mapped.add(file)

    def count(*args: Any) -> None:
        most.append(len(mapped))
        answer(*args)

    monkeypatch.setattr(MappedFile, "__init__", note)
    monkeypatch.setattr(many, "_answer", count)
    gc.disable()  # as for the program
    try:
        assert in_process("check", *(REPO / DUMP, REPO / DTB) * 5).status == 0
    finally:
        gc.enable()
    assert most == [1] * 5


def test_the_library_reads_many_too(tmp_path: Path) -> None:
    dump, dtb = map(str, made(tmp_path, "good"))
    first, second = kho_inspect.inspect_all([("gone", None), (dump, dtb)])
    assert isinstance(first, kho_inspect.KhoError)
    assert isinstance(second, Handover)
