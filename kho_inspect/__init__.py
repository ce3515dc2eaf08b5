"""kho-inspect: look inside Linux Kexec HandOver (KHO) memory images.

``inspect(dump, dtb)`` gives the :class:`~kho_inspect.model.handover.Handover` that the command line
prints, ``inspect_all`` those of many images. Importing the package is cheap: its modules are
imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kho_inspect.errors import KhoError as KhoError
    from kho_inspect.inspection import Options as Options
    from kho_inspect.inspection import inspect as inspect
    from kho_inspect.inspection import inspect_all as inspect_all
    from kho_inspect.model.handover import Handover as Handover

__version__ = "0.1.0"
__all__ = ["Handover", "KhoError", "Options", "__version__", "inspect", "inspect_all"]

_HOMES = {
    "Handover": "kho_inspect.model.handover",
    "KhoError": "kho_inspect.errors",
    "Options": "kho_inspect.inspection",
    "inspect": "kho_inspect.inspection",
    "inspect_all": "kho_inspect.inspection",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
