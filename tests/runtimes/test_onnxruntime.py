"""The ONNX Runtime room: real graphs, built here with ``onnx``, which the runtime itself never imports."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import edgeadapt_onnxruntime
import numpy as np
import onnxruntime
import pytest
from edgeadapt_onnxruntime import OnnxRuntime
from edgeadapt_onnxruntime._pool import Layout, Pool, PooledBuffer
from numpy.typing import NDArray

from edgeadapt.errors import BundleError, InputError, RuntimeUnavailable
from edgeadapt.runtime import Executable, GraphFile, Signature, Tensors
from edgeadapt.testing import check_runtime

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Arrays = dict[str, NDArray[Any]]
FLOAT = TensorProto.FLOAT


def external(name: str, value: NDArray[Any], location: str = "bundle:") -> TensorProto:
    tensor = TensorProto(
        name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape, data_location=TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value=location)
    return tensor


def build(nodes: list[Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any], initializers: Iterable[TensorProto] = ()) -> bytes:
    """A model; a shape is a list, or (element type, list)."""

    def value(name: str, spec: Any) -> Any:
        element, shape = spec if isinstance(spec, tuple) else (FLOAT, spec)
        return helper.make_tensor_value_info(name, element, shape)

    graph = helper.make_graph(
        nodes, "test", [value(*item) for item in inputs.items()], [value(*item) for item in outputs.items()], list(initializers)
    )
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    return model


def step_graph(shape: list[int]) -> GraphFile:
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    return GraphFile("step", build([helper.make_node("Add", ["W.w", "one"], ["W.w.next"])], {"W.w": shape}, {"W.w.next": shape}, [one]))


def predict_graph(rows: int, columns: int) -> GraphFile:
    nodes = [helper.make_node("MatMul", ["x", "W.w"], ["y"])]
    return GraphFile("predict", build(nodes, {"x": ["B", rows], "W.w": [rows, columns]}, {"y": ["B", columns]}))


def encoder(frozen: Arrays, as_initializers: Callable[[str, NDArray[Any]], TensorProto] = external) -> bytes:
    """features = relu(conv(x, w, b) * scale) @ m + float(table[i]): every kind of weight that an optimiser folds or packs."""
    nodes = [
        helper.make_node("Conv", ["x", "enc.w", "enc.b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c", "enc.scale"], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Add", ["enc.m", "enc.m"], ["m2"]),
        helper.make_node("MatMul", ["f", "m2"], ["p"]),
        helper.make_node("Cast", ["enc.int8"], ["q"], to=FLOAT),
        helper.make_node("Add", ["p", "q"], ["a"]),
        helper.make_node("Mul", ["a", "enc.gain"], ["features"]),
    ]
    return build(nodes, {"x": ["B", 3, 8, 8]}, {"features": ["B", 5]}, [as_initializers(name, value) for name, value in frozen.items()])


@pytest.fixture
def frozen() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "enc.w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "enc.b": rng.standard_normal(4).astype(np.float32),
        "enc.scale": rng.uniform(0.5, 2, (4, 1, 1)).astype(np.float32),
        "enc.m": rng.standard_normal((256, 5)).astype(np.float32),
        "enc.int8": rng.integers(-9, 9, 5).astype(np.int8),
        "enc.gain": np.array(0.5, np.float32),
    }


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)


def inline_features(frozen: Arrays, x: NDArray[Any]) -> NDArray[Any]:
    """The same encoder with its weights inside the file and no optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = encoder(frozen, lambda name, value: numpy_helper.from_array(value, name))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    features: NDArray[Any] = session.run(None, {"x": x})[0]
    return features


@pytest.mark.parametrize("threads", [1, 2])
def test_it_keeps_the_contract(threads: int) -> None:
    check_runtime(OnnxRuntime(intra_op_threads=threads))


class Broken:
    """A runtime that breaks one promise, to show that ``check_runtime`` would notice."""

    name = "broken"

    def __init__(self, how: str) -> None:
        self.inner, self.how, self.loaded = OnnxRuntime(), how, dict[int, Executable]()
        self.upload, self.download = self.inner.upload, self.inner.download

    def load(self, graph: GraphFile, constants: Mapping[str, NDArray[Any]] | None = None) -> Executable:
        inner = self.inner.load(graph, None if self.how == "ignores constants" else constants)
        return self.loaded.setdefault(id(inner), BrokenExecutable(inner, self.how))


