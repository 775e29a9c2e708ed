"""Entropy minimisation over the statistics of the memory: gains and offsets of every batch-norm, by
gradient.

    f = encoder with batch-norms on the statistics of the memory, gains g + dg, offsets b + db
    TENT       L = mean_i H_i                                      (dg, db) <- Adam(dL / d(dg, db))
    guarded    L = mean_i w_i H_i,  w_i = r_i [cos(p_i, q) < d]
                   (dg, db) <- (1 - a) ((dg, db) + momentum step)
               r_i the reliability of ``predictive_entropy.py``, q a running mean of predictions

Tensors of a condition are the differences dg, db to the source (factory 0), the statistics, and the
optimiser's own. ``refold`` folds all of them into the encoder's scale and shift.

Sources: Wang et al., TENT, ICLR 2021, arXiv 2006.10726 (Adam, rate 1e-3, one step per batch,
statistics of the batch). Niu et al., EATA, ICML 2022, arXiv 2204.02610 (weights, redundancy) and
SAR, ICLR 2023, arXiv 2302.12400 (reset). Where the guarded form differs: a pull to the source in
place of EATA's Fisher penalty, which needs gradients over source samples that no device has; no SAM
step, which doubles the cost; the mean is over all samples and not over the reliable ones, so that a
memory in which few are sure moves little.
"""

from __future__ import annotations

from typing import ClassVar

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
    soft_step,
)
from edgeadapt.host.steps.optimisers import Adam, Momentum, Optimiser

GAIN, OFFSET = "norm.gain", "norm.offset"


