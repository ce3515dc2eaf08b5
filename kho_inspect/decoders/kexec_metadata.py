"""kexec-metadata: which kernel came before, ``kernel/liveupdate/kexec_handover.c`` [7.1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kho_inspect.decoders.context import BlobDecoder
from kho_inspect.layouts.kexec_metadata import kho_kexec_metadata
from kho_inspect.layouts.views import parse_record
from kho_inspect.model.contents import KexecMetadata
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import text_of

if TYPE_CHECKING:
    from kho_inspect.decoders.context import Context
    from kho_inspect.model.handover import Blob


def decode(context: Context, blob: Blob, kind: str) -> KexecMetadata | None:
    """The struct; None (and a fault) when the blob is too short for it.

    Later versions are expected to begin the same way, and are shown as far as that goes.
    """
    if len(blob.data) < kho_kexec_metadata.sizeof():
        context.faults.add(
            FaultKind.METADATA_SHORT,
            f"{kind} blob is {len(blob.data)} bytes, should be {kho_kexec_metadata.sizeof()}",
            paddr=blob.paddr,
            path=f"/{blob.name}",
        )
        return None
    fields = parse_record(kho_kexec_metadata, blob.data)
    return KexecMetadata(
        fields.version,
        text_of(fields.previous_release.split(b"\0")[0]),
        fields.previous_release,
        fields.kexec_count,
    )


DECODERS = (BlobDecoder("kexec-metadata", "kexec-metadata", lambda blob: not blob.fdt, decode),)
