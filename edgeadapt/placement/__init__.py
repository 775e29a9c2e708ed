"""Where each graph runs: on the CPU from the first moment, elsewhere once it has shown there that
it is right and faster.

``open_auto`` is what ``open_runtime("auto")`` returns; ``PlacedRuntime`` is the runtime that it
makes of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeadapt.placement.candidates import open_auto

if TYPE_CHECKING:
    from edgeadapt.placement.comparison import Rules
    from edgeadapt.placement.placed_runtime import PlacedRuntime, Placing

_MODULES = {
    "PlacedRuntime": "edgeadapt.placement.placed_runtime",
    "Placing": "edgeadapt.placement.placed_runtime",  # its name before
    "Rules": "edgeadapt.placement.comparison",
}


def __getattr__(name: str) -> Any:
    """What only a second runtime needs loads with its module on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


__all__ = ["PlacedRuntime", "Placing", "Rules", "open_auto"]
