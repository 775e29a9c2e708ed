"""Batch-norms of a trained module become one scale and one shift per channel.

Only the exact types are replaced. A subclass may do more than its base, such as timm's
``BatchNormAct2d``, which activates: it is taken apart into its norm and the modules that it runs
behind it, if the parts compute what the whole does, and is left as it is otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeadapt.host.encoders.base import NormLayer

Runs = Sequence[tuple[str, tuple[int, ...]]]
"""Path and output shape of every module, as they finish; one that runs twice is there twice."""

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d)
_PARTS_TOLERANCE = 1e-5  # of the largest value: the parts add up in another order
_SPREADS = (1.0, 30.0)  # of the inputs that compare parts, in the norm's own standard deviations


class ScaleShift(nn.Module):
    """``x * scale + shift`` per channel: a batch-norm after training.

    Both are (C, 1, 1) for maps, (C, 1) for signals, (C,) for vectors.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.Module, rank: int) -> None:
        super().__init__()
        parts = norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps
        scale, shift = folded(*parts)  # type: ignore[arg-type]
        per_channel = (-1, *[1] * (rank - 2))
        self.register_buffer("scale", scale.reshape(per_channel))
        self.register_buffer("shift", shift.reshape(per_channel))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def folded(
    gain: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Scale and shift, both (C, 1, 1), of a batch-norm with these statistics."""
    scale = gain / torch.sqrt(variance + eps)
    return scale[:, None, None], (offset - mean * scale)[:, None, None]


class NormThen(nn.Module):
    """A subclass of batch-norm taken apart: its norm, then the modules it ran, by their names."""

    def __init__(self, norm: nn.Module, behind: dict[str, nn.Module]) -> None:
        super().__init__()
        self.norm = norm
        for name, module in behind.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def replace_norms(
    root: nn.Module, runs: Runs
) -> tuple[dict[str, nn.Module], tuple[NormLayer, ...]]:
    """Put a ``ScaleShift`` in place of every batch-norm that it can stand for.

    Args:
        root: changed in place. runs: of one forward pass.

    Returns:
        The modules that were replaced, by path, and what each norm was trained with: of a norm
        that was taken apart the path ends in ``.norm``.
    """
    paths = [path for path, _ in runs]
    shapes = dict(runs)
    replaced: dict[str, nn.Module] = {}
    layers: list[NormLayer] = []
    for path, norm in list(root.named_modules()):
        # once: what a function reads, or what runs twice, has no scale and statistics of its own
        if not path or not _can_be_folded(norm) or paths.count(path) != 1:
            continue
        rank = len(shapes[path])
        plain = ScaleShift(norm, rank)
        instead: nn.Module = plain
        where = path
        if type(norm) not in _PLAIN:
            behind = [p[len(path) + 1 :] for p in paths if p.startswith(f"{path}.")]
            parts = NormThen(plain, {n: norm.get_submodule(n) for n in behind if "." not in n})
            if "norm" in dict(norm.named_children()) or not _same(norm, parts, shapes[path]):
                continue
            instead, where = parts, f"{path}.norm"
        replace_module(root, path, instead)
        replaced[path] = norm
        trained = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        values: Any = (value.detach().clone() for value in trained)  # type: ignore[union-attr, operator]
        count: Any = norm.num_features
        layers.append(NormLayer(where, count, norm.eps, *values))  # type: ignore[arg-type]
    return replaced, tuple(layers)


def norms_left(root: nn.Module) -> tuple[str, ...]:
    """``path (Type)`` of the batch-norms that nothing was put in place of."""
    found = ((path, m) for path, m in root.named_modules() if isinstance(m, _BatchNorm))
    return tuple(f"{path} ({type(module).__name__})" for path, module in found)


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, leaf, module)


def _can_be_folded(norm: nn.Module) -> bool:
    return isinstance(norm, _PLAIN) and norm.running_mean is not None and norm.affine


def _same(norm: nn.Module, parts: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the parts compute what the norm does, on inputs of its trained moments and wider."""
    generator = torch.Generator().manual_seed(0)
    per_channel = (-1, *[1] * (len(shape) - 2))
    mean = norm.running_mean.reshape(per_channel)  # type: ignore[operator, union-attr]
    deviation = norm.running_var.sqrt().reshape(per_channel)  # type: ignore[operator, union-attr]
    with torch.no_grad():
        for spread in _SPREADS:
            x = mean + spread * deviation * torch.randn(shape, generator=generator)
            want, got = norm(x.clone()), parts(x.clone())
            if not isinstance(got, Tensor) or got.shape != want.shape:
                return False
            limit = _PARTS_TOLERANCE * float(want.abs().max())
            if not bool((got - want).abs().max() <= limit):
                return False
    return True


__all__ = [
    "NormThen",
    "Runs",
    "ScaleShift",
    "folded",
    "norms_left",
    "replace_module",
    "replace_norms",
]
