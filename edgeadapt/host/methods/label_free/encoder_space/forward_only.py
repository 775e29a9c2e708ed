"""Forward-only adaptation: a modulator behind the first batch-norm is searched for at random, by
how the layers look and how sure the head is.

    J(m) = mean_i H_i / ln K
           + lambda / L sum_layers mean_c ((mu_c - mu_c^s)^2 / v_c^s + (sd_c / sd_c^s - 1)^2)
    J0, J+, J- = J(m), J(m + sigma e), J(m - sigma e);
            e (2 O,) standard normal: a port, since graphs draw nothing
    m <- m + a sigma e,
            a the minimum of the parabola through the three, at most ``reach`` steps away, if it is
            one; else the better side

in the manner of FOA (Niu et al., Test-Time Model Adaptation with Only Forward Passes, ICML 2024,
arXiv 2404.01650, eq. 5-6). Entropy alone would be lowest where everything is one class; the
distance of the layers' statistics to the source's is what prevents that. It differs from FOA: there
are no prompts in a convolutional network, so m are the gain and offset of each channel of the stem;
directions are tried in antithetic pairs with a parabola through them instead of a population drawn
by CMA-ES, because that keeps no covariance and fits a graph of three forward passes; the statistics
are those of batch-norm inputs, which a convolutional network was trained with and whose source
values are in it, so no source data is needed. FOA's shift of the last feature is a method of its
own (``feature_shift``).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Head, Values, statistic
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.label_free.encoder_space.batch_statistics import Passed
from edgeadapt.host.methods.label_free.encoder_space.hebbian_modulator import (
    GAIN,
    OFFSET,
    Modulated,
)
from edgeadapt.host.methods.label_free.encoder_space.predictive_entropy import (
    entropy_of,
    has_sunk,
    most,
    moved_below,
)
from edgeadapt.host.methods.label_free.encoder_space.soft_hebbian import SoftHebbian, stem_input


class ForwardOnly:
    """Domain state ``modulator.gain``, ``modulator.offset`` (O,) as differences to 1 and 0,
    ``entropy.below`` (1,); with a rule ``stem.weight``.

    Args:
        encoder: begins with a convolution and a batch-norm right behind it.
        head: that predicts; no gradient goes through it. sharpness: 1 / temperature of its logits.
        steps: per refresh, three forward passes over the memory each.
        spread: sigma.
        reach: of a step, in sigma.
        distance: lambda.
        anchor: share of the modulator that is taken back at each step.
        rule: of the filters, besides; None leaves them alone.

    Raises:
        InputError: the encoder begins otherwise.
    """

    brings_home: ClassVar[bool] = False
    """A few random directions bring the layers' statistics nearer, not the mean of the last feature
    half-way.
    """

    def __init__(
        self,
        encoder: ModuleEncoder,
        head: Head,
        sharpness: float = 1.0,
        *,
        steps: int = 9,
        spread: float = 0.03,
        reach: float = 3.0,
        distance: float = 10.0,
        anchor: float = 0.0,
        rule: SoftHebbian | None = None,
    ) -> None:
        self.encoder, self.head, self.sharpness, self.rule = encoder, head, sharpness, rule
        self.steps = steps
        self.spread = spread
        self.reach = reach
        self.distance = distance
        self.anchor = anchor
        self._net = Modulated(encoder, over_statistics=False)
        self.noise_width = 2 * self._net.channels
        self.frozen = dict(self._net.frozen)
        self.preserves_space = rule is None

    @property
    def name(self) -> str:
        """``forward_only``, or with a rule ``hebbian_evolved``."""
        return "forward_only" if self.rule is None else "hebbian_evolved"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        below = statistic("entropy.below", (1,), bound=1e3)
        return [*(self._net.tensors() if self.rule else []), *self._net.modulator_tensors(), below]

    def factory(self, data: FactoryData) -> Arrays:
        return {
            **(self._net.factory() if self.rule else {}),
            **self._net.modulator_factory(),
            "entropy.below": torch.zeros(1).numpy(),
        }

    def adapt(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Three forward passes over the memory; ``noise`` (2 O,) is the direction that is tried.
        Rows of weight 0 have no part in it.
        """
        x, weight = ports["x"], ports["sample_weight"]
        live = (weight.sum() > 0).to(torch.float32)
        stem = self._filters(x, weight, t)
        here = torch.cat([t[GAIN], t[OFFSET]]) * (1.0 - self.anchor * live)
        direction = self.spread * ports["noise"]
        middle, entropy = self._cost(x, weight, t, stem, here)
        above, _ = self._cost(x, weight, t, stem, here + direction)
        below, _ = self._cost(x, weight, t, stem, here - direction)
        moved = here + live * _lowest(below, middle, above, self.reach) * direction
        largest = most(t)
        below = moved_below(t["entropy.below"], entropy, weight, largest, steps=self.steps)
        gain, offset = torch.split(moved, self._net.channels)
        written = {
            GAIN: gain,
            OFFSET: offset,
            "entropy.below": below,
            **({"stem.weight": stem} if self.rule else {}),
        }
        return {"used": (weight > 0).to(torch.float32), "wants_reset": has_sunk(below)}, written

    def refold(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Role ``derive``: scale and shift of the first batch-norm, and with a rule the filters."""
        constants = self._net.constants(
            t, t["stem.weight"] if self.rule else t["source.stem"], t[GAIN], t[OFFSET]
        )
        if self.rule is None:
            del constants[self._net.weight_name]
        return {}, constants

    def _filters(self, x: Tensor, weight: Tensor, t: Values) -> Tensor:
        if self.rule is None:
            return t["source.stem"]
        given = stem_input(self.encoder, self._net.stem, x, t)
        return self.rule.step(
            self._net.convolution, t["stem.weight"], t["source.stem"], given, weight
        )

    def _cost(
        self, x: Tensor, weight: Tensor, t: Values, stem: Tensor, modulator: Tensor
    ) -> tuple[Tensor, Tensor]:
        gain, offset = torch.split(modulator, self._net.channels)
        passed = self._net.run(x, weight, t, stem, gain, offset)
        entropy = entropy_of(self.head.predict(t, passed.z) * self.sharpness)
        mean = (weight * entropy).sum() / torch.clamp(weight.sum(), min=1e-6)
        return mean / most(t) + self.distance * self._apart(passed, t), entropy

    def _apart(self, passed: Passed, t: Values) -> Tensor:
        """() mean over layers of the mean squared distance of means and deviations, in deviations
        of the source.
        """
        net = self._net.passes
        total = torch.zeros(())
        for mean, variance, home, spread in zip(
            *(
                net.split(v)
                for v in (passed.mean, passed.variance, t["norms.mean"], t["norms.variance"])
            ),
            strict=True,
        ):
            ratio = torch.sqrt((variance + 1e-5) / (spread + 1e-5)) - 1.0
            total = total + ((mean - home) ** 2 / (spread + 1e-5) + ratio * ratio).mean()
        return total / len(net.layers)


def _lowest(below: Tensor, middle: Tensor, above: Tensor, reach: float) -> Tensor:
    """() where the parabola through (-1, below), (0, middle), (1, above) is lowest; where it opens
    downwards, the better of the three.
    """
    slope, bend = 0.5 * (above - below), 0.5 * (above + below) - middle
    bottom = torch.clamp(-slope / (2.0 * torch.clamp(bend, min=1e-6)), -reach, reach)
    side = -torch.sign(slope) * min(1.0, reach)
    return torch.where(bend > 1e-6, bottom, side)
