"""A sample with flipped bytes: a report or a clear error, never a traceback or a hang."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cli import DTB, DUMP, REPO, SAMPLES, Result
from tests.support.running import in_process

FLIPS = 80


def _flipped(data: bytes, places: list[int], rng: random.Random) -> Iterator[bytes]:
    for _ in range(FLIPS):
        copy = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            copy[rng.choice(places)] ^= rng.randrange(1, 256)
        yield bytes(copy)


def _assert_sane(result: Result) -> None:
    status, out, err = result.status, result.stdout, result.stderr
    assert status in (0, 1, 3, 4), err
    document = json.loads(out)
    assert (status == 3) == ("error" in document)
    if status == 3:
        assert err.startswith("kho-inspect: ")
        assert len(err.splitlines()) <= 2
    else:
        assert err == ""
        check = document["check"]
        worse = [one for one in check["findings"] if one["severity"] != "info"]
        assert status != 0 or not worse
        assert status != 1 or worse
        assert status != 4 or check["integrity"]["state"] == "undecided"


def test_flipped_bytes_in_the_dtb(tmp_path: Path, as_reviewed: Callable[..., None]) -> None:
    data = (REPO / DTB).read_bytes()
    path = tmp_path / "kho.dtb"
    for damaged in _flipped(data, list(range(len(data))), random.Random(1)):
        path.write_bytes(damaged)
        said = in_process(REPO / DUMP, path, "--json")
        _assert_sane(said)
        as_reviewed(said.stdout, said.stderr)


def _file_offsets(paddrs: list[int], page: int) -> list[int]:
    """Offsets in the sample ELF of every byte of the given pages."""
    from kho_inspect.memory import open_memory

    memory = open_memory(str(REPO / DUMP))
    whole = (REPO / DUMP).read_bytes()
    return [
        offset
        for paddr in paddrs
        for start in [whole.index(bytes(memory.read(paddr, page)))]
        for offset in range(start, start + page)
    ]


@pytest.mark.parametrize("only_pointers", [False, True])
def test_flipped_bytes_in_the_tree(
    tmp_path: Path, only_pointers: bool, as_reviewed: Callable[..., None]
) -> None:
    truth = json.loads((SAMPLES / "x86_64-kho-v2.json").read_text())
    nodes = [int(paddr, 16) for _, paddr in truth["tree_nodes"]]
    data = (REPO / DUMP).read_bytes()
    places = _file_offsets(nodes, truth["page_size"])
    if only_pointers:
        places = [place for place in places if data[place]]
    path = tmp_path / "dump.elf"
    for damaged in _flipped(data, places, random.Random(2)):
        path.write_bytes(damaged)
        said = in_process(path, REPO / DTB, "--json")
        _assert_sane(said)
        as_reviewed(said.stdout, said.stderr)


def test_report_on_a_damaged_tree_names_node_and_path(tmp_path: Path) -> None:
    truth = json.loads((SAMPLES / "x86_64-kho-v2.json").read_text())
    root = truth["memory_map"]
    data = bytearray((REPO / DUMP).read_bytes())
    (start, *_) = _file_offsets([root], truth["page_size"])
    data[start + 8 : start + 16] = (0x123456789).to_bytes(8, "little")
    path = tmp_path / "dump.elf"
    path.write_bytes(data)
    result = in_process(path, REPO / DTB, "--full")
    assert result.status == 1
    words = " ".join(result.stdout.split())
    assert "✘ decision   a kernel of the same ABI panics" in result.stdout
    assert "KHO204 entry 1 of node 0x4b0000 points to 0x123456789, not aligned" in words
    assert "at root[1] → L4 (0x123456789)" in words
    assert "order 0 ×1" in result.stdout
