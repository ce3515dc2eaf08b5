#!/usr/bin/env python3
"""The walk alone, from the root of the tree to merged runs of pages: seconds go to stderr."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from kho_inspect.geometry import PageGeometry  # these need the path above
from kho_inspect.inspection import open_inputs
from kho_inspect.walk.faults import FaultLog
from kho_inspect.walk.radix import walk_radix

opened = open_inputs(sys.argv[1], sys.argv[2])
memory, fdt = opened.memory, opened.root
assert fdt.memory_map
began = time.perf_counter()
_, preserved = walk_radix(memory, PageGeometry(12, fdt.abi), fdt.memory_map, FaultLog())
runs = len(preserved.merged[0])
sys.stderr.write(f"{time.perf_counter() - began:.6f}\n")
print(runs)
