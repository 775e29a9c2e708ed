"""Normalisation statistics that do not take a run of one class for a condition: measured against
what the source shows of the same classes.

    p      = shares of the classes that the encoder predicts on the memory, at its present
             statistics
    c      = mean confidence of these predictions, times min(1, max(0, 10 (t - 0.5))), where a share
             t of the memory lies no farther from every class mean than 99% of the source does
    e      = mu0 + d0 D,   D = c sum_k p_k d_k     mean that the source has at these shares
    e2     = (1 - c) v0 + d0^2 (c sum_k p_k (w_k + d_k^2) - D^2)     and its variance
    r      = (v + q v0) / (e2 + q v0),   q = 0.03 K sum_k p_k^2
             how much wider the memory's inputs are than they should be
    mu_c   = sqrt(r) mu0 + (mu - sqrt(r) e),   v_c = r v0
             the condition as an affine map, applied to the source's statistics
    state <- state + a ((mu_c, v_c) - state)
             a = 1 from the factory's statistics, ``rate`` from then on

for each batch-norm in turn, with mu, v the memory's moments, mu0, v0 the source's, d0^2 = max(v0,
1e-5), and d_k = (m_k - mu0) / d0, w_k = v_k / d0^2 from the moments m_k, v_k of class k (per
channel, taken from the factory's labelled samples). In these units every value is of order one, so
they are rounded to float16 unless one overflows; classes that the factory did not show have the
source's. On a memory of all classes this is :class:`NormStatistics`; on one that holds a few
classes it is not pulled towards them, so it can act on streams sorted by class and costs nothing on
clean ones. That shares of classes must be told from a change of conditions is the point of NOTE
(Gong et al., NeurIPS 2022, arXiv 2208.05117), which balances a memory by predicted class, and the
device does that too; matching what is left of the imbalance with the source's class moments is
ours. Under very strong shift the predictions are wrong and so are the shares, but then the features
lie far from every class: ``c`` falls, and what is left are plain statistics.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.host.contracts import Head, Values, one_hot
from edgeadapt.host.encoders.base import NormLayer
from edgeadapt.host.encoders.batch_norm import replace_module
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.label_free.encoder_space.batch_statistics import (
    BatchStatisticsPass,
    _BatchStatistics,
    _Collector,
)
from edgeadapt.host.methods.label_free.encoder_space.norm_statistics import NormStatistics

# q: share of the source's variance by which both sides of the ratio are widened; a class that is
# silent in a channel says little there
_WIDENED = 0.03
_TYPICAL = 0.99  # quantile of the source's distances from the nearest class mean
# the predictions are trusted in full where three fifths of the memory are typical, and not at all
# where fewer than half are
_STEEPNESS = 10.0
# of the source, in units of which class moments are kept: a norm's epsilon hides what is less
_LEAST_VARIANCE = 1e-5
_ROWS = 32  # inputs at a time: activations of 256 images take a gigabyte


class ClassMatchedStatistics(NormStatistics):
    """Domain state ``norm.mean`` and ``norm.variance`` (C,), as of :class:`NormStatistics`; frozen
    are the moments (F, C) of the factory's classes.

    Args:
        encoder: with batch-norms.
        head: predicts the classes of the memory.
        sharpness: 1 / temperature of its logits.
        x, y: labelled inputs (N, *input) of the factory, and their class slots (N,).
        slots: K; rate: in (0, 1], of the moving average over refreshes. A slot without inputs has
            the source's moments, so that a class from the field is expected to look like the
            source; one that takes the slot of a factory class that was removed has that class's.
    """

    name = "class_matched_statistics"
    home: ClassVar[float] = 0.8
    """Statistics that suit the classes in memory bring these home easily; decision 15 has what
    margins cost and saved.
    """

    def __init__(
        self,
        encoder: ModuleEncoder,
        head: Head,
        sharpness: float,
        x: NDArray[Any],
        y: NDArray[np.int64],
        slots: int,
        rate: float = 0.3,
    ) -> None:
        self._pass: _MatchedPass
        super().__init__(encoder, rate=rate, through=_MatchedPass(encoder))
        self.head, self.sharpness, self.slots = head, sharpness, slots
        farthest = torch.quantile(
            _distance(features := _features(encoder, x), _means(features, y, slots)), _TYPICAL
        ).reshape(1)
        self.frozen |= {**self._pass.class_moments(x, y), "norms.farthest": farthest}

    def adapt(self, ports: Values, t: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Ports ``x`` (B, *input) and ``sample_weight`` (B,); rows of weight 0 are not part of the
        memory.
        """
        weight = ports["sample_weight"]
        constants = self._pass.constants(
            t["norms.gain"], t["norms.offset"], t["norm.mean"], t["norm.variance"]
        )
        z = self.encoder.encode({"x": ports["x"]}, {**t, **constants})["z"]
        logits = self.head.predict(t, z)
        share = weight / torch.clamp(weight.sum(), min=1e-6)
        is_typical = (_distance(z, t["head.mean"]) <= t["norms.farthest"]).to(torch.float32)
        trust = torch.clamp(_STEEPNESS * ((is_typical * share).sum() - 0.5), 0.0, 1.0)
        confidence = (
            trust * (torch.softmax(logits * self.sharpness, dim=1).max(dim=1).values * share).sum()
        )
        shares = (one_hot(logits.argmax(dim=1), self.slots) * share[:, None]).sum(dim=0)
        expected, spread = expected_moments(t, confidence * shares)
        # 1 where all classes are there alike, K where one is
        narrowness = torch.clamp((shares * shares).sum() * t["head.active"].sum(), min=1.0)
        measured = self._pass.matched(
            ports["x"], weight, t, expected, spread, _WIDENED * narrowness
        )
        is_live = weight.sum() > 0
        is_first = (
            torch.abs(t["norm.mean"] - t["norms.mean"]).sum()
            + torch.abs(t["norm.variance"] - t["norms.variance"]).sum()
        ) == 0
        rate = torch.where(is_first, 1.0, self.rate)
        new = {
            name: torch.where(is_live, t[name] + rate * (value - t[name]), t[name])
            for name, value in zip(("norm.mean", "norm.variance"), measured, strict=True)
        }
        return {"used": (weight > 0).to(torch.float32), "wants_reset": weight.sum() * 0.0}, new


