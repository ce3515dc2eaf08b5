#!/usr/bin/env python3
"""Make a sample of the kernel logs in a dump: the pages that reading them takes.

    samples/make_log_sample.py DUMP.xz samples/NAME.elf

Needs kho-inspect installed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from make_sample import unpack

from kho_inspect.kernel_log.kernels import find_kernels, scan_traces
from kho_inspect.memory import open_memory
from kho_inspect.recover.pack import Plan, write_packed
from kho_inspect.units import Extent

PAGE = 4096
SEARCH = 256 << 10
"""Bytes of a read that is part of a search."""


class Recorder:
    """Memory that notes which pages are read."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.pages: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.memory, name)

    def read(self, paddr: int, size: int) -> memoryview:
        """The memory's own, noted."""
        data: memoryview = self.memory.read(paddr, size)
        if size < SEARCH:
            self.pages.update(range(paddr // PAGE, -(-(paddr + size) // PAGE)))
        return data


def main(packed: Path, target: Path) -> None:
    """Write the ELF core."""
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder, packed.stem)
        unpack(packed, dump)
        memory = Recorder(open_memory(str(dump)))
        find_kernels(memory, scan_traces(memory))
        kept = [
            Extent(page * PAGE, (page + 1) * PAGE)
            for page in sorted(memory.pages)
            if any(memory.memory.read(page * PAGE, PAGE))
        ]
        provenance = f'{{"source": "{packed.parent.name}/{packed.name}"}}'.encode()
        write_packed(memory, Plan(tuple(kept), memory.declared, provenance), target)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
