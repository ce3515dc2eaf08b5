"""The fuzzing entries without a fuzzer: the kept corpus, random patches, and that they notice."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kho_inspect import intervals
from kho_inspect.errors import UnreadableInputError
from kho_inspect.inspection import inspect_opened
from kho_inspect.memory import Presence
from kho_inspect.memory.mapped import MappedMemory
from kho_inspect.model.contents import Item
from kho_inspect.model.preserved import Preserved
from kho_inspect.walk.radix import walk_radix
from tests.fuzz import run
from tests.fuzz.findings import Entry, Recorder, cause_of, load_totals, trouble_with

EXAMPLES = {
    "fdt": 300,
    "elf": 150,
    "lime": 100,
    "kdump": 150,
    "tree": 200,
    "blobs": 80,
    "log": 80,
    "carve": 80,
    "command": 40,
}
"""Random inputs per entry: a second or two of each."""


def entry_of(name: str) -> Entry:
    entry = run.find_entry(name)
    assert callable(entry)
    return entry


def inputs() -> st.SearchStrategy[bytes]:
    """A few bytes that choose, then patches: operation, place, arguments."""
    one = st.tuples(st.integers(0, 15).map(lambda n: bytes([n])), st.binary(min_size=2, max_size=9))
    patches = st.lists(one.map(b"".join), max_size=5).map(b"".join)
    head = st.lists(st.integers(0, 31), min_size=1, max_size=10).map(bytes)
    return st.tuples(head, patches).map(b"".join)


# -- nothing is found


@pytest.mark.parametrize("name", run.ENTRIES)
def test_the_kept_corpus_breaks_no_promise(name: str) -> None:
    files = sorted((run.CORPUS / name).iterdir())
    assert files
    for path in files:
        entry_of(name)(path.read_bytes())


@pytest.mark.parametrize("name", run.ENTRIES)
def test_random_patches_break_no_promise(name: str) -> None:
    @settings(
        max_examples=EXAMPLES[name],
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(inputs())
    def holds(data: bytes) -> None:
        entry_of(name)(data)

    holds()


def test_the_corpus_stays_small() -> None:
    sizes = [path.stat().st_size for path in run.CORPUS.rglob("*") if path.is_file()]
    assert len(sizes) <= 150
    assert sum(sizes) < 200 << 10


# -- what is planted is found

PLANTED: list[tuple[str, str, bytes]] = [
    ("fdt", "kho_inspect.fdt.check_header", b""),
    ("elf", "kho_inspect.memory.elf_core.MappedMemory", b""),
    ("lime", "kho_inspect.memory.lime.MappedMemory", b""),
    ("kdump", "kho_inspect.memory.kdump.read_header", b""),
    ("tree", "kho_inspect.walk.radix.RadixTree", b""),
    ("tree", "kho_inspect.walk.chunk_list.ChunkList", b"\x05"),
    ("tree", "kho_inspect.walk.vmalloc.VmallocAreas", b"\x07"),
    ("blobs", "kho_inspect.decoders.memblock.Memblock", b""),
    ("log", "kho_inspect.kernel_log.printk._Reader", b""),
    ("log", "kho_inspect.kernel_log.kernels.ring_at", b"\x03"),
    ("carve", "kho_inspect.carve.carver._Carver", b""),
    ("command", "kho_inspect.rules.engine.judge", b""),
]
"""Entry, what raises when it is called, and an input on which it is."""


@pytest.mark.parametrize(("name", "target", "data"), PLANTED)
def test_an_exception_is_noticed(name: str, target: str, data: bytes) -> None:
    assert trouble_with(entry_of(name), data) is None
    with mock.patch(target, side_effect=IndexError("planted")):
        trouble = trouble_with(entry_of(name), data)
    # The command line turns it into a message and a status, which the entry does not accept.
    assert isinstance(trouble, IndexError) or "IndexError" in str(trouble)


@pytest.mark.parametrize("name", ["elf", "lime", "blobs"])
def test_what_we_raise_on_purpose_is_none(name: str) -> None:
    with mock.patch.object(MappedMemory, "__init__", side_effect=UnreadableInputError("no")):
        trouble = trouble_with(entry_of(name), b"")
    assert trouble is None or name == "blobs"  # whose memory is made by the entry itself


def lying_presence(self: MappedMemory, paddr: int, size: int = 1) -> Presence:
    return Presence.STORED


def forgetful_walk(*args: Any) -> Any:
    tree, preserved = walk_radix(*args)
    return tree, Preserved(preserved.page_shift, {})


def unaccounted(*args: Any) -> Any:
    handover = inspect_opened(*args)
    return replace(handover, ownership=replace(handover.ownership, preserved=intervals.empty()))


def coloured(*args: Any, **options: Any) -> None:
    sys.stdout.write("\x1b[31m")


def escaping(item: Item) -> Path:
    return Path("..") / ".." / "escaped"


LIES: list[tuple[str, str, Callable[..., Any], bytes]] = [
    ("elf", "kho_inspect.memory.mapped.MappedMemory.presence", lying_presence, b""),
    ("tree", "tests.fuzz.entries.walk_radix", forgetful_walk, b""),
    ("blobs", "tests.fuzz.entries.inspect_opened", unaccounted, b""),
    ("command", "kho_inspect.render.first_screen.print_first_screen", coloured, b""),
    ("command", "kho_inspect.recover.extract.file_name", escaping, b"\x07\0\0\0\0\x07"),
]


@pytest.mark.parametrize(("name", "target", "lie", "data"), LIES)
def test_a_broken_promise_is_noticed(
    name: str, target: str, lie: Callable[..., Any], data: bytes
) -> None:
    assert trouble_with(entry_of(name), data) is None
    with mock.patch(target, lie):
        assert isinstance(trouble_with(entry_of(name), data), AssertionError)


# -- the script


def test_each_cause_is_kept_once_with_its_input(tmp_path: Path) -> None:
    def broken(data: bytes) -> None:
        if data[:1] == b"x":
            raise IndexError(data)

    recorder = Recorder(broken, tmp_path)
    for data in (b"fine", b"x1", b"x2", b"fine"):
        recorder(data)
    recorder.save()
    totals = load_totals(tmp_path)
    cause = cause_of(trouble_with(broken, b"x") or Exception())
    assert totals.executions == 4
    assert totals.findings == [cause]
    assert (tmp_path / f"finding-{cause}").read_bytes() == b"x1"
    assert "IndexError" in (tmp_path / f"finding-{cause}.txt").read_text()


def test_replay_tells_a_finding_from_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"")
    assert run.main(["lime", "--replay", str(path)]) == 0
    with mock.patch("kho_inspect.memory.lime.MappedMemory", side_effect=IndexError("planted")):
        assert run.main(["lime", "--replay", str(path)]) == 1
    assert "IndexError: planted" in capsys.readouterr().err


LOG = """#3120	NEW    cov: 561 ft: 1500 corp: 33/450b lim: 68 exec/s: 1554 rss: 96Mb L: 3/14
{last}
stat::number_of_executed_units: 3200
"""


@pytest.mark.parametrize("deadly", ["timeout-1f", "oom-2e", "crash-3d", ""])
def test_an_input_that_kills_the_process_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], deadly: str
) -> None:
    def start(name: str, seconds: int, folder: Path, part: Path, log: Path) -> None:
        first = not (folder / deadly).is_file()
        if deadly:
            (folder / deadly).write_bytes(b"input")
        log.write_text(LOG.format(last="" if deadly and first else "#3200 DONE"))

    seconds = iter((0.0, 0.0, 0.0, 10.0, 20.0, 30.0))
    with (
        mock.patch.object(run, "_start", start),
        mock.patch("tests.fuzz.run.time", SimpleNamespace(monotonic=lambda: next(seconds))),
    ):
        outcome = run.run_entry("lime", 10, tmp_path)
    run.print_table([outcome])
    assert run.print_findings([outcome], tmp_path) == bool(deadly)
    output = capsys.readouterr().out
    assert outcome.totals.findings == [deadly] * bool(deadly)
    assert f"--replay {tmp_path}/lime/{deadly}" in output or not deadly
    assert "561      33" in output
    assert outcome.totals.executions in (3200, 6400)


def test_a_fuzzer_that_does_not_start_is_a_finding(tmp_path: Path) -> None:
    def start(name: str, seconds: int, folder: Path, part: Path, log: Path) -> None:
        log.write_text("ImportError: no such module")

    with mock.patch.object(run, "_start", start):
        outcome = run.run_entry("lime", 10, tmp_path)
    assert "ended early" in outcome.totals.findings[0]


def test_without_atheris_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run.main(["fdt", "--seconds", "1"]) == 2
    assert "pip install -e '.[fuzz]'" in capsys.readouterr().err
