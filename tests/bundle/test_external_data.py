"""A graph may take data from ``bundle:`` and nowhere else, wherever in the model it asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_bundle as tiny
from onnx import AttributeProto, StringStringEntryProto, TensorProto, helper

from edgeadapt.bundle import write_bundle
from edgeadapt.bundle._external_data import check_external_data, external_tensors
from edgeadapt.errors import BundleError

EVIL = "/etc/passwd"


def evil(name: str = "stem.whiten", location: str | None = EVIL) -> TensorProto:
    return tiny.external(name, (16, 16), location)


def initialiser() -> onnx.ModelProto:
    return tiny.predict_model(EVIL)


def node_attribute() -> onnx.ModelProto:
    model = tiny.predict_model()
    model.graph.node[2].attribute[0].t.CopyFrom(evil())
    return model


def tensor_list_attribute() -> onnx.ModelProto:
    model = tiny.predict_model()
    model.graph.node[0].attribute.add(name="list", type=AttributeProto.TENSORS, tensors=[evil()])
    return model


def sparse_initialiser(part: str) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        model = tiny.predict_model()
        getattr(model.graph.sparse_initializer.add(dims=[2]), part).CopyFrom(evil())
        return model

    return build


def sparse_attribute() -> onnx.ModelProto:
    model = tiny.predict_model()
    attribute = model.graph.node[0].attribute.add(name="sparse", type=AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.values.CopyFrom(evil())
    return model


def subgraph_initialiser() -> onnx.ModelProto:
    model = tiny.predict_model()
    inner = helper.make_graph([], "inner", [], [], [evil()])
    for _ in range(5):
        inner = helper.make_graph(
            [helper.make_node("If", ["c"], ["o"], then_branch=inner)], "inner", [], []
        )
    model.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=inner))
    return model


def function_body() -> onnx.ModelProto:
    model = tiny.predict_model()
    model.functions.add(name="f", domain="d").node.append(
        helper.make_node("Constant", [], ["c"], value=evil())
    )
    return model


def function_default() -> onnx.ModelProto:
    model = tiny.predict_model()
    model.functions.add(name="f", domain="d").attribute_proto.add(
        name="a", type=AttributeProto.TENSOR, t=evil()
    )
    return model


def training_info() -> onnx.ModelProto:
    model = tiny.predict_model()
    model.training_info.add().algorithm.initializer.append(evil())
    return model


def entries_without_the_external_mark() -> onnx.ModelProto:
    model = initialiser()
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    return model


def second_location() -> onnx.ModelProto:
    model = tiny.predict_model()
    model.graph.initializer[0].external_data.append(
        StringStringEntryProto(key="location", value=EVIL)
    )
    return model


@pytest.mark.parametrize(
    "build",
    [
        initialiser,
        node_attribute,
        tensor_list_attribute,
        sparse_initialiser("values"),
        sparse_initialiser("indices"),
        sparse_attribute,
        subgraph_initialiser,
        function_body,
        function_default,
        training_info,
        entries_without_the_external_mark,
        second_location,
    ],
)
def test_a_file_of_the_device_is_refused_wherever_it_hides(
    build: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    graphs = tiny.graphs() | {tiny.PREDICT: build().SerializeToString()}
    with pytest.raises(
        BundleError,
        match=(
            r"graphs/predict.onnx: tensor 'stem.whiten' has external data at '/etc/passwd'; only"
            r" 'bundle:'"
        ),
    ):
        write_bundle(tmp_path / "a.edge", tiny.manifest(), graphs, tiny.weights(), tiny.CARD)


@pytest.mark.parametrize(
    "location",
    [
        "",
        None,
        "bundle",
        "bundle:/x",
        "bundle:\0",
        "../w.bin",
        "*/_ORT_MEM_ADDR_/*",
        "weights/frozen.safetensors",
    ],
)
def test_no_other_location_is_accepted(location: str | None) -> None:
    with pytest.raises(BundleError, match="has external data at"):
        check_external_data("g", tiny.predict_model(location).SerializeToString(), ["stem.whiten"])


def test_a_tensor_that_the_manifest_does_not_list_is_refused() -> None:
    data = tiny.predict_model().SerializeToString()
    check_external_data("g", data, ["stem.whiten", "other"])
    with pytest.raises(
        BundleError, match=r"'stem.whiten' is external, but the manifest does not list it"
    ):
        check_external_data("g", data, ["other"])


def test_parts_of_a_message_that_protobuf_would_merge_are_all_seen() -> None:
    data = tiny.predict_model().SerializeToString() + initialiser().SerializeToString()
    assert {
        tensor.external_data[0].value
        for tensor in onnx.ModelProto.FromString(data).graph.initializer
    } == {"bundle:", EVIL}
    assert {location for _, location in external_tensors(data)} == {"bundle:", EVIL}


def test_an_enum_of_more_than_32_bits_still_marks_a_tensor_external() -> None:
    tensor = b"\x42\x01w" + b"\x70\x81\x80\x80\x80\x10"  # name "w", data_location 2**32 + 1
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    assert list(external_tensors(b"\x3a" + bytes([len(graph)]) + graph)) == [("w", "")]


def test_embedded_values_are_fine_and_large_ones_are_skipped_quickly() -> None:
    model = tiny.predict_model()
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.zeros(1 << 20, np.float32), "big")
    )
    assert list(external_tensors(model.SerializeToString())) == [("stem.whiten", "bundle:")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it has no graph"),
        (b"\x08\x0a", "it has no graph"),
        (b"\x3a\x7f", "field 7 is cut off"),
        (b"\x3a", "a number is cut off"),
        (b"\x08" + b"\xff" * 11, "longer than ten bytes"),
        (b"\x02\x00", "field number 0"),
        (b"\xba\x80\x80\x80\x80\x01\x00", "field number"),
        (b"\x3b", "wire type 3"),
        (b"\x3f", "wire type 7"),
        (b"\x39\x00", "field 7 is cut off"),
        (b"not a model at all", "not an ONNX model"),
    ],
)
def test_malformed_protobuf_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(
        BundleError,
        match=f"graphs/x.onnx: not an ONNX model: .*{'' if reason.startswith('not') else reason}",
    ):
        check_external_data("graphs/x.onnx", data, [])


def test_endless_nesting_is_refused() -> None:
    data = b""
    for _ in range(60):
        for field in (6, 5, 1):  # graph of an attribute of a node of a graph
            size, length = len(data), b""
            while size >= 0x80:
                length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
            data = bytes([field << 3 | 2]) + length + bytes([size]) + data
    data = b"\x3a" + onnx_varint(len(data)) + data
    with pytest.raises(BundleError, match="nested deeper than 64"):
        check_external_data("g", data, [])


def onnx_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_every_mutant_of_a_model_is_walked_or_refused() -> None:
    """Where ``onnx`` still parses a mutant, both see the same locations."""
    data, rng, parsed = tiny.predict_model().SerializeToString(), np.random.default_rng(3), 0
    for _ in range(1500):
        mutant = bytearray(data)
        mutant[rng.integers(len(data))] = int(rng.integers(256))
        try:
            check_external_data("g", bytes(mutant), ["stem.whiten"])
        except BundleError:
            continue
        try:
            model = onnx.ModelProto.FromString(bytes(mutant))
        except Exception:
            continue
        parsed += 1
        for tensor in [
            *model.graph.initializer,
            *(a.t for node in model.graph.node for a in node.attribute),
        ]:
            assert all(
                entry.key != "location" or entry.value == "bundle:"
                for entry in tensor.external_data
            )
            assert tensor.data_location != TensorProto.EXTERNAL or tensor.name == "stem.whiten"
    assert parsed > 300
