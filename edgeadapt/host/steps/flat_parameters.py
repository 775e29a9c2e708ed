"""Many small tensors as one flat vector, so that a step reads, updates and writes one tensor
instead of all of them.

Every tensor of a state costs a call of the runtime and an operator for each line of the optimiser,
whatever its size. Taken apart by ``torch.split``, the vector's gradient is one concatenation.

>>> import torch
>>> norm = {"norm.gain": torch.ones(3), "norm.offset": torch.zeros(3)}
>>> tensors = {**norm, "scale.value": torch.tensor(2.0)}
>>> layout = Flat.of(tensors)
>>> vector = layout.pack(tensors)
>>> vector.tolist(), layout.unpack(vector)["scale.value"]
([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 2.0], tensor(2.))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Flat:
    """Names and shapes of the tensors in a vector, in order."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Flat:
        """The layout of these tensors, in their order."""
        return cls(tuple((name, tuple(value.shape)) for name, value in tensors.items()))

    @property
    def size(self) -> int:
        """Numbers in the vector."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """``(size,)``, a copy."""
        return torch.cat([tensors[name].reshape(-1) for name, _ in self.shapes])

    def unpack(self, vector: Tensor) -> dict[str, Tensor]:
        """The tensors by name; gradients flow back into the vector."""
        parts = torch.split(vector, [math.prod(shape) for _, shape in self.shapes])
        return {
            name: part if len(shape) == 1 else part.reshape(shape)
            for (name, shape), part in zip(self.shapes, parts, strict=True)
        }