class BrokenExecutable:
    def __init__(self, inner: Executable, how: str) -> None:
        self.inner, self.how, self.outputs = inner, how, Arrays()

    @property
    def signature(self) -> Signature:
        return self.inner.signature

    def __call__(self, ports: Mapping[str, Any], tensors: Tensors) -> tuple[Arrays, Tensors]:
        outputs, written = self.inner(ports, tensors)
        if self.how == "writes in place":
            for name in written:
                tensors[name].value.update_inplace(written[name].numpy())  # type: ignore[attr-defined]
            return outputs, tensors.only(written)
        if self.how == "returns every tensor":
            return outputs, written.over(tensors)
        if self.how == "reuses its outputs":
            for name, value in outputs.items():
                outputs[name] = kept = self.outputs.setdefault(f"{name} {value.shape}", value)
                kept[...] = value
        return outputs, written


@pytest.mark.parametrize("how", ["writes in place", "returns every tensor", "reuses its outputs", "ignores constants"])
def test_the_suite_notices_a_runtime_that(how: str) -> None:
    with pytest.raises(AssertionError):
        check_runtime(Broken(how))


def race(runtime: OnnxRuntime) -> tuple[int, int]:
    """At least 10,000 predictions beside a thread that learns ``W.next = W + 1``.

    Returns how many were torn, and how many had a step completed while they ran, which is what makes a zero worth anything.
    At batch 1 both threads mostly take turns and a broken pool passed in 3 of 7 runs. With 256 rows nearly every call meets a
    step and it was found in 12 of 12; where the scheduler puts both threads on one core, more calls are made.
    """
    step, predict = runtime.load(step_graph([256, 64])), runtime.load(predict_graph(256, 64))
    zero = runtime.upload({"W.w": np.zeros((256, 64), np.float32)})
    published, is_done, step_count = [zero], threading.Event(), 0

    def learn() -> None:
        nonlocal step_count
        state = zero
        while not is_done.is_set():
            state = step({}, state)[1] if step_count % 4096 else zero  # 256 x 4096 is exact in float32
            published[0] = state
            step_count += 1

    learner = threading.Thread(target=learn)
    learner.start()
    x = np.ones((256, 256), np.float32)
    torn = met = calls = 0
    deadline = time.monotonic() + 8
    while calls < 10_000 or (met < 1000 and time.monotonic() < deadline):
        calls += 1
        before = step_count
        y = predict({"x": x}, published[0])[0]["y"]
        met += int(step_count > before)
        torn += int(y.min() != y.max() or y[0, 0] % 256 != 0)
    is_done.set()
    learner.join()
    return torn, met


def test_ten_thousand_predictions_beside_a_learning_thread_and_none_is_torn() -> None:
    torn, met = race(OnnxRuntime())
    assert met > 100
    assert torn == 0


