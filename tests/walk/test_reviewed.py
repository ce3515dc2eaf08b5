"""One word of a map changed at a time: what is walked, and what is said of it, stays as it was."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kho_inspect.inspection import inspect
from kho_inspect.model.handover import Handover
from kho_inspect.render.names import message_text, path_name
from tests.memory.test_kdump import patch
from tests.support.builder import Image

ALL_ONES = (1 << 64) - 1
PLACES = 100


def image_with_map(shift: int, abi: str) -> Image:
    image = Image(shift, abi, (1 << 20, 256 << shift + 4))
    for order in (0, 0, 0, 2, 4, 9, 9):
        image.alloc()  # a gap
        image.preserve(image.alloc(1 << order, image.page_size << order), order)
    return image


def walked(handover: Handover) -> str:
    """All that was read of the map, and every fault."""
    runs = handover.preserved.runs.items()
    said = [f"{order}: {starts.tolist()} {ends.tolist()}" for order, (starts, ends) in runs]
    found = handover.tree
    assert found
    said += [f"{found.pointers} {found.nodes} {found.lost} {found.summary()}"]
    said += map(str, found.documents())
    said += (str(line) for line in found.outline(handover.preserved, full=False))
    for fault in handover.faults:
        where = f"{fault.paddr} {path_name(fault.path)} {fault.count}"
        said.append(f"{fault.kind} {message_text(fault.message)} {where}")
    return "\n".join(said)


@pytest.mark.parametrize(
    ("shift", "abi"), [(12, "kho-v1"), (12, "kho-v2"), (12, "kho-v4"), (14, "kho-v4")]
)
def test_what_is_said_of_a_map_with_one_word_changed_is_as_reviewed(
    shift: int, abi: str, tmp_path: Path, as_reviewed: Callable[..., None]
) -> None:
    image, rng = image_with_map(shift, abi), random.Random(4)
    dump, dtb, page = tmp_path / "dump", tmp_path / "kho.dtb", image.page_size
    dtb.write_bytes(image.finish())
    image.write_raw(dump)
    words = [at + 8 * rng.randrange(page // 8) for at in image.nodes for _ in range(4)]
    used = [at for node in image.nodes for at in range(node, node + page, 8) if image.read_u64(at)]
    for at in rng.choices(used, k=PLACES) + rng.sample(words, min(len(words), PLACES // 3)):
        old = image.read_u64(at)
        other = rng.choice(sorted(image.pages))
        values = [0, old + 8, old + page, old ^ 1 << rng.randrange(64), ALL_ONES, at & -page, other]
        patch(dump, at, struct.pack("<Q", rng.choice(values) & ALL_ONES))
        as_reviewed(walked(inspect(str(dump), str(dtb))))
        patch(dump, at, struct.pack("<Q", old))
