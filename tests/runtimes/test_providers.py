"""Tensors on a device, on the CPU's here; options of providers; a provider that is left out. No GPU
is needed, and none was used.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from edgeadapt_onnxruntime import CudaRuntime, OnnxRuntime, TensorrtRuntime, _gpu, _probe
from edgeadapt_onnxruntime._device_pool import DeviceBuffer, DevicePool, Transfers
from edgeadapt_onnxruntime._providers import (
    CPU,
    CUDA,
    KNOWN,
    REFUSED,
    TENSORRT,
    defaults,
    given,
    profile,
)

import edgeadapt
from edgeadapt.demo.sample import KNOWN as SHIPPED
from edgeadapt.demo.sample import bundle_path, load_sample
from edgeadapt.device.detection.policy import Policy
from edgeadapt.errors import BundleError, InputError, RuntimeUnavailable
from edgeadapt.onnx_file import OnnxFile
from edgeadapt.runtime import GraphFile, Tensors
from edgeadapt.testing import check_runtime

pytest.importorskip("onnx")
from onnx import TensorProto, helper
from tiny_models import build, predict_graph, step_graph


def on_device() -> tuple[OnnxRuntime, Transfers]:
    runtime = OnnxRuntime(device="cpu")
    assert runtime.transfers is not None
    return runtime, runtime.transfers


def counts(transfers: Transfers) -> tuple[int, int, int, int]:
    return (
        transfers.ports.count,
        transfers.outputs.count,
        transfers.uploads.count,
        transfers.downloads.count,
    )


# -- tensors on a device ---------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 2])
def test_it_keeps_the_contract(threads: int) -> None:
    check_runtime(OnnxRuntime(intra_op_threads=threads, device="cpu"))


def test_tensors_never_cross_between_steps() -> None:
    runtime, transfers = on_device()
    step = runtime.load(step_graph([256, 64]))
    state = runtime.upload({"W.w": np.zeros((256, 64), np.float32)})
    assert counts(transfers) == (0, 0, 1, 0) and transfers.uploads.nbytes == 256 * 64 * 4
    for _ in range(100):
        state = step({}, state)[1].over(state)
    assert counts(transfers) == (0, 0, 1, 0)
    assert runtime.pool.allocation_count == 2
    assert np.all(runtime.download(state)["W.w"] == 100)
    assert counts(transfers) == (0, 0, 1, 1) and transfers.downloads.nbytes == 256 * 64 * 4


def test_a_prediction_copies_each_port_and_each_output_once() -> None:
    runtime, transfers = on_device()
    predict = runtime.load(predict_graph(8, 4))
    tensors = runtime.upload({"W.w": np.ones((8, 4), np.float32)})
    for batch in (1, 3, 3):
        y = predict({"x": np.ones((batch, 8), np.float32)}, tensors)[0]["y"]
        assert y.flags.owndata and np.array_equal(y, np.full((batch, 4), 8, np.float32))
    assert counts(transfers) == (3, 3, 1, 0)
    assert (transfers.ports.nbytes, transfers.outputs.nbytes) == (7 * 8 * 4, 7 * 4 * 4)
    assert "3 copies" in repr(transfers.ports)


def test_what_is_written_shares_no_memory_with_what_is_read() -> None:
    runtime, _ = on_device()
    step = runtime.load(step_graph([16]))
    states = [runtime.upload({"W.w": np.zeros(16, np.float32)})]
    for _ in range(5):
        states.append(step({}, states[-1])[1])
    addresses = {state["W.w"].value.data_ptr() for state in states}  # type: ignore[attr-defined]
    assert len(addresses) == 6
    assert [float(state["W.w"].numpy()[0]) for state in states] == [0, 1, 2, 3, 4, 5]


def test_a_port_is_not_overwritten_while_others_call() -> None:
    """A port's buffer that went back too early would be taken by another call, and one of both
    would multiply wrong rows.
    """
    runtime, _ = on_device()
    predict = runtime.load(predict_graph(256, 64))
    tensors = runtime.upload({"W.w": np.ones((256, 64), np.float32)})
    wrong: list[float] = []

    def call(value: int) -> None:
        x = np.full((128, 256), value, np.float32)
        for _ in range(300):
            y = predict({"x": x}, tensors)[0]["y"]
            if not np.all(y == 256 * value):
                wrong.append(float(y[0, 0]))

    threads = [threading.Thread(target=call, args=(value,)) for value in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert runtime.transfers is not None and runtime.transfers.ports.count == 900


def test_a_tensor_that_lies_elsewhere_is_refused_and_not_copied_at_every_call() -> None:
    runtime, _ = on_device()
    predict, x = runtime.load(predict_graph(2, 1)), np.ones((1, 2), np.float32)
    with pytest.raises(
        InputError,
        match=(
            r"'W.w' lies elsewhere, as a PooledBuffer of another runtime, not on cpu; upload it"
            r" here first"
        ),
    ):
        predict({"x": x}, OnnxRuntime().upload({"W.w": np.ones((2, 1), np.float32)}))
    here = runtime.upload({"W.w": np.ones((2, 1), np.float32)})
    far = DevicePool(0, "cuda:1")
    moved = Tensors(
        {"W.w": DeviceBuffer(here["W.w"].value, far.layout(np.dtype(np.float32), (2, 1)), far)}
    )  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"'W.w' lies on cuda:1, not on cpu"):
        predict({"x": x}, moved)
    with pytest.raises(InputError, match=r"reads tensor 'W.w', which was not given"):
        predict({"x": x}, runtime.upload({}))
    with pytest.raises(InputError, match=r"must be float32\[2, 1\], got float32\[3, 1\]"):
        predict({"x": x}, runtime.upload({"W.w": np.ones((3, 1), np.float32)}))
    assert predict({"x": x}, here)[0]["y"][0, 0] == 2


def test_results_whose_shape_does_not_follow_from_the_ports_cross_and_are_counted() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["at"]),
        helper.make_node("Identity", ["at"], ["a.seen.next"]),
    ]
    model = build(
        nodes,
        {"x": ["B"]},
        {"at": (TensorProto.INT64, [1, "found"]), "a.seen.next": (TensorProto.INT64, [1, "found"])},
    )
    runtime, transfers = on_device()
    outputs, written = runtime.load(GraphFile("found", model))(
        {"x": np.array([0, 1, 2], np.float32)}, Tensors()
    )
    assert counts(transfers) == (1, 1, 1, 1)
    assert outputs["at"].tolist() == [[1, 2]] and runtime.download(written)["a.seen"].tolist() == [
        [1, 2]
    ]


def test_a_graph_that_runs_rarely_runs_on_a_device_too() -> None:
    runtime, _ = on_device()
    rare = GraphFile("rare", predict_graph(8, 4).model, is_rare=True)
    tensors = runtime.upload({"W.w": np.ones((8, 4), np.float32)})
    ys = [runtime.load(rare)({"x": np.ones((2, 8), np.float32)}, tensors)[0]["y"] for _ in range(3)]
    assert np.array_equal(np.stack(ys), np.full((3, 2, 4), 8, np.float32))


def test_the_device_s_pool_frees_what_exceeds_its_limit() -> None:
    pool = DevicePool(1000, "cpu")
    held = [pool.put(np.zeros(100, np.float32), pool.transfers.uploads) for _ in range(5)]
    held.clear()
    gc.collect()
    assert pool.idle_bytes == 800
    held = [pool.put(np.zeros(size, np.float32), pool.transfers.uploads) for size in (200, 50)]
    held.clear()
    assert pool.idle_bytes > 1000
    kept = pool.take(pool.layout(np.dtype(np.float32), (7,)))
    assert pool.idle_bytes <= 1000 and "on cpu" in repr(kept)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CUDA", "cpu:0", ""])
def test_a_device_that_is_none_has_a_named_error(name: str) -> None:
    with pytest.raises(InputError, match="a device is cpu, cuda or cuda:N"):
        DevicePool(0, name)


def test_memory_that_the_device_does_not_give_has_a_named_error() -> None:
    """This build has no CUDA, or no GPU is here, or there is no GPU of this number: whoever asks
    hears which bytes were not given.
    """
    with pytest.raises(RuntimeUnavailable, match=r"cuda:999 gives no 24 bytes for float32\[2, 3\]"):
        OnnxRuntime(device="cuda:999").upload({"W.w": np.zeros((2, 3), np.float32)})


def test_a_device_that_fails_while_it_copies_has_a_named_error() -> None:
    class Lost:
        def update_inplace(self, array: Any) -> None:
            raise RuntimeError("CUDA failure 719: unspecified launch failure")

        def numpy(self) -> Any:
            raise RuntimeError("CUDA failure 719: unspecified launch failure")

    pool = DevicePool(1000, "cpu")
    layout = pool.layout(np.dtype(np.float32), (2,))
    layout.idle.append(Lost())
    with pytest.raises(RuntimeUnavailable, match=r"cpu takes no float32\[2\]: CUDA failure 719"):
        pool.put(np.zeros(2, np.float32), pool.transfers.uploads)
    with pytest.raises(
        RuntimeUnavailable, match=r"cpu gives no float32\[2\] back: CUDA failure 719"
    ):
        DeviceBuffer(Lost(), layout, pool).numpy()
    assert counts(pool.transfers) == (0, 0, 0, 0), "what did not cross is not counted"


def learn_demo(runtime: OnnxRuntime, state: Path) -> tuple[list[Any], int]:
    """Predict, learn a new class, restart, predict: probabilities on the way, and how often a
    tensor crossed in the last prediction.
    """
    sample, rng = load_sample(), np.random.default_rng(0)
    known, new = sample.rows(SHIPPED, rng)[:64], sample.rows(("Bag",), rng)
    probs = []
    with edgeadapt.open(
        bundle_path(), state, runtime=runtime, policy=Policy(new_classes="add")
    ) as learner:
        probs.append(learner.predict(sample.x[known]).probs)
        seen = learner.observe(sample.x[new[:12]])
        for identity in seen.ids:
            learner.label(identity, "Bag")
            # labels that arrive together are learned in one step, and how many do is a matter of
            # time
            learner.settle()
        probs.append(learner.predict(sample.x[new[12:44]]).probs)
        assert np.mean(np.array(learner.predict(sample.x[new[12:44]]).labels) == "Bag") > 0.5
        digest = learner.digest()
    with edgeadapt.open(
        bundle_path(), state, runtime=runtime, policy=Policy(new_classes="add")
    ) as learner:
        assert learner.digest() == digest
        before = counts(runtime.transfers) if runtime.transfers else (0, 0, 0, 0)
        probs.append(learner.predict(sample.x[known]).probs)
        after = counts(runtime.transfers) if runtime.transfers else (0, 0, 0, 0)
    return probs, after[2] + after[3] - before[2] - before[3]


def test_a_whole_learner_learns_on_a_device_what_it_learns_on_the_host(tmp_path: Path) -> None:
    host, _ = learn_demo(OnnxRuntime(), tmp_path / "host")
    runtime, transfers = on_device()
    device, crossed = learn_demo(runtime, tmp_path / "device")
    assert all(np.array_equal(one, other) for one, other in zip(host, device, strict=True))
    assert crossed == 0, "a prediction moves no tensor"
    assert transfers.ports.count > 20 and transfers.outputs.count > 20


# -- options ---------------------------------------------------------------------------------------
def test_defaults_suit_steps_and_what_is_given_wins() -> None:
    assert defaults(CUDA) == {
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    assert (
        defaults(TENSORRT)["trt_fp16_enable"],
        defaults(TENSORRT)["trt_engine_cache_enable"],
    ) == ("0", "0")
    assert defaults(CPU) == {} and given([CPU, (CUDA, {"use_tf32": True, "gpu_mem_limit": 5})]) == [
        (CPU, {}),
        (CUDA, {"use_tf32": "1", "gpu_mem_limit": "5"}),
    ]
    assert all(set(defaults(name)) <= KNOWN[name] | set(REFUSED) for name in KNOWN)


@pytest.mark.parametrize(
    ("provider", "options", "words"),
    [
        (CUDA, {"use_tf23": 0}, "no option 'use_tf23'; did you mean use_tf32"),
        (TENSORRT, {"use_tf32": 0}, "no option 'use_tf32'"),
        (TENSORRT, {"zzz": 1}, "onnxruntime_gpu.md lists them"),
        (CUDA, {"user_compute_stream": 1}, "a run is over when its call returns"),
        (CUDA, {"enable_cuda_graph": 1}, "every step here writes fresh memory"),
        (TENSORRT, {"trt_cuda_graph_enable": 1}, "every step here writes fresh memory"),
        (TENSORRT, {"trt_engine_cache_path": "/x"}, "give the folder as cache="),
        (CUDA, {"gpu_mem_limit": None}, "gpu_mem_limit takes a text or a number, got None"),
    ],
)
def test_an_option_that_cannot_be_has_a_named_error(
    provider: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        OnnxRuntime(providers=[(provider, options), CPU])


def test_a_profile_names_every_free_input_from_the_smallest_to_the_largest_batch() -> None:
    both = (
        helper.make_node("MatMul", ["x", "W.w"], ["xw"]),
        helper.make_node("Mul", ["xw", "weight"], ["y"]),
    )
    model = build(list(both), {"x": ["B", 8], "weight": ["B", 1], "W.w": [8, 4]}, {"y": ["B", 4]})
    assert profile(OnnxFile("g", model).free_inputs, (32, 1, 8)) == {
        "trt_profile_min_shapes": "x:1x8,weight:1x1",
        "trt_profile_opt_shapes": "x:8x8,weight:8x1",
        "trt_profile_max_shapes": "x:32x8,weight:32x1",
    }
    assert profile(OnnxFile("g", step_graph([4]).model).free_inputs, (1, 8)) == {}
    scalar = build([helper.make_node("Identity", ["n"], ["m"])], {"n": []}, {"m": []})
    assert profile(OnnxFile("g", scalar).free_inputs, (1,)) == {}


# -- providers of a GPU, without one ---------------------------------------------------------------
@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime as it is where a GPU's providers were compiled in and do not load: it lists
    them, and leaves them out without an error.
    """
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(
        _probe, "_passed", {(CUDA, 0): "passed", (TENSORRT, 0): "passed", (TENSORRT, 1): "passed"}
    )


