"""Where in a network its feature is: in front of its classifier, or at its end if it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

_BEHIND_A_FEATURE = (
    _NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
)
"""What runs behind a layer of features, and never behind a classifier."""

_UNMOVED = 1e-3  # of what another input changes: so little is rounding


@dataclass(frozen=True)
class FeaturePlace:
    """The output of the module at ``path`` (of the whole network: ``""``), or its input."""

    path: str = ""
    is_input: bool = False

    def __str__(self) -> str:
        return f"the {'input' if self.is_input else 'output'} of {self.path or 'the network'}"


def feature_place(module: nn.Module, x: Tensor, other: Tensor) -> FeaturePlace:
    """The input of the linear layer that classifies, or the output of a network without one.

    A linear layer classifies if its output is (B, K), the network's answer depends on its input
    through this layer alone, and neither a norm nor an activation runs behind it. It is enough to
    look at the last one that runs, and at others whose output is shaped as the answer.

    Args:
        module: in evaluation mode. One that says ``output_is_feature``, also behind a
            normalisation, is believed.
        x, other: two batches of one shape that the module takes.
    """
    for part in (module, getattr(module, "network", None)):
        if getattr(part, "output_is_feature", False):
            return FeaturePlace()
    linears = {path: m for path, m in module.named_modules() if isinstance(m, nn.Linear)}
    order: list[str] = []
    outputs: dict[str, list[Tensor]] = {}

    def record(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, out: Any) -> None:
            order.append(path)
            if path in linears:
                outputs.setdefault(path, []).append(out.clone())

        return hook

    leaves = {p: m for p, m in module.named_modules() if p in linears or not any(m.children())}
    with torch.no_grad():
        with _hooked({path: record(path) for path in leaves}, leaves):
            answer = module(x)
        flat = [path for path in order if path in linears and outputs[path][-1].dim() == 2]
        if not isinstance(answer, Tensor):  # a dict or a tuple has its logits anywhere
            return FeaturePlace(flat[-1], is_input=True) if flat else FeaturePlace()
        answer = answer.clone()
        moved = _difference(module(other), answer)
        last = flat[-1:]
        for path in last + [p for p in reversed(flat) if outputs[p][-1].shape == answer.shape]:
            behind = order[len(order) - order[::-1].index(path) :]
            if any(isinstance(leaves[p], _BEHIND_A_FEATURE) for p in behind):
                continue
            held = iter(outputs[path])
            with _hooked({path: lambda *_, held=held: next(held).clone()}, linears):
                if _difference(module(other), answer) <= _UNMOVED * moved:
                    return FeaturePlace(path, is_input=True)
    return FeaturePlace()


@contextmanager
def _hooked(hooks: dict[str, Callable[..., Any]], modules: dict[str, nn.Module]) -> Iterator[None]:
    handles = [modules[path].register_forward_hook(hook) for path, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _difference(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max())


__all__ = ["FeaturePlace", "feature_place"]
