"""Variants and a real TensorRT compiler, TensorRT for RTX: strongly typed networks take them, and
weights are folded to their size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper
from ramp_images import PRECISE
from test_precision_graphs import small

from edgeadapt.bundle import read_bundle
from edgeadapt.host.compile.engine import DEFAULT_TARGETS, build
from edgeadapt.host.precision.float16 import halved
from edgeadapt.host.precision.int8 import quantised

pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'edgeadapt[rtx]'"
)


@pytest.mark.parametrize("target", DEFAULT_TARGETS)
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_variant_builds(precision: Any, target: str) -> None:
    bundle = read_bundle(PRECISE)
    spec = bundle.manifest.encoder(precision)
    assert spec is not None
    made = build(
        spec.file,
        bundle.graph(spec.file),
        {name: bundle.frozen[name] for name in spec.frozen},
        target=target,
    )
    assert len(made.plan) > 100_000 and made.layers > 50


def test_an_engine_holds_weights_in_the_size_of_their_precision() -> None:
    """Scale and cast of the weights are expressions in the graph; in the plan only what comes out
    of them is left.
    """
    rng = np.random.default_rng(0)
    channels = 384
    frozen = {
        "e.w": (rng.standard_normal((channels, channels, 3, 3)) / 60).astype(np.float32),
        "e.g": np.ones((channels, 1, 1), np.float32),
        "e.t": np.zeros((channels, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "e.w"], ["_c"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["_c", "e.g"], ["_m"]),
        helper.make_node("Add", ["_m", "e.t"], ["_a"]),
        helper.make_node("Relu", ["_a"], ["_r"]),
        helper.make_node("ReduceMean", ["_r", "_axes"], ["z"], keepdims=0),
    ]
    model = small(nodes, frozen, (channels, 8, 8))
    x = rng.standard_normal((4, channels, 8, 8)).astype(np.float32)
    models: dict[str, ModelProto] = {
        "float32": model,
        "float16": halved("h", model, frozen, [x]),
        "int8": quantised("q", model, frozen, [x]),
    }
    mib = {
        name: len(build(name, made.SerializeToString(), frozen).plan) / 2**20
        for name, made in models.items()
    }
    weights = frozen["e.w"].nbytes / 2**20
    assert mib["float32"] > weights > mib["float16"] > weights / 2 > mib["int8"] > weights / 4
