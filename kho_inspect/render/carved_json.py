"""The JSON documents of what was carved."""

from collections.abc import Iterable, Sequence

from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.carved import Carving
from kho_inspect.model.contents import Document, Item
from kho_inspect.render.carved import carved_members
from kho_inspect.render.json import dump_head
from kho_inspect.render.names import item_name


def carve_document(
    memory: PhysicalMemory, carving: Carving, items: Sequence[Item], digests: Iterable[str | None]
) -> Document:
    """``kho-inspect carve --json``; ``items``: those of the carving, numbered."""
    found = [
        {
            "selector": item_name(item.name, item.number),
            "size": item.size,
            "sha256": digest,
            **carved_members(item),
        }
        for item, digest in zip(items, digests, strict=True)
    ]
    files = [
        {**one, "handler": file.handler, "folios": file.folios}
        for one, file in zip(found, carving.files, strict=False)
    ]
    return {
        **_head(memory, carving),
        "files": files,
        "items": found[len(files) :],
        "examined": carving.examined,
        "rejected": dict(carving.rejected),
        "passed_over": carving.passed_over,
    }


def _head(memory: PhysicalMemory, carving: Carving) -> Document:
    """The dump, and the page size that it was carved with."""
    size, reason = carving.geometry.page_size, carving.page_size_reason
    return dump_head(memory, page_size=size, page_size_reason=reason)


def carved_entries_document(
    memory: PhysicalMemory, carving: Carving, entries: list[Document]
) -> Document:
    """``kho-inspect extract --carved --json``: the manifest's entries."""
    return {**_head(memory, carving), "items": entries}
