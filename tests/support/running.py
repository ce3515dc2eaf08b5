"""Handovers into files, and the command line in this very process: many runs, quickly."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from kho_inspect.cli.main import run
from tests.support.builder import Image
from tests.support.captures import Capture
from tests.support.cli import Result
from tests.support.dump_files import data_runs


def in_process(*args: str | Path) -> Result:
    """The command line without a process of its own: an exception comes out as what it is."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run([str(arg) for arg in args])
    return Result(status, out.getvalue(), err.getvalue())


def document(*args: str | Path) -> dict[str, Any]:
    """What a command says with ``--json``; on stderr there is at most why it ends with 1."""
    result = in_process(*args, "--json")
    assert not result.stderr or (
        result.status == 1 and result.stderr.startswith("kho-inspect: damaged: ")
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def save(image: Image, folder: Path, dtb: bytes) -> tuple[Path, Path]:
    """DUMP and DTB of a finished image: an ELF core that declares all RAM."""
    dump, tree = folder / "dump.elf", folder / "kho.dtb"
    image.write_elf(dump, declare_ram=True)
    tree.write_bytes(dtb)
    return dump, tree


def image_of(capture: Capture) -> Image:
    """A real capture as an image that can be changed and written."""
    truth = capture.truth
    page = truth["page_size"]
    size = capture.dump.stat().st_size
    image = Image(page.bit_length() - 1, truth["compatible"], (capture.base, size))
    for offset, data in data_runs(capture.dump):
        for at in range(0, len(data), page):
            image.pages[capture.base + offset + at] = bytearray(data[at : at + page])
    image.root = truth["memory_map"]
    image.preserved = {(int(paddr, 16), order) for paddr, order in truth["preserved_pages"]}
    return image


def flip_key(image: Image, paddr: int, order: int) -> None:
    """Turn the bit of one key over, in a tree that has its leaf already."""
    key = image.key(paddr, order)
    bit = key & ((1 << image.bitmap_bits) - 1)
    image.pages[image.node(key, 0)][bit // 8] ^= 1 << bit % 8
