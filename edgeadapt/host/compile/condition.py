"""Is a difference no larger than what float32 makes of the function itself?

Two engines never round alike. How much that may matter is a property of the function at one input,
and it is measured, not assumed:

    allowed = 4 max(|f32(x) - f64(x)|, max_i |f_i(x) - f64(x)|) + 2.4e-7 |f64(x)|

where ``f_i`` is the function in float32 with the result of every operator multiplied by ``1 + d``,
``d`` uniform in +-2.4e-7 and drawn per element: Monte Carlo arithmetic (Parker, 1997), which stands
for any order of summation and any approximation of ``exp`` that is right to a few units in the last
place. The allowance is large where a rectifier or an arg-max sits on its boundary and where an
update is a difference of almost equal numbers. Where the function is smooth it is a few roundings,
and a graph that differs by more computes something else.

A sum or mean of n numbers is moved by up to sqrt(n) / 4 as much from 16 numbers on: engines add in
another order, and the error of a sum grows with its length (Higham, 1993). The results of sigmoid,
tanh and erf are moved by up to 2.4e-7 instead of by a factor. What subtracts almost equal numbers
inside, as norms do, is taken apart by torch's own decompositions and never by this package's: a
fault of ours must not excuse itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Values = dict[str, Tensor]

FACTOR = 4.0
NOISE = 2 * torch.finfo(torch.float32).eps
DRAWS = 16
_EXACT = {
    "clone",
    "_to_copy",
    "where",
    "cat",
    "stack",
    "index",
    "index_select",
    "gather",
    "neg",
    "abs",
    "relu",
    "clamp",
    "clamp_min",
    "clamp_max",
    "maximum",
    "minimum",
    "max",
    "min",
    "amax",
    "amin",
    "constant_pad_nd",
    "flip",
    "topk",
    "sort",
    "tril",
    "triu",
    "copy",
    "sign",
}
_PARTS = get_decompositions(
    [
        getattr(torch.ops.aten, name)
        for name in (
            "native_layer_norm",
            "native_layer_norm_backward",
            "native_group_norm",
            "native_group_norm_backward",
            "native_batch_norm",
            "native_batch_norm_backward",
            "_softmax",
            "_softmax_backward_data",
            "_log_softmax",
            "_log_softmax_backward_data",
            "silu",
            "silu_backward",
            "gelu",
            "gelu_backward",
            "mish",
            "mish_backward",
        )
    ]
)
_REDUCED = {torch.ops.aten.var.correction: False, torch.ops.aten.std.correction: True}
_SUMS = {"sum", "mean", "var_mean"}
# ONNX Runtime's are right to 1e-7 of 1, not of a value in the tail
_BOUNDED = {"sigmoid", "tanh", "erf"}


class Conditioning:
    """A function at one input. What it costs to measure is spent only when something is to be
    explained, and once.

    Args:
        want: the function's own float32 results.
        evaluate: runs it. The truth is its float64 result, or ``want`` where torch has no float64
            for it.
    """

    def __init__(self, want: Mapping[str, Tensor], evaluate: Callable[[], Values]) -> None:
        self._evaluate = evaluate
        self._results: list[Mapping[str, Tensor]] = [want]
        self._draws = 0

    @cached_property
    def truth(self) -> Mapping[str, Tensor]:
        exact = in_float64(self._evaluate)
        return {
            key: _wide(value)
            for key, value in (self._results[0] if exact is None else exact).items()
        }

    def explains(self, got: Mapping[str, Tensor]) -> bool:
        """Whether ``got``, of the same names and shapes, is as good a float32 result as any
        other.
        """
        while not all(
            _distance(got[key], truth) <= self._allowance(key) for key, truth in self.truth.items()
        ):
            if self._draws == DRAWS:
                return False
            self._disturb()
        return True

    def allowances(self) -> dict[str, float]:
        """How far each output may be from the truth; of discrete outputs the share of elements."""
        while self._draws < DRAWS:
            self._disturb()
        return {key: self._allowance(key) for key in self.truth}

    def _disturb(self) -> None:
        with _Arithmetic(noise=torch.Generator().manual_seed(self._draws)):
            self._results.append(self._evaluate())
        self._draws += 1

    def _allowance(self, key: str) -> float:
        truth = self.truth[key]
        allowed = FACTOR * max(_distance(result[key], truth) for result in self._results)
        if not truth.is_floating_point() or truth.numel() == 0:
            return allowed
        return allowed + NOISE * torch.where(torch.isfinite(truth), truth, 0.0).abs().max().item()


def in_float64(run: Callable[[], Values]) -> Values | None:
    """What ``run`` returns when everything inside it is float64, constants and casts too; None
    where torch cannot.
    """
    try:
        with _Arithmetic(is_double=True):
            return run()
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def _distance(value: Tensor, truth: Tensor) -> float:
    """The largest difference of finite elements; of discrete values the share that differs."""
    if truth.numel() == 0:
        return 0.0
    if not truth.is_floating_point():
        return (value != truth).double().mean().item()
    both = torch.isfinite(truth) & torch.isfinite(value)
    return torch.where(both, _wide(value) - truth, 0.0).abs().max().item()


def _wide(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


class _Arithmetic(TorchDispatchMode):
    """Every float32 tensor and every request for one becomes float64, or the result of every
    inexact operator is disturbed.
    """

    def __init__(self, *, is_double: bool = False, noise: torch.Generator | None = None) -> None:
        super().__init__()
        self.is_double = is_double
        self.noise = noise

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_double:
            args, kwargs = tree_map(_lift, (args, kwargs or {}))
        if self.noise is not None and func in _REDUCED:
            with self:
                variance = _variance(*args, **(kwargs or {}))
                return variance.sqrt() if _REDUCED[func] else variance
        if self.noise is not None and func in _PARTS:
            with self:
                return _PARTS[func](*args, **(kwargs or {}))
        if self.is_double and _is_depthwise(func, args):
            return _depthwise(*args)
        result = func(*args, **(kwargs or {}))
        if self.is_double:
            result = tree_map(_lift, result)
        if self.noise is None or _is_exact(func, args):
            return result
        called = func.overloadpacket.__name__
        size = NOISE
        if called in _SUMS:
            count = (result[0] if isinstance(result, tuple) else result).numel()
            size *= max(1.0, math.sqrt(args[0].numel() / max(count, 1)) / 4)
        return tree_map(partial(self._disturb, size=size, is_bounded=called in _BOUNDED), result)

    def _disturb(self, value: Any, size: float, is_bounded: bool) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.float64):
            return value
        noise = torch.empty_like(value).uniform_(-size, size, generator=self.noise)
        return noise.add_(value) if is_bounded else noise.add_(1).mul_(value)


def _variance(
    x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Torch computes it in one kernel and has no decomposition of it; of equal numbers that kernel
    gives exactly 0.
    """
    axes = list(range(x.dim())) if dim is None else list(dim)
    centred = x - x.mean(axes, keepdim=True)
    summed = (centred * centred).sum(axes, keepdim=keepdim)
    return summed / (
        x.numel() // max(summed.numel(), 1) - (1 if correction is None else correction)
    )


