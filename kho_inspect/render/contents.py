"""Decoded blobs on the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from kho_inspect.layouts.memfd import FOLIO_FLAGS, MEMFD_SEALS
from kho_inspect.model.contents import KexecMetadata, KhoTest, Luo, LuoFile, Memblock, Memfd
from kho_inspect.render.console import plain, table
from kho_inspect.render.flags import flag_text
from kho_inspect.units import human_size, plural

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kho_inspect.model.contents import Content

MAX_FILES = 100
"""Files of all sessions that are listed; ``--json`` has them all."""


def content_view(name: str, content: Content) -> RenderableType:
    """The content in words and tables."""
    if isinstance(content, Luo):
        return _luo(name, content)
    if isinstance(content, Memblock):
        return _memblock(name, content)
    if isinstance(content, KhoTest):
        return _kho_test(name, content)
    return _metadata(name, content)


def summary(content: Content) -> str:
    """A few words for the overview."""
    if isinstance(content, Luo):
        if not content.serialized:
            return "not serialized yet"
        sessions, files = len(content.sessions), len(content.files)
        return f"{plural(sessions, 'session')}, {plural(files, 'file')}"
    if isinstance(content, Memblock):
        return plural(len(content.regions), "region")
    if isinstance(content, KhoTest):
        return _checksum(content)
    return f"from {content.previous_release}"


def _head(name: str, words: str) -> Text:
    return Text.assemble(plain(name, "bold"), "  ", plain(words))


def _luo(name: str, luo: Luo) -> RenderableType:
    number = "?" if luo.liveupdate_num is None else luo.liveupdate_num
    top = Tree(_head(name, f"live update {number} · {summary(luo)}"), guide_style="dim")
    left = MAX_FILES
    for session in luo.sessions[:MAX_FILES]:
        held = plural(session.count, "file")
        branch = top.add(Text.assemble("session ", plain(session.name, "bold"), f"  {held}"))
        for file in session.files[: max(left, 0)]:
            branch.add(plain(_file(file)))
        left -= len(session.files)
    if left < 0 or len(luo.sessions) > MAX_FILES:
        top.add(Text("… more: blobs LUO --json lists them all", "dim"))
    for flb in luo.flbs[:MAX_FILES]:
        words = f"  {plural(flb.count, 'user')}, opaque data {flb.data:#x}"
        top.add(Text.assemble("FLB ", plain(flb.name, "bold"), words))
    return top


def _file(file: LuoFile) -> str:
    start = f"{file.token:#x}  {file.compatible}"
    memfd = file.memfd
    if memfd is None:
        return f"{start}  not decoded, data {file.data:#x}"
    words = [human_size(memfd.size), f"pos {memfd.pos:,}", plural(memfd.nr_folios, "folio")]
    if memfd.nr_folios:
        words.append(folio_flag_text(memfd))
    if memfd.seals:
        words.append(f"sealed {flag_text(memfd.seals, MEMFD_SEALS)}")
    return f"{start}  {', '.join(words)}"


def folio_flags(memfd: Memfd) -> list[int]:
    """The distinct flag words of a memfd's folios, ascending."""
    import numpy as np

    flags: list[int] = np.unique(memfd.table.flags).tolist()
    return flags


def folio_flag_text(memfd: Memfd) -> str:
    """``DIRTY|UPTODATE``, or all mixes that occur."""
    return ", ".join(flag_text(flags, FOLIO_FLAGS) for flags in folio_flags(memfd)) or "no folio"


def _memblock(name: str, memblock: Memblock) -> RenderableType:
    made = table("reserve_mem", "start", "end", "size", right=("start", "end", "size"))
    for region in memblock.regions:
        if region.start is None or region.size is None:
            made.add_row(plain(region.name), "?", "?", "?")
        else:
            end = region.start + region.size
            size = human_size(region.size)
            made.add_row(plain(region.name), f"{region.start:#x}", f"{end:#x}", size)
    return Group(_head(name, summary(memblock)), made)


def _kho_test(name: str, test: KhoTest) -> RenderableType:
    held = plural(len(test.phys), "folio")
    return _head(name, f"{held}, {human_size(test.bytes)}, {_checksum(test)}")


def _checksum(test: KhoTest) -> str:
    verdict = {True: "ok", False: "WRONG", None: "not computed"}[test.checksum_ok]
    return f"checksum {verdict}"


def _metadata(name: str, metadata: KexecMetadata) -> RenderableType:
    version = "" if metadata.version == 1 else f", version {metadata.version}"
    count = plural(metadata.kexec_count, "kexec")
    return _head(name, f"previous kernel {metadata.previous_release}, {count}{version}")
