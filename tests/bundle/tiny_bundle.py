"""A real but tiny bundle: two ONNX graphs that share one frozen tensor, in about 8 KiB."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeadapt.bundle import FACTORY, FROZEN, GUARD
from edgeadapt.bundle._container import read_directory
from edgeadapt.bundle.schema import (
    GraphSpec,
    InputSpec,
    Manifest,
    Parity,
    PortSpec,
    Provenance,
    TensorSpec,
)

DIM, SLOTS = 16, 4
PREDICT, LEARN = "graphs/predict.onnx", "graphs/learn.onnx"


def external(
    name: str, shape: tuple[int, ...], location: str | None = "bundle:"
) -> onnx.TensorProto:
    """A float32 tensor whose values are somewhere else."""
    tensor = TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL
    )
    if location is not None:
        tensor.external_data.add(key="location", value=location)
    return tensor


def model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], initialisers: list[Any]
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def values(name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def predict_model(location: str | None = "bundle:") -> onnx.ModelProto:
    """logits = (z @ whiten) @ weight + 0.5"""
    return model(
        [
            helper.make_node("MatMul", ["z", "stem.whiten"], ["white"]),
            helper.make_node("MatMul", ["white", "ridge.weight"], ["raw"]),
            helper.make_node(
                "Constant",
                [],
                ["half"],
                value=numpy_helper.from_array(np.float32(0.5), "half_value"),
            ),
            helper.make_node("Add", ["raw", "half"], ["logits"]),
        ],
        [values("z", "B", DIM), values("ridge.weight", DIM, SLOTS)],
        [values("logits", "B", SLOTS)],
        [external("stem.whiten", (DIM, DIM), location)],
    )


def learn_model() -> onnx.ModelProto:
    """gram.next = gram + white^T white"""
    return model(
        [
            helper.make_node("MatMul", ["z", "stem.whiten"], ["white"]),
            helper.make_node("Transpose", ["white"], ["white_t"]),
            helper.make_node("MatMul", ["white_t", "white"], ["added"]),
            helper.make_node("Add", ["ridge.gram", "added"], ["ridge.gram.next"]),
        ],
        [values("z", "B", DIM), values("ridge.gram", DIM, DIM)],
        [values("ridge.gram.next", DIM, DIM)],
        [external("stem.whiten", (DIM, DIM))],
    )


def manifest(**changes: Any) -> Manifest:
    parity = Parity(cases=8, tolerance=1e-5, median_error=1e-7, worst_error=3e-7)
    z = PortSpec(name="z", dtype="float32", shape=(None, DIM))
    shared: dict[str, Any] = {
        "batch": None,
        "frozen": ("stem.whiten",),
        "nodes": 4,
        "parity": parity,
        "ports": (z,),
        "methods": ("ridge",),
    }
    logits = PortSpec(name="logits", dtype="float32", shape=(None, SLOTS))
    fields: dict[str, Any] = {
        "name": "tiny",
        "classes": ("scratch", "dent"),
        "class_slots": SLOTS,
        "domain_slots": 2,
        "feature_dim": DIM,
        "tap_dim": 3,
        "space": "0" * 64,
        "input": InputSpec(layout="features", dtype="float32", shape=(DIM,)),
        "tensors": (
            TensorSpec(
                name="stem.whiten",
                dtype="float32",
                shape=(DIM, DIM),
                kind="frozen",
                persist="never",
            ),
            TensorSpec(
                name="ridge.gram", dtype="float32", shape=(DIM, DIM), kind="evidence", merge="add"
            ),
            TensorSpec(name="ridge.count", dtype="int64", shape=(), kind="evidence", merge="add"),
            TensorSpec(
                name="ridge.weight",
                dtype="float32",
                shape=(DIM, SLOTS),
                kind="derived",
                class_axis=1,
                persist="never",
            ),
        ),
        "graphs": (
            GraphSpec(
                file=PREDICT,
                roles=("predict",),
                outputs=(logits,),
                reads=("ridge.weight",),
                writes=(),
                **shared,
            ),
            GraphSpec(
                file=LEARN,
                roles=("learn",),
                outputs=(),
                reads=("ridge.gram",),
                writes=("ridge.gram",),
                **shared,
            ),
        ),
        "provenance": Provenance(
            created="2025-01-01",
            edgeadapt="0.1.0",
            torch="2.13",
            onnx="1.23",
            seed=0,
            encoder="e",
            data="d",
        ),
    }
    return Manifest(**(fields | changes))


def graphs() -> dict[str, bytes]:
    return {PREDICT: predict_model().SerializeToString(), LEARN: learn_model().SerializeToString()}


def weights() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        FROZEN: {"stem.whiten": rng.standard_normal((DIM, DIM), np.float32)},
        FACTORY: {
            "ridge.gram": np.eye(DIM, dtype=np.float32),
            "ridge.count": np.array(7, np.int64),
        },
        GUARD: {
            "z": rng.standard_normal((10, DIM), np.float32),
            "taps": rng.standard_normal((10, 3), np.float32),
            "y": rng.integers(0, 2, 10),
        },
    }


CARD = {"verdict": "advise", "runs": [1, 2.5, None]}


def members_of(data: bytes) -> dict[str, bytes]:
    """Every member of a sound archive, in order."""
    return {
        name: data[e.offset : e.offset + e.size]
        for name, e in read_directory(io.BytesIO(data), len(data)).items()
    }


def patch(data: bytes, offset: int, code: str, value: int) -> bytes:
    """Overwrite one little-endian field."""
    edited = bytearray(data)
    struct.pack_into("<" + code, edited, offset, value)
    return bytes(edited)
