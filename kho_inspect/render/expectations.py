"""A starting file of expectations, from an image that is known to be good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kho_inspect.geometry import page_size_name
from kho_inspect.model.contents import Luo, Memblock
from kho_inspect.ownership.index import top_owner
from kho_inspect.units import human_size

if TYPE_CHECKING:
    from kho_inspect.model.handover import Handover

HEADROOM = 2
"""Budgets are that many times what the good image has."""


def expectation_file(handover: Handover) -> Iterator[str]:
    """The lines of a TOML file that ``check --expect`` takes, which this very image meets."""
    yield f"# Expectations of {_comment(handover.source.path)}, for kho-inspect check --expect.\n"
    yield "# Loosen what may change from run to run; delete what does not matter.\n\n"
    yield f"compatible = {_quoted(handover.fdt.compatible)}\n"
    yield f'page_size = "{page_size_name(handover.geometry.shift)}"\n'
    orphans = handover.ownership.size(handover.ownership.orphans)
    yield f"max_orphan_bytes = {orphans}\n"
    yield "\n[subnodes]\n"
    yield f"required = [{_names(blob.name for blob in handover.blobs)}]\n"
    yield "forbidden = []\n"
    luos = [blob.content for blob in handover.blobs if isinstance(blob.content, Luo)]
    sessions = [session for luo in luos for session in luo.sessions]
    if sessions:
        yield "\n[sessions]\n"
        yield f"required = [{_names(session.name for session in sessions)}]\n"
    size = handover.preserved.bytes
    yield "\n[preserved]\n"
    yield f"min_bytes = 1  # {human_size(size)} now\n"
    yield f"max_bytes = {HEADROOM * size}\n"
    yield from _owners(handover)
    for session in sessions:
        for file in session.files:
            if file.memfd is not None:
                yield f"\n[[files]]\nsession = {_quoted(session.name)}\n"
                # TOML integers end at 2**63: a string holds any token.
                yield f'token = "{file.token:#x}"\nsize = {file.memfd.size}\n'
    for blob in handover.blobs:
        if isinstance(blob.content, Memblock):
            for region in blob.content.regions:
                if region.start is not None and region.size:
                    yield f"\n[[ranges]]\nname = {_quoted(region.name)}\n"
                    yield f'start = "{region.start:#x}"\nsize = {region.size}\n'


def _owners(handover: Handover) -> Iterator[str]:
    sums: dict[str, int] = {}
    for owner in handover.ownership.owners:
        name = top_owner(owner.name)
        sums[name] = sums.get(name, 0) + owner.bytes
    yield "\n[owners]\n"
    for name, size in sums.items():
        yield f"{_quoted(name)} = {HEADROOM * size}  # {human_size(size)} now\n"


def _names(names: Iterator[str]) -> str:
    return ", ".join(_quoted(name) for name in dict.fromkeys(names))


def _quoted(text: str) -> str:
    """A TOML basic string; what is not plainly printable is escaped, for a terminal may read it."""
    return "".join(
        char if char.isprintable() else f"\\U{ord(char):08x}"
        for char in json.dumps(text, ensure_ascii=False)
    )


def _comment(text: str) -> str:
    return _quoted(text)[1:-1]
