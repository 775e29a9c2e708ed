"""Every method keeps the promises of its roles, and the suite that says so notices a method that
does nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.host.contracts import Method
from edgeadapt.host.encoders.torch_module import ModuleEncoder
from edgeadapt.host.methods.adaptors.bottleneck import Bottleneck
from edgeadapt.host.methods.heads.nearest_mean import NearestMean
from edgeadapt.host.methods.heads.ridge import Ridge
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
from edgeadapt.host.methods.label_free.feature_space.lame import Lame
from edgeadapt.host.methods.label_free.feature_space.mean_std import MeanStd
from edgeadapt.host.methods.novelty.cosine import Cosine
from edgeadapt.host.methods.novelty.mahalanobis import Mahalanobis
from edgeadapt.host.methods.novelty.nearest_neighbours import NearestNeighbours
from edgeadapt.host.methods.novelty.virtual_logit import VirtualLogit
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.testing import check_identity_stub, check_method


def tiny_encoder() -> ModuleEncoder:
    """Two convolutions with batch-norms over 12 x 12 colour images; features (B, 8)."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    return ModuleEncoder(module, InputSpec(layout="NHWC", dtype="uint8", shape=(12, 12, 3)))


def class_matched() -> ClassMatchedStatistics:
    """On labelled images as random as those of the suite."""
    x = torch.randint(
        0, 256, (60, 12, 12, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8
    )
    return ClassMatchedStatistics(
        tiny_encoder(), Ridge(), 10.0, x.numpy(), np.arange(60) % 4, slots=5, rate=1.0
    )


LEARN = {
    "learn changes nothing",
    "learn ignores sample_weight",
    "learn decays what was learned before",
}
PREDICT = {"predict is constant", "predict returns its input"}
NOVELTY = {"novelty is constant", "novelty is the norm of its input", "novelty has the wrong sign"}
ENCODER = {"adapt changes nothing", "refold returns the factory constants"}
SHIFT = {"shift is constant", "shift returns its input", "shift ignores the class"}

METHODS: dict[str, tuple[Method, set[str]]] = {
    "nearest_mean": (NearestMean(), LEARN | PREDICT),
    "ridge": (Ridge(), LEARN | PREDICT),
    "ridge on random features": (Ridge(random_features=48), LEARN | PREDICT),
    "residual_shift": (ResidualShift(), LEARN | SHIFT),
    "cosine": (Cosine(), NOVELTY),
    "knn": (NearestNeighbours(), NOVELTY),
    "vim": (VirtualLogit(), NOVELTY),
    "mahalanobis": (Mahalanobis(), NOVELTY),
    "feature_shift": (FeatureShift(), {"correct returns its input", "adapt changes nothing"}),
    "mean_std": (MeanStd(), {"correct returns its input", "adapt changes nothing"}),
    "t3a": (
        AdjustedPrototypes(Ridge(), sharpness=10.0),
        {"adjust returns its logits", "adapt changes nothing"},
    ),
    "hebbian_prototypes": (
        HebbianPrototypes(Ridge(), sharpness=10.0),
        {"adjust returns its logits", "adapt changes nothing"},
    ),
    "lame": (
        Lame(sharpness=10.0),
        {
            f"smooth {does}"
            for does in (
                "returns its logits",
                "is one answer for the batch",
                "ignores sample_weight",
                "ignores the features",
            )
        },
    ),
    "bottleneck": (
        Bottleneck(),
        {"correct returns its input", "fit changes nothing", "fit goes uphill"},
    ),
    "norm_statistics": (NormStatistics(tiny_encoder()), ENCODER),
    "norm_statistics, averaged": (NormStatistics(tiny_encoder(), rate=0.5), ENCODER),
    "class_matched_statistics": (class_matched(), ENCODER),
    "tent": (Tent(tiny_encoder(), Ridge()), ENCODER),
    "guarded_entropy": (GuardedEntropy(tiny_encoder(), Ridge()), ENCODER),
    "hebbian": (Hebbian(tiny_encoder()), ENCODER),
    "hebbian on the source's statistics": (Hebbian(tiny_encoder(), over_statistics=False), ENCODER),
    "hebbian_three_factor": (ThreeFactorHebbian(tiny_encoder(), Ridge()), ENCODER),
    "neuro_hebbian": (NeuroHebbian(tiny_encoder(), Ridge()), ENCODER),
    "forward_only": (ForwardOnly(tiny_encoder(), Ridge()), ENCODER),
    "hebbian_evolved": (ForwardOnly(tiny_encoder(), Ridge(), rule=SoftHebbian()), ENCODER),
}


# what they share with others that are tried every time: the step of low rank, the evidence of
# ridge, statistics and the rule
SLOW = {
    "bottleneck",
    "ridge on random features",
    "norm_statistics, averaged",
    "tent",
    "guarded_entropy",
    "hebbian on the source's statistics",
    "hebbian_three_factor",
    "neuro_hebbian",
    "forward_only",
    "hebbian_evolved",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in METHODS],
)
def test_a_method_keeps_its_promises_and_its_stubs_do_not(name: str) -> None:
    method, stubs = METHODS[name]
    assert set(check_identity_stub(method)) == stubs


@pytest.mark.parametrize(
    "method",
    [Ridge(balance=0.0), ResidualShift(feature_columns=12), VirtualLogit(subspace=8)],
    ids=lambda m: m.name,
)
def test_promises_hold_at_other_sizes_and_without_taps(method: Method) -> None:
    check_method(method, features=40, taps=0, slots=7)


def test_every_novelty_candidate_is_checked() -> None:
    assert {type(method) for method, _ in METHODS.values()}.issuperset(
        {Cosine, NearestNeighbours, VirtualLogit, Mahalanobis}
    )