def options_of(
    runtime: OnnxRuntime, graph: GraphFile, constants: Mapping[str, Any] | None = None
) -> dict[str, dict[str, str]]:
    return dict(runtime._providers(graph, constants or {}))


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("runtime", [CudaRuntime, TensorrtRuntime])
def test_a_provider_that_onnx_runtime_leaves_out_is_an_error(
    listed: None, runtime: type[CudaRuntime]
) -> None:
    if _probe.ask(runtime.provider)["cause"] == "":
        pytest.skip("a GPU is here")
    with pytest.raises(
        RuntimeUnavailable,
        match=(
            rf"left {runtime.provider} out and would compute with"
            rf" CPUExecutionProvider|{runtime.provider} failed"
        ),
    ):
        runtime().load(step_graph([4]))


def test_a_failure_of_a_provider_is_not_blamed_on_the_graph(
    listed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, enable_fallback: int, disabled_optimizers: Any) -> None:
        assert enable_fallback == 0, "it would print, and go on with the CPU"
        raise RuntimeError('Unknown provider option: "use_tf32".')

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(
        RuntimeUnavailable,
        match=r"CUDAExecutionProvider failed in ONNX Runtime .*Unknown provider option",
    ):
        CudaRuntime().load(step_graph([4]))


def test_a_graph_that_is_damaged_is_blamed_on_the_graph(listed: None) -> None:
    strange = build([helper.make_node("NoSuchOperator", ["x"], ["y"])], {"x": [1]}, {"y": [1]})
    with pytest.raises(BundleError, match="refuses graph 'strange'"):
        OnnxRuntime(device="cpu").load(GraphFile("strange", strange))


