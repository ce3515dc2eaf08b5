"""The files of all live-update sessions, as a list."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from kho_inspect.model.contents import Item
from kho_inspect.model.handover import Handover
from kho_inspect.model.hints import HEAD, Hint, looks_like
from kho_inspect.model.identity import Name
from kho_inspect.model.luo import ListedFile, Luo
from kho_inspect.recover.content import HOLE, Reader
from kho_inspect.recover.selectors import all_items, select_among


def list_files(
    handover: Handover,
    selectors: Sequence[str],
    reader: Reader | None = None,
    heads: Reader | None = None,
) -> Iterator[ListedFile]:
    """The files that the selectors name, by default all, in the order of the sessions.

    With a ``reader`` they are hashed, each as it is taken, with ``heads`` their beginnings are
    looked at. Raises SelectorError, at once, for a selector that names none.
    """
    found = list(_files(handover))
    chosen = {
        (item.name, item.number)
        for item in select_among([listed.item for listed in found], selectors)
    }
    wanted = (one for one in found if (one.item.name, one.item.number) in chosen)
    return (_read(one, reader, heads) if one.file.content else one for one in wanted)


def _read(listed: ListedFile, reader: Reader | None, heads: Reader | None) -> ListedFile:
    return listed._replace(
        sha256=reader.digest(listed.item) if reader else None,
        looks_like=_hint(heads, listed.item) if heads else None,
    )


def _hint(reader: Reader, item: Item) -> Hint | None:
    """What an item looks like; None where its beginning cannot be read."""
    head = bytearray()
    for part in reader.parts(item, 0, min(item.size, HEAD)):
        if part.data is None and part.why != HOLE:
            return None
        head += bytes(part.size) if part.data is None else part.data
    return looks_like(bytes(head), whole=item.size <= HEAD)


def _files(handover: Handover) -> Iterator[ListedFile]:
    items: dict[Name, list[Item]] = defaultdict(list)
    for item in all_items(handover):
        items[item.name].append(item)
    numbers = {name: len(known) for name, known in items.items()}
    for blob in handover.blobs:
        for file in blob.content.files if isinstance(blob.content, Luo) else ():
            if file.content is not None:
                yield ListedFile(items[file.owner].pop(0), file)
                continue
            numbers[file.owner] = numbers.get(file.owner, 0) + 1
            yield ListedFile(Item(file.owner, 0, (), numbers[file.owner]), file)
