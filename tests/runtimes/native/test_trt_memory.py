"""Device memory: values while somebody holds them, poison afterwards, given back in the end, and an
error with numbers when it runs out.
"""

from __future__ import annotations

import gc
import random
from typing import Any

import numpy as np
import pytest
from edgeadapt_tensorrt import DeviceError, OutOfDeviceMemory, TensorRT
from edgeadapt_tensorrt._arena import Arena
from edgeadapt_tensorrt._buffers import DeviceBuffer, Mark, Pool
from fake_device import LATE, LAZY
from tiny_models import predict_graph, step_graph

from edgeadapt.runtime import Tensors

FLOAT = np.dtype(np.float32)


def zeros(rows: int = 256, columns: int = 64) -> dict[str, Any]:
    return {"W.w": np.zeros((rows, columns), np.float32)}


def test_the_arena_never_hands_out_a_byte_twice_and_joins_what_is_free() -> None:
    taken: list[tuple[int, int]] = []
    arena = Arena(
        lambda size: 1 << 20 if not taken else 1 << 30,
        lambda address: taken.append((address, 0)),
        1 << 16,
    )
    assert arena.grow(1, is_tight=False)
    rng, held = random.Random(0), []
    for _ in range(4000):
        block = arena.take(rng.randrange(0, 5000)) if rng.random() < 0.55 else None
        if block is not None:
            assert block.address % 256 == 0
            assert all(
                block.offset + block.size <= other.offset
                or other.offset + other.size <= block.offset
                for other in held
            )
            held.append(block)
        elif held:
            arena.put(held.pop(rng.randrange(len(held))))
        assert arena.used == sum(block.size for block in held)
    for block in held:
        arena.put(block)
    assert arena.chunks[0].is_empty and arena.used == 0
    arena.trim()
    assert arena.chunks == [] and taken == [(1 << 20, 0)]


def test_sizes_that_repeat_come_back_to_the_same_places(runtime: Any) -> None:
    step, state = runtime.load(step_graph([256, 64])), runtime.upload(zeros())
    addresses = []
    for _ in range(12):
        state = step({}, state)[1].over(state)
        state["W.w"].numpy()
        addresses.append(state["W.w"].address)
    assert len(set(addresses[2:])) == 2 and addresses[2:4] * 5 == addresses[2:]


def test_a_buffer_is_not_used_again_before_its_stream_has_read_it(
    runtime: Any, device: Any
) -> None:
    """Late mode: nothing runs until somebody waits, so every step still needs what the step before
    it wrote.
    """
    device.mode(LATE)
    step, state = runtime.load(step_graph([256, 64])), runtime.upload(zeros())
    seen = [state["W.w"].address]
    for _ in range(6):
        state = step({}, state)[1].over(state)
        seen.append(state["W.w"].address)
    assert not device.is_idle() and len(set(seen)) == 7
    for _ in range(30):
        state = step({}, state)[1].over(state)
        seen.append(state["W.w"].address)
    assert len(set(seen)) < 12, "at most so many runs are under way"
    assert np.all(state["W.w"].numpy() == 36)


def test_a_result_that_nobody_keeps_is_not_written_over_what_comes_after(
    runtime: Any, device: Any
) -> None:
    device.mode(LATE)
    step, state = runtime.load(step_graph([256, 64])), runtime.upload(zeros())
    for _ in range(3):
        step({}, state)
    after = [runtime.upload({"a.a": np.full((256, 64), 7, np.float32)}) for _ in range(4)]
    assert not device.is_idle(), "the steps have not run yet"
    runtime._shared.cuda.synchronize_device()
    for tensors in after:
        assert np.all(tensors["a.a"].numpy() == 7)


def test_the_control_a_pool_that_does_not_wait_is_found(
    runtime: Any, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mark, "is_done", lambda self: True)
    device.mode(LATE)
    step, state = runtime.load(step_graph([256, 64])), runtime.upload(zeros())
    for _ in range(4):
        state = step({}, state)[1].over(state)
    wrong = not np.all(state["W.w"].numpy() == 4)
    assert device.violations()[0] or wrong
    device.reset()


def test_a_step_without_outputs_returns_while_it_is_under_way(runtime: Any, device: Any) -> None:
    step, state = runtime.load(step_graph([256, 64])), runtime.upload(zeros())
    written = step({}, state)[1]
    assert (
        not device.is_idle()
        and isinstance(written["W.w"], DeviceBuffer)
        and not written["W.w"].written.is_done()
    )  # type: ignore[attr-defined]
    assert np.all(written["W.w"].numpy() == 1) and device.is_idle()


