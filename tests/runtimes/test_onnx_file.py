"""The little that is read and rewritten of an ONNX file is what the onnx package would say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import build, external

from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.errors import BundleError
from edgeadapt.onnx_file import OnnxFile, Value

pytest.importorskip("onnx")
import onnx
from onnx import TensorProto, helper, numpy_helper

FROZEN: dict[str, Any] = {
    "k.w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "k.n": np.array(-5, np.int64),
    "k.h": np.array([1.5], np.float16),
    "k.e": np.zeros((0, 2), np.float32),
    "k.b": np.array([True, False]),
    "k.q": np.array([-1, 7], np.int8),
}


def model() -> bytes:
    inside = numpy_helper.from_array(np.ones(2, np.float32), "inside")
    return build(
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": ["B", 3], "n": (TensorProto.INT64, []), "inside": [2]},
        {"y": ["B", 3]},
        [inside, *[external(n, v) for n, v in FROZEN.items()]],
    )


def test_the_boundary_is_read() -> None:
    file = OnnxFile("g", model())
    assert file.inputs == [
        Value("x", "float32", ("B", 3)),
        Value("n", "int64", ()),
    ] and file.outputs == [Value("y", "float32", ("B", 3))]
    assert {name: (value.dtype, value.shape) for name, value in file.external.items()} == {
        n: (str(v.dtype), v.shape) for n, v in FROZEN.items()
    }
    assert str(file.inputs[0]) == "float32[B, 3]"


def test_values_are_put_where_onnx_finds_them() -> None:
    file = OnnxFile("g", model())
    proto = onnx.load_model_from_string(file.complete(file.frozen(FROZEN), ["k.w"]))
    onnx.checker.check_model(proto)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert found.keys() == {"inside", "k.n", "k.h", "k.e", "k.b", "k.q"}
    for name in found.keys() - {"inside"}:
        assert found[name].dtype == FROZEN[name].dtype and np.array_equal(found[name], FROZEN[name])
    added = proto.graph.input[-1]
    assert added.name == "k.w" and [dim.dim_value for dim in added.type.tensor_type.shape.dim] == [
        2,
        3,
    ]


def test_every_graph_of_the_demo_is_completed_as_onnx_would() -> None:
    bundle = read_bundle(bundle_path())
    for spec in bundle.manifest.graphs:
        graph = bundle.graph_file(spec)
        file = OnnxFile(graph.name, graph.model)
        ours = onnx.load_model_from_string(file.complete(file.frozen(graph.frozen)))
        theirs = onnx.load_model_from_string(graph.model)
        for tensor in theirs.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                tensor.CopyFrom(numpy_helper.from_array(graph.frozen[tensor.name], tensor.name))
        assert ours == theirs


def test_files_that_are_cut_or_turned_are_refused_by_name() -> None:
    whole = model()
    refused = 0
    for size in range(len(whole)):
        try:
            OnnxFile("g", whole[:size])
        except BundleError as error:
            assert "'g' is not a readable ONNX model" in str(error)
            refused += 1
    assert refused > 0.9 * len(whole)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.integers(0, 8)
        try:
            OnnxFile("g", bytes(damaged))
        except BundleError:
            refused += 1
    with pytest.raises(BundleError, match="it has no outputs"):
        OnnxFile("g", b"")


def test_other_locations_and_wrong_values_are_refused() -> None:
    escape = build(
        [helper.make_node("Mul", ["x", "k.s"], ["y"])],
        {"x": [3]},
        {"y": [3]},
        [external("k.s", np.ones(3), "../../etc/passwd")],
    )
    with pytest.raises(
        BundleError, match=r"'k.s' points to '../../etc/passwd'; only 'bundle:' is accepted"
    ):
        OnnxFile("g", escape)
    file = OnnxFile("g", model())
    with pytest.raises(
        BundleError, match=r"no value for frozen tensor 'k.w'; the bundle supplies: none"
    ):
        file.frozen({})
    with pytest.raises(BundleError, match=r"'k.w' must be float32\[2, 3\], got float64\[2, 3\]"):
        file.frozen({**FROZEN, "k.w": FROZEN["k.w"].astype(np.float64)})
