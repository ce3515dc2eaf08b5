"""What systemd calls its files: in reports, ``addr`` and extraction."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.extracting import Case, luo_case
from tests.support.luo_builder import File, Memfd, Session
from tests.support.running import document, in_process


def fd(name: str, token: int) -> dict[str, object]:
    return {"type": "fd", "name": name, "token": token}


def store(**units: list[dict[str, object]]) -> bytes:
    named = {f"{unit}.service": {"fdstore": entries} for unit, entries in units.items()}
    return json.dumps({"version": 1, "state": {}, "units": named}).encode()


def systemd_case(folder: Path, outer: bytes, inner: bytes) -> tuple[Case, list[Memfd]]:
    """Session systemd with tokens 0 to 2, and one of a unit with tokens 0 and 1."""
    image = Image()
    made = [write.memfd(image, text) for text in (outer, b"one", b"two", inner, b"in")]
    files = [File(token, one) for token, one in zip((0, 1, 2, 0, 1), made, strict=True)]
    sessions = Session(b"systemd", files[:3]), Session(b"c/vm", files[3:])
    return luo_case(folder, *sessions, image=image), made


def test_names_of_three_units_and_a_nested_session_are_everywhere(tmp_path: Path) -> None:
    reference: dict[str, object] = {"type": "luo_session", "name": "vm", "sessionName": "c/vm"}
    outer = store(a=[fd("state", 1)], b=[fd("x/y", 2)], c=[reference])
    case, made = systemd_case(tmp_path, outer, store(d=[fd("disk", 1)]))
    wanted = {
        "LUO/systemd/0x1": "a.service:state",
        "LUO/systemd/0x2": "b.service:x%2Fy",
        "LUO/c%2Fvm/0x1": "c.service:vm/d.service:disk",
    }
    shown = "".join(in_process("show", *case.files, "--full").stdout.split())
    owners = in_process("owners", *case.files).stdout
    for (owner, given), memfd in zip(wanted.items(), (made[1], made[2], made[4]), strict=True):
        assert f"={given}" in shown
        assert f"{owner} = {given}" in owners
        found = document("addr", *case.files, hex(memfd.folios[0].paddr))["addresses"][0]
        assert found["owners"][0]["given_name"] == given
        text = in_process("addr", *case.files, hex(memfd.folios[0].paddr)).stdout
        assert f" = {given}\n" in text
    assert in_process("find", *case.files, "two").stdout.endswith(" = b.service:x%2Fy\n")
    listed = document("files", *case.files)["files"]
    assert wanted.items() <= {one["selector"]: one["given_name"] for one in listed}.items()
    in_process("extract", *case.files, "LUO", "-o", case.out)
    items = json.loads((case.out / "manifest.json").read_text())["items"]
    assert wanted.items() <= {item["selector"]: item["given_name"] for item in items}.items()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 100_000, "it is not JSON: "),
        (b'{"version": 1' + b"0" * 5000 + b"}", "it is not JSON: Exceeds the limit"),
        (b'{"version": true, "units": {}}', "version is True, should be 1"),
        (b'{"version": 1, "units": []}', "it has no units"),
        (b'{"version": 1, "version": 1, "units": {}}', "a key stands in one object more than once"),
        (
            b'{"version": 1, "units": {"a": 1, "b": {"fdstore": 2}, "c": {"fdstore": [3]}}}',
            "unit 'a' has a malformed entry",
        ),
        (store(a=[{"type": "fd", "name": "x", "token": -1}]), "'a.service' has a malformed entry"),
        (store(a=[{"type": "fd", "name": 5, "token": 1}]), "'a.service' has a malformed entry"),
        (store(a=[fd("x" * 256, 1)]), "unit 'a.service' has a malformed entry"),
        (store(**{"a" * 248: [fd("x", 1)]}), "aaaaaa has a malformed entry"),
        (
            store(a=[{"type": "luo_session", "name": "x", "sessionName": "systemd"}]),
            "'systemd' refers to session 'systemd', which is above it or was referred to before",
        ),
        (store(a=[fd("x", 1), fd("y", 1)]), "token 0x1 is in the mapping more than once"),
        (store(a=[fd("x", 1)], b=[fd("y", 1)]), "token 0x1 is in the mapping more than once"),
        (b"\xff", "it is not JSON: 'utf-8' codec can't decode byte 0xff"),
        (b" " * (1 << 20) + b"{}", "1.0 MiB are more than are read"),
    ],
    ids=lambda text: str(text)[:24],
)
def test_a_hostile_mapping_is_a_finding(tmp_path: Path, text: bytes, words: str) -> None:
    case, _ = systemd_case(tmp_path, text, b"")
    result = in_process("check", *case.files)
    assert words in " ".join(result.stdout.split())
    assert "KHO538" in result.stdout
    assert result.stderr == ""


def test_a_name_of_surrogates_is_escaped(tmp_path: Path) -> None:
    case, _ = systemd_case(tmp_path, store(a=[fd("\ud800\x1b", 1), fd("y", 2)]), b"")
    assert "= a.service:%ED%A0%80%1B" in in_process("owners", *case.files).stdout


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"LPKSHHRH" + bytes(300), "systemd journal"),
        (struct.pack("<II", 0x54564319, 0x58313116), "CRIU image"),
        (b"\x7fELF\2\1\1", "ELF"),
        (b'{"version": 1}', "JSON"),
        (b'["' + b"x" * 5000 + b'"]', "JSON"),
        (b"[bold] is no JSON\n", "text"),
        ("two\nlines \u00e9".encode() * 700, "text"),
        (bytes(9000), "zeros"),
        (b"\x1b[31mred", None),
        (b"\x00\xff\x10", None),
        (b"", None),
        (b"[" * 4096, "text"),
    ],
)
def test_what_a_file_looks_like_is_hinted_at(
    content: bytes, hint: str | None, tmp_path: Path
) -> None:
    image = Image()
    case = luo_case(tmp_path, Session(b"s", [File(1, write.memfd(image, content))]), image=image)
    (found,) = document("files", *case.files)["files"]
    assert found["looks_like"] == hint
    line = in_process("files", *case.files, "--long").stdout
    assert (hint or "-") in line
