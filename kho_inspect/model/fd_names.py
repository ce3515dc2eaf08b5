"""The names that userspace gave to the files and sessions that it preserved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from kho_inspect.model.faults import Fault
from kho_inspect.model.identity import Owner


class GivenFd(NamedTuple):
    """One entry of a service manager's file descriptor store."""

    unit: str
    name: str
    """Of the file descriptor."""


GivenName: TypeAlias = tuple[GivenFd, ...]
"""An entry; of a service manager that is a unit of another, behind that unit's own entry."""


@dataclass(frozen=True, slots=True)
class FdNames:
    """All names that were given, and what is wrong with them: no fault of the handover's own."""

    names: Mapping[Owner, GivenName] = field(default_factory=dict)
    """A session's name is that of all files in it that have none of their own."""
    troubles: tuple[Fault, ...] = ()
    """Where a mapping and the sessions disagree: at the session or file."""

    def given_name(self, owner: object) -> GivenName | None:
        """The name of an owner, or of the session that it is part of; None where there is none."""
        if not self.names or not isinstance(owner, Owner):
            return None
        wholes = (owner._replace(parts=owner.parts[:n]) for n in range(len(owner.parts), 0, -1))
        return next((self.names[whole] for whole in wholes if whole in self.names), None)
