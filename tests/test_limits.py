"""Budgets: what runs into one is told by its option, costs no more than the rest, and is raised."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import kho_inspect
from kho_inspect.limits import DEFAULT_LIMITS, Limits
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import Handover
from kho_inspect.model.luo import Luo
from kho_inspect.render.names import message_text
from kho_inspect.walk import radix, vmalloc
from tests.support.builder import Image
from tests.support.cli import REPO, SAMPLES
from tests.support.looking import blocks_of, look
from tests.support.luo_builder import File, Session, luo_v5, memfd
from tests.support.running import document, in_process, save


def limit_message(handover: Handover) -> str:
    """What the one fault about a budget says."""
    kinds = (FaultKind.LIMIT, FaultKind.LUO_LIMIT)
    (fault,) = [fault for fault in handover.faults if fault.kind in kinds]
    return message_text(fault.message)


def scattered() -> tuple[Image, bytes]:
    """Every other page of two leaves' memory."""
    image = Image(ram=(1 << 20, 400 << 20))
    for start in (2 << 20, 256 << 20):
        for number in range(0, 200, 2):
            image.preserve(start + number * image.page_size, 0)
    return image, image.finish()


def test_runs_beyond_the_budget_cost_the_leaves_that_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(radix, "BATCH_BYTES", 4096)  # the budget is looked at after each batch
    image, dtb = scattered()
    handover = look(image, dtb, limits=Limits(runs=50))
    assert limit_message(handover) == "more than 50 runs of preserved pages; --max-runs raises that"
    assert blocks_of(handover) < image.preserved
    assert len(blocks_of(handover)) >= 100
    whole = look(image, dtb, limits=Limits(runs=1000))
    assert blocks_of(whole) == image.preserved
    assert not whole.faults


def test_as_many_runs_as_the_budget_allows_cost_no_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radix, "BATCH_BYTES", 4096)
    image, dtb = scattered()
    empty = image.node(image.key(256 << 20, 0), 0)
    image.write(empty, bytes(image.page_size))
    first = {(paddr, order) for paddr, order in image.preserved if paddr < 128 << 20}
    runs = sum((paddr - (4096 << order), order) not in first for paddr, order in first)
    assert not look(image, dtb, limits=Limits(runs=runs)).faults
    assert limit_message(look(image, dtb, limits=Limits(runs=runs - 1)))


def test_nodes_beyond_the_budget_cost_what_they_lead_to() -> None:
    image, dtb = scattered()
    nodes = len(image.nodes)
    handover = look(image, dtb, limits=Limits(nodes=nodes - 1))
    assert limit_message(handover).startswith(f"more than {nodes - 1} tree nodes; --max-nodes")
    assert handover.tree is not None
    assert handover.tree.nodes == nodes - 1
    assert not look(image, dtb, limits=Limits(nodes=nodes)).faults


def test_the_budget_names_the_first_node_that_it_leaves_out() -> None:
    image = Image(ram=(1 << 20, 2 << 30))
    for paddr in (4 << 20, 512 << 20, 1 << 30):
        image.preserve(paddr, 0)
    dtb = image.finish()
    whole = look(image, dtb)
    assert whole.tree is not None
    (leaves,) = (group for group in whole.tree.groups() if group.level == 0)
    left_out = len(leaves.paddr) - 1
    (fault,) = look(image, dtb, limits=Limits(nodes=whole.tree.nodes - left_out)).faults
    assert left_out > 1
    assert (fault.path, fault.count) == (leaves.path(1), left_out)


def test_as_many_nodes_as_the_budget_allows_cost_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(radix, "BATCH_BYTES", 4096)
    image = Image()
    image.preserve(4 << 20, 9)
    image.preserve(8 << 20, 0)
    dtb = image.finish()
    last = image.node(image.key(8 << 20, 0), 1)
    image.write(last, bytes(image.page_size))  # a table without pointers, after all others
    files = save(image, tmp_path, dtb)
    whole = document("tree", *files)
    nodes = whole["tree"]["nodes"]
    assert document("tree", *files, "--max-nodes", str(nodes)) == whole


def test_tables_that_all_point_to_each_other_are_followed_within_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, _ = scattered()
    tables = [image.alloc() for _ in range(40)]
    for table in tables:
        image.write_u64(table, *(tables[at % 40] for at in range(512)))
    image.write_u64(image.root, *tables)
    followed = []
    walker = radix._Walker
    keep = walker.keep_readable

    def counting(self: Any, pointers: Any) -> Any:
        followed.append(len(pointers.paddrs))
        return keep(self, pointers)

    monkeypatch.setattr(walker, "keep_readable", counting)
    handover = look(image, image.root_fdt(), limits=Limits(nodes=1000))
    assert "--max-nodes" in limit_message(handover)
    assert sum(followed) == 1000


