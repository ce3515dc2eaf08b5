"""Which decoder reads which blob: the one table."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from kho_inspect.decoders import kexec_metadata, kho_test, luo, memblock, memfd
from kho_inspect.decoders.context import Context, FileDecoder
from kho_inspect.model.contents import Content
from kho_inspect.model.handover import Blob
from kho_inspect.model.identity import ClaimKind, Owner, Subsystem


class BlobDecoder(NamedTuple):
    """One row of the table."""

    kind: str
    """What ``Blob.kind`` becomes: the compatible string, as a rule."""
    subsystem: Subsystem
    """Who owns the blob; its value is the name of the sub-node."""
    decode: Callable[[Context, Blob, str], Content | None]
    """``(context, blob, kind)`` → content; None when not even its first struct can be read."""
    is_raw: Callable[[Blob], bool] | None = None
    """Whether a blob is this decoder's; None: it is an FDT whose root is compatible to ``kind``."""
    vmalloc: bool = False
    """Whether it reads vmalloc areas."""

    def matches(self, blob: Blob) -> bool:
        """Whether the blob's own compatible string, or shape, is this decoder's."""
        if self.is_raw is not None:
            return self.is_raw(blob)
        return blob.fdt is not None and blob.fdt.is_compatible(self.kind)


BLOB_DECODERS = (
    BlobDecoder("luo-v1", Subsystem.LUO, luo.decode_fdt),
    BlobDecoder("luo-v5", Subsystem.LUO, luo.decode_raw, luo.is_raw),
    BlobDecoder("luo", Subsystem.LUO, luo.decode_features, luo.is_features),
    BlobDecoder("memblock-v1", Subsystem.MEMBLOCK, memblock.decode),
    BlobDecoder(
        "kexec-metadata", Subsystem.KEXEC_METADATA, kexec_metadata.decode, lambda blob: not blob.fdt
    ),
    BlobDecoder("kho-test-v1", Subsystem.KHO_TEST, kho_test.decode, vmalloc=True),
)

FILE_DECODERS: dict[str, FileDecoder] = memfd.FILE_DECODERS

_SUBSYSTEMS = {decoder.subsystem.value: decoder.subsystem for decoder in BLOB_DECODERS}


def decode_blobs(
    context: Context, blobs: Iterable[Blob], decoders: Sequence[BlobDecoder] = BLOB_DECODERS
) -> Iterator[Blob]:
    """Each blob, with its content where a decoder reads it; its memory is claimed in any case.

    ``kho_retrieve_subtree()`` finds the first sub-node of a name: any other is foreign to the
    subsystem of that name.
    """
    names: set[str] = set()
    for blob in blobs:
        subsystem = _SUBSYSTEMS.get(blob.name, Subsystem.SUBNODE)
        if subsystem is not Subsystem.SUBNODE and blob.name not in names:
            blob = blob._replace(owner=Owner(subsystem))
        names.add(blob.name)
        if blob.paddr is not None and blob.size is not None:
            # A size that could not be read does not measure what the blob owns.
            size = blob.size if blob.stored else 1
            context.claims.add(blob.owner, ClaimKind.BLOB, blob.paddr, size)
        for decoder in decoders if blob.stored else ():
            readable = context.geometry.abi.reads_vmalloc or not decoder.vmalloc
            if readable and decoder.subsystem.value == blob.name and decoder.matches(blob):
                content = decoder.decode(context, blob, decoder.kind)
                blob = blob._replace(kind=decoder.kind, content=content)
                break
        yield blob