def _is_depthwise(func: Any, args: Any) -> bool:
    """A 2-D convolution of one filter for each channel: torch's float64 kernel takes the channels
    one by one, fifty times slower than float32's."""
    if func is not torch.ops.aten.convolution.default:
        return False
    x, weight, transposed, groups = args[0], args[1], args[6], args[8]
    return x.dim() == 4 and not transposed and groups == x.shape[1] == weight.shape[0] > 1


def _depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    *_: Any,
) -> Tensor:
    """x (B, C, H, W), weight (C, 1, P, Q) -> (B, C, H', W'): a sum over the P Q places of the
    filter.
    """
    x = torch.nn.functional.pad(x, (padding[-1], padding[-1], padding[0], padding[0]))
    (down, across), (apart, aside) = (
        2 * list(given) if len(given) == 1 else given for given in (stride, dilation)
    )
    height = (x.shape[2] - apart * (weight.shape[2] - 1) - 1) // down + 1
    width = (x.shape[3] - aside * (weight.shape[3] - 1) - 1) // across + 1
    total = torch.zeros((*x.shape[:2], height, width), dtype=x.dtype)
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            rows = slice(i * apart, i * apart + down * (height - 1) + 1, down)
            columns = slice(j * aside, j * aside + across * (width - 1) + 1, across)
            total.addcmul_(x[:, :, rows, columns], weight[:, :, i, j][:, :, None])
    return total if bias is None else total + bias[:, None, None]


def _is_exact(func: Any, args: Any) -> bool:
    """Views, writes, copies, choices and constants round nothing."""
    is_alias = any(result.alias_info is not None for result in func._schema.returns)
    return (
        is_alias
        or func.overloadpacket.__name__ in _EXACT
        or not any(isinstance(leaf, Tensor) for leaf in tree_leaves(args))
    )


def _lift(value: Any) -> Any:
    if value is torch.float32:
        return torch.float64
    return (
        value.to(torch.float64)
        if isinstance(value, Tensor) and value.dtype == torch.float32
        else value
    )
