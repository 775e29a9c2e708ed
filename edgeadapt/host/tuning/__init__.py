"""Trains a few thousand numbers inside a pretrained encoder, chosen under a budget.

What lives here turns weights and a few numbers into weights, before anything is exported. It may
use networks, data and the trainer; it knows nothing of bundles, devices and learners, and nothing
in a bundle knows that its encoder was tuned. What depends on the sample is no delta and does not
belong here.
"""

from __future__ import annotations

from typing import Any

_MODULES = {
    "Budget": "budget",
    "DeltaFile": "delta_file",
    "Plan": "plan",
    "Report": "run",
    "TuneSettings": "run",
    "Tuned": "run",
    "apply_delta": "delta_file",
    "read_delta": "delta_file",
    "sites_of": "sites",
    "tune": "run",
    "write_delta": "delta_file",
    "write_tuned": "delta_file",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
