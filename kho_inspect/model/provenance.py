"""How far what was found by its contents can be trusted, and why."""

from enum import Enum, StrEnum
from typing import NamedTuple

from kho_inspect.model.identity import ClaimKind, Message
from kho_inspect.units import PhysAddr


class Trust(Enum):
    """How much of the dump agrees on one thing that was carved; the best comes first."""

    CONFIRMED = "confirmed"
    """Every structure that the kernel writes for it stands there, and they agree."""
    LIKELY = "likely"
    """What stands there agrees, but a structure is missing, or it can be read in two ways."""
    DOUBTFUL = "doubtful"
    """It reads well by itself: nothing else names it, or something contradicts it."""


class DoubtKind(StrEnum):
    """Every reason for a doubt: the one table of names."""

    UNNAMED = "unnamed"
    AMBIGUOUS = "ambiguous"
    SESSION_INCOMPLETE = "session-incomplete"
    EMPTY = "empty"
    FOLIO_LENGTH = "folio-length"
    HOLE = "hole"
    NOT_STORED = "not-stored"
    SHARED = "shared"
    COPY = "copy"
    UNCHECKED = "unchecked"
    CHECKSUM = "checksum"
    RECYCLED = "recycled"
    FAULT = "fault"


SLIGHT = frozenset({DoubtKind.EMPTY, DoubtKind.FOLIO_LENGTH, DoubtKind.COPY, DoubtKind.RECYCLED})
"""Doubts that leave a thing likely; any other makes it doubtful."""


class Doubt(NamedTuple):
    """One reason why something carved may not be what was handed over."""

    kind: DoubtKind
    message: Message


class Structure(NamedTuple):
    """One structure of the dump that something was carved from."""

    kind: ClaimKind
    paddr: PhysAddr


class Provenance(NamedTuple):
    """Where something carved comes from, and what speaks for and against it."""

    trust: Trust
    structures: tuple[Structure, ...]
    """What leads to it, from the top."""
    doubts: tuple[Doubt, ...] = ()


def trust_of(known: Trust, doubts: tuple[Doubt, ...]) -> Trust:
    """What is left of a trust with these doubts; content that is not stored contradicts nothing."""
    kinds = {doubt.kind for doubt in doubts} - {DoubtKind.NOT_STORED}
    if not kinds or known is Trust.DOUBTFUL:
        return known
    return Trust.LIKELY if kinds <= SLIGHT else Trust.DOUBTFUL
