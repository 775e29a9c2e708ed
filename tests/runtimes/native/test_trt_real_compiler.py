"""The same building code with a real compiler, TensorRT for RTX, which needs no GPU until an engine
is loaded (``pip install 'edgeadapt[rtx]'``).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from edgeadapt_tensorrt import EngineError, Flags, TensorRT
from edgeadapt_tensorrt._driver import Device
from edgeadapt_tensorrt._engine import Compiler, Profile
from edgeadapt_tensorrt._logger import listening
from edgeadapt_tensorrt._store import Store
from golden_files import GOLDEN
from tiny_models import build

from edgeadapt.bundle import read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.inference.prebuild import build_ahead, requests
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.onnx_file import OnnxFile

pytest.importorskip("onnx")
from onnx import TensorProto, helper

trt: Any = pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'edgeadapt[rtx]'"
)


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    return Compiler(
        trt, Device("none", (8, 6), "0"), Flags(), Store(tmp_path / "plans", 1 << 28, print), print
    )


def test_every_graph_of_the_demo_builds_and_so_does_the_encoder_with_weights_that_change(
    compiler: Compiler,
) -> None:
    bundle = read_bundle(bundle_path())
    refold = next(spec for spec in bundle.manifest.graphs if spec.file.endswith("refold.onnx"))
    for spec in bundle.manifest.graphs:
        graph = bundle.graph_file(spec)
        file = OnnxFile(graph.name, graph.model)
        for names in ([], sorted(refold.writes)) if "encode" in spec.roles else ([],):
            with listening() as lines:
                plan = compiler._build(
                    graph.name,
                    file.complete(file.frozen(graph.frozen), names),
                    Profile(8, 32),
                    lines,
                )
            assert len(plan) > 100_000


def test_every_precision_of_an_encoder_builds_and_the_float16_one_with_weights_that_change(
    compiler: Compiler,
) -> None:
    bundle = read_bundle(GOLDEN / "precise.edge")
    refold = next(spec for spec in bundle.manifest.graphs if spec.file.endswith("refold.onnx"))
    for spec in bundle.manifest.graphs:
        if spec.precision != "float32":
            graph = bundle.graph_file(spec)
            file = OnnxFile(graph.name, graph.model)
            for names in ([], sorted(refold.writes)) if spec.precision == "float16" else ([],):
                with listening() as lines:
                    plan = compiler._build(
                        graph.name,
                        file.complete(file.frozen(graph.frozen), names),
                        Profile(8, 32),
                        lines,
                    )
                assert len(plan) > 100_000


def test_what_it_does_not_support_is_named(compiler: Compiler) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], name="here")
    with listening() as lines, pytest.raises(EngineError, match="NonZero at node 'here'"):
        compiler._build(
            "odd",
            build([node], {"x": ["B"]}, {"y": (TensorProto.INT64, [1, "n"])}),
            Profile(8, 32),
            lines,
        )


def test_without_a_driver_a_plan_that_does_not_load_is_an_error_with_its_words(
    compiler: Compiler,
) -> None:
    model = build([helper.make_node("Neg", ["x"], ["y"])], {"x": ["B", 3]}, {"y": ["B", 3]})
    file = OnnxFile("neg", model)
    try:
        compiler.engine("neg", model, file.inputs, file.outputs, Profile(8, 32))
    except EngineError as error:
        assert "cannot load the plan that it built. TensorRT said: " in str(error)


# -- building ahead --------------------------------------------------------------------------------
def encoder() -> tuple[str, bytes]:
    graph = requests(read_bundle(bundle_path()))[0].graph
    file = OnnxFile(graph.name, graph.model)
    return graph.name, file.complete(file.frozen(graph.frozen))


def test_its_phases_are_told_and_their_steps_reach_their_number(compiler: Compiler) -> None:
    told: list[tuple[str, int, int]] = []
    with listening() as lines:
        compiler._build(*encoder(), Profile(8, 32), lines, lambda *step: not told.append(step))  # type: ignore[func-returns-value]
    assert (
        told[0][1] == 0
        and len({phase for phase, _, _ in told}) > 3
        and any(step == of > 10 for _, step, of in told)
    )
    assert all(0 <= step <= of for _, step, of in told)


@pytest.mark.parametrize("stops_at", [1, 20])
def test_it_stops_when_it_is_told_to_and_builds_afterwards(
    compiler: Compiler, stops_at: int
) -> None:
    told: list[Any] = []

    def watch(*step: Any) -> bool:
        told.append(step)
        return len(told) < stops_at

    with (
        listening() as lines,
        pytest.raises(
            RuntimeUnavailable, match=r"graph 'graphs/encode\.onnx': its build was cancelled"
        ),
    ):
        compiler._build(*encoder(), Profile(8, 32), lines, watch)
    assert len(told) == stops_at and "BuildCanceled" in "".join(lines)
    with listening() as lines:
        assert len(compiler._build(*encoder(), Profile(8, 32), lines)) > 100_000


def test_an_error_of_whoever_watches_comes_out_of_the_build(compiler: Compiler) -> None:
    def watch(*_: Any) -> bool:
        raise KeyboardInterrupt

    started = time.perf_counter()
    with listening() as lines, pytest.raises(KeyboardInterrupt):
        compiler._build(*encoder(), Profile(8, 32), lines, watch)
    assert time.perf_counter() - started < 5


@pytest.fixture
def unloaded(device: Any, monkeypatch: pytest.MonkeyPatch) -> dict[bytes, OnnxFile]:
    """The real builder as ``tensorrt``. Its plans cannot be loaded without a GPU: what stands for
    an engine has the ports of the model that was built.
    """
    module: Any = ModuleType("tensorrt")
    module.__dict__.update(
        {name: getattr(trt, name) for name in dir(trt) if not name.startswith("__")}
        | {"__version__": "10.16.0", "__spec__": None}
    )
    built: dict[bytes, OnnxFile] = {}
    real = Compiler._build

    def build_and_remember(self: Compiler, name: str, model: bytes, *more: Any) -> bytes:
        plan = real(self, name, model, *more)
        built[plan] = OnnxFile(name, model)
        return plan

    def load(plan: bytes) -> Any:
        inputs, outputs = built[bytes(plan)].inputs, built[bytes(plan)].outputs
        names = [value.name for value in (*inputs, *outputs)]
        kinds = {
            "float32": "FLOAT",
            "int64": "INT64",
            "int32": "INT32",
            "uint8": "UINT8",
            "bool": "BOOL",
        }
        return SimpleNamespace(
            num_io_tensors=len(names),
            get_tensor_name=names.__getitem__,
            get_tensor_mode=lambda name: SimpleNamespace(
                name="INPUT" if name in {value.name for value in inputs} else "OUTPUT"
            ),
            get_tensor_dtype=lambda name: SimpleNamespace(
                name=kinds[next(value.dtype for value in (*inputs, *outputs) if value.name == name)]
            ),
            get_tensor_location=lambda name: trt.TensorLocation.DEVICE,
        )

    module.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=load)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(Compiler, "_build", build_and_remember)
    return built


def test_everything_that_a_learner_asks_for_is_built_and_kept(
    unloaded: dict[bytes, OnnxFile], tmp_path: Path
) -> None:
    asked = requests(read_bundle(bundle_path()))
    steps: list[Any] = []
    first = list(build_ahead(TensorRT(cache=tmp_path), asked, lambda *step: steps.append(step)))
    assert (
        [result.outcome for result in first] == 6 * ["built"]
        and all(result.nbytes > 100_000 for result in first)
        and len(steps) > 500
    )
    runtime = TensorRT(cache=tmp_path)
    assert [result.outcome for result in build_ahead(runtime, asked)] == 6 * [
        "kept"
    ] and runtime.compiler.build_count == 0


def test_an_interrupt_leaves_what_was_built(
    unloaded: dict[bytes, OnnxFile], tmp_path: Path
) -> None:
    asked = requests(read_bundle(bundle_path()))

    def interrupt(phase: str, step: int, of: int) -> None:
        if len(list(tmp_path.glob("plan-*"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(build_ahead(TensorRT(cache=tmp_path), asked, interrupt))
    assert len(list(tmp_path.glob("plan-*"))) == 2
    outcomes = [result.outcome for result in build_ahead(TensorRT(cache=tmp_path), asked)]
    assert outcomes == 2 * ["kept"] + 4 * ["built"]
