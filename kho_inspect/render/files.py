"""The list of files, one a line, and as JSON."""

from collections.abc import Iterable, Iterator, Sequence

from kho_inspect.model.contents import Document
from kho_inspect.model.fd_names import FdNames
from kho_inspect.model.luo import ListedFile
from kho_inspect.render.names import given_text, item_name
from kho_inspect.render.safe import safe

UNKNOWN = "-"
_RIGHT = frozenset({"size", "folios", "pos"})


def file_lines(
    documents: Iterable[Document], long: bool, sha256: bool, aligned: bool
) -> Iterator[str]:
    """Fields separated by tabs; ``aligned``: in columns of their widths, under a header."""
    names = ["selector", "size", "folios", "handler"]
    names += ["pos", "seals", "descriptor", "given_name", "looks_like"] if long else []
    names += ["sha256"] if sha256 else []
    rows = ([_cell(row[name]) for name in names] for row in documents)
    return _columns(names, [names, *rows]) if aligned else ("\t".join(row) + "\n" for row in rows)


def file_documents(found: Iterable[ListedFile], names: FdNames) -> Iterator[Document]:
    """Each file for ``files --json``; null is what is not known, or was not asked for."""
    for item, file, sha256, hint in found:
        content = file.content
        facts = {"folios": None, "pos": None, "seals": None, **(content.facts() if content else {})}
        yield {
            "selector": item_name(item.name, item.number),
            "size": content.size if content else None,
            **facts,
            "handler": file.compatible,
            "descriptor": hex(file.data),
            "given_name": given_text(names, file.owner),
            "looks_like": hint and hint.value,
            "sha256": sha256,
            "carved": False,
        }


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "|".join(value) or UNKNOWN
    return UNKNOWN if value is None else safe(str(value)) or UNKNOWN


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for name, cell, width in zip(names, row, widths, strict=True)
        )
        yield "  ".join(cells).rstrip() + "\n"
