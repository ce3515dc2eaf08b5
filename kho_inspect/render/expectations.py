"""A starting file of expectations, from an image that is known to be good."""

import json
from collections.abc import Iterable, Iterator, Mapping

from kho_inspect.geometry import page_size_name
from kho_inspect.model.contents import Document
from kho_inspect.model.handover import Handover
from kho_inspect.model.identity import Owner, Subsystem
from kho_inspect.render.names import owner_name
from kho_inspect.render.safe import no_json_command
from kho_inspect.units import human_size

HEADROOM = 2
"""Budgets are that many times what the good image has."""


def expectation_file(
    handover: Handover, digests: Mapping[Owner, str | None] | None = None
) -> Iterator[str]:
    """The lines of a TOML file that ``check --expect`` takes, which this very image meets.

    ``digests``: SHA-256 of the content of files, where it is wanted and known.
    """
    path = _quoted(handover.source.path)[1:-1]
    yield f"# Expectations of {path}, for kho-inspect check --expect.\n"
    yield "# Loosen what may change from run to run; delete what does not matter.\n\n"
    yield f"compatible = {_quoted(handover.fdt.compatible)}\n"
    yield f'page_size = "{page_size_name(handover.geometry.shift)}"\n'
    unclaimed = handover.ownership.size(handover.ownership.unclaimed)
    note = f"; {human_size(unclaimed)} {handover.unclaimed.value} now" if unclaimed else ""
    yield f"max_orphan_bytes = {unclaimed}  # at most{note}\n"
    yield "\n[subnodes]\n"
    yield f"required = [{_names(blob.name for blob in handover.blobs)}]\n"
    yield "forbidden = []\n"
    tables = _tables(handover)
    for file in tables.get("files", ()):
        owner = Owner(Subsystem.LUO, (file["session"], int(file["token"], 16)))
        if sha256 := (digests or {}).get(owner):
            file["sha256"] = sha256
    sessions = tables.pop("sessions", [])
    if sessions:
        yield "\n[sessions]\n"
        yield f"required = [{_names(session['name'] for session in sessions)}]\n"
    size = handover.preserved.bytes
    yield "\n[preserved]\n"
    yield f"min_bytes = 1  # at least; {human_size(size)} now\n"
    yield f"max_bytes = {HEADROOM * size}  # at most; {human_size(size)} now\n"
    yield "\n[owners]\n"
    for owner, size in handover.ownership.top_shares().items():
        now = f"{human_size(size)} now"
        yield f"{_quoted(owner_name(owner))} = {HEADROOM * size}  # at most; {now}\n"
    for table, entries in sorted(tables.items()):
        for entry in entries:
            yield f"\n[[{table}]]\n"
            for key, value in entry.items():
                # TOML integers end at 2**63: what may be more comes as a string.
                yield f"{key} = {_quoted(value) if isinstance(value, str) else value}\n"


def _tables(handover: Handover) -> dict[str, list[Document]]:
    """What the contents of the blobs expect of themselves, by table."""
    tables: dict[str, list[Document]] = {}
    for blob in handover.blobs:
        for table, entry in blob.content.expected() if blob.content else ():
            tables.setdefault(table, []).append(entry)
    return tables


def _names(names: Iterable[str]) -> str:
    return ", ".join(_quoted(name) for name in dict.fromkeys(names))


def _quoted(text: str) -> str:
    """A TOML basic string; escaped is what a terminal or a runner of commands may read."""
    return "".join(
        char if char.isprintable() else f"\\U{ord(char):08x}"
        for char in no_json_command(json.dumps(text, ensure_ascii=False))
    )
