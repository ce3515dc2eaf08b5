"""``locate`` as JSON."""

from collections.abc import Sequence
from itertools import chain

from kho_inspect.kernel_log.handed import writer_of
from kho_inspect.kernel_log.kernel import Kernel
from kho_inspect.locate.scan import FoundFdt, Located, Vacated
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import Document
from kho_inspect.model.handover import Role, Scratch
from kho_inspect.render.json import dump_head, extent_document, pointer_document


def locate_document(
    memory: PhysicalMemory,
    located: Located,
    scratch: Scratch | None,
    kernels: Sequence[Kernel] = (),
) -> Document:
    """``kho-inspect locate --json``: candidates best first, then pages where one stood."""
    gone = {place.paddr for place in located.vacated}
    return {
        **dump_head(memory),
        "candidates": chain(
            (_candidate(found, kernels) for found in located.fdts), map(_vacated, located.vacated)
        ),
        "pointers": [pointer_document(one, stray=one.fdt in gone) for one in located.pointers],
        "scratch": list(map(extent_document, scratch.areas if scratch else ())),
    }


def _candidate(found: FoundFdt, kernels: Sequence[Kernel]) -> Document:
    writer = writer_of(found.root.strings("compatible"), found.role is Role.OUTGOING, kernels)
    return {
        "paddr": hex(found.paddr),
        "role": found.role.value,
        "compatible": found.compatible,
        "size": found.start.size if found.start else len(found.data),
        "stored": found.start.have if found.start else len(found.data),
        "valid_tree": found.valid_tree,
        "pointers": list(found.pointers),
        "kernel": writer and writer.release,
        "why": found.why,
    }


def _vacated(place: Vacated) -> Document:
    return {
        "paddr": hex(place.paddr),
        "role": Role.STALE.value,
        "compatible": None,
        "size": None,
        "stored": 0,
        "valid_tree": False,
        "pointers": list(place.pointers),
        "kernel": None,
        "why": place.why,
    }
