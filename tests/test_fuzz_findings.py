"""What fuzzing found, each under the name of its symptom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kho_inspect.claims import ClaimLog
from kho_inspect.memory import Presence, open_memory
from tests.kdump_writer import write_kdump

PAGE = 4096


def test_a_kdump_that_ends_in_the_middle_of_a_descriptor_is_no_traceback(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    layout = write_kdump(dump, {pfn: b"page".ljust(PAGE, b"\0") for pfn in range(1, 4)})
    with dump.open("r+b") as file:
        file.truncate(layout.descriptors + 24 + 10)
    memory = open_memory(str(dump))
    assert not memory.stored_mask(np.array([PAGE, 2 * PAGE], dtype=np.uint64), 8).any()
    assert memory.presence(2 * PAGE) is Presence.NOT_STORED
    assert list(memory.data_chunks(PAGE, 0)) == []


@pytest.mark.parametrize("shift", [12, 14, 16])
def test_no_claim_reaches_beyond_64_bits_whatever_the_page_size(shift: int) -> None:
    claims = ClaimLog(shift)
    claims.add("blob", "blob", (1 << 64) - 8, 64)
    claims.add_many("file", "folio", np.array([1, (1 << 52) - 1]), 1 << 40)
    end = 1 << (64 - shift)
    assert all((claim.starts < claim.ends).all() for claim in claims.claims)
    assert max(int(claim.ends.max()) for claim in claims.claims) == end
