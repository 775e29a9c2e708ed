"""Frozen whole numbers from -127 to 127 at a byte each, stored as uint8 with 128 added.

    stored = x + 128,   x = float32(stored) - 128   exact, and folded away when a graph is loaded

Not as int8: TensorRT takes an int8 constant for a quantised weight and does not build a graph that
only casts it ("Quantized constant is only allowed before DQ"), and a dequantisation in place of the
cast is not folded by ONNX Runtime, which would pay for it in every call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.device.numerics.back_projection import BYTE_ZERO


def byte_tensor(name: str, shape: tuple[int, ...]) -> TensorSpec:
    """A frozen tensor of such bytes."""
    return TensorSpec(name=name, dtype="uint8", shape=shape, kind="frozen", persist="never")


def to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Whole numbers from -127 to 127, any dtype -> uint8 of the same shape."""
    return np.ascontiguousarray(np.asarray(values, np.int16) + BYTE_ZERO, np.uint8)


def from_bytes(stored: Tensor) -> Tensor:
    """uint8 -> float32 of the same shape."""
    return stored.to(torch.float32) - float(BYTE_ZERO)


__all__ = ["byte_tensor", "from_bytes", "to_bytes"]
