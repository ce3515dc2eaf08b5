"""kexec-metadata: which kernel came before, ``kernel/liveupdate/kexec_handover.c`` [7.1]."""

from dataclasses import dataclass

from kho_inspect.decoders.context import Context
from kho_inspect.layouts.kexec_metadata import KHO_KEXEC_METADATA_VERSION, kho_kexec_metadata
from kho_inspect.model.contents import Content, Document, Rows
from kho_inspect.model.faults import FaultKind
from kho_inspect.model.fdt_node import text_of
from kho_inspect.model.handover import Blob
from kho_inspect.units import plural


@dataclass(frozen=True, slots=True)
class KexecMetadata(Content):
    """``struct kho_kexec_metadata``."""

    version: int
    previous_release: str
    raw_release: bytes
    kexec_count: int

    def summary(self) -> str:
        return f"from {self.previous_release}"

    def rows(self) -> Rows:
        known = self.version == KHO_KEXEC_METADATA_VERSION
        version = "" if known else f", version {self.version}"
        count = plural(self.kexec_count, "kexec")
        return Rows(f"previous kernel {self.previous_release}, {count}{version}")

    def document(self) -> Document:
        return {
            "version": self.version,
            "previous_release": self.previous_release,
            "kexec_count": self.kexec_count,
        }


def decode(context: Context, blob: Blob, kind: str) -> KexecMetadata | None:
    """The struct; None (and a fault) when the blob is too short for it.

    Later versions are expected to begin the same way, and are shown as far as that goes.
    """
    fields = context.read_struct(kho_kexec_metadata, blob, kind, FaultKind.METADATA_SHORT)
    if fields is None:
        return None
    return KexecMetadata(
        version=fields.version,
        previous_release=text_of(fields.previous_release.split(b"\0")[0]),
        raw_release=fields.previous_release,
        kexec_count=fields.kexec_count,
    )
