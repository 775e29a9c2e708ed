"""``check_method`` names the property that a faulty method breaks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edgeadapt.bundle.schema import NumericSpec
from edgeadapt.host.contracts import class_moment, one_hot
from edgeadapt.host.methods.adaptors.bottleneck import Bottleneck
from edgeadapt.host.methods.heads.nearest_mean import NearestMean
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.label_free.feature_space.feature_shift import FeatureShift
from edgeadapt.host.methods.novelty.virtual_logit import VirtualLogit
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.testing import _suite, check_identity_stub, check_method


class ChangedSpecs(NearestMean):
    def __init__(self, change: Callable[[list[Any]], list[Any]]) -> None:
        object.__setattr__(self, "change", change)

    def tensors(self, dims: Any) -> list[Any]:
        return self.change(super().tensors(dims))


def first(**changes: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda specs: [msgspec.structs.replace(specs[0], **changes), *specs[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda specs: [*specs, specs[0]], "a name is declared once"),
        (first(name="Mean.moment"), "does not fit into a manifest"),
        (first(merge="mean"), "merges by 'add'"),
        (first(class_axis=2), "class_axis 2 outside its shape"),
        (first(class_axis=0), "class axis of mean.moment has 25 slots, not 5"),
        (first(class_axis=None), r"mean.moment grows along \[1\], its class_axis is None"),
        (first(bound=None), "so it has a bound"),
        (first(bound=10.0), "mean.moment is within its bound 10"),
        (first(dtype="float16"), r"declared float16\[25, 5\], got float32"),
        (
            lambda specs: [*specs, msgspec.structs.replace(specs[0], name="more.evidence")],
            r"they differ in \['more.evidence'\]",
        ),
        (
            lambda specs: specs[:-1],
            r"derive exactly the tensors declared derived; they differ in \['head.active'\]",
        ),
        (
            lambda specs: [*specs[:-1], msgspec.structs.replace(specs[-1], persist="session")],
            "head.active is derived, never stored",
        ),
    ],
)
def test_inconsistent_specs_are_named(change: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=f"nearest_mean: .*{message}"):
        check_method(ChangedSpecs(change))


class UnknownNumeric(NearestMean):
    def numerics(self) -> list[NumericSpec]:
        return [msgspec.structs.replace(super().numerics()[0], numeric="matrix_inverse")]


class RandomFactory(Ridge):
    def factory(self, data: Any) -> Any:
        values = super().factory(data)
        return values | {
            "ridge.gram": (
                values["ridge.gram"] + np.random.default_rng().random(1).astype(np.float32)
            )
        }


class BatchMean(NearestMean):
    def learn(self, t: Any, z: Any, taps: Any, y: Any, sample_weight: Any) -> Any:
        return {
            "mean.moment": (
                t["mean.moment"]
                + class_moment(z, y, sample_weight / sample_weight.abs().sum().clamp(min=1e-6), 5)
            )
        }


class ClippedWeight(NearestMean):
    """A negative weight is taken for padding: nothing is ever forgotten."""

    def learn(self, t: Any, z: Any, taps: Any, y: Any, sample_weight: Any) -> Any:
        return super().learn(t, z, taps, y, sample_weight.clamp(min=0))


class Smeared(NearestMean):
    def learn(self, t: Any, z: Any, taps: Any, y: Any, sample_weight: Any) -> Any:
        soft = 0.9 * one_hot(y, 5) + 0.02
        sums = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
        return {"mean.moment": t["mean.moment"] + sums.T @ (soft * sample_weight[:, None])}


class Unmasked(NearestMean):
    def predict(self, t: Any, z: Any) -> Any:
        return z @ t["head.weight"][:-1] + t["head.weight"][-1]


class FactoryOnlyVirtualLogit(VirtualLogit):
    """The published score: a frozen subspace, which never gets to know a class learned later."""

    def novelty(self, t: Any, z: Any, taps: Any, logits: Any) -> Any:
        rest = self._outside(t, z)
        return torch.sqrt((rest * rest).sum(dim=1) + 1e-12) * t["vim.scale"] - torch.logsumexp(
            logits, dim=1
        )


class ClassFree(ResidualShift):
    """Distance from the mean of everything: what false-alarms on windows of one class."""

    def shift(self, t: Any, z: Any, taps: Any, logits: Any) -> Any:
        placed = self.features(t, z, taps)
        return (placed - t["shift.mean"][:3].mean(dim=0)) / 2.0


class Hasty(FeatureShift):
    """Corrects towards the mean of whatever came last, weight or not."""

    def adapt(self, t: Any, z: Any, sample_weight: Any) -> Any:
        outputs, _ = super().adapt(t, z, sample_weight)
        return outputs, {"correct.mean": z.mean(dim=0)}


class UngatedMomentum(Bottleneck):
    """The momentum goes on moving the weights when nothing was learned."""

    def fit(self, t: Any, z: Any, y: Any, sample_weight: Any, learning_rate: Any) -> Any:
        outputs, new = super().fit(t, z, y, sample_weight, learning_rate)
        return outputs, new | {
            "bottleneck_32.up": (
                new["bottleneck_32.up"] - learning_rate * 0.1 * t["bottleneck_32.momentum_up"]
            )
        }


class BakedIn(NearestMean):
    def predict(self, t: Any, z: Any) -> Any:
        logits = super().predict(t, z)
        return logits if float(z.mean()) > -1e9 else -logits


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (object(), "a method has a name"),
        (UnknownNumeric(), "numerics: 'matrix_inverse' is one of .*balanced_ridge, .*nearest_mean"),
        (RandomFactory(), "factory: ridge.gram is the same each time"),
        (BatchMean(), "learn: evidence is additive"),
        (ClippedWeight(), "learn: a negative weight forgets"),
        (
            Smeared(),
            (
                r"learn: a label of class 0 touches only its own slot of mean.moment, not \[0, 1,"
                r" 2, 3, 4\]"
            ),
        ),
        (Unmasked(), "predict: a class that was .* is not predicted"),
        (FactoryOnlyVirtualLogit(), "novelty: a class that was learned stops being novel"),
        (ClassFree(), "shift: windows of class 0 alone are at most 4 times a mixed window"),
        (Hasty(), "adapt: rows of weight 0 do not matter"),
        (
            UngatedMomentum(),
            "fit: a batch of weight 0 changes nothing, bit for bit; bottleneck_32.up changed",
        ),
        (BakedIn(), "predict: does not compile: .*Python reads data"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_faulty_method_is_named_with_the_property_it_breaks(method: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_method(method)


def test_a_suite_that_a_stub_passes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_suite._CHECKS, "novelty")
    with pytest.raises(
        AssertionError, match="vim: check_method passes although novelty is constant"
    ):
        check_identity_stub(VirtualLogit())


def test_a_device_without_torch_can_import_the_suites() -> None:
    script = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; from edgeadapt.testing"
        " import check_method, check_runtime"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