class Tent:
    """Domain state ``norm.gain``, ``norm.offset`` (differences to the source), ``norm.mean``,
    ``norm.variance``, all (C,), and the optimiser's.

    Args:
        encoder: with batch-norms.
        head: that predicts; a gradient must go through it.
        sharpness: 1 / temperature of its logits.
        rate: learning rate; 0 leaves norm statistics alone.
        optimiser: of ``host/steps/optimisers.py``.
        steps: per refresh.
        statistics_rate: of the moving average over refreshes, as of ``NormStatistics``; the step
            itself takes those of the memory.

    Raises:
        InputError: the head has no gradient.
    """

    name: ClassVar[str] = "tent"

    def __init__(
        self,
        encoder: ModuleEncoder,
        head: Head,
        sharpness: float = 1.0,
        *,
        rate: float = 1e-3,
        optimiser: Optimiser | None = None,
        steps: int = 1,
        statistics_rate: float = 1.0,
    ) -> None:
        require_gradient(head, self.name)
        self.statistics_rate = statistics_rate
        self.encoder = encoder
        self.head = head
        self.sharpness = sharpness
        self.rate = rate
        self.steps = steps
        self.optimiser: Optimiser = optimiser or Adam()
        self._pass = BatchStatisticsPass(encoder)
        self.frozen = dict(self._pass.frozen)
        zero = torch.zeros(self._pass.channels)
        self._state = {
            name: value.reshape(value.shape or (1,)).clone()
            for name, value in self.optimiser.state({GAIN: zero, OFFSET: zero}).items()
        }
        self._counters = {
            name for name, value in self.optimiser.state({GAIN: zero}).items() if value.dim() == 0
        }

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        shape = (self._pass.channels,)
        moved = [statistic(name, shape, bound=1e3) for name in (GAIN, OFFSET)]
        own = [
            statistic(name, tuple(value.shape), bound=1e9, merge="replace", persist="session")
            for name, value in self._state.items()
        ]
        return [*statistics_tensors(self._pass), *moved, *own]

    def factory(self, data: FactoryData) -> Arrays:
        zero = torch.zeros(self._pass.channels).numpy()
        return {
            **statistics_factory(self._pass),
            GAIN: zero,
            OFFSET: zero.copy(),
            **{name: value.numpy() for name, value in self._state.items()},
        }

    # -- one step ----------------------------------------------------------------------------------
    def adapt(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One forward and one backward pass over the memory; rows of weight 0 have no part in
        it.
        """
        weight = ports["sample_weight"]
        live = (weight.sum() > 0).to(torch.float32)

        def objective(parameters: dict[str, Tensor]) -> tuple[Tensor, tuple[Passed, Tensor]]:
            passed = self._pass(
                ports["x"],
                weight,
                t,
                t["norms.gain"] + parameters[GAIN],
                t["norms.offset"] + parameters[OFFSET],
            )
            logits = self.head.predict(t, passed.z) * self.sharpness
            loss = (weight * self._weigh(t, logits) * entropy_of(logits)).sum() / torch.clamp(
                weight.sum(), min=1e-6
            )
            return loss, (passed, logits)

        parameters = {name: t[name] for name in (GAIN, OFFSET)}
        gradients, (passed, logits) = torch.func.grad(objective, has_aux=True)(parameters)
        state = {
            name: t[name].reshape(()) if name in self._counters else t[name] for name in self._state
        }
        moved, after = self.optimiser.update(parameters, gradients, state, self.rate, live=live)
        new = {
            **self._anchored(moved, live),
            **{name: value.reshape(self._state[name].shape) for name, value in after.items()},
        }
        new |= moved_statistics(t, passed, weight, self.statistics_rate)
        wants_reset, watched = self._watch(t, logits, weight)
        return {"used": (weight > 0).to(torch.float32), "wants_reset": wants_reset}, {
            **new,
            **watched,
        }

    def refold(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Role ``derive``: the encoder's scale and shift constants."""
        gain, offset = t["norms.gain"] + t[GAIN], t["norms.offset"] + t[OFFSET]
        return {}, self._pass.constants(gain, offset, t["norm.mean"], t["norm.variance"])

    # -- what the guarded form does otherwise ------------------------------------------------------
    def _weigh(self, t: Values, logits: Tensor) -> Tensor:
        """(B,) weight of each sample's entropy."""
        return torch.ones_like(logits[:, 0])

    def _anchored(self, moved: dict[str, Tensor], live: Tensor) -> dict[str, Tensor]:
        return moved

    def _watch(self, t: Values, logits: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``wants_reset`` (), and tensors of the guard."""
        return weight.sum() * 0.0, {}


class GuardedEntropy(Tent):
    """TENT on samples that are sure and not redundant, anchored to the source, with a reset.
    Besides: ``entropy.below`` (1,), ``entropy.prediction`` (K,).

    Args:
        margin: samples above margin ln K have no part.
        alike: largest cosine of a prediction with the average prediction; 1 for no limit.
        anchor: share of (dg, db) that is taken back at each step.
    """

    name: ClassVar[str] = "guarded_entropy"

    def __init__(
        self,
        encoder: ModuleEncoder,
        head: Head,
        sharpness: float = 1.0,
        *,
        rate: float = 0.01,
        optimiser: Optimiser | None = None,
        steps: int = 1,
        statistics_rate: float = 0.5,
        margin: float = 0.4,
        alike: float = 0.9,
        anchor: float = 0.01,
    ) -> None:
        super().__init__(
            encoder,
            head,
            sharpness,
            rate=rate,
            optimiser=optimiser or Momentum(),
            steps=steps,
            statistics_rate=statistics_rate,
        )
        self.margin, self.alike, self.anchor = margin, alike, anchor

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return [
            *super().tensors(dims),
            statistic("entropy.below", (1,), bound=1e3),
            statistic("entropy.prediction", (dims.slots,), bound=1.0, class_axis=0),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        return {
            **super().factory(data),
            "entropy.below": torch.zeros(1).numpy(),
            "entropy.prediction": torch.zeros(data.slots).numpy(),
        }

    def _weigh(self, t: Values, logits: Tensor) -> Tensor:
        p, q = torch.softmax(logits, dim=1).detach(), t["entropy.prediction"]
        cosine = (p @ q) / (
            torch.sqrt((p * p).sum(dim=1) + 1e-12) * torch.sqrt((q * q).sum() + 1e-12)
        )
        return reliability(entropy_of(logits), most(t), self.margin) * soft_step(
            (self.alike - cosine) / 0.05
        )

    def _anchored(self, moved: dict[str, Tensor], live: Tensor) -> dict[str, Tensor]:
        return {name: value * (1.0 - self.anchor * live) for name, value in moved.items()}

    def _watch(self, t: Values, logits: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        largest = most(t)
        below = moved_below(t["entropy.below"], entropy_of(logits), weight, largest, self.margin)
        q = t["entropy.prediction"]
        mean = (weight[:, None] * torch.softmax(logits, dim=1)).sum(dim=0) / torch.clamp(
            weight.sum(), min=1e-6
        )
        prediction = torch.where(
            weight.sum() > 0, torch.where(q.sum() > 0, 0.9 * q + 0.1 * mean, mean), q
        )
        return has_sunk(below, self.margin), {
            "entropy.below": below,
            "entropy.prediction": prediction,
        }
