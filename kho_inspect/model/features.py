"""The feature header that stands in place of a version string."""

from typing import Any, NamedTuple

from kho_inspect.units import flag_names, flag_text


class Features(NamedTuple):
    """``struct luo_feature_hdr``: bits that its writer supports, requires and has used."""

    names: tuple[str, ...]
    """Of the bits that are known, lowest first."""
    supported: int
    required: int
    active: int

    @property
    def known(self) -> dict[int, str]:
        """Bit → name."""
        return {1 << number: name for number, name in enumerate(self.names)}

    def has(self, name: str) -> bool:
        """Whether the feature is active: its fields mean something."""
        return bool(self.active >> self.names.index(name) & 1)

    def unknown(self, bits: int) -> int:
        """Those of ``bits`` that have no name here."""
        return bits & ~sum(self.known)

    def words(self, bits: int) -> str:
        """``number|sessions|0x8``"""
        return flag_text(bits, self.known)

    def document(self) -> dict[str, Any]:
        """The bits, and the names of the active ones."""
        return {
            "supported": self.supported,
            "required": self.required,
            "active": self.active,
            "active_names": flag_names(self.active, self.known),
        }
