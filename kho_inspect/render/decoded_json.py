"""Decoded blobs as JSON, with the field names of the kernel structs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kho_inspect.layouts.memfd import MEMFD_SEALS
from kho_inspect.model.contents import KexecMetadata, KhoTest, Luo, LuoFile, Memblock, Memfd
from kho_inspect.render.contents import folio_flags
from kho_inspect.render.flags import flag_names

if TYPE_CHECKING:
    from kho_inspect.model.contents import Content, LuoFlb, LuoSession, VmallocArea

Document = dict[str, Any]


def decoded(content: Content | None) -> Document | None:
    """``blobs[].decoded``; null for a blob that nobody knows."""
    if isinstance(content, Luo):
        return _luo(content)
    if isinstance(content, Memblock):
        return _memblock(content)
    if isinstance(content, KhoTest):
        return _kho_test(content)
    return None if content is None else _metadata(content)


def _address(value: int | None) -> str | None:
    return None if value is None else hex(value)


def _luo(luo: Luo) -> Document:
    return {
        "compatible": luo.compatible,
        "liveupdate_num": luo.liveupdate_num,
        "sessions_pa": hex(luo.sessions_pa),
        "flbs_pa": hex(luo.flbs_pa),
        "serialized": luo.serialized,
        "sessions": [_session(session) for session in luo.sessions],
        "flb": [_flb(flb) for flb in luo.flbs],
    }


def _session(session: LuoSession) -> Document:
    return {
        "name": session.name,
        "files_pa": hex(session.files_pa),
        "count": session.count,
        "files": [_file(file) for file in session.files],
    }


def _file(file: LuoFile) -> Document:
    return {
        "compatible": file.compatible,
        "data": hex(file.data),
        "token": file.token,
        "memfd": None if file.memfd is None else _memfd(file.memfd),
    }


def _memfd(memfd: Memfd) -> Document:
    table = memfd.table
    return {
        "pos": memfd.pos,
        "size": memfd.size,
        "seals": memfd.seals,
        "seal_names": flag_names(memfd.seals or 0, MEMFD_SEALS),
        "flags": memfd.flags,
        "nr_folios": memfd.nr_folios,
        "folios": _vmalloc(memfd.folios),
        "folio_flags": folio_flags(memfd),
        "folio_table": [
            {"pfn": pfn, "order": order if order >= 0 else None, "flags": flags, "index": index}
            for pfn, order, flags, index in zip(
                table.pfn.tolist(),
                table.order.tolist(),
                table.flags.tolist(),
                table.index.tolist(),
                strict=True,
            )
        ],
    }


def _vmalloc(area: VmallocArea) -> Document:
    return {
        "first": hex(area.first),
        "total_pages": area.total_pages,
        "flags": area.flags,
        "order": area.order,
        "chunks": [hex(chunk) for chunk in area.chunks],
    }


def _flb(flb: LuoFlb) -> Document:
    return {"name": flb.name, "data": hex(flb.data), "count": flb.count}


def _memblock(memblock: Memblock) -> Document:
    return {
        "compatible": memblock.compatible,
        "reserve_mem": [
            {
                "name": region.name,
                "compatible": region.compatible,
                "start": _address(region.start),
                "size": region.size,
            }
            for region in memblock.regions
        ],
    }


def _kho_test(test: KhoTest) -> Document:
    return {
        "compatible": test.compatible,
        "magic": _address(test.magic),
        "nr_folios": test.nr_folios,
        "csum": test.csum,
        "csum_ok": test.checksum_ok,
        "bytes": test.bytes,
        "folios_info": None if test.folios_info is None else _vmalloc(test.folios_info),
        "folios": [
            {"phys": hex(phys), "order": order}
            for phys, order in zip(test.phys.tolist(), test.order.tolist(), strict=True)
        ],
    }


def _metadata(metadata: KexecMetadata) -> Document:
    return {
        "version": metadata.version,
        "previous_release": metadata.previous_release,
        "kexec_count": metadata.kexec_count,
    }
