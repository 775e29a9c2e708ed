"""The label-free methods that a bundle may carry one of, by name.

Those of ``ENCODER_SPACE`` change constants of the encoder and need one with batch-norms that we can
write; those of ``FEATURE_SPACE`` correct features or answers, and work on any encoder and on
feature vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.host.contracts import AdaptsEncoder, AdaptsFeatures, Head
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.label_free.encoder_space.class_matched_statistics import (
    ClassMatchedStatistics,
)
from edgeadapt.host.methods.label_free.encoder_space.entropy import GuardedEntropy, Tent
from edgeadapt.host.methods.label_free.encoder_space.forward_only import ForwardOnly
from edgeadapt.host.methods.label_free.encoder_space.hebbian_modulator import (
    Hebbian,
    NeuroHebbian,
    ThreeFactorHebbian,
)
from edgeadapt.host.methods.label_free.encoder_space.norm_statistics import NormStatistics
from edgeadapt.host.methods.label_free.encoder_space.soft_hebbian import SoftHebbian
from edgeadapt.host.methods.label_free.feature_space.adjusted_prototypes import AdjustedPrototypes
from edgeadapt.host.methods.label_free.feature_space.feature_shift import FeatureShift
from edgeadapt.host.methods.label_free.feature_space.hebbian_prototypes import HebbianPrototypes
from edgeadapt.host.methods.label_free.feature_space.mean_std import MeanStd


@dataclass(frozen=True)
class MethodContext:
    """What stands beside a method in its bundle.

    Attributes:
        head: its classifier. sharpness: 1 / temperature, by which its logits become probabilities.
        x, y: labelled inputs (N, *input) of the factory and their class slots (N,). slots: K.
    """

    head: Head
    sharpness: float = 1.0
    x: NDArray[Any] | None = None
    y: NDArray[np.int64] | None = None
    slots: int = 0

    def labelled(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Inputs and class slots.

        Raises:
            InputError: there are none.
        """
        if self.x is None or self.y is None:
            raise InputError(
                "this method is fitted on labelled inputs of the factory, and none were given"
            )
        return self.x, self.y


ENCODER_SPACE: dict[str, Callable[[ModuleEncoder, MethodContext], AdaptsEncoder]] = {
    "norm_statistics": lambda encoder, context: NormStatistics(encoder),
    "norm_statistics_averaged": lambda encoder, context: NormStatistics(encoder, rate=0.5),
    "norm_statistics_unfolded": lambda encoder, context: NormStatistics(
        encoder, first=min(8, len(encoder.norms)), is_unfolded=True
    ),
    "tent": lambda encoder, context: Tent(encoder, context.head, context.sharpness),
    "guarded_entropy": lambda encoder, context: GuardedEntropy(
        encoder, context.head, context.sharpness
    ),
    "hebbian": lambda encoder, context: Hebbian(encoder),
    "hebbian_three_factor": lambda encoder, context: ThreeFactorHebbian(
        encoder, context.head, context.sharpness
    ),
    "hebbian_evolved": lambda encoder, context: ForwardOnly(
        encoder, context.head, context.sharpness, rule=SoftHebbian()
    ),
    "neuro_hebbian": lambda encoder, context: NeuroHebbian(
        encoder, context.head, context.sharpness
    ),
    "forward_only": lambda encoder, context: ForwardOnly(encoder, context.head, context.sharpness),
    "class_matched_statistics": lambda encoder, context: ClassMatchedStatistics(
        encoder, context.head, context.sharpness, *context.labelled(), context.slots
    ),
}
FEATURE_SPACE: dict[str, Callable[[MethodContext], AdaptsFeatures]] = {
    "feature_shift": lambda context: FeatureShift(),
    "mean_std": lambda context: MeanStd(),
    "t3a": lambda context: AdjustedPrototypes(context.head, context.sharpness),
    "hebbian_prototypes": lambda context: HebbianPrototypes(context.head, context.sharpness),
}
NAMES = (*ENCODER_SPACE, *FEATURE_SPACE)


def adaptation(
    name: str, encoder: Any, context: MethodContext
) -> AdaptsEncoder | AdaptsFeatures | None:
    """The method called ``name`` for this encoder; None for ``"none"``."""
    if name in ENCODER_SPACE:
        return ENCODER_SPACE[name](encoder, context)
    return FEATURE_SPACE[name](context) if name in FEATURE_SPACE else None
