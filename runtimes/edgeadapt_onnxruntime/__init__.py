"""ONNX Runtime behind ``edgeadapt.runtime.Runtime``: the default engine, on a CPU; and with
NVIDIA's providers on a GPU.

Imports numpy, onnxruntime and ``edgeadapt.runtime``; never ``onnx`` and never ``torch``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeadapt_onnxruntime._runtime import OnnxRuntime

if TYPE_CHECKING:
    from edgeadapt_onnxruntime._gpu import CudaRuntime, TensorrtRuntime


def __getattr__(name: str) -> Any:
    """A GPU's half, and the child processes that try it, load on first use (PEP 562)."""
    if name not in ("CudaRuntime", "TensorrtRuntime"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgeadapt_onnxruntime import _gpu

    return getattr(_gpu, name)


__all__ = ["CudaRuntime", "OnnxRuntime", "TensorrtRuntime"]
