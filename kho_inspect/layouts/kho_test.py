"""The kernel's own KHO test module: ``lib/test_kho.c`` (kho-test-v1)."""

KHO_TEST_MAGIC = 0x4B484F21
"""``"KHO!"``"""

FOLIO_ORDER_MASK = 0xFFF
"""An entry of ``folios_info`` is a folio's physical address with its order in the page offset."""
