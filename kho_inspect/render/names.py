"""The one spelling of owners, places and paths: ``LUO/vm-alpha/0x1001``.

``model.selector`` reads it back: a name from the dump is escaped, so that it cannot pass for two.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from kho_inspect.model.fd_names import FdNames
from kho_inspect.model.identity import (
    Carved,
    ClaimKind,
    Message,
    Name,
    Owner,
    Path,
    Place,
    Step,
    StepKind,
    Subsystem,
    Vmalloc,
)
from kho_inspect.units import Extent

_SEPARATORS = frozenset("/%#→*?+")
"""What has a meaning in a spelled name or a selector."""


def escaped(name: str) -> str:
    """A name from the dump as one part of a spelled one: what is special becomes ``%XX``."""
    if name.isprintable() and _SEPARATORS.isdisjoint(name):
        return name
    return "".join(
        char
        if char.isprintable() and char not in _SEPARATORS
        else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
        for char in name
    )


@lru_cache(4096)
def owner_name(owner: Owner) -> str:
    """``LUO/vm-alpha/0x1001``, ``blob/pci``."""
    # Tokens are hex, as userspace writes them; all other numbers count something.
    number = hex if owner.subsystem is Subsystem.LUO else str
    parts = (escaped(part) if isinstance(part, str) else number(part) for part in owner.parts)
    return "/".join((owner.subsystem.value, *parts))


def item_name(name: Name, number: int = 1) -> str:
    """The selector of something that can be extracted; ``number`` counts those of one name."""
    if isinstance(name, Extent):
        return f"range@{name}"
    if isinstance(name, Vmalloc):
        return f"vmalloc@{name.paddr:#x}"
    if isinstance(name, Carved):
        return f"carved/{_carved_name(name)}" + (f"#{number}" if number > 1 else "")
    return owner_name(name) + (f"#{number}" if number > 1 else "")


def _carved_name(name: Carved) -> str:
    """``LUO/vm-alpha/0x1001``, or by the address of what stands alone: ``LUO@0x722000/0x1001``."""
    whole = owner_name(name.owner)
    if name.paddr is None:
        return whole
    subsystem = name.owner.subsystem.value
    return f"{subsystem}@{name.paddr:#x}{whole.removeprefix(subsystem)}"


def given_text(names: FdNames, owner: object) -> str | None:
    """``foo.service:state``, as userspace calls an owner; None where it has no name."""
    given = names.given_name(owner)
    if given is None:
        return None
    return "/".join(f"{escaped(unit)}:{escaped(name)}" for unit, name in given)


def with_given(words: str, names: FdNames, owner: object) -> str:
    """``LUO/systemd/0x7 = foo.service:state``; the words alone where there is no name."""
    given = given_text(names, owner)
    return words if given is None else f"{words} = {given}"


def place_name(place: Place) -> str:
    """``LUO/vm-alpha/0x1001 → folio 17, file offset 0x11000``"""
    words = path_name(place.path)
    return words if place.file_offset is None else f"{words}, file offset {place.file_offset:#x}"


def path_name(path: Path) -> str:
    """``sub-node LUO → session 2 → file 0``; "" for the handover itself."""
    return " → ".join(map(_step, path))


def _step(step: Step) -> str:
    kind, value, of = step
    if kind is StepKind.TABLE:
        return f"{_node(of)}[{value}]"
    if kind is StepKind.TREE_NODE:
        return _node(of)
    if kind is StepKind.EXPECTATION:
        return f"{escaped_path(str(value))}:{of}"
    if kind is StepKind.PIECE:
        assert isinstance(of, ClaimKind)
        return of.value if value is None else f"{of.value} {value}"
    if isinstance(value, Owner):
        return owner_name(value)
    if kind is StepKind.POINTER:
        return str(value)
    if kind is StepKind.BIT:
        return f"leaf bit {value}"
    word: str = kind.value
    if value is None:
        return word
    return f"{word} {escaped(value) if isinstance(value, str) else value}"


def _node(level: object) -> str:
    return "root" if level is None else f"L{level}" if level else "leaf"


def escaped_path(path: str) -> str:
    """A file's path, in which slashes are what they are."""
    return "/".join(map(escaped, path.split("/")))


def message_text(message: Message) -> str:
    """A sentence with the names in it spelled."""
    if isinstance(message, str):
        return message
    return "".join(_SPELLINGS.get(type(part), str)(part) for part in message)


_SPELLINGS: dict[type, Callable[[Any], str]] = {Owner: owner_name, Place: place_name}
