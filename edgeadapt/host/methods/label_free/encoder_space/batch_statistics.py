"""One pass through an encoder whose batch-norms use the weighted statistics of their own input, or
the source's, and report their own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgeadapt.host.contracts import Values
from edgeadapt.host.encoders.base import NormLayer
from edgeadapt.host.encoders.batch_norm import folded, replace_module
from edgeadapt.host.encoders.torch_module import ModuleEncoder, run_module


class Passed(NamedTuple):
    """Features z (B, D), and the statistics of the layers in order, concatenated: mean and variance
    (C,).
    """

    z: Tensor
    mean: Tensor
    variance: Tensor


class BatchStatisticsPass:
    """``y = gain (x - mu) / sqrt(v + eps) + offset`` with mu, v = weighted moments of x over the
    batch, layer after layer.

    Args:
        encoder: its module is copied.
        first: layers, from the input on, that take part; the others are left alone. None for all.
        is_source: normalise by the source's statistics, and only report those of the batch.
    """

    def __init__(
        self, encoder: ModuleEncoder, first: int | None = None, *, is_source: bool = False
    ) -> None:
        self.encoder, self.layers = encoder, encoder.norms[:first]
        self._is_source = is_source
        self._collector = _Collector()
        self._module = copy.deepcopy(encoder._module)
        for layer in self.layers:
            replace_module(
                self._module,
                layer.path,
                (_SourceStatistics if is_source else _BatchStatistics)(layer, self._collector),
            )
        self.source = {
            part: torch.cat([getattr(layer, part) for layer in self.layers])
            for part in ("gain", "offset", "mean", "variance")
        }
        held = ("gain", "offset", "mean", "variance") if is_source else ("gain", "offset")
        self.frozen = {f"norms.{part}": self.source[part] for part in held}

    @property
    def channels(self) -> int:
        return sum(layer.channels for layer in self.layers)

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        t: Values,
        gain: Tensor,
        offset: Tensor,
        extra: Mapping[str, Tensor] | None = None,
    ) -> Passed:
        """x (B, *input), weight (B,), gain and offset (C,); ``extra`` are further tensors of the
        module in place of those of ``t``.
        """
        self._collector.weight, self._collector.moments = weight, {}
        named: dict[str, Tensor] = dict(extra or {})
        for layer, g, b in zip(self.layers, self.split(gain), self.split(offset), strict=True):
            named[f"{layer.path}.gain"], named[f"{layer.path}.offset"] = g, b
        if self._is_source:
            for layer, mean, variance in zip(
                self.layers,
                self.split(t["norms.mean"]),
                self.split(t["norms.variance"]),
                strict=True,
            ):
                named[f"{layer.path}.mean"], named[f"{layer.path}.variance"] = mean, variance
        z = run_module(self._module, x, t, self.encoder.input, (), self.encoder._feature, named)[
            "z"
        ]
        moments = [self._collector.moments[layer.path] for layer in self.layers]
        return Passed(
            z,
            torch.cat([mean for mean, _ in moments]),
            torch.cat([variance for _, variance in moments]),
        )

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """(C,) into one tensor per layer."""
        return torch.split(values, [layer.channels for layer in self.layers])

    def constants(
        self, gain: Tensor, offset: Tensor, mean: Tensor, variance: Tensor
    ) -> dict[str, Tensor]:
        """Scale and shift of every layer, as the encoder's graph has them, that gains, offsets and
        statistics (C,) amount to.
        """
        made: dict[str, Tensor] = {}
        for layer, *parts in zip(
            self.layers, *(self.split(v) for v in (gain, offset, mean, variance)), strict=True
        ):
            for kind, value in zip(("scale", "shift"), folded(*parts, layer.eps), strict=True):
                name = f"encoder.{layer.path}.{kind}"
                made[name] = value.reshape(self.encoder.frozen[name].shape)
        return made


class _Collector:
    """Sample weights for, and statistics from, one pass through the network."""

    weight: Tensor
    widened: Tensor  # of statistics that are matched by class
    moments: dict[str, tuple[Tensor, Tensor]]


class _BatchStatistics(nn.Module):
    """A batch-norm that uses, and reports, the weighted statistics of its own input (two passes: no
    cancellation).
    """

    def __init__(self, layer: NormLayer, collector: _Collector) -> None:
        super().__init__()
        self.path, self.eps, self.collector = layer.path, layer.eps, collector
        for part in ("gain", "offset", "mean", "variance"):
            self.register_buffer(part, getattr(layer, part).clone())

    def forward(self, x: Tensor) -> Tensor:
        centred, variance, per_channel = self._measure(x)
        scale = (self.gain / torch.sqrt(variance + self.eps)).reshape(per_channel)
        return centred * scale + self.offset.reshape(per_channel)

    def _measure(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        over, per_channel = (0, *range(2, x.dim())), (-1, *[1] * (x.dim() - 2))
        weight = self.collector.weight.reshape(-1, *[1] * (x.dim() - 1))
        total = torch.clamp(self.collector.weight.sum(), min=1e-6) * math.prod(x.shape[2:])
        mean = (x * weight).sum(dim=over) / total
        centred = x - mean.reshape(per_channel)
        variance = (centred * centred * weight).sum(dim=over) / total
        self.collector.moments[self.path] = (mean, variance)
        return centred, variance, per_channel


class _SourceStatistics(_BatchStatistics):
    """A batch-norm on the source's statistics that reports the weighted ones of its own input."""

    def forward(self, x: Tensor) -> Tensor:
        _, _, per_channel = self._measure(x)
        scale = self.gain / torch.sqrt(self.variance + self.eps)
        return x * scale.reshape(per_channel) + (self.offset - self.mean * scale).reshape(
            per_channel
        )
