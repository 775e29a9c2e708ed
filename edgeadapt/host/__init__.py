"""The host side: train or take an encoder, export it with everything it needs to keep learning.
Needs the ``host`` extra.
"""

from __future__ import annotations

from typing import Any

_HOMES = {
    "export": "edgeadapt.host.exporting.export",
    "Settings": "edgeadapt.host.exporting.settings",
    "Identity": "edgeadapt.host.encoders.dispatch",
    "as_encoder": "edgeadapt.host.encoders.dispatch",
    "gradient_step": "edgeadapt.host.steps.gradient_step",
    "named_encoder": "edgeadapt.host.encoders.named_networks",
    "OnnxFile": "edgeadapt.host.encoders.onnx_input",
    "PixelInput": "edgeadapt.host.encoders.onnx_input",
}
__all__ = ["Identity", "Settings", "as_encoder", "export", "gradient_step", "named_encoder"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeadapt.host' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
