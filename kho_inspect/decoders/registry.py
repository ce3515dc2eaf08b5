"""Which decoder reads which blob: the one table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kho_inspect.decoders import kexec_metadata, kho_test, luo, memblock, memfd

if TYPE_CHECKING:
    from kho_inspect.decoders.context import BlobDecoder, Context, FileDecoder
    from kho_inspect.model.handover import Blob

BLOB_DECODERS: tuple[BlobDecoder, ...] = (
    *luo.DECODERS,
    *memblock.DECODERS,
    *kexec_metadata.DECODERS,
    *kho_test.DECODERS,
)

FILE_DECODERS: dict[str, FileDecoder] = {**memfd.FILE_DECODERS}


def decode_blob(context: Context, blob: Blob) -> Blob:
    """The blob with its content, when a decoder knows it; its memory is claimed in any case."""
    if blob.paddr is not None and blob.size is not None:
        # A size that could not be read is no measure of what the blob owns.
        context.claims.add(blob.name, "blob", blob.paddr, blob.size if blob.stored else 1)
    if not blob.stored:
        return blob
    for decoder in BLOB_DECODERS:
        if decoder.node == blob.name and decoder.matches(blob):
            content = decoder.decode(context, blob, decoder.kind)
            context.look_up()
            return replace(blob, kind=decoder.kind, content=content)
    return blob
