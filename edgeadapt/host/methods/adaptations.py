"""The label-free methods that a bundle may carry one of, by name.

Those of ``ENCODER_SPACE`` change constants of the encoder and need one with batch-norms that we can write; those of ``FEATURE_SPACE``
correct features or answers, and work on any encoder and on feature vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeadapt.host.methods.base import AdaptsEncoder, AdaptsFeatures, Head
from edgeadapt.host.methods.feature_shift import FeatureShift
from edgeadapt.host.methods.norm_statistics import NormStatistics
from edgeadapt.host.module_encoder import ModuleEncoder


@dataclass(frozen=True)
class Beside:
    """What a method stands beside in its bundle: the head, and the sharpness (1 / temperature) that turns its logits into probabilities."""

    head: Head
    sharpness: float = 1.0


ENCODER_SPACE: dict[str, Callable[[ModuleEncoder, Beside], AdaptsEncoder]] = {
    "norm_statistics": lambda encoder, beside: NormStatistics(encoder),
}
FEATURE_SPACE: dict[str, Callable[[Beside], AdaptsFeatures]] = {
    "feature_shift": lambda beside: FeatureShift(),
}
NAMES = (*ENCODER_SPACE, *FEATURE_SPACE)


def adaptation(name: str, encoder: Any, beside: Beside) -> AdaptsEncoder | AdaptsFeatures | None:
    """The method called ``name`` for this encoder; None for ``"none"``."""
    if name in ENCODER_SPACE:
        return ENCODER_SPACE[name](encoder, beside)
    return FEATURE_SPACE[name](beside) if name in FEATURE_SPACE else None
