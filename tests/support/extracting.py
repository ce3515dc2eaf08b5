"""Extracting from built images, and what must hold of any extraction."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.support import luo_builder as write
from tests.support.builder import Image
from tests.support.luo_builder import Session
from tests.support.running import in_process, save


class Case:
    """A finished image on disk, beside an empty directory to extract to."""

    def __init__(self, image: Image, folder: Path, *drop: int) -> None:
        dtb = image.finish()
        for paddr in drop:
            image.drop(paddr)
        self.files = save(image, folder, dtb)
        self.out = folder / "deep" / "out"
        self.before = {*self.outside(), folder / "deep"}

    def outside(self) -> set[Path]:
        """Everything beside the directory."""
        top = self.files[0].parent
        return {path for path in top.rglob("*") if self.out not in [path, *path.parents]}

    def extract(self, *args: str, status: int = 0) -> dict[str, dict[str, Any]]:
        """The manifest's items by selector, after the checks that hold for any extraction."""
        result = in_process("extract", *self.files, *args, "-o", self.out)
        assert result.status == status, result.stderr
        assert self.outside() == self.before
        return manifest(self.out)

    def content(self, item: dict[str, Any]) -> bytes:
        return Path(self.out, item["file"]).read_bytes()


def manifest(out: Path) -> dict[str, dict[str, Any]]:
    """Items by selector; the files are exactly those that it lists."""
    document = json.loads((out / "manifest.json").read_text())
    assert document["schema_version"] == 1
    items: list[dict[str, Any]] = document["items"]
    found = {item["selector"]: item for item in items}
    assert len(found) == len(items), "two items of one name"
    assert files_in(out) == {*(item["file"] for item in items), "manifest.json"}
    for item in items:
        path = out / item["file"]
        assert path.lstat().st_size == item["file_size"]
        if item["sha256"] is not None:
            with path.open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == item["sha256"]
    return found


def files_in(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}


def luo_case(folder: Path, *sessions: Session, image: Image | None = None) -> Case:
    image = image or Image()
    write.luo_v5(image, sessions)
    return Case(image, folder)
