"""Whole numbers in bytes: exact there and back, in torch, in the graph that ships and where a
device unpacks them.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from edgeadapt.device.numerics.back_projection import projected_matrix
from edgeadapt.host.compile import compile_inference
from edgeadapt.host.contracts import Dims
from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck
from edgeadapt.host.methods.heads.projection import HadamardProjection, walsh_hadamard
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.novelty.hypervector import Hypervector
from edgeadapt.host.methods.whole_bytes import from_bytes, to_bytes
from edgeadapt.runtime import GraphFile, open_runtime

WHOLE = np.arange(-127, 128, dtype=np.int8)


def test_every_whole_number_comes_back_exactly() -> None:
    stored = to_bytes(WHOLE)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(
        from_bytes(torch.from_numpy(stored)).numpy(), WHOLE.astype(np.float32)
    )


def test_a_graph_unpacks_them_exactly() -> None:
    stored = torch.from_numpy(to_bytes(WHOLE))
    graph = compile_inference(
        "whole",
        lambda p, t: ({"out": p["x"] * from_bytes(t["k.whole"])}, {}),
        lambda g, b: {"x": torch.randn(b, 255, generator=g)},
        {"k.whole": stored},
    )
    run = open_runtime("onnxruntime")
    out, _ = run.load(GraphFile("whole", graph.model, {"k.whole": stored.numpy()}))(
        {"x": np.ones((2, 255), np.float32)}, run.upload({})
    )
    np.testing.assert_array_equal(out["out"], np.tile(WHOLE.astype(np.float32), (2, 1)))
    assert not [
        tensor
        for tensor in onnx.load_from_string(graph.model).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    ]


def test_a_device_unpacks_the_signs_of_new_and_of_older_bundles_alike() -> None:
    signs = np.where(np.arange(7) % 3, 1, -1).astype(np.int8)
    left = walsh_hadamard(2)
    right = walsh_hadamard(4)
    rows = np.array([1, 4, 6], np.int32)
    older = projected_matrix(7, 3, signs, left, right, rows)
    np.testing.assert_array_equal(
        projected_matrix(7, 3, to_bytes(signs), to_bytes(left), to_bytes(right), rows), older
    )
    np.testing.assert_allclose(np.abs(older), 1 / np.sqrt(3))


@pytest.mark.parametrize(
    "method",
    [
        KeyValueBottleneck(split="signs"),
        KeyValueBottleneck(split="random"),
        Hypervector(bits=8),
        Ridge(projection=HadamardProjection(8)),
    ],
    ids=repr,
)
def test_no_method_freezes_int8(method: KeyValueBottleneck | Hypervector | Ridge) -> None:
    """The derived copies may be int8: as inputs they build."""
    frozen = {
        spec.name: spec.dtype for spec in method.tensors(Dims(64, 16, 6)) if spec.kind == "frozen"
    }
    assert "uint8" in frozen.values() and "int8" not in frozen.values()
