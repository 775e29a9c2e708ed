"""A linear layer with bias on inputs of rank 3 and more, as a product and a sum.

Torch's own kernel flattens such an input first, and under ``torch.func.grad`` it then reads the
batch as a number and fixes it. It is taken apart before it is dispatched, since afterwards nothing
of it is left to decompose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class LinearAsProduct(TorchFunctionMode):
    """While active, ``linear(x, weight, bias)`` is ``x @ weight.T + bias`` where ``x`` has more
    than two axes.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        return (
            _linear(*args, **kwargs)
            if func is torch.nn.functional.linear
            else func(*args, **kwargs)
        )


# named as torch names them
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if bias is None or input.dim() < 3:
        return torch.nn.functional.linear(input, weight, bias)
    return input @ weight.T + bias


__all__ = ["LinearAsProduct"]
