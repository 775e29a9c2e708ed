"""Arrays of others: what is on the device is read there, and what cannot be is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_device import LATE, Exported, Interface
from tiny_models import build, predict_graph

from edgeadapt.errors import InputError
from edgeadapt.runtime import GraphFile, Tensors

pytest.importorskip("onnx")
from onnx import TensorProto, helper

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def predict(runtime: Any) -> Any:
    graph = runtime.load(predict_graph(4, 2))
    state = runtime.upload({"W.w": np.ones((4, 2), np.float32)})
    return lambda x: graph({"x": x}, state)[0]["y"]


@pytest.mark.parametrize("kind", [Interface, Exported])
def test_device_memory_is_read_where_it_is(predict: Any, device: Any, kind: Any) -> None:
    x = kind(device, X)
    before = device.counts("to_device", "on_device")
    for _ in range(5):
        np.testing.assert_array_equal(predict(x), X.sum(axis=1, keepdims=True) * np.ones((1, 2)))
    after = device.counts("to_device", "on_device")
    # the weight, once
    assert (
        after["to_device"] == before["to_device"] and after["on_device"] - before["on_device"] <= 1
    )


def test_an_address_that_is_not_aligned_is_copied_on_the_device(predict: Any, device: Any) -> None:
    x = Interface(device, X, shift=16)
    before = device.counts("to_device", "on_device")
    for _ in range(5):
        np.testing.assert_array_equal(predict(x)[:, 0], X.sum(axis=1))
    after = device.counts("to_device", "on_device")
    assert (
        after["to_device"] == before["to_device"]
        and after["on_device"] - before["on_device"] == 5 + 1
    )


def test_a_camera_with_a_ring_of_frames_is_replayed(predict: Any, device: Any, trt: Any) -> None:
    ring = [Interface(device, X + k) for k in range(3)]
    for _ in range(4):
        for frame in ring:
            predict(frame)
    before = trt.fake.enqueued
    for k, frame in enumerate(ring):
        np.testing.assert_array_equal(predict(frame)[:, 0], (X + k).sum(axis=1))
    assert trt.fake.enqueued == before


def test_what_a_stream_of_the_producer_still_writes_is_waited_for(
    predict: Any, device: Any
) -> None:
    from edgeadapt_tensorrt._cudart import TO_DEVICE, CudaRuntime

    cuda = CudaRuntime()
    device.mode(LATE)
    theirs, source = cuda.stream(False), cuda.host_alloc(X.nbytes)
    np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 8).from_address(source))[:] = 7
    x = Interface(device, X, stream=theirs)
    cuda.copy(x.address, source, X.nbytes, TO_DEVICE, theirs)
    assert np.all(predict(x) == 28)


def test_dlpack_is_asked_to_be_ready_on_a_stream_of_ours(predict: Any, device: Any) -> None:
    x = Exported(device, X)
    predict(x)
    assert x.stream > 2, "0 to 2 are CUDA's default streams"


def test_a_step_that_reads_the_memory_of_others_has_done_so_when_it_returns(
    runtime: Any, device: Any
) -> None:
    nodes = [helper.make_node("Add", ["s.s", "x"], ["s.s.next"])]
    step = runtime.load(GraphFile("add", build(nodes, {"x": [4], "s.s": [4]}, {"s.s.next": [4]})))
    x = Interface(device, X[0])
    written = step({"x": x}, runtime.upload({"s.s": np.zeros(4, np.float32)}))[1]
    window = device.view(x.address, 16)
    window[:] = 0xFF
    assert written["s.s"].numpy().tolist() == [0, 1, 2, 3]


def test_host_arrays_by_dlpack_are_copied_like_numpy(predict: Any) -> None:
    class Host:
        def __dlpack_device__(self) -> tuple[int, int]:
            return X.__dlpack_device__()

        def __dlpack__(self, **how: Any) -> Any:
            return X.__dlpack__(**how)

    np.testing.assert_array_equal(predict(Host())[:, 0], X.sum(axis=1))
    np.testing.assert_array_equal(predict(np.asfortranarray(X))[:, 0], X.sum(axis=1))
    np.testing.assert_array_equal(predict(X.tolist() and np.array(X))[:, 0], X.sum(axis=1))


def test_wrong_device_arrays_are_refused_by_name(predict: Any, device: Any) -> None:
    class Elsewhere:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 10, 0

        def __dlpack__(self) -> Any:
            raise AssertionError

    transposed = Interface(device, X)
    transposed.__cuda_array_interface__["strides"] = (4, 8)
    pretending = Interface(device, X)
    pretending.__cuda_array_interface__["data"] = (0x1000, False)
    strange = Exported(device, X)
    strange._tensor.lanes = 2
    for value, message in (
        (Exported(device, X, ordinal=1), "is on GPU 1, and this runtime on GPU 0"),
        (
            Exported(device, X, strides=(1, 2)),
            r"not C-contiguous \(shape \[2, 4\], strides \[4, 8\] bytes\)",
        ),
        (transposed, r"not C-contiguous"),
        (Interface(device, X, mask=object()), "has a mask"),
        (Elsewhere(), "on a device of DLPack kind 10"),
        (pretending, r"is no memory of a GPU \(address 0x1000\)"),
        (strange, "DLPack type 2 of 32 bits, which numpy cannot hold"),
        (Interface(device, X.astype(np.float64)), r"takes float32\[B, 4\], got float64\[2, 4\]"),
        (Interface(device, X[:, :3]), r"takes float32\[B, 4\], got float32\[2, 3\]"),
    ):
        with pytest.raises(InputError, match=rf"'predict': port 'x' .*{message}"):
            predict(value)
    device.library.fake_pointer_device(1)
    with pytest.raises(InputError, match="is on GPU 1"):
        predict(Interface(device, X))


def test_integers_and_flags_come_by_dlpack_too(runtime: Any, device: Any) -> None:
    for dtype, kind in (
        ("int64", TensorProto.INT64),
        ("uint8", TensorProto.UINT8),
        ("bool", TensorProto.BOOL),
    ):
        value = np.array([1, 0, 1]).astype(dtype)
        graph = runtime.load(
            GraphFile(
                dtype,
                build(
                    [helper.make_node("Identity", ["x"], ["y"])],
                    {"x": (kind, [3])},
                    {"y": (kind, [3])},
                ),
            )
        )
        found = graph({"x": Exported(device, value)}, Tensors())[0]["y"]
        assert found.dtype == value.dtype and found.tolist() == value.tolist()
