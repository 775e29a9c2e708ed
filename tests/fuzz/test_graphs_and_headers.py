"""Graphs, headers and nested texts that ask for much: each is refused, and little is spent on
it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgeadapt.errors import BundleError
from fuzz.limits import modestly


def test_a_model_of_endless_fields_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeadapt.bundle import _external_data as external

    monkeypatch.setattr(external, "_MAX_FIELDS", 1000)
    name = b"\x42\x01w"  # of a tensor
    for fields in (b"\x0a\x00" * 600, name * 600):
        # a tensor of the graph
        inner = b"\x2a" + bytes([len(fields) & 0x7F | 0x80, len(fields) >> 7]) + fields
        graph = b"\x3a" + bytes([len(inner) & 0x7F | 0x80, len(inner) >> 7]) + inner
        external.check_external_data("g", graph, [])
        with pytest.raises(BundleError, match="more than 1000 fields"):
            external.check_external_data("g", graph * 2, [])


@pytest.mark.parametrize("depth", [40, 2000, 200_000])
def test_json_nested_without_end_is_refused_wherever_it_is_read(depth: int) -> None:
    from edgeadapt.bundle._weights import FROZEN, check_header
    from edgeadapt.bundle.codec import decode_manifest
    from edgeadapt.bundle.signature import decode_signature

    nested = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    header = len(nested).to_bytes(8, "little") + nested
    for read in (
        decode_manifest,
        decode_signature,
        lambda data: check_header(None, FROZEN, header),
    ):  # type: ignore[arg-type]
        with modestly(), pytest.raises(BundleError):
            read(nested)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_that_states_another_length_is_refused(length: int) -> None:
    pytest.importorskip("onnx")
    import tiny_bundle as tiny

    from edgeadapt.bundle._weights import FROZEN, check_header, decode_weights

    data = (
        length.to_bytes(8, "little")
        + b'{"stem.whiten": {"dtype": "F32", "shape": [16, 16], "data_offsets": [0, 1024]}}'
        + bytes(1024)
    )
    for read in (check_header, decode_weights):
        with modestly(), pytest.raises(BundleError, match="not a safetensors file"):
            read(tiny.manifest(), FROZEN, data)


@pytest.mark.parametrize(
    "offsets", [[0, 2**63], [2**62, 2**62 + 1024], [-1024, 0], [0, 0], [1024, 0]]
)
def test_tensors_that_lie_elsewhere_in_a_file_or_over_each_other_are_refused(
    offsets: list[int],
) -> None:
    pytest.importorskip("onnx")
    import tiny_bundle as tiny

    from edgeadapt.bundle._weights import FACTORY, decode_weights
    from fuzz.edits.safetensors import assembled

    gram = {"dtype": "F32", "shape": [16, 16], "data_offsets": [0, 1024]}
    count = {"dtype": "I64", "shape": [], "data_offsets": offsets}
    for header in (
        {"ridge.gram": gram, "ridge.count": count},
        {"ridge.gram": gram, "ridge.count": {**count, "data_offsets": [512, 520]}},
    ):
        with modestly(), pytest.raises(BundleError, match="not a safetensors file"):
            decode_weights(tiny.manifest(), FACTORY, assembled(header, bytes(1024)))


_ABSURD = """
import resource, sys
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from edgeadapt.errors import EdgeadaptError
from edgeadapt.runtime import GraphFile, Tensors, open_runtime

def field(name):
    lines = open("/proc/self/status")
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

def model(nodes, initialisers, rows="B"):
    values = ([helper.make_tensor_value_info("z", 1, ["B", 4])],
        [helper.make_tensor_value_info("y", 1, [rows, 4])])
    graph = helper.make_graph(nodes, "g", *values, initialisers)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()

size = numpy_helper.from_array(np.array([1 << int(sys.argv[2])], np.int64), "s")
add = [helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
    helper.make_node("Add", ["z", "r"], ["y"])]
built = {
    "constant": lambda: model([helper.make_node("ConstantOfShape", ["s"], ["c"]), *add], [size]),
    "expand": lambda: model([helper.make_node("Expand", ["o", "s"], ["c"]), *add],
    [size, numpy_helper.from_array(np.ones(1, np.float32), "o")]),
    "declared": lambda: model([helper.make_node("Add", ["z", "w"], ["y"])],
    [TensorProto(name="w", data_type=1, dims=[1 << int(sys.argv[2]), 4])]),
}[sys.argv[1]]()
runtime = open_runtime()
runtime.load(GraphFile("warm", model([helper.make_node("Identity", ["z"], ["y"])], []), {}))
before = field("VmHWM")
limit = (int(field("VmSize")) + 512) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    graph = runtime.load(GraphFile("absurd", built, {}))
    print(f"loaded {field('VmHWM') - before:.0f}")
    graph({"z": np.ones((2, 4), np.float32)}, Tensors())
except EdgeadaptError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("kind", "bits", "outcome"),
    [
        ("constant", 33, "RuntimeUnavailable"),
        ("expand", 45, "RuntimeUnavailable"),
        ("declared", 40, "BundleError"),
    ],
)
def test_a_graph_of_absurd_shapes_costs_nothing_to_load_and_fails_by_name_when_it_runs(
    kind: str, bits: int, outcome: str
) -> None:
    """What a graph computes is a program: its memory is bounded by the process it runs in, not by
    the file.
    """
    pytest.importorskip("onnx")
    run = subprocess.run(
        [sys.executable, "-c", _ABSURD, kind, str(bits)], capture_output=True, text=True, timeout=60
    )
    lines = run.stdout.split("\n")
    assert run.returncode == 0 and lines[-2] == outcome, run.stderr[-500:]
    assert outcome == "BundleError" or int(lines[0].split()[1]) < 64


def test_a_tensor_given_twice_which_protobuf_would_merge_under_another_name_is_refused() -> None:
    onnx = pytest.importorskip("onnx")
    from edgeadapt.bundle._external_data import check_external_data
    from fuzz.edits.protobuf import serialise

    external = [(8, 2, b"known"), (14, 0, 1), (13, 2, [(1, 2, b"location"), (2, 2, b"bundle:")])]
    renamed = [(8, 2, b"other")]

    def model(*values: tuple[int, int, list[tuple[int, int, bytes]]]) -> bytes:
        # graph, node, attribute
        return serialise([(7, 2, [(1, 2, [(5, 2, [(1, 2, b"value"), *values])])])])

    check_external_data("g", model((5, 2, external)), ["known"])
    for values in (
        ((5, 2, external), (5, 2, renamed)),
        ((22, 2, [(1, 2, external)]), (22, 2, [(1, 2, renamed)])),
        ((22, 2, [(2, 2, external), (2, 2, renamed)]),),
    ):
        merged = onnx.ModelProto.FromString(model(*values)).graph.node[0].attribute[0]
        assert "other" in {
            merged.t.name,
            merged.sparse_tensor.values.name,
            merged.sparse_tensor.indices.name,
        }
        with pytest.raises(BundleError, match="can be given once, it is given twice"):
            check_external_data("g", model(*values), ["known", "other"])
