"""A kernel as its image shows it, and which kernels can hand over to which."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from kho_inspect.abi import LUO_FEATURES, Kernel

FIRST_RELEASE = (6, 16)
"""Of the kernels with KHO."""


class Feature(NamedTuple):
    """What a kernel says in its table of features about one kind of data."""

    name: str
    supported: int
    required: int
    active: int


@dataclass(frozen=True, slots=True)
class KernelImage(Kernel):
    """What one kernel accepts, and writes: what its modules bring is not in the image."""

    roots: tuple[str, ...] = ()
    """Compatible strings of the root FDT; none: no KHO."""
    others: tuple[str, ...] = ()
    """Strings of other structures: parts of LUO, sub-nodes, FLBs."""
    table: tuple[Feature, ...] = ()
    """The table of features, where there is one."""
    release: str = ""
    machine: str | None = None
    page_shift: int | None = None

    def takes_root(self, strings: Collection[str]) -> bool:
        return not set(self.roots).isdisjoint(strings)

    @property
    def why_no_kho(self) -> str:
        """Why the kernel has no KHO; empty where it has."""
        if self.roots:
            return ""
        if release_number(self.release) < FIRST_RELEASE:
            return "older than 6.16"
        return "built without CONFIG_KEXEC_HANDOVER"


def of_table(kernel: Kernel) -> KernelImage:
    """A release or an ABI, to stand beside images."""
    return KernelImage(
        kernel.name, kernel.root, kernel.luo, kernel.files, kernel.features, (kernel.root,)
    )


def release_number(release: str) -> tuple[int, int]:
    """``7.3.4-1-amd64`` → ``(7, 3)``; what is no number counts as 0."""
    parts = [*release.split("-")[0].split("."), "", ""]
    first, second = (int(part) if part.isascii() and part.isdigit() else 0 for part in parts[:2])
    return first, second


class Passing(Enum):
    """Whether one kernel can hand over to another."""

    YES = "yes"
    PARTLY = "partly"
    """It is accepted, and something is lost."""
    NO = "no"


def can_hand_over(old: KernelImage, new: KernelImage) -> tuple[Passing, str]:
    """Whether ``new`` accepts all that ``old`` may write, and why not."""
    for which, kernel in (("old", old), ("new", new)):
        if not kernel.roots:
            return Passing.NO, f"the {which} one has no KHO"
    if old.machine and new.machine and old.machine != new.machine:
        return Passing.NO, f"{old.machine} is not {new.machine}"
    if old.page_shift and new.page_shift and old.page_shift != new.page_shift:
        return Passing.NO, "page sizes differ"
    if not new.takes_root(old.roots):
        return Passing.NO, f"refuses {old.root}"
    if old.luo and not new.luo:
        return Passing.PARTLY, "no LUO in the new one"
    for ours, theirs in ((old.luo, new.luo), (_parts(old), _parts(new))):
        if ours and theirs and set(ours).isdisjoint(theirs):
            return Passing.NO, f"panics on {ours[0]}"
    for feature in old.table:
        missing = new.missing(feature.name, feature.required)
        if missing:
            lost = feature.name != LUO_FEATURES.compatible
            words = f"lacks {feature.name} features {missing:#x}"
            return (Passing.PARTLY if lost else Passing.NO), words
    gone = [name for name in old.files if name not in new.files]
    return (Passing.PARTLY, f"no {gone[0]} in the image") if gone else (Passing.YES, "")


def _parts(kernel: KernelImage) -> Sequence[str]:
    """Versions of LUO's session node: a mismatch is a panic, as one of LUO itself."""
    return [name for name in kernel.others if name.startswith("luo-session-")]