def test_luo_entries_beyond_the_budget_are_left_out() -> None:
    image = Image()
    luo_v5(image, [Session(b"one"), Session(b"two"), Session(b"three")])
    dtb = image.finish()
    handover = look(image, dtb, limits=Limits(files=2))
    assert limit_message(handover).endswith("--max-files raises that")
    (blob,) = handover.blobs
    assert isinstance(blob.content, Luo)
    assert [session.name for session in blob.content.sessions] == ["one", "two"]
    assert not look(image, dtb, limits=Limits(files=3)).faults


def test_files_left_out_do_not_make_orphans_of_their_memory(tmp_path: Path) -> None:
    image = Image()
    held = memfd(image, bytes(4 * 4096))
    luo_v5(image, [Session(b"one", [File(1)]), Session(b"two", [File(2, held)])])
    dump, dtb = save(image, tmp_path, image.finish())
    result = in_process("check", dump, dtb, "--max-files", "2", "--json")
    found = [finding["code"] for finding in json.loads(result.stdout)["findings"]]
    assert "KHO216" in found
    assert "KHO308" not in found
    assert in_process("check", dump, dtb, "--max-files", "4").status == 1  # the handler of file 1


def test_one_long_vmalloc_list_under_many_files_is_followed_within_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = Image(ram=(1 << 20, 8 << 20))
    held = memfd(image, bytes(4096))
    pages = [image.alloc() for _ in range(511 * 2)]
    (long,) = struct.unpack_from("<Q", image.vmalloc(pages))
    files = []
    for token in range(40):
        descriptor = image.blob(image.read(held.paddr, 48))
        # Distinct descriptors of one list, which names half of the machine's pages.
        image.write(descriptor + 24, struct.pack("<QQIHH", 4, long, 1022, 1, 0))
        files.append(File(token, held, data=descriptor))
    luo_v5(image, [Session(b"many", files)])
    dtb = image.finish()
    read = []
    used = vmalloc._used

    def counting(memory: Any, chunks: Any, slots: int) -> Any:
        read.append(chunks)
        return used(memory, chunks, slots)

    monkeypatch.setattr(vmalloc, "_used", counting)
    handover = look(image, dtb)
    said = [message_text(fault.message) for fault in handover.faults]
    assert any("more pages than the machine has" in words for words in said)
    assert sum(map(len, read)) <= 2 * (len(files) + (image.ram_end >> 12) // 511)


@pytest.mark.parametrize("option", ["--max-nodes", "--max-runs"])
def test_a_kho_v1_list_has_the_same_budgets(option: str) -> None:
    sample = [str(SAMPLES / f"x86_64-kho-v1.{suffix}") for suffix in ("elf", "dtb")]
    done = in_process("check", *sample, option, "1")
    assert done.status == 4  # what was not read cannot be judged
    assert "KHO216" in done.stdout
    assert f"{option} raises that" in " ".join(done.stdout.split())
    assert in_process("check", *sample, option, "1M").status == 0


def test_defaults_let_every_honest_handover_through() -> None:
    assert DEFAULT_LIMITS.nodes << 12 >= 16 << 30
    assert DEFAULT_LIMITS.runs >= 2048 * 8192
    assert DEFAULT_LIMITS.files >= 100_000


# -- the bounds of all work


def bounds() -> Iterator[str]:
    """Every bound and size of a batch, where it is defined: module, name, value.

    Numbers of the kernel, in layouts/, are those of captures.
    """
    for path in sorted(Path(kho_inspect.__file__).parent.rglob("*.py")):
        module = ".".join(path.relative_to(REPO).with_suffix("").parts)
        defined = re.findall(r"^_?[A-Z][A-Z0-9_]+(?= = )", path.read_text(), re.MULTILINE)
        for name in defined if "layouts" not in module else ():
            if isinstance(value := vars(import_module(module)).get(name), int):
                yield f"{module} {name} {value:#x}\n"


def test_no_bound_of_work_changes_unnoticed() -> None:
    """``KHO_UPDATE_GOLDEN=1`` in the environment rewrites the table, for whoever reviews it."""
    seen = "".join(bounds())
    path = REPO / "tests" / "golden" / "bounds.txt"
    if os.environ.get("KHO_UPDATE_GOLDEN"):
        path.write_text(seen)
    assert seen == path.read_text()
