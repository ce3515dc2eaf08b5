"""The names that userspace gave to the files and sessions that it preserved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from kho_inspect.model.identity import Message, Owner, Path


class GivenFd(NamedTuple):
    """One entry of a service manager's file descriptor store."""

    unit: str
    name: str
    """Of the file descriptor."""


GivenName: TypeAlias = tuple[GivenFd, ...]
"""An entry; of a service manager that is a unit of another, behind that unit's own entry."""


class FdDefect(Enum):
    """How a mapping and the sessions disagree."""

    MAPPING = "mapping"
    """The mapping, or an entry of it, could not be read."""
    TOKEN_MISSING = "token missing"
    """The mapping names a token that the session lacks."""
    TOKEN_UNNAMED = "token unnamed"
    """The session has a token that the mapping does not name."""
    SESSION_MISSING = "session missing"
    """The mapping names a session that is not there."""


class FdTrouble(NamedTuple):
    """One disagreement, at the session or file where it shows."""

    kind: FdDefect
    message: Message
    path: Path


@dataclass(frozen=True, slots=True)
class FdNames:
    """All names that were given, and what is wrong with them."""

    names: Mapping[Owner, GivenName] = field(default_factory=dict)
    """A session's name is that of all files in it that have none of their own."""
    troubles: tuple[FdTrouble, ...] = ()

    def given_name(self, owner: object) -> GivenName | None:
        """The name of an owner, or of the session that it is part of; None where there is none."""
        if not self.names or not isinstance(owner, Owner):
            return None
        wholes = (owner._replace(parts=owner.parts[:n]) for n in range(len(owner.parts), 0, -1))
        return next((self.names[whole] for whole in wholes if whole in self.names), None)
