"""What opening a bundle and a first answer bring with them: modules, sessions, derivations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgeadapt
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.inference import program as programs
from edgeadapt.device.inference.late_graph import LateGraph
from edgeadapt.device.inference.program import Program
from edgeadapt.device.numerics.linalg import NUMERICS
from edgeadapt.errors import BundleError
from edgeadapt.runtime import GraphFile, open_runtime

UNUSED = {
    "cryptography",
    "email.mime",
    "http",
    "asyncio",
    "subprocess",
    "multiprocessing",
    "urllib.request",
    "edgeadapt_onnxruntime._gpu",
    "edgeadapt_onnxruntime._device_executable",
    "edgeadapt_onnxruntime._provider_child",
    "edgeadapt.placement.placed_runtime",
    "edgeadapt.placement.scheduler",
    "edgeadapt.daemon",
    "edgeadapt_bench",
    "edgeadapt.commands",
    "edgeadapt.device.recovery.migrate",
}
_START = """
import json, sys
import onnxruntime
made = []
class Counted(onnxruntime.InferenceSession):
    def __init__(self, *arguments, **options):
        made.append(1)
        super().__init__(*arguments, **options)
onnxruntime.InferenceSession = Counted
before = set(sys.modules)
import edgeadapt, numpy
with edgeadapt.open(sys.argv[1]) as learner:
    shape = learner.bundle.manifest.input.shape
    learner.predict(numpy.zeros((1, *shape), numpy.uint8))
    started = len(made)
    modules = sorted(set(sys.modules) - before)
    learner.learn(numpy.zeros((2, *shape), numpy.uint8), [learner.classes[0]] * 2)
    learner.settle()
    print(json.dumps([started, len(made), modules]))
"""


@pytest.fixture(scope="module")
def start() -> tuple[int, int, set[str]]:
    """Sessions before the first answer, and once a label was learned; modules that the first answer
    brought.
    """
    done = subprocess.run(
        [sys.executable, "-c", _START, str(bundle_path())],
        capture_output=True,
        text=True,
        check=True,
    )
    first, learned, modules = json.loads(done.stdout)
    return first, learned, set(modules)


def test_an_answer_makes_two_sessions_and_a_label_one_more(
    start: tuple[int, int, set[str]],
) -> None:
    assert start[:2] == (2, 3)


def test_a_start_imports_nothing_of_keys_gpus_placement_or_the_daemon(
    start: tuple[int, int, set[str]],
) -> None:
    assert not UNUSED & start[2]
    assert {"edgeadapt.device.learner", "edgeadapt_onnxruntime._runtime"} <= start[2]


def test_opening_derives_the_factorys_head_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name, numeric in list(NUMERICS.items()):
        monkeypatch.setitem(
            NUMERICS,
            name,
            lambda *a, _name=name, _run=numeric, **k: calls.append(_name) or _run(*a, **k),
        )
    with edgeadapt.open(bundle_path()) as learner:
        assert calls == [numeric.numeric for numeric in learner.manifest.numerics]


def test_what_is_loaded_late_answers_as_what_is_loaded_at_once() -> None:
    bundle, runtime = edgeadapt.read_bundle(bundle_path()), open_runtime("onnxruntime")
    program = Program(bundle, runtime)
    tensors = program.factory_domain().over(program.factory())
    rng = np.random.default_rng(0)
    z = rng.standard_normal((5, bundle.manifest.feature_dim)).astype(np.float32)
    taps = rng.standard_normal((5, bundle.manifest.tap_dim)).astype(np.float32)
    ones = np.ones(5, np.float32)
    ports = {
        "z": z,
        "taps": taps,
        "y": np.zeros(5, np.int64),
        "sample_weight": ones,
        "is_factory": 0 * ones,
    }
    spec = bundle.manifest.graphs_for("learn")[0]
    wanted = {port.name for port in spec.ports}
    _, written = runtime.load(bundle.graph_file(spec))(
        {k: v for k, v in ports.items() if k in wanted}, tensors
    )
    late, _ = program.learn(tensors, z, taps, ports["y"], ones, 0 * ones)
    for name, value in runtime.download(written).items():
        np.testing.assert_array_equal(runtime.download(late, [name])[name], value)
    before = runtime.download(tensors, list(written))
    assert any(
        not np.array_equal(value, before[name]) for name, value in runtime.download(written).items()
    )


def test_a_bundle_replaced_after_it_was_opened_learns_with_the_graphs_it_came_with(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.edge"
    path.write_bytes(bundle_path().read_bytes())
    with edgeadapt.open(path) as learner:
        path.write_bytes(b"another file")
        x = np.zeros((2, *learner.bundle.manifest.input.shape), np.uint8)
        ids = learner.learn(x, [learner.classes[0]] * 2)
        learner.settle()
        assert {state.status for state in learner.label_states(ids)} <= {
            "learned",
            "held_out",
            "held",
        }


def test_a_late_graph_that_is_refused_says_so_at_every_call() -> None:
    broken = GraphFile("graphs/broken.onnx", b"\x08\x01")
    late = LateGraph(broken, open_runtime("onnxruntime"), lambda graph: None)
    for _ in range(2):
        with pytest.raises(BundleError, match=r"broken\.onnx"):
            late.load()


@pytest.mark.parametrize("count", [1, 8, 9, 32, 35])
def test_large_images_in_pieces_have_the_features_of_one_call(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Program(edgeadapt.read_bundle(bundle_path()), open_runtime()).encode_chunk == 32
    monkeypatch.setattr(programs, "_LARGE", 28 * 28)
    program = Program(edgeadapt.read_bundle(bundle_path()), open_runtime("onnxruntime"))
    x = np.random.default_rng(1).integers(
        0, 256, (count, *program.manifest.input.shape), dtype=np.uint8
    )
    assert program.encode_chunk == 8 < program.chunk
    assert program.graphs.encode is not None
    whole, _ = program.graphs.encode({"x": x}, programs.NO_TENSORS)
    z, taps = program.encode(x)
    np.testing.assert_allclose(z, whole["z"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(taps, whole["taps"], rtol=1e-5, atol=1e-4)


def test_an_engine_with_memory_of_its_own_keeps_the_large_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs, "_LARGE", 28 * 28)

    class Elsewhere:
        runs_where_called = False

        def __init__(self) -> None:
            self._engine = open_runtime("onnxruntime")

        def __getattr__(self, name: str) -> object:
            return getattr(self._engine, name)

    program = Program(edgeadapt.read_bundle(bundle_path()), Elsewhere())  # type: ignore[arg-type]
    assert program.encode_chunk == program.chunk == 32
