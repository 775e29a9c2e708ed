"""ONNX Runtime behind ``edgeadapt.runtime.Runtime``: the default engine, on a CPU; and with NVIDIA's providers on a GPU.

Imports numpy, onnxruntime and ``edgeadapt.runtime``; never ``onnx`` and never ``torch``.
"""

from edgeadapt_onnxruntime._gpu import CudaRuntime, TensorrtRuntime
from edgeadapt_onnxruntime._runtime import OnnxRuntime

__all__ = ["CudaRuntime", "OnnxRuntime", "TensorrtRuntime"]