def test_another_stream_waits_for_the_writer_on_the_device(runtime: Any, device: Any) -> None:
    step, predict = runtime.load(step_graph([4, 2])), runtime.load(predict_graph(4, 2))
    state = runtime.upload(zeros(4, 2))
    for _ in range(3):
        state = step({}, state)[1].over(state)
    assert not device.is_idle()
    y = predict({"x": np.ones((1, 4), np.float32)}, state)[0]["y"]
    assert y.tolist() == [[12, 12]]


def test_memory_is_flat_over_many_steps(runtime: Any, device: Any) -> None:
    step, state = runtime.load(step_graph([256, 64])), runtime.upload(zeros())
    for _ in range(10):
        state = step({}, state)[1].over(state)
    before = device.counts("bytes", "graphs")
    for _ in range(300):
        state = step({}, state)[1].over(state)
    assert device.counts("bytes", "graphs") == before
    assert float(state["W.w"].numpy()[0, 0]) == 310 and runtime.pool.arena.used < 20 * 256 * 64 * 4


def test_everything_is_given_back_when_the_runtime_goes(trt: Any, device: Any) -> None:
    gc.collect()
    before = device.counts("bytes", "graphs", "events")
    runtime = TensorRT(cache=None, chunk_mib=1)
    step, state = runtime.load(step_graph([256, 64])), runtime.upload(zeros())
    for _ in range(6):
        state = step({}, state)[1].over(state)
    kept = state["W.w"]
    assert device.count("graphs") > before["graphs"] and device.count("bytes") > before["bytes"]
    del step, state, runtime
    gc.collect()
    assert np.all(kept.numpy() == 6), "a value outlives its runtime"
    del kept
    gc.collect()
    trt.fake.forget()
    gc.collect()
    assert device.counts("bytes", "graphs", "events") == before


def test_a_finaliser_inside_the_pool_does_not_wait(runtime: Any) -> None:
    buffer = runtime.pool.take(FLOAT, (4,))
    with runtime.pool._lock, runtime.pool.uses_lock:
        del buffer
        gc.collect()
    assert len(runtime.pool.returned) == 1


@pytest.mark.parametrize("nth", range(1, 5))
def test_out_of_memory_is_an_error_with_numbers_and_the_next_call_works(
    trt: Any, device: Any, nth: int
) -> None:
    runtime = TensorRT(cache=None, chunk_mib=1, copy_limit=0)
    step, state = runtime.load(step_graph([600, 600])), runtime.upload(zeros(600, 600))
    device.capacity(device.count("bytes"))
    held = [state]
    with pytest.raises(
        OutOfDeviceMemory,
        match=(
            r"no room for \d+ bytes on the device: the pool holds \d+ KiB, \d+ KiB of them in use;"
            r" the device has 0 of \d+ MiB free"
        ),
    ):
        for _ in range(5):
            held.append(step({}, held[-1])[1].over(state))
    for age, tensors in enumerate(held):
        assert np.all(tensors["W.w"].numpy() == age), "what is held is what it was"
    device.capacity(1 << 32)
    device.fail("cudaMalloc", nth, code=2)
    for _ in range(6):
        try:
            held.append(step({}, held[-1])[1].over(state))
        except OutOfDeviceMemory:
            held = held[-1:]
    final = held[-1]["W.w"].numpy()
    assert final.min() == final.max() >= 5


def test_a_tight_device_gets_chunks_of_the_size_that_is_needed(trt: Any, device: Any) -> None:
    runtime = TensorRT(cache=None, chunk_mib=8)
    device.capacity(device.count("bytes") + (1 << 20))
    tensors = runtime.upload({"a.a": np.ones(1000, np.float32)})
    assert runtime.pool.arena.reserved < 8192 and float(tensors["a.a"].numpy()[0]) == 1


def test_memory_that_was_let_go_is_waited_for_before_an_error(trt: Any, device: Any) -> None:
    runtime = TensorRT(cache=None, chunk_mib=1, memory_mib=4, copy_limit=0)
    device.mode(LATE)
    step, state = runtime.load(step_graph([512, 512])), runtime.upload(zeros(512, 512))
    for _ in range(20):
        state = step({}, state)[1].over(state)
    assert np.all(state["W.w"].numpy() == 20) and runtime.pool.arena.reserved <= 4 << 20
    with pytest.raises(OutOfDeviceMemory, match="its limit is 4096 KiB"):
        runtime.upload({"b.b": np.zeros(1 << 20, np.float32), "c.c": np.zeros(1 << 20, np.float32)})


