"""When the bitmaps of the map are taken for something else that stands there now."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.builder import Image
from tests.support.luo_builder import File, Session, luo_v5, memfd, pattern
from tests.support.running import document, save

PAGE = 4096


@pytest.mark.parametrize(
    ("runs", "dangling", "claimed", "state"),
    [
        (300, 1, 0, "recycled"),
        (63, 1, 0, "complete"),
        (300, 0, 0, "complete"),
        (64, 1, 0, "recycled"),
        (300, 1, 90, "recycled"),
        (300, 1, 120, "complete"),
    ],
    ids=["noise", "too few runs", "orphans alone", "enough runs", "few owned", "many owned"],
)
def test_runs_that_nobody_owns_are_noise_where_pages_are_missing_too(
    runs: int, dangling: int, claimed: int, state: str, tmp_path: Path
) -> None:
    image = Image()
    owned = memfd(image, pattern(8 * PAGE, 1))
    files = [File(1, owned)]
    for token in range(claimed):
        image.alloc()  # so that each is a run of its own
        files.append(File(token + 2, memfd(image, b"")))
        image.alloc()
    luo_v5(image, [Session(b"vm", files)])
    for folio in owned.folios[:dangling]:
        image.preserved.discard((folio.paddr, 0))
    for _ in range(runs):
        image.alloc()
        image.preserve(image.alloc(), 0)
    dump, dtb = save(image, tmp_path, image.finish())
    assert document("check", dump, dtb)["capture"]["state"] == state
