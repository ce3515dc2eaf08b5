"""What is written: with which mode, never over the input or a device, never outside."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from kho_inspect.errors import KhoError
from kho_inspect.inspection import inspect_opened, open_inputs
from kho_inspect.recover import atomic
from kho_inspect.recover.extract import Extractor
from kho_inspect.recover.selectors import select
from tests.support.builder import Image
from tests.support.cli import DTB, DUMP, REPO
from tests.support.extracting import Case, files_in, manifest
from tests.support.running import in_process

FILES = (REPO / DUMP, REPO / DTB)


def blobs(folder: Path, *names: str) -> Case:
    image = Image()
    for name in names:
        image.subnode(name, image.blob(name.encode()), len(name))
    return Case(image, folder)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("hops", [1, 2])
def test_pack_to_a_link_into_dev_replaced_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hops: int
) -> None:
    devices, file = tmp_path / "dev", tmp_path / "redirected"
    devices.mkdir()
    file.write_bytes(b"mine")
    (devices / "stdout").symlink_to(file)
    link = devices / "stdout"
    if hops == 2:
        link = tmp_path / "link"
        link.symlink_to(devices / "stdout")
    monkeypatch.setattr(atomic, "DEVICES", (devices,))
    for args in (("pack", *FILES, "-o", link), ("locate", FILES[0], "--write-dtb", link)):
        result = in_process(*args, "--force")
        assert (result.status, result.stdout) == (3, "")
        assert "leads to a device" in result.stderr
    assert link.is_symlink()
    assert (devices / "stdout").is_symlink()
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["itself", "hard link", "symbolic link"])
@pytest.mark.parametrize("number", [0, 1])
def test_force_overwrote_the_input(tmp_path: Path, kind: str, number: int) -> None:
    case = blobs(tmp_path, "one")
    target = case.files[number]
    before = target.read_bytes()
    if kind != "itself":
        target = tmp_path / "other"
        if kind == "hard link":
            target.hardlink_to(case.files[number])
        else:
            target.symlink_to(case.files[number])
    result = in_process("pack", *case.files, "-o", target, "--force")
    assert (result.status, "is the input" in result.stderr) == (3, True)
    assert case.files[number].read_bytes() == before


def test_extract_overwrote_the_input_in_its_directory(tmp_path: Path) -> None:
    case = blobs(tmp_path, "one")
    (case.out / "blob").mkdir(parents=True)
    (case.out / "blob" / "one").hardlink_to(case.files[1])
    result = in_process("extract", *case.files, "-o", case.out, "--force")
    assert (result.status, "is the input" in result.stderr) == (3, True)


@pytest.mark.parametrize(
    ("given", "files", "folders"), [(None, 0o600, 0o700), ("640", 0o640, 0o750)]
)
def test_secrets_were_written_readable_by_all(
    tmp_path: Path, given: str | None, files: int, folders: int
) -> None:
    mode = () if given is None else ("--mode", given)
    out = tmp_path / "new" / "folder" / "out"
    before = os.umask(0o022)
    try:
        assert in_process("extract", *FILES, "-o", out, *mode).status == 0
        assert in_process("pack", *FILES, "-o", tmp_path / "core", *mode).status == 0
        dtb = ("--write-dtb", tmp_path / "dtb")
        assert in_process("locate", FILES[0], *dtb, *mode).status == 0
    finally:
        os.umask(before)
    assert {mode_of(tmp_path / name) for name in ("core", "dtb")} == {files}
    assert {mode_of(path) for path in (out, *out.rglob("*")) if path.is_dir()} == {folders}
    assert {mode_of(path) for path in out.rglob("*") if path.is_file()} == {files}


@pytest.mark.parametrize("mode", ["rw", "8", "0", "7777", "-1"])
def test_no_mode(tmp_path: Path, mode: str) -> None:
    result = in_process("pack", *FILES, "-o", tmp_path / "core", f"--mode={mode}")
    assert (result.status, "octal" in result.stderr) == (2, True)


def test_a_directory_swapped_for_a_link_wrote_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, elsewhere = blobs(tmp_path, "one"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    real = os.mkdir

    def swap(name: str, *args: int, **where: int) -> None:
        real(name, *args, **where)
        if name == "blob":
            (case.out / "blob").rmdir()
            (case.out / "blob").symlink_to(elsewhere)

    monkeypatch.setattr(os, "mkdir", swap)
    result = in_process("extract", *case.files, "-o", case.out)
    assert (result.status, "is a symbolic link" in result.stderr) == (3, True)
    assert list(elsewhere.iterdir()) == []


def test_a_second_selection_into_one_directory_was_refused(tmp_path: Path) -> None:
    case = blobs(tmp_path, "one", "two")
    assert list(case.extract("blob/one")) == ["blob/one"]
    assert list(case.extract("blob/two")) == ["blob/one", "blob/two"]
    assert list(case.extract("blob/one", "--force")) == ["blob/two", "blob/one"]


def test_the_manifest_of_another_dump_is_kept(tmp_path: Path) -> None:
    case = blobs(tmp_path, "one")
    case.extract()
    before = (case.out / "manifest.json").read_bytes()
    result = in_process("extract", *FILES, "-o", case.out, "--force")
    assert (result.status, "of another dump" in result.stderr) == (3, True)
    assert (case.out / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, '{"items": [1]}', "\xff"])
def test_a_manifest_that_is_none_is_replaced_by_force_alone(tmp_path: Path, text: str) -> None:
    case = blobs(tmp_path, "one")
    case.out.mkdir(parents=True)
    (case.out / "manifest.json").write_text(text)
    result = in_process("extract", *case.files, "-o", case.out)
    assert (result.status, "manifest.json exists" in result.stderr) == (3, True)
    assert list(case.extract("--force")) == ["blob/one"]


def test_a_full_disk_left_files_without_a_manifest(tmp_path: Path) -> None:
    case = blobs(tmp_path, "one", "two")
    opened = open_inputs(str(case.files[0]), str(case.files[1]))
    items = select(inspect_opened(opened), opened.memory, [])

    def fill(size: int) -> None:
        if (case.out / "blob" / "one").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(KhoError, match="No space left"):
        Extractor(opened.memory, case.out, progress=fill).run(items)
    assert list(manifest(case.out)) == ["blob/one"]


@pytest.mark.parametrize("together", [True, False])
def test_blobs_met_on_a_disk_that_is_blind_to_case(tmp_path: Path, together: bool) -> None:
    names = ("LUX", "lux", "Lux%-2", "LuX")
    case = blobs(tmp_path, *names)
    for selectors in [[]] if together else [[f"blob/{name.replace('%', '%25')}"] for name in names]:
        found = case.extract(*selectors)
    assert len({item["file"].casefold() for item in found.values()}) == len(names)
    assert {case.content(item).decode() for item in found.values()} == set(names)


def test_names_that_mean_something_elsewhere_are_made_harmless(tmp_path: Path) -> None:
    names = ("-rf", "con", "NUL.txt", "~root", ".bashrc", "end.", "lpt1", "console")
    case = blobs(tmp_path, *names)
    files = [item["file"].removeprefix("blob/") for item in case.extract().values()]
    assert sorted(files) == sorted(
        ["%2Drf", "%63on", "%4EUL.txt", "%7Eroot", "%2Ebashrc", "end%2E", "%6Cpt1", "console"]
    )


def test_a_pack_to_stdout_made_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    from kho_inspect.cli.main import run

    monkeypatch.chdir(tmp_path)
    assert in_process("pack", *FILES, "-o", "core").status == 0
    for args, wanted in (
        (["pack", *map(str, FILES), "-o", "-"], Path("core").read_bytes()),
        (["locate", str(FILES[0]), "--write-dtb", "-"], FILES[1].read_bytes()),
    ):
        capfdbinary.readouterr()
        assert run(args) == 0
        assert capfdbinary.readouterr().out == wanted
        assert run([*args, "--json"]) == 2
    assert files_in(tmp_path) == {"core"}


def test_a_manifest_is_one_json_document(tmp_path: Path) -> None:
    case = blobs(tmp_path, "one")
    case.extract()
    assert json.loads((case.out / "manifest.json").read_text())["source"] == str(case.files[0])


@pytest.mark.parametrize("kind", ["itself", "hard link", "symbolic link"])
def test_no_dtb_is_written_over_the_dump(tmp_path: Path, kind: str) -> None:
    case = blobs(tmp_path, "one")
    dump = target = case.files[0]
    before = dump.read_bytes()
    if kind != "itself":
        target = tmp_path / "other"
        (target.hardlink_to if kind == "hard link" else target.symlink_to)(dump)
    result = in_process("locate", dump, "--write-dtb", target, "--force")
    assert (result.status, "is the input" in result.stderr) == (3, True)
    assert dump.read_bytes() == before


def test_no_manifest_is_written_over_the_dump(tmp_path: Path) -> None:
    case = blobs(tmp_path, "one")
    case.out.mkdir(parents=True)
    (case.out / "manifest.json").hardlink_to(case.files[0])
    before = case.files[0].read_bytes()
    result = in_process("extract", *case.files, "-o", case.out, "--force")
    assert (result.status, "is the input" in result.stderr) == (3, True)
    assert case.files[0].read_bytes() == before
