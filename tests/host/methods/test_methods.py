"""Every method keeps the promises of its roles, and the suite that says so notices a method that does nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.host.methods.base import Method
from edgeadapt.host.methods.bottleneck import Bottleneck
from edgeadapt.host.methods.feature_shift import FeatureShift
from edgeadapt.host.methods.nearest_mean import NearestMean
from edgeadapt.host.methods.norm_statistics import NormStatistics
from edgeadapt.host.methods.novelty import CANDIDATES, Cosine, Mahalanobis, NearestNeighbours, VirtualLogit
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.host.methods.ridge import Ridge
from edgeadapt.host.module_encoder import ModuleEncoder
from edgeadapt.testing import check_identity_stub, check_method


def tiny_encoder() -> ModuleEncoder:
    """Two convolutions with batch-norms over 12 x 12 colour images; features (B, 8)."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    return ModuleEncoder(module, InputSpec(layout="NHWC", dtype="uint8", shape=(12, 12, 3)))


LEARN = {"learn changes nothing", "learn ignores sample_weight", "learn decays what was learned before"}
PREDICT = {"predict is constant", "predict returns its input"}
NOVELTY = {"novelty is constant", "novelty is the norm of its input", "novelty has the wrong sign"}
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
    "bottleneck": (Bottleneck(), {"correct returns its input", "fit changes nothing", "fit goes uphill"}),
    "norm_statistics": (NormStatistics(tiny_encoder()), {"adapt changes nothing", "refold returns the factory constants"}),
}


SLOW = {"bottleneck", "ridge on random features"}  # what they share with others that are tried every time: the step of low rank, the evidence of ridge


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in METHODS])
def test_a_method_keeps_its_promises_and_its_stubs_do_not(name: str) -> None:
    method, stubs = METHODS[name]
    assert set(check_identity_stub(method)) == stubs


@pytest.mark.parametrize("method", [Ridge(balance=0.0), ResidualShift(feature_columns=12), VirtualLogit(subspace=8)], ids=lambda m: m.name)
def test_promises_hold_at_other_sizes_and_without_taps(method: Method) -> None:
    check_method(method, features=40, taps=0, slots=7)


def test_every_novelty_candidate_is_checked() -> None:
    assert {type(method) for method, _ in METHODS.values()}.issuperset(CANDIDATES)
