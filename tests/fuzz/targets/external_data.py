"""Where a graph keeps its tensors: what is accepted reaches for nothing else, and ``onnx`` sees the
same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import onnx
import tiny_bundle as tiny
from onnx import AttributeProto, TensorProto, helper

from edgeadapt.bundle._external_data import check_external_data
from edgeadapt.errors import BundleError
from fuzz.edits import protobuf, raw
from fuzz.target import Execute, Target

NEEDS = ("onnx",)
_FROZEN = ("stem.whiten",)
_LOCATIONS = (
    "bundle:",
    "/etc/passwd",
    "../w.bin",
    "",
    "bundle:/x",
    "bundle:\0",
    "*/_ORT_MEM_ADDR_/*",
    "w.safetensors",
    None,
)


def seeds() -> list[bytes]:
    sparse = tiny.predict_model()
    sparse.graph.sparse_initializer.add(dims=[2]).values.CopyFrom(
        helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    )
    nested = tiny.predict_model()
    inner = helper.make_graph(
        [helper.make_node("Identity", ["z"], ["o"])],
        "inner",
        [],
        [],
        [tiny.external("stem.whiten", (16, 16))],
    )
    nested.graph.node.append(
        helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner)
    )
    nested.functions.add(name="f", domain="d").node.append(
        helper.make_node(
            "Constant", [], ["c"], value=helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
        )
    )
    nested.training_info.add().algorithm.CopyFrom(inner)
    return [
        model.SerializeToString()
        for model in (tiny.predict_model(), tiny.learn_model(), sparse, nested)
    ]


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    chance = rng.random()
    if chance < 0.2:
        return raw.edit(rng, data, other)
    if chance < 0.8:
        return protobuf.edit(rng, data, other)
    return _with_tensor(rng, data)


def _with_tensor(rng: Random, data: bytes) -> bytes:
    """An external tensor somewhere, by the schema of ONNX."""
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:  # protobuf's own error class differs between its versions
        return raw.edit(rng, data)
    tensor = tiny.external(
        rng.choice(("stem.whiten", "other", "")), (16, 16), rng.choice(_LOCATIONS)
    )
    tensor.data_location = rng.choice(
        (TensorProto.EXTERNAL, TensorProto.EXTERNAL, TensorProto.DEFAULT)
    )
    place = rng.randrange(5)
    if place == 0:
        model.graph.initializer.append(tensor)
    elif place == 1:
        model.functions.add(name="f").attribute_proto.add(
            name="a", type=AttributeProto.TENSOR, t=tensor
        )
    elif place == 2:
        model.training_info.add().initialization.initializer.append(tensor)
    elif place == 3:
        model.graph.sparse_initializer.add(dims=[2]).indices.CopyFrom(tensor)
    elif model.graph.node:
        rng.choice(list(model.graph.node)).attribute.add(
            name="l", type=AttributeProto.TENSORS, tensors=[tensor]
        )
    return model.SerializeToString()


def prepare(scratch: Path) -> Execute:
    return execute


def execute(data: bytes) -> None:
    check_external_data("g", data, _FROZEN)
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:
        return
    for tensor in _tensors(model):
        assert all(
            entry.key != "location" or entry.value == "bundle:" for entry in tensor.external_data
        ), "onnx sees another location"
        is_external = tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data)
        assert not is_external or tensor.name in _FROZEN, "onnx sees another external tensor"


def _tensors(message: object) -> Iterator[TensorProto]:
    """Every tensor in a message, by reflection: nothing of the walk under test is used."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.message_type is not None:
            for inner in (
                value if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]
            ):
                if hasattr(inner, "ListFields"):
                    yield from _tensors(inner)


def is_past_header(error: Exception) -> bool:
    """It was a protobuf message with a graph in it."""
    return "not an ONNX model" not in str(error)


TARGET = Target(
    "external_data",
    seeds,
    mutate,
    prepare,
    (BundleError,),
    is_past_header,
    ("edgeadapt.bundle._external_data",),
    share=110,
)
