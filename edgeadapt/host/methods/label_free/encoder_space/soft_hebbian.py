"""The soft-Hebbian rule on the first convolution of an encoder (Journe et al., SoftHebb, ICLR 2023,
arXiv 2209.11883).

    u = conv(x, W);  y = softmax over channels of (u / temperature)
            one competition for each position: lateral inhibition
    D_o = sum_{b,h,w} m_b y_o (patch - u_o w_o)
            Oja's rule, gated by who won
    published:  w_o <- w_o + rate sqrt| |w_o| - 1 | D_o / max|D|
            which drives every filter to unit norm
    kept norm:  v_o = d_o + rate D_o / max|D| + anchor (d0_o - d_o);  w_o <- |w0_o| v_o / |v_o|
            d = w / |w|, d0 the source's

The radial part of the published rule is y u (1 - |w|^2): it pulls every filter to norm 1. The
filters of a trained network have other norms, and batch-norms on the source's statistics do not
hide a change of scale, so the second form learns directions alone. It runs the rule on unit filters
with u divided by its root mean square over the batch, so that one temperature fits all inputs. m_b
is a weight for each sample, 1 in the published rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Values
from edgeadapt.host.encoders.base import example_input, to_images
from edgeadapt.host.encoders.torch_module import ModuleEncoder, run_module

# of the mean squared norm: a filter that a network pruned away has no direction to learn
_DEAD = 1e-4


class Stem(NamedTuple):
    """Paths of the first convolution and of the batch-norm behind it."""

    convolution: str
    norm: str


def stem_of(encoder: ModuleEncoder) -> Stem:
    """The convolution that runs first, if a batch-norm takes its output.

    Raises:
        InputError: no convolution in two dimensions, no batch-norm right behind the first, or
            several groups in it.
    """
    found: list[str] = []
    behind: list[str] = []
    made: list[Tensor] = []
    norms = {layer.path for layer in encoder.norms}

    def after(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
            if not found:
                found.append(path)
                made.append(out)

        return hook

    def before(path: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if made and not behind and inputs and inputs[0] is made[0]:
                behind.append(path)

        return hook

    modules = dict(encoder._module.named_modules())
    hooks = [
        m.register_forward_hook(after(path))
        for path, m in modules.items()
        if isinstance(m, nn.Conv2d)
    ]
    hooks += [
        m.register_forward_pre_hook(before(path)) for path, m in modules.items() if path in norms
    ]
    try:
        with torch.no_grad():
            encoder._module(to_images(example_input(encoder.input, 2), encoder.input))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise InputError(
            f"Hebbian learning moves the first 2-D convolution, and {encoder.name} has none"
        )
    if not behind:
        raise InputError(
            f"Hebbian learning needs a batch-norm right behind the first convolution ({found[0]}),"
            f" which {encoder.name} does not have"
        )
    if modules[found[0]].groups != 1:
        raise InputError(
            f"Hebbian learning needs one group in the first convolution, {found[0]} has"
            f" {modules[found[0]].groups}"
        )
    return Stem(found[0], behind[0])


def stem_input(encoder: ModuleEncoder, stem: Stem, x: Tensor, t: Values) -> Tensor:
    """What the first convolution is given for inputs x (B, *input). What lies behind it is dead
    code, which the compiler drops.
    """
    taken: list[Tensor] = []
    hook = encoder._module.get_submodule(stem.convolution).register_forward_pre_hook(
        lambda _module, inputs: taken.append(inputs[0])
    )
    try:
        run_module(encoder._module, x, t, encoder.input, (), encoder._feature)
    finally:
        hook.remove()
    return taken[0]


@dataclass(frozen=True)
class SoftHebbian:
    """One step of the rule.

    Attributes:
        rate: 0 changes nothing.
        temperature: of the competition.
        anchor: share of the way back to the source's directions, each step.
        keeps_norm: False for the published rule, which has no anchor.
    """

    rate: float = 0.002
    temperature: float = 1.0
    anchor: float = 0.01
    keeps_norm: bool = True

    def step(
        self,
        convolution: nn.Module,
        weight: Tensor,
        source: Tensor,
        x: Tensor,
        sample_weight: Tensor,
    ) -> Tensor:
        """New filters (O, I, h, w).

        Args:
            convolution: gives padding and stride.
            weight, source: (O, I, h, w), now and at the factory.
            x: (B, I, H, W), what the convolution is given.
            sample_weight: (B,), m_b, with 0 for rows that do not count.
        """
        if not self.keeps_norm:
            moved = self._direction(convolution, weight, x, sample_weight, is_standardised=False)
            short = torch.sqrt(torch.abs(torch.sqrt(_squared(weight) + 1e-12) - 1.0))
            return weight + self.rate * short * moved
        norm = torch.sqrt(_squared(source))
        is_alive = _squared(source) > _DEAD * _squared(source).mean()
        safe = torch.where(is_alive, norm, torch.ones_like(norm))
        unit = weight / safe
        moved = self._direction(convolution, unit, x, sample_weight, is_standardised=True)
        step = self.rate * moved + (self.anchor * (sample_weight.sum() > 0).to(torch.float32)) * (
            source / safe - unit
        )
        turned = unit + step
        length = torch.sqrt(torch.clamp(_squared(turned), min=1e-12))
        has_moved = is_alive & (_squared(step) > 0)
        return torch.where(has_moved, norm * turned / length, weight)

    def _direction(
        self,
        convolution: nn.Module,
        weight: Tensor,
        x: Tensor,
        sample_weight: Tensor,
        *,
        is_standardised: bool,
    ) -> Tensor:
        """D / max|D|, all zero if no row counts."""

        def run(w: Tensor) -> Tensor:
            u: Tensor = torch.func.functional_call(convolution, {"weight": w, **without_bias}, (x,))
            return u

        without_bias = (
            {} if convolution.bias is None else {"bias": torch.zeros_like(weight[:, 0, 0, 0])}
        )
        u = run(weight)
        rows = sample_weight.reshape(-1, 1, 1, 1)
        share = rows / torch.clamp(sample_weight.sum(), min=1e-6)
        unit = (
            torch.sqrt((share * u * u).mean(dim=(1, 2, 3)).sum() + 1e-12)
            if is_standardised
            else torch.ones(())
        )
        y = rows * torch.softmax(u / (unit * self.temperature), dim=1)
        # the gradient is sum y patch, whatever padding and stride are
        pulled = torch.func.grad(lambda w: (y * run(w)).sum())(weight)
        given = pulled - (y * u).sum(dim=(0, 2, 3)).reshape(-1, 1, 1, 1) * weight
        return given / (torch.amax(torch.abs(given).flatten(), dim=0) + 1e-30)


def _squared(weight: Tensor) -> Tensor:
    """(O, 1, 1, 1) squared norm of every filter."""
    return (weight * weight).sum(dim=(1, 2, 3), keepdim=True)
