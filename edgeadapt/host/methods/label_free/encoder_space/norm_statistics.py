"""Normalisation statistics from a small memory of recent inputs: forward-only adaptation of a
source-trained encoder.

    for each batch-norm in turn   mu, v = weighted moments of its input over the memory
                                  y = gain (x - mu) / sqrt(v + eps) + offset
    domain state                  s <- s + rate ((mu, v) - s)

The device keeps the memory balanced by predicted class, so that a label-sorted stream does not
become the statistics (Gong et al., NOTE, NeurIPS 2022, arXiv 2208.05117; Yuan et al., RoTTA, CVPR
2023, arXiv 2303.13899). Unlike them nothing is averaged over time by default (``rate`` 1): the
memory's own statistics are taken whole (a mix with the source hurts under strong shift), and they
act only while a condition lasts. ``refold`` turns statistics into the scale and shift constants of
the encoder's graph.

Where loading an encoder again is dear, ``is_unfolded`` leaves the statistics tensors: the bundle
has a second graph of the encoder that reads them, for conditions other than the factory's. It costs
a multiplication and an addition for each adapted layer, which is why it is meant for the ``first``
few layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, Values, statistic
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.label_free.encoder_space.batch_statistics import (
    BatchStatisticsPass,
    Passed,
)


class NormStatistics:
    """Domain state ``norm.mean`` and ``norm.variance``: all channels of the batch-norms it adapts,
    concatenated (C,).

    Args:
        encoder: with batch-norms.
        rate: in (0, 1], of the moving average over refreshes, which begins at the source; 1 takes
            the memory's statistics whole.
        first: adapt only so many batch-norms, from the input on; None for all.
        is_unfolded: a second encoder reads the statistics; else the encoder is folded again with
            them.
        through: a pass that measures otherwise; None for plain statistics of the first layers.

    Raises:
        InputError: a rate or a number of layers out of range.
    """

    def __init__(
        self,
        encoder: ModuleEncoder,
        *,
        rate: float = 1.0,
        first: int | None = None,
        is_unfolded: bool = False,
        through: BatchStatisticsPass | None = None,
    ) -> None:
        if not 0.0 < rate <= 1.0:
            raise InputError(f"the rate of norm statistics is above 0 and at most 1, got {rate}")
        if first is not None and not 0 < first <= len(encoder.norms):
            raise InputError(
                f"norm statistics of the first {first} layers: this encoder has"
                f" {len(encoder.norms)} batch-norms"
            )
        self.encoder, self.rate, self.is_unfolded = encoder, rate, is_unfolded
        self._pass = through or BatchStatisticsPass(encoder, first)
        self.frozen = dict(self._pass.frozen)

    @property
    def name(self) -> str:
        """``norm_statistics``, ``norm_statistics_averaged`` or ``norm_statistics_unfolded``."""
        return (
            "norm_statistics"
            + ("_averaged" if self.rate < 1.0 else "")
            + ("_unfolded" if self.is_unfolded else "")
        )

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return statistics_tensors(self._pass)

    def factory(self, data: FactoryData) -> Arrays:
        return statistics_factory(self._pass)

    def adapt(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Ports ``x`` (B, *input) and ``sample_weight`` (B,); rows of weight 0 are not part of the
        memory.
        """
        weight = ports["sample_weight"]
        passed = self._pass(ports["x"], weight, t, t["norms.gain"], t["norms.offset"])
        new = moved_statistics(t, passed, weight, self.rate)
        return {"used": (weight > 0).to(torch.float32), "wants_reset": weight.sum() * 0.0}, new

    def refold(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Role ``derive``: statistics -> the encoder's scale and shift constants."""
        return {}, self._pass.constants(
            t["norms.gain"], t["norms.offset"], t["norm.mean"], t["norm.variance"]
        )

    def encode(self, ports: Values, t: Values) -> dict[str, Tensor]:
        """Role ``encode`` of the unfolded form: port ``x`` (B, *input) to ``z`` and ``taps``, by
        the statistics of ``t``.
        """
        return self.encoder.encode(ports, {**t, **self.refold({}, t)[1]})


def statistics_tensors(through: BatchStatisticsPass) -> list[TensorSpec]:
    """``norm.mean`` and ``norm.variance`` (C,) of a condition."""
    return [statistic(name, (through.channels,)) for name in ("norm.mean", "norm.variance")]


def moved_statistics(t: Values, passed: Passed, weight: Tensor, rate: float) -> dict[str, Tensor]:
    """``s + rate (measured - s)``; the old values, bit for bit, where no row of ``weight`` (B,)
    counts.
    """
    new = {}
    for name, measured in (("norm.mean", passed.mean), ("norm.variance", passed.variance)):
        moved = measured if rate == 1.0 else t[name] + rate * (measured - t[name])
        new[name] = torch.where(weight.sum() > 0, moved, t[name])
    return new


def statistics_factory(through: BatchStatisticsPass) -> Arrays:
    return {f"norm.{part}": through.source[part].numpy() for part in ("mean", "variance")}
