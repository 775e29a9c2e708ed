"""Normalisation statistics from a small memory of recent inputs: forward-only adaptation of a source-trained encoder.

    for each batch-norm in turn:  mu, v = weighted moments of its input over the memory;  y = gain (x - mu) / sqrt(v + eps) + offset

The device keeps the memory balanced by predicted class, so that a label-sorted stream does not become the statistics (Gong et
al., NOTE, NeurIPS 2022, arXiv 2208.05117; Yuan et al., RoTTA, CVPR 2023, arXiv 2303.13899). Unlike them nothing is averaged over time: the
memory's own statistics are taken whole (a mix with the source hurts under strong shift), and they act only while a
condition lasts. ``refold`` turns statistics into the scale and shift constants of the encoder's graph.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.host.encoding import NormLayer
from edgeadapt.host.methods.base import Arrays, Dims, FactoryData, Values
from edgeadapt.host.module_encoder import ModuleEncoder, folded, replace_module, run_module


class _Collector:
    """Sample weights for, and statistics from, one pass through the network."""

    weight: Tensor
    moments: dict[str, tuple[Tensor, Tensor]]


class _BatchStatistics(nn.Module):
    """A batch-norm that uses, and reports, the weighted statistics of its own input (two passes: no cancellation)."""

    def __init__(self, layer: NormLayer, collector: _Collector) -> None:
        super().__init__()
        self.path, self.eps, self.collector = layer.path, layer.eps, collector
        self.register_buffer("gain", layer.gain.clone())
        self.register_buffer("offset", layer.offset.clone())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.collector.weight[:, None, None, None]
        total = torch.clamp(weight.sum(), min=1e-6) * (x.shape[2] * x.shape[3])
        mean = (x * weight).sum(dim=(0, 2, 3)) / total
        centred = x - mean[:, None, None]
        variance = (centred * centred * weight).sum(dim=(0, 2, 3)) / total
        self.collector.moments[self.path] = (mean, variance)
        scale = (self.gain / torch.sqrt(variance + self.eps))[:, None, None]
        return centred * scale + self.offset[:, None, None]


class NormStatistics:
    """Domain state ``norm.mean`` and ``norm.variance``: all channels of all batch-norms, concatenated (C,)."""

    name: ClassVar[str] = "norm_statistics"

    def __init__(self, encoder: ModuleEncoder) -> None:
        self.encoder = encoder
        self._collector = _Collector()
        self._module = copy.deepcopy(encoder._module)
        for layer in encoder.norms:
            replace_module(self._module, layer.path, _BatchStatistics(layer, self._collector))
        self.frozen = {f"norms.{layer.path}.gain": layer.gain for layer in encoder.norms}
        self.frozen |= {f"norms.{layer.path}.offset": layer.offset for layer in encoder.norms}

    @property
    def channels(self) -> int:
        return sum(layer.channels for layer in self.encoder.norms)

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        return [
            TensorSpec(name=name, dtype="float32", shape=(self.channels,), kind="statistic", scope="domain", merge="mean", bound=1e6)
            for name in ("norm.mean", "norm.variance")
        ]

    def factory(self, data: FactoryData) -> Arrays:
        return {
            "norm.mean": torch.cat([layer.mean for layer in self.encoder.norms]).numpy(),
            "norm.variance": torch.cat([layer.variance for layer in self.encoder.norms]).numpy(),
        }

    def adapt(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Ports ``x`` (B, *input) and ``sample_weight`` (B,); rows of weight 0 are not part of the memory."""
        weight = ports["sample_weight"]
        self._collector.weight, self._collector.moments = weight, {}
        extra = {f"{layer.path}.{part}": t[f"norms.{layer.path}.{part}"] for layer in self.encoder.norms for part in ("gain", "offset")}
        run_module(self._module, ports["x"], t, self.encoder.input, (), None, extra)
        moments = [self._collector.moments[layer.path] for layer in self.encoder.norms]
        is_live = weight.sum() > 0
        mean = torch.where(is_live, torch.cat([m for m, _ in moments]), t["norm.mean"])
        variance = torch.where(is_live, torch.cat([v for _, v in moments]), t["norm.variance"])
        return {"used": (weight > 0).to(torch.float32), "wants_reset": weight.sum() * 0.0}, {"norm.mean": mean, "norm.variance": variance}

    def refold(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Role ``derive``: statistics -> the encoder's scale and shift constants."""
        constants: dict[str, Tensor] = {}
        start = 0
        for layer in self.encoder.norms:
            columns = slice(start, start + layer.channels)
            start += layer.channels
            gain, offset = t[f"norms.{layer.path}.gain"], t[f"norms.{layer.path}.offset"]
            scale, shift = folded(gain, offset, t["norm.mean"][columns], t["norm.variance"][columns], layer.eps)
            constants[f"encoder.{layer.path}.scale"], constants[f"encoder.{layer.path}.shift"] = scale, shift
        return {}, constants
