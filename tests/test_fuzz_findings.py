"""What fuzzing found, each under the name of its symptom."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
