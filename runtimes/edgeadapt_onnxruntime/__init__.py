"""ONNX Runtime behind ``edgeadapt.runtime.Runtime``: the default engine, on a CPU.

Imports numpy, onnxruntime and ``edgeadapt.runtime``; never ``onnx`` and never ``torch``.
"""

from edgeadapt_onnxruntime._runtime import OnnxRuntime

__all__ = ["OnnxRuntime"]