def test_tensors_lie_on_the_gpu_of_the_provider(listed: None) -> None:
    assert OnnxRuntime(providers=[(CUDA, {"device_id": 2}), CPU]).device == "cuda:2"
    assert (CudaRuntime().device, TensorrtRuntime(device_id=1).device, OnnxRuntime().device) == (
        "cuda:0",
        "cuda:1",
        None,
    )
    assert (CudaRuntime().runs_where_called, OnnxRuntime().transfers) == (False, None)


def test_arguments_become_options_and_options_win(listed: None) -> None:
    found = options_of(CudaRuntime(memory_mib=512, options={"use_tf32": 1}), step_graph([4]))
    assert (
        found[CUDA]
        == {
            **defaults(CUDA),
            "device_id": "0",
            "gpu_mem_limit": str(512 << 20),
            "use_tf32": "1",
        }
        and found[CPU] == {}
    )


def test_tensorrt_keeps_each_graph_s_engine_in_a_folder_of_its_own(
    listed: None, tmp_path: Path
) -> None:
    """Two bundles may differ in weights alone; ONNX Runtime would take the engine of one for the
    other.
    """
    weights = [
        GraphFile("same", b"model", {"w": np.full(2, value, np.float32)}) for value in (0, 1)
    ]
    runtime = TensorrtRuntime(
        cache=tmp_path / "cache", workspace_mib=64, options={"trt_fp16_enable": 1, "use_tf32": 1}
    )
    one, other = (options_of(runtime, graph)[TENSORRT] for graph in weights)
    assert one["trt_engine_cache_path"] != other["trt_engine_cache_path"]
    assert (
        Path(one["trt_engine_cache_path"]).is_dir()
        and Path(one["trt_engine_cache_path"]).stat().st_mode & 0o077 == 0
    )
    assert one["trt_timing_cache_path"] == other["trt_timing_cache_path"] == str(tmp_path / "cache")
    assert (
        one["trt_engine_cache_enable"],
        one["trt_fp16_enable"],
        one["trt_max_workspace_size"],
    ) == ("1", "1", str(64 << 20))
    assert options_of(runtime, weights[0])[CUDA]["use_tf32"] == "1" and "use_tf32" not in one


