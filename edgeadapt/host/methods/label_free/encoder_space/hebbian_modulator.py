"""Neuro-modulated Hebbian learning: the first convolution learns by a soft-Hebbian rule, a
modulator behind it by entropy.

    x -> stem convolution W -> batch-norm -> r = (1 + dg) . + db
      -> rest of the encoder (frozen) -> head (frozen) -> H

    hebbian               W <- soft_hebbian(W; m_i = 1)
    hebbian_three_factor  W <- soft_hebbian(W; m_i = exp(E0 - H_i) [H_i < E0]), H_i before the step:
                          the third factor says whether it was right
    neuro_hebbian         W <- soft_hebbian(W; m_i = 1);  then
                          (dg, db) <- (1 - a) (dg, db) - rate d/d(dg, db) mean_i r_i H_i

A reconstruction. Of Tang et al., Neuro-Modulated Hebbian Learning for Fully Test-Time Adaptation,
CVPR 2023, arXiv 2303.00914, there is no public code. Known are the order of steps, that the first
convolution learns by a soft-Hebbian rule with lateral inhibition, that a feedback modulator is
tuned by entropy through the frozen rest, and that the classifier is locked. The rule is that of
SoftHebb, in a form that keeps the norm of every filter. Where the modulator sits, its form (gain
and offset for each channel), all constants, the filter of reliable samples, the anchor and the
reset are ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Head, Values, statistic
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.label_free.encoder_space.batch_statistics import (
    BatchStatisticsPass,
    Passed,
)
from edgeadapt.host.methods.label_free.encoder_space.norm_statistics import (
    moved_statistics,
    statistics_factory,
    statistics_tensors,
)
from edgeadapt.host.methods.label_free.encoder_space.predictive_entropy import (
    entropy_of,
    has_sunk,
    most,
    moved_below,
    reliability,
    require_gradient,
)
from edgeadapt.host.methods.label_free.encoder_space.soft_hebbian import (
    SoftHebbian,
    stem_input,
    stem_of,
)

GAIN, OFFSET = "modulator.gain", "modulator.offset"


class Modulated:
    """An encoder with a gain and an offset for each channel behind its first batch-norm, and
    perhaps other filters in its first convolution.

    Args:
        encoder: begins with a convolution and a batch-norm right behind it.
        over_statistics: the batch-norms take the statistics of the memory; else the source's.
        statistics_rate: of the moving average over refreshes, as of ``NormStatistics``.
    """

    def __init__(
        self, encoder: ModuleEncoder, *, over_statistics: bool = True, statistics_rate: float = 1.0
    ) -> None:
        self.encoder = encoder
        self.over_statistics = over_statistics
        self.statistics_rate = statistics_rate
        self.stem = stem_of(encoder)
        self.passes = BatchStatisticsPass(encoder, is_source=not over_statistics)
        self.convolution = encoder._module.get_submodule(self.stem.convolution)
        self.weight_name = f"encoder.{self.stem.convolution}.weight"
        self.place = next(
            i for i, layer in enumerate(self.passes.layers) if layer.path == self.stem.norm
        )
        self.channels = self.passes.layers[self.place].channels
        self.frozen = {**self.passes.frozen, "source.stem": encoder.frozen[self.weight_name]}

    def run(
        self, x: Tensor, weight: Tensor, t: Values, stem: Tensor, gain: Tensor, offset: Tensor
    ) -> Passed:
        """``stem`` filters, ``gain`` and ``offset`` (O,) as differences to 1 and 0."""
        return self.passes(
            x, weight, t, *self._affine(t, gain, offset), {f"{self.stem.convolution}.weight": stem}
        )

    def constants(self, t: Values, stem: Tensor, gain: Tensor, offset: Tensor) -> dict[str, Tensor]:
        """The encoder's constants."""
        at = "norm" if self.over_statistics else "norms"
        folded = self.passes.constants(
            *self._affine(t, gain, offset), t[f"{at}.mean"], t[f"{at}.variance"]
        )
        if not self.over_statistics:  # only the layer that is modulated is another one
            folded = {
                name: value
                for name, value in folded.items()
                if name.startswith(f"encoder.{self.stem.norm}.")
            }
        return {self.weight_name: stem + 0.0, **folded}

    def _affine(self, t: Values, gain: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        gains, offsets = (
            list(self.passes.split(t["norms.gain"])),
            list(self.passes.split(t["norms.offset"])),
        )
        own, shift = gains[self.place], offsets[self.place]
        gains[self.place], offsets[self.place] = own * (1.0 + gain), shift * (1.0 + gain) + offset
        return torch.cat(gains), torch.cat(offsets)

    def tensors(self) -> list[TensorSpec]:
        shape = tuple(self.encoder.frozen[self.weight_name].shape)
        return [
            *(statistics_tensors(self.passes) if self.over_statistics else []),
            statistic("stem.weight", shape, bound=1e3),
        ]

    def factory(self) -> Arrays:
        statistics = statistics_factory(self.passes) if self.over_statistics else {}
        return {**statistics, "stem.weight": self.encoder.frozen[self.weight_name].numpy()}

    def modulator_tensors(self) -> list[TensorSpec]:
        return [statistic(name, (self.channels,), bound=1e3) for name in (GAIN, OFFSET)]

    def modulator_factory(self) -> Arrays:
        return {name: torch.zeros(self.channels).numpy() for name in (GAIN, OFFSET)}

    def measured(self, passed: Passed, t: Values, weight: Tensor) -> dict[str, Tensor]:
        """The statistics of a pass over rows of ``weight`` (B,), to be written; none on the
        source's.
        """
        return (
            moved_statistics(t, passed, weight, self.statistics_rate)
            if self.over_statistics
            else {}
        )


class Hebbian:
    """The Hebbian rule alone. Domain state: ``stem.weight`` (O, I, h, w), and with
    ``over_statistics`` ``norm.mean``, ``norm.variance`` (C,).

    Args:
        encoder: begins with a convolution and a batch-norm right behind it.
        rule: of the filters.
        over_statistics: on top of norm statistics of the same memory.
        statistics_rate: of their moving average.
        steps: per refresh.

    Raises:
        InputError: the encoder begins otherwise.
    """

    name: ClassVar[str] = "hebbian"
    preserves_space: ClassVar[bool] = False
    """Other filters make other features: labels are learned from the factory encoder's."""

    def __init__(
        self,
        encoder: ModuleEncoder,
        *,
        rule: SoftHebbian | None = None,
        over_statistics: bool = True,
        statistics_rate: float = 0.5,
        steps: int = 1,
    ) -> None:
        self.encoder, self.rule, self.steps = encoder, rule or SoftHebbian(), steps
        self._net = Modulated(
            encoder, over_statistics=over_statistics, statistics_rate=statistics_rate
        )
        self.frozen = dict(self._net.frozen)
        self.brings_home = over_statistics
        self._none = torch.zeros(self._net.channels)

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return self._net.tensors()

    def factory(self, data: FactoryData) -> Arrays:
        return self._net.factory()

    def adapt(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One step of the rule on the memory, then its statistics through the new filters; rows of
        weight 0 have no part in it.
        """
        weight = ports["sample_weight"]
        stem = self._learned(
            ports["x"], weight, weight * self._third_factor(ports["x"], weight, t), t
        )
        passed = self._net.run(ports["x"], weight, t, stem, self._none, self._none)
        return _outputs(weight, weight.sum() * 0.0), {
            "stem.weight": stem,
            **self._net.measured(passed, t, weight),
        }

    def refold(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Role ``derive``: filters of the first convolution, and scale and shift."""
        return {}, self._net.constants(t, t["stem.weight"], self._none, self._none)

    def _learned(self, x: Tensor, weight: Tensor, factor: Tensor, t: Values) -> Tensor:
        given = stem_input(self.encoder, self._net.stem, x, t)
        return self.rule.step(
            self._net.convolution, t["stem.weight"], t["source.stem"], given, factor
        )

    def _third_factor(self, x: Tensor, weight: Tensor, t: Values) -> Tensor:
        """(B,) m_i."""
        return torch.ones_like(weight)


class ThreeFactorHebbian(Hebbian):
    """Each sample's part in the rule is weighed by how sure the encoder was of it before: no
    gradient, one more forward pass.

    Args:
        head: that predicts. sharpness: 1 / temperature of its logits.
        options: of ``Hebbian``.
    """

    name: ClassVar[str] = "hebbian_three_factor"

    def __init__(
        self, encoder: ModuleEncoder, head: Head, sharpness: float = 1.0, **options: Any
    ) -> None:
        super().__init__(encoder, **options)
        self.head, self.sharpness = head, sharpness

    def _third_factor(self, x: Tensor, weight: Tensor, t: Values) -> Tensor:
        before = self._net.run(x, weight, t, t["stem.weight"], self._none, self._none)
        return reliability(entropy_of(self.head.predict(t, before.z) * self.sharpness), most(t))


class NeuroHebbian(Hebbian):
    """Hebbian filters, and a modulator tuned by one entropy step through the frozen rest, in one
    graph.

    Further domain state: ``modulator.gain``, ``modulator.offset`` (O,), ``entropy.below`` (1,).

    Args:
        head: that predicts; a gradient must go through it.
        sharpness: 1 / temperature of its logits.
        rate: of the modulator.
        anchor: share of it that is taken back at each step.
        margin: of the reliable samples.
        options: of ``Hebbian``.

    Raises:
        InputError: the encoder begins otherwise, or the head has no gradient.
    """

    name: ClassVar[str] = "neuro_hebbian"

    def __init__(
        self,
        encoder: ModuleEncoder,
        head: Head,
        sharpness: float = 1.0,
        *,
        rate: float = 0.1,
        anchor: float = 0.01,
        margin: float = 0.4,
        **options: Any,
    ) -> None:
        require_gradient(head, self.name)
        super().__init__(encoder, **options)
        self.head, self.sharpness = head, sharpness
        self.rate, self.anchor, self.margin = rate, anchor, margin

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        below = statistic("entropy.below", (1,), bound=1e3)
        return [*self._net.tensors(), *self._net.modulator_tensors(), below]

    def factory(self, data: FactoryData) -> Arrays:
        return {
            **self._net.factory(),
            **self._net.modulator_factory(),
            "entropy.below": torch.zeros(1).numpy(),
        }

    def adapt(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Hebbian step, forward, entropy, gradient of the modulator; rows of weight 0 have no part
        in it.
        """
        weight = ports["sample_weight"]
        live = (weight.sum() > 0).to(torch.float32)
        largest = most(t)
        stem = self._learned(ports["x"], weight, weight, t)

        def objective(modulator: dict[str, Tensor]) -> tuple[Tensor, tuple[Passed, Tensor]]:
            passed = self._net.run(ports["x"], weight, t, stem, modulator[GAIN], modulator[OFFSET])
            entropy = entropy_of(self.head.predict(t, passed.z) * self.sharpness)
            sure = weight * reliability(entropy, largest, self.margin)
            return (sure * entropy).sum() / torch.clamp(weight.sum(), min=1e-6), (passed, entropy)

        modulator = {name: t[name] for name in (GAIN, OFFSET)}
        gradients, (passed, entropy) = torch.func.grad(objective, has_aux=True)(modulator)
        new = {
            name: (1.0 - self.anchor * live) * value - (self.rate * live) * gradients[name]
            for name, value in modulator.items()
        }
        below = moved_below(t["entropy.below"], entropy, weight, largest, self.margin)
        written = {
            "stem.weight": stem,
            **new,
            "entropy.below": below,
            **self._net.measured(passed, t, weight),
        }
        return _outputs(weight, has_sunk(below, self.margin)), written

    def refold(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Role ``derive``: filters of the first convolution, and scale and shift with the modulator
        folded in.
        """
        return {}, self._net.constants(t, t["stem.weight"], t[GAIN], t[OFFSET])


def _outputs(weight: Tensor, wants_reset: Tensor) -> dict[str, Tensor]:
    return {"used": (weight > 0).to(torch.float32), "wants_reset": wants_reset}