def test_chunks_without_use_make_room_for_a_larger_one(trt: Any) -> None:
    runtime = TensorRT(cache=None, chunk_mib=1, memory_mib=4)
    held = [runtime.pool.take(FLOAT, (1 << 18,)) for _ in range(4)]
    del held[1:]
    large = runtime.pool.take(FLOAT, (3 << 18,))
    assert large.nbytes == 3 << 20 and len(runtime.pool.arena.chunks) == 2


def test_reclaim_gives_chunks_without_use_back(runtime: Any, device: Any) -> None:
    before = device.count("bytes")
    tensors = runtime.upload({"a.a": np.zeros(1 << 20, np.float32)})
    assert device.count("bytes") >= before + (4 << 20)
    del tensors
    runtime.pool.reclaim()
    assert device.count("bytes") == before


@pytest.mark.parametrize(
    "function",
    ["cudaMemcpyAsync", "cudaEventRecord", "cudaStreamSynchronize", "cudaStreamWaitEvent"],
)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_call_that_fails_once_leaves_the_values_and_the_runtime(
    trt: Any, device: Any, function: str, nth: int
) -> None:
    runtime = TensorRT(cache=None, chunk_mib=1)
    step = runtime.load(step_graph([4, 2]))
    predict = runtime.load(predict_graph(4, 2))
    state = runtime.upload(zeros(4, 2))
    x = {"x": np.ones((1, 4), np.float32)}
    for _ in range(4):
        predict(x, step({}, state)[1])
    device.fail(function, nth, code=1)
    failures = 0
    for _ in range(4):
        try:
            assert predict(x, step({}, state)[1])[0]["y"].tolist() == [[4, 4]]
            runtime.download(state)
        except DeviceError as error:
            assert function in str(error)
            failures += 1
    assert failures == 1
    assert np.all(state["W.w"].numpy() == 0)


def test_an_upload_that_fails_half_way_writes_nothing_later(runtime: Any, device: Any) -> None:
    device.mode(LATE)
    device.fail("cudaMemcpyAsync", 2, code=1)
    with pytest.raises(DeviceError, match="cudaMemcpyAsync"):
        runtime.upload({"a.a": np.ones(64, np.float32), "b.b": np.ones(64, np.float32)})
    assert device.is_idle(), "its buffers are in the pool again"


def test_a_failure_after_the_call_is_told_to_whoever_reads_the_result(
    runtime: Any, device: Any
) -> None:
    step, state = runtime.load(step_graph([4, 2])), runtime.upload(zeros(4, 2))
    written = step({}, state)[1]
    device.broken(700)
    with pytest.raises(
        DeviceError,
        match=r"graph 'step': cudaEventSynchronize failed: cudaErrorIllegalAddress \(700\)",
    ):
        runtime.download(written)
    with pytest.raises(DeviceError, match="cudaErrorIllegalAddress"):
        step({}, state)
    device.broken(0)
    assert np.all(written["W.w"].numpy() == 1)


def test_memory_that_a_failed_device_may_still_write_is_not_handed_out(
    runtime: Any, device: Any
) -> None:
    predict, state = runtime.load(predict_graph(4, 2)), runtime.upload(zeros(4, 2))
    x = {"x": np.ones((1, 4), np.float32)}
    predict(x, state)
    device.fail("cudaEventSynchronize", 1)
    device.fail("cudaStreamSynchronize", 1)
    with pytest.raises(DeviceError):
        predict(x, state)
    address = state["W.w"].address
    del state
    device.mode(LAZY)
    fresh = [runtime.pool.take(FLOAT, (4, 2)) for _ in range(200)]
    assert address not in {buffer.address for buffer in fresh}


def test_empty_and_scalar_tensors_have_addresses_of_their_own(runtime: Any) -> None:
    tensors = runtime.upload(
        {
            "a.a": np.zeros((0, 4), np.float32),
            "b.b": np.array(2.5, np.float32),
            "c.c": np.zeros(0, np.int64),
        }
    )
    assert isinstance(tensors, Tensors) and len({tensors[name].address for name in tensors}) == 3
    assert tensors["a.a"].numpy().shape == (0, 4) and float(tensors["b.b"].numpy()) == 2.5
    assert repr(tensors["b.b"]) == "DeviceBuffer(float32[])"


def test_a_pool_of_its_own_waits_for_nothing(device: Any) -> None:
    from edgeadapt_tensorrt._cudart import CudaRuntime

    pool = Pool(CudaRuntime(), 1 << 16)
    first = pool.take(FLOAT, (100,))
    address = first.address
    del first
    assert pool.take(FLOAT, (100,)).address == address and device.count("events") >= 0