def _distance(z: Tensor, means: Tensor) -> Tensor:
    """(B,) 1 - cosine to the nearest class mean; an unused slot, whose mean is zero, is as far as a
    right angle.
    """
    unit = means / torch.sqrt((means * means).sum(dim=1, keepdim=True) + 1e-12)
    return (
        1 - ((z / torch.sqrt((z * z).sum(dim=1, keepdim=True) + 1e-12)) @ unit.T).max(dim=1).values
    )


def _features(encoder: ModuleEncoder, x: NDArray[Any]) -> Tensor:
    """(N, D) of the factory encoder."""
    with torch.no_grad():
        parts = [
            encoder.encode(
                {"x": torch.from_numpy(np.ascontiguousarray(x[i : i + _ROWS]))}, encoder.frozen
            )["z"]
            for i in range(0, len(x), _ROWS)
        ]
    return torch.cat(parts)


def _means(z: Tensor, y: NDArray[np.int64], slots: int) -> Tensor:
    """(K, D), zero for a slot without samples."""
    of_class = one_hot(torch.from_numpy(y), slots)
    return of_class.T @ z / torch.clamp(of_class.sum(dim=0)[:, None], min=1.0)


class _MatchedPass(BatchStatisticsPass):
    """A pass whose batch-norms measure their input against expected moments, and use the
    condition's statistics that follow.
    """

    def __init__(self, encoder: ModuleEncoder) -> None:
        super().__init__(encoder)
        for layer in self.layers:
            replace_module(self._module, layer.path, _MatchedStatistics(layer, self._collector))
        self.frozen |= {
            "norms.mean": self.source["mean"],
            "norms.variance": self.source["variance"],
        }

    def matched(
        self,
        x: Tensor,
        weight: Tensor,
        t: Values,
        expected: Tensor,
        spread: Tensor,
        widened: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) of the condition, from the mean and variance (C,) that the source
        has at the memory's shares of classes, and q ().
        """
        self._collector.widened = widened
        extra: dict[str, Tensor] = {}
        parts = zip(
            self.layers,
            *map(self.split, (t["norms.mean"], t["norms.variance"], expected, spread)),
            strict=True,
        )
        for layer, mean, variance, e, s in parts:
            extra |= {
                f"{layer.path}.{name}": value
                for name, value in (
                    ("mean", mean),
                    ("variance", variance),
                    ("expected", e),
                    ("spread", s),
                )
            }
        passed = self(x, weight, t, t["norms.gain"], t["norms.offset"], extra)
        return passed.mean, passed.variance

    def class_moments(self, x: NDArray[Any], y: NDArray[np.int64]) -> dict[str, Tensor]:
        """``norms.class_mean`` and ``norms.class_variance`` (F, C): d_k and w_k of the slots up to
        the last that has inputs.
        """
        measure = BatchStatisticsPass(self.encoder, is_source=True)
        values = {**self.encoder.frozen, **measure.frozen}
        centre, variance = self.source["mean"], self.source["variance"]
        means, variances = centre.repeat(int(y.max()) + 1, 1), variance.repeat(int(y.max()) + 1, 1)
        for slot in np.unique(y):
            rows = x[y == slot]
            total, square = torch.zeros_like(centre), torch.zeros_like(centre)
            for start in range(0, len(rows), _ROWS):
                part = torch.from_numpy(np.ascontiguousarray(rows[start : start + _ROWS]))
                with torch.no_grad():
                    passed = measure(
                        part,
                        torch.ones(len(part)),
                        values,
                        values["norms.gain"],
                        values["norms.offset"],
                    )
                # of order of the deviation: its square cancels nothing
                moved = passed.mean - centre
                total = total + len(part) * moved
                square = square + len(part) * (passed.variance + moved**2)
            moved = total / len(rows)
            means[slot], variances[slot] = (
                centre + moved,
                torch.clamp(square / len(rows) - moved**2, min=0.0),
            )
        unit = torch.clamp(variance, min=_LEAST_VARIANCE)
        return {
            "norms.class_mean": _rounded((means - centre) / torch.sqrt(unit)),
            "norms.class_variance": _rounded(variances / unit),
        }


def expected_moments(t: Values, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) that the source has at these shares (K,) of classes; what they lack of
    1 is its own.
    """
    known = shares[: t["norms.class_mean"].shape[0]]
    mean, variance = t["norms.class_mean"], t["norms.class_variance"]
    unit = torch.clamp(t["norms.variance"], min=_LEAST_VARIANCE)
    moved, square = known @ mean, known @ (variance + mean * mean)
    spread = (1 - known.sum()) * t["norms.variance"] + unit * (square - moved * moved)
    return t["norms.mean"] + torch.sqrt(unit) * moved, torch.clamp(spread, min=0.0)


def _rounded(values: Tensor) -> Tensor:
    """To float16, in which the file keeps them then; as they are where one of them overflows."""
    half = values.to(torch.float16).to(torch.float32)
    return half if bool(torch.isfinite(half).all()) else values


class _MatchedStatistics(_BatchStatistics):
    """A batch-norm on the statistics of the condition; ``expected`` and ``spread`` are the moments
    that the source has at the same shares.
    """

    def __init__(self, layer: NormLayer, collector: _Collector) -> None:
        super().__init__(layer, collector)
        self.register_buffer("expected", layer.mean.clone())
        self.register_buffer("spread", layer.variance.clone())

    def forward(self, x: Tensor) -> Tensor:
        _, _, per_channel = self._measure(x)
        mean, variance = self.collector.moments[self.path]
        widened = self.collector.widened * self.variance + self.eps
        ratio = (variance + widened) / (self.spread + widened)
        moved = torch.sqrt(ratio) * (self.mean - self.expected) + mean
        self.collector.moments[self.path] = (moved, ratio * self.variance)
        scale = self.gain / torch.sqrt(ratio * self.variance + self.eps)
        return (x - moved.reshape(per_channel)) * scale.reshape(per_channel) + self.offset.reshape(
            per_channel
        )