def test_the_race_does_tear_predictions_when_buffers_are_reused_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without reference counts the same race finds torn predictions, so zero above means something."""
    take = Pool.take

    def take_one_that_others_may_take(pool: Pool, layout: Layout) -> PooledBuffer:
        buffer = take(pool, layout)
        layout.idle.insert(0, buffer.value)
        pool.idle_bytes += layout.nbytes
        del layout.idle[:-3]
        return buffer

    monkeypatch.setattr(Pool, "take", take_one_that_others_may_take)
    assert race(OnnxRuntime())[0] > 0


def test_memory_is_flat_over_two_thousand_steps() -> None:
    runtime = OnnxRuntime()
    step = runtime.load(step_graph([512, 512]))
    state = runtime.upload({"W.w": np.zeros((512, 512), np.float32)})

    def resident_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    for _ in range(50):
        state = step({}, state)[1].over(state)
    allocations, before = runtime.pool.allocation_count, resident_mib()
    for _ in range(2000):
        state = step({}, state)[1].over(state)
    assert runtime.pool.allocation_count == allocations == 2
    assert resident_mib() - before < 8
    assert float(state["W.w"].numpy()[0, 0]) == 2050


def test_the_pool_frees_what_exceeds_its_limit() -> None:
    pool = Pool(idle_limit=1000)
    layout = pool.layout(np.dtype(np.float32), (100,))
    held = [pool.take(layout) for _ in range(5)]
    addresses = {buffer.value.data_ptr() for buffer in held}
    assert len(addresses) == 5
    held.clear()
    assert pool.idle_bytes == 800
    again = [pool.take(layout) for _ in range(2)]
    assert {buffer.value.data_ptr() for buffer in again} <= addresses
    assert pool.idle_bytes == 0 and pool.allocation_count == 5


def test_a_finaliser_that_runs_inside_the_pool_does_not_wait() -> None:
    pool = Pool(idle_limit=1000)
    buffer = pool.take(pool.layout(np.dtype(np.float32), (4,)))
    with pool._lock:
        del buffer
        gc.collect()
    assert pool.idle_bytes == 0


def test_frozen_weights_give_the_values_of_inline_weights_with_all_optimisations(frozen: Arrays, images: NDArray[Any]) -> None:
    """``add_initializer`` gave silent zeros here, or no session at all."""
    executable = OnnxRuntime().load(GraphFile("encoder", encoder(frozen), frozen))
    features = executable({"x": images}, Tensors())[0]["features"]
    expected = inline_features(frozen, images)
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["enc.w", "enc.b", "enc.scale", "enc.m", "enc.int8", "enc.gain"])
def test_a_replaced_constant_gives_the_refolded_result(frozen: Arrays, images: NDArray[Any], name: str) -> None:
    runtime, graph = OnnxRuntime(), GraphFile("encoder", encoder(frozen), frozen)
    base = runtime.load(graph)
    tripled = np.array(frozen[name] * 3, frozen[name].dtype)
    expected = {**frozen, name: tripled.copy()}
    refolded = runtime.load(graph, {name: tripled})
    tripled[...] = 0
    np.testing.assert_allclose(refolded({"x": images}, Tensors())[0]["features"], inline_features(expected, images), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(base({"x": images}, Tensors())[0]["features"], inline_features(frozen, images), rtol=1e-4, atol=1e-3)


def test_frozen_tensors_the_model_does_not_refer_to_are_ignored(frozen: Arrays, images: NDArray[Any]) -> None:
    executable = OnnxRuntime().load(GraphFile("encoder", encoder(frozen), {**frozen, "other.w": np.zeros(3, np.float32)}))
    assert np.abs(executable({"x": images}, Tensors())[0]["features"]).max() > 0


def test_the_least_recently_used_of_sixteen_is_let_go_and_still_works(frozen: Arrays, images: NDArray[Any]) -> None:
    runtime, graph = OnnxRuntime(), GraphFile("encoder", encoder(frozen), frozen)
    gains = [{"enc.gain": np.array(gain, np.float32)} for gain in range(1, 18)]
    loaded = [runtime.load(graph, gain) for gain in gains[:16]]
    assert runtime.load(graph, gains[0]) is loaded[0]
    runtime.load(graph, gains[16])
    assert runtime.load(graph, gains[0]) is loaded[0]
    assert runtime.load(graph, gains[1]) is not loaded[1]
    unit = loaded[0]({"x": images}, Tensors())[0]["features"]
    np.testing.assert_allclose(loaded[1]({"x": images}, Tensors())[0]["features"], 2 * unit, rtol=1e-5, atol=1e-5)


def test_a_graph_is_loaded_once_by_many_threads() -> None:
    runtime, loaded = OnnxRuntime(), list[Executable]()
    threads = [threading.Thread(target=lambda: loaded.append(runtime.load(step_graph([4])))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(executable) for executable in loaded}) == 1 and len(loaded) == 8


def test_damaged_and_incomplete_graphs_are_refused_by_name(frozen: Arrays) -> None:
    runtime, model = OnnxRuntime(), encoder(frozen)
    without = {name: value for name, value in frozen.items() if name != "enc.scale"}
    with pytest.raises(BundleError, match=r"'encoder': no value for frozen tensor 'enc.scale'"):
        runtime.load(GraphFile("encoder", model, without))
    with pytest.raises(BundleError, match=r"'enc.b' must be float32\[4\], got float32\[3\]"):
        runtime.load(GraphFile("encoder", model, {**frozen, "enc.b": frozen["enc.b"][:3]}))
    with pytest.raises(BundleError, match=r"'enc.int8' must be int8\[5\], got int32\[5\]"):
        runtime.load(GraphFile("encoder", model, frozen), {"enc.int8": np.zeros(5, np.int32)})
    with pytest.raises(BundleError, match=r"has no frozen tensor 'enc.gian' to replace"):
        runtime.load(GraphFile("encoder", model, frozen), {"enc.gian": np.array(1, np.float32)})
    with pytest.raises(BundleError, match="'encoder'"):
        runtime.load(GraphFile("encoder", model[:-40], frozen))
    with pytest.raises(BundleError, match="'empty'"):
        runtime.load(GraphFile("empty", b""))
    elsewhere = external("k.s", np.ones(3), "../../etc/passwd")
    escape = build([helper.make_node("Mul", ["x", "k.s"], ["y"])], {"x": [3]}, {"y": [3]}, [elsewhere])
    with pytest.raises(BundleError, match=r"'k.s' points to '../../etc/passwd'; only 'bundle:' is accepted"):
        runtime.load(GraphFile("escape", escape, {"k.s": np.ones(3)}))


def test_a_refusal_says_what_was_wanted_and_what_came() -> None:
    runtime = OnnxRuntime()
    nodes = [helper.make_node("Mul", ["z", "sample_weight"], ["s"]), helper.make_node("Add", ["s", "t.t"], ["y"])]
    graph = build(nodes, {"z": ["B", 4], "sample_weight": ["B", 1], "t.t": [4]}, {"y": ["B", 4]})
    executable, tensors = runtime.load(GraphFile("learn", graph)), runtime.upload({"t.t": np.zeros(4, np.float32)})
    z, weight = np.ones((2, 4), np.float32), np.ones((2, 1), np.float32)
    assert executable({"z": z, "sample_weight": weight}, tensors)[0]["y"].shape == (2, 4)
    for ports, message in [
        ({"z": z}, r"port 'sample_weight' is missing; it takes float32\[B, 1\]"),
        ({"z": z, "sample_weight": weight, "lr": 0.1}, r"no port 'lr'; its ports: z, sample_weight"),
        ({"z": z.astype(np.int64), "sample_weight": weight}, r"'learn': port 'z' takes float32\[B, 4\], got int64\[2, 4\]"),
        ({"z": z[:, :3], "sample_weight": weight}, r"port 'z' takes float32\[B, 4\], got float32\[2, 3\]"),
        ({"z": z, "sample_weight": weight[:, 0]}, r"port 'sample_weight' takes float32\[B, 1\], got float32\[2\]"),
        ({"z": z, "sample_weight": weight[:1]}, r"port 'sample_weight' takes float32\[B, 1\], got float32\[1, 1\], B = 2"),
    ]:
        with pytest.raises(InputError, match=message):
            executable(ports, tensors)

    class Foreign:
        pass

    ports = {"z": z, "sample_weight": weight}
    for wrong, message in [
        (Tensors(), r"reads tensor 't.t', which was not given; given: none"),
        (Tensors({"t.t": Foreign()}), r"tensor 't.t' is a Foreign of another runtime"),  # type: ignore[dict-item]
        (runtime.upload({"t.t": np.zeros(4)}), r"tensor 't.t' must be float32\[4\], got float64\[4\]"),
        (runtime.upload({"t.t": np.zeros((1, 4), np.float32)}), r"tensor 't.t' must be float32\[4\], got float32\[1, 4\]"),
    ]:
        with pytest.raises(InputError, match=message):
            executable(ports, wrong)
    with pytest.raises(InputError, match=r"'t.u' cannot be uploaded: dtype <U1"):
        runtime.upload({"t.u": np.array(["a"])})
    with pytest.raises(InputError, match=r"no tensor 't.x' to download; there are: t.t"):
        runtime.download(tensors, ["t.x"])
    with pytest.raises(RuntimeUnavailable, match="has no TpuExecutionProvider"):
        OnnxRuntime(providers=("TpuExecutionProvider",))


def test_ports_may_be_numbers_views_or_anything_with_dlpack() -> None:
    runtime = OnnxRuntime()
    graph = build([helper.make_node("Mul", ["x", "lr"], ["y"])], {"x": [2, 3], "lr": []}, {"y": [2, 3]})
    executable = runtime.load(GraphFile("scale", graph))

    class Borrowed:
        def __init__(self, array: NDArray[Any]) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    read_only = np.ascontiguousarray(x.T)
    read_only.flags.writeable = False
    for given in (x.T, read_only, Borrowed(np.ascontiguousarray(x.T))):
        for rate in (0.5, np.array(0.5, np.float32), np.float32(0.5)):
            np.testing.assert_array_equal(executable({"x": given, "lr": rate}, Tensors())[0]["y"], x.T * np.float32(0.5))


def test_results_that_are_only_views_of_an_input_are_still_fresh_memory() -> None:
    """Identity, Reshape, constants and branches are where an engine is tempted to hand back what it was given."""

    def branch(name: str) -> Any:
        result = helper.make_tensor_value_info(name, FLOAT, [4, 4])
        return helper.make_graph([helper.make_node("Identity", ["a.a"], [name])], f"branch_{name}", [], [result])

    nodes = [
        helper.make_node("Identity", ["a.a"], ["b.b.next"]),
        helper.make_node("Reshape", ["a.a", "flat"], ["c.c.next"]),
        helper.make_node("Identity", ["constant"], ["d.d.next"]),
        helper.make_node("If", ["flag"], ["e.e.next"], then_branch=branch("p"), else_branch=branch("q")),
        helper.make_node("Identity", ["a.a"], ["y"]),
    ]
    outputs = {"b.b.next": [4, 4], "c.c.next": [16], "d.d.next": [2], "e.e.next": [4, 4], "y": [4, 4]}
    initializers = [numpy_helper.from_array(np.array([16]), "flat"), numpy_helper.from_array(np.ones(2, np.float32), "constant")]
    runtime = OnnxRuntime()
    executable = runtime.load(GraphFile("views", build(nodes, {"a.a": [4, 4], "flag": (TensorProto.BOOL, [])}, outputs, initializers)))
    value = np.arange(16, dtype=np.float32).reshape(4, 4)
    tensors = runtime.upload({"a.a": value})
    results, written = executable({"flag": True}, tensors)
    results["y"][:] = -1
    buffers = [tensors["a.a"], *written.values()]
    assert len({buffer.value.data_ptr() for buffer in buffers}) == 5  # type: ignore[attr-defined]
    again = executable({"flag": False}, tensors)[1]
    for state in (written, again):
        for name, array in runtime.download(state).items():
            np.testing.assert_array_equal(array.ravel(), np.ones(2) if name == "d.d" else value.ravel())


def test_a_small_result_does_not_keep_a_large_sibling_alive() -> None:
    runtime, large = OnnxRuntime(), 1 << 20
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes = [helper.make_node("Add", ["big.b", "one"], ["big.b.next"]), helper.make_node("Add", ["n.n", "one"], ["n.n.next"])]
    model = build(nodes, {"big.b": [large], "n.n": [1]}, {"big.b.next": [large], "n.n.next": [1]}, [one])
    executable = runtime.load(GraphFile("pair", model))
    tensors = runtime.upload({"big.b": np.zeros(large, np.float32), "n.n": np.zeros(1, np.float32)})
    kept = [executable({}, tensors)[1].only(["n.n"]) for _ in range(10)]
    assert runtime.pool.idle_bytes == 4 * large and len(kept) == 10


def test_shapes_that_depend_on_data_are_allocated_by_the_engine() -> None:
    runtime = OnnxRuntime()
    nodes = [helper.make_node("NonZero", ["x"], ["where"]), helper.make_node("Neg", ["t.t"], ["t.t.next"])]
    outputs = {"where": (TensorProto.INT64, [1, "found"]), "t.t.next": [2]}
    executable = runtime.load(GraphFile("nonzero", build(nodes, {"x": ["B"], "t.t": [2]}, outputs)))
    tensors = runtime.upload({"t.t": np.array([1, 2], np.float32)})
    for x in ([0, 1, 1], [1, 0, 0]):
        results, written = executable({"x": np.array(x, np.float32)}, tensors)
        assert results["where"].tolist() == [np.flatnonzero(x).tolist()]
        assert written["t.t"].numpy().tolist() == [-1, -2]


def test_a_call_costs_at_most_fifteen_microseconds_more_than_the_bare_session() -> None:
    inputs: dict[str, Any] = {"z": ["B", 16], **{f"t.t{i}": [16, 16] for i in range(5)}}
    outputs: dict[str, Any] = {"y": ["B", 16], **{f"t.t{i}.next": [16, 16] for i in range(3)}}
    nodes = [helper.make_node("Add", [f"t.t{i}", f"t.t{i + 2}"], [f"t.t{i}.next"]) for i in range(3)]
    model = build([helper.make_node("MatMul", ["z", "t.t0"], ["y"]), *nodes], inputs, outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    runtime = OnnxRuntime()
    executable = runtime.load(GraphFile("tiny", model))
    z, values = np.ones((1, 16), np.float32), {f"t.t{i}": np.ones((16, 16), np.float32) for i in range(5)}
    tensors, feed = runtime.upload(values), {"z": z, **values}

    def best_us(call: Callable[[], object]) -> float:
        rounds = []
        for _ in range(40):
            start = time.perf_counter()
            for _ in range(50):
                call()
            rounds.append((time.perf_counter() - start) / 50 * 1e6)
        return min(rounds)

    bare = best_us(lambda: session.run(None, feed))
    assert best_us(lambda: executable({"z": z}, tensors)) <= bare + 15


def test_the_room_imports_neither_onnx_nor_torch() -> None:
    rooms = [str(Path(edgeadapt_onnxruntime.__file__).parents[level]) for level in (1, 2)]
    script = (
        f"import sys; sys.path[:0] = {rooms}; import edgeadapt_onnxruntime, edgeadapt.testing; "
        "print(sorted({'onnx', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_probe_says_version_and_providers() -> None:
    assert OnnxRuntime.probe().startswith(f"onnxruntime {onnxruntime.__version__}, ") and "CPUExecutionProvider" in OnnxRuntime.probe()
