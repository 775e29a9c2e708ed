"""TensorRT behind ``edgeadapt.runtime.Runtime``: engines on an NVIDIA GPU, tensors resident there,
CUDA graphs.

Imports numpy and ``edgeadapt.runtime``; ``tensorrt`` only once the driver has said that there is a
GPU. It has run against fakes, and never on hardware: ``docs/tensorrt.md`` says what was checked and
how.
"""

from edgeadapt.errors import DeviceError
from edgeadapt_tensorrt._cudart import OutOfDeviceMemory
from edgeadapt_tensorrt._engine import EngineError, Flags
from edgeadapt_tensorrt._runtime import TensorRT

__all__ = ["DeviceError", "EngineError", "Flags", "OutOfDeviceMemory", "TensorRT"]
