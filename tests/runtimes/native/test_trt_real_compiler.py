"""The same building code with a real compiler, TensorRT for RTX, which needs no GPU until an engine is loaded (``pip install 'edgeadapt[rtx]'``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edgeadapt_tensorrt import EngineError, Flags
from edgeadapt_tensorrt._driver import Device
from edgeadapt_tensorrt._engine import Compiler, Profile
from edgeadapt_tensorrt._logger import listening
from edgeadapt_tensorrt._onnx_file import OnnxFile
from edgeadapt_tensorrt._store import Store
from tiny_models import build

from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import bundle_path

pytest.importorskip("onnx")
from onnx import TensorProto, helper

trt: Any = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'edgeadapt[rtx]'")


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    return Compiler(trt, Device("none", (8, 6), "0"), Flags(), Store(tmp_path / "plans", 1 << 28, print), print)


def test_every_graph_of_the_demo_builds_and_so_does_the_encoder_with_weights_that_change(compiler: Compiler) -> None:
    bundle = read_bundle(bundle_path())
    refold = next(spec for spec in bundle.manifest.graphs if spec.file.endswith("refold.onnx"))
    for spec in bundle.manifest.graphs:
        graph = bundle.graph_file(spec)
        file = OnnxFile(graph.name, graph.model)
        for names in ([], sorted(refold.writes)) if "encode" in spec.roles else ([],):
            with listening() as lines:
                plan = compiler._build(graph.name, file.complete(file.frozen(graph.frozen), names), Profile(8, 32), lines)
            assert len(plan) > 100_000


def test_what_it_does_not_support_is_named(compiler: Compiler) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], name="here")
    with listening() as lines, pytest.raises(EngineError, match="NonZero at node 'here'"):
        compiler._build("odd", build([node], {"x": ["B"]}, {"y": (TensorProto.INT64, [1, "n"])}), Profile(8, 32), lines)


def test_without_a_driver_a_plan_that_does_not_load_is_an_error_with_its_words(compiler: Compiler) -> None:
    model = build([helper.make_node("Neg", ["x"], ["y"])], {"x": ["B", 3]}, {"y": ["B", 3]})
    file = OnnxFile("neg", model)
    try:
        compiler.engine("neg", model, file.inputs, file.outputs, Profile(8, 32))
    except EngineError as error:
        assert "cannot load the plan that it built. TensorRT said: " in str(error)
