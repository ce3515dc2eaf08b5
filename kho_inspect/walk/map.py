"""The map of preserved pages that a root FDT names, in the form of its ABI."""

from kho_inspect.abi import MAP_PROPERTY
from kho_inspect.geometry import PageGeometry
from kho_inspect.limits import Limits
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.handover import RootFdt
from kho_inspect.model.identity import Step, StepKind
from kho_inspect.model.map import PreservedMap
from kho_inspect.model.preserved import Preserved
from kho_inspect.walk.chunk_list import walk_chunks
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.radix import walk_radix


def walk_map(
    memory: PhysicalMemory, geometry: PageGeometry, root: RootFdt, faults: FaultLog, limits: Limits
) -> tuple[PreservedMap | None, Preserved]:
    """The map and what it preserves; None and nothing where the FDT names no map that is read."""
    tree: PreservedMap | None = None
    preserved = Preserved(geometry.shift, {})
    if root.memory_map and root.reads_map:
        walk = walk_radix if root.abi.radix else walk_chunks
        tree, preserved = walk(memory, geometry, root.memory_map, faults, limits)
    _note_defects(root, geometry, faults)
    return tree, preserved


def _note_defects(root: RootFdt, geometry: PageGeometry, faults: FaultLog) -> None:
    """What is wrong with the property itself, and what its ABI cannot record."""
    cut = root.start is not None and root.root.prop(MAP_PROPERTY) is None
    if not root.memory_map and not root.unwritten and not cut:
        data = root.root.prop(MAP_PROPERTY)
        state = "missing" if data is None else "zero" if len(data) == 8 else f"{len(data)} bytes"
        faults.add(
            FaultKind.FDT_MAP_PROPERTY,
            f"property {MAP_PROPERTY!r} is {state}, should be 8 bytes and non-zero",
            path=(Step(StepKind.FDT),),
        )
    if root.reads_map and root.abi.radix and geometry.loses_order0:
        faults.add(
            FaultKind.ORDER0_LOST,
            f"{root.abi.compatible} with {geometry.page_size // 1024}K pages cannot record order-0 "
            f"pages: their order bit {geometry.order0_bit} lies above the tree's {geometry.levels} "
            f"levels ({geometry.key_bits} bits) and was masked off, so such a page reads back with "
            "a wrong order and address. Only blocks of order 1 and up are as written",
            path=(Step(StepKind.TREE_NODE),),
        )
