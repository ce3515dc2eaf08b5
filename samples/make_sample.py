#!/usr/bin/env python3
"""Make a sample of a capture: the handover packed into a small ELF core.

    samples/make_sample.py CAPTURE_DIR samples/NAME [--content]

CAPTURE_DIR has dump.raw.xz, kho.dtb and truth.json; with --content the preserved files and
regions go in as well. Needs kho-inspect installed.
"""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HOLE = 1 << 16


def main(capture: Path, target: Path, *options: str) -> None:
    """Write target.elf, target.dtb, target.json and, where there is one, the truncated DTB."""
    truth = json.loads((capture / "truth.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder, f"{capture.name}.raw")
        unpack(capture / "dump.raw.xz", dump)
        subprocess.run(
            [
                *(sys.executable, "-m", "kho_inspect", "pack", dump, capture / "kho.dtb"),
                *("--base", truth["dump_base"], "--force", "-o", f"{target}.elf", *options),
            ],
            check=True,
        )
    for source, suffix in (
        ("kho.dtb", ".dtb"),
        ("kho-debugfs-out.dtb", ".debugfs-out.dtb"),
        ("truth.json", ".json"),
    ):
        if (capture / source).exists():
            shutil.copyfile(capture / source, f"{target}{suffix}")


def unpack(packed: Path, out: Path) -> None:
    """Unpack an .xz file; zeros become holes."""
    with lzma.open(packed) as source, out.open("wb") as file:
        while data := source.read(HOLE):
            if any(data):
                file.write(data)
            else:
                file.seek(len(data), 1)
        file.truncate(file.tell())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