def test_a_refolded_encoder_has_no_engine(listed: None, tmp_path: Path) -> None:
    assert list(
        options_of(TensorrtRuntime(cache=tmp_path), step_graph([4]), {"w": np.zeros(1)})
    ) == [CUDA, CPU]
    assert list(options_of(TensorrtRuntime(cache=tmp_path), step_graph([4]))) == [
        TENSORRT,
        CUDA,
        CPU,
    ]


def test_the_folder_of_engines_is_the_service_s_or_the_user_s(
    listed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _gpu.TensorrtRuntime().cache == tmp_path / "edgeadapt" / "onnxruntime-tensorrt"
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "service"))
    assert TensorrtRuntime().cache == tmp_path / "service" / "onnxruntime-tensorrt"
    assert TensorrtRuntime(cache=None).cache is None
    assert (
        options_of(TensorrtRuntime(cache=None), step_graph([4]))[TENSORRT][
            "trt_engine_cache_enable"
        ]
        == "0"
    )
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeUnavailable, match="folder of TensorRT's engines cannot be made"):
        options_of(TensorrtRuntime(cache=tmp_path / "file"), step_graph([4]))


def test_batches_become_a_profile(listed: None) -> None:
    found = options_of(TensorrtRuntime(cache=None, batches=(1, 8, 32)), predict_graph(8, 4))[
        TENSORRT
    ]
    assert (found["trt_profile_min_shapes"], found["trt_profile_max_shapes"]) == ("x:1x8", "x:32x8")
    assert (
        "trt_profile_min_shapes"
        not in options_of(TensorrtRuntime(cache=None), predict_graph(8, 4))[TENSORRT]
    )
    mine = TensorrtRuntime(cache=None, batches=(1, 8), options={"trt_profile_max_shapes": "x:64x8"})
    assert options_of(mine, predict_graph(8, 4))[TENSORRT]["trt_profile_max_shapes"] == "x:64x8"
    for wrong in ((), (0, 1)):
        with pytest.raises(InputError, match="batches must be positive"):
            TensorrtRuntime(batches=wrong)
