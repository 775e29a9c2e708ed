"""No driver, no library, no TensorRT, the wrong one: each has its own sentence, and TensorRT is not
touched before there is a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest
from edgeadapt_tensorrt import DeviceError, OutOfDeviceMemory, TensorRT
from edgeadapt_tensorrt._cudart import CudaRuntime
from edgeadapt_tensorrt._driver import Device, find_device
from fake_tensorrt import VERSIONS

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.runtime import Runtime, available_runtimes, open_runtime


class Untouchable(ModuleType):
    """Stands for a TensorRT that ends the process when it is used without a driver."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"tensorrt.{name} was asked for")


@pytest.mark.parametrize("version", VERSIONS)
def test_probe_says_versions_and_device(tensorrt: Callable[[str], Any], version: str) -> None:
    tensorrt(version)
    assert (
        TensorRT.probe()
        == f"TensorRT {version}, CUDA 12.6, Fake Orin, compute capability 8.7, driver for CUDA 12.6"
    )


def test_without_a_driver_library_it_says_where_drivers_come_from(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", Untouchable("tensorrt"))
    monkeypatch.setenv("EDGEADAPT_LIBCUDA", "/nowhere/libcuda.so.1")
    for call in (TensorRT.probe, TensorRT):
        with pytest.raises(
            RuntimeUnavailable, match=r"no NVIDIA driver \(.*nowhere.*JetPack.*--runtime nvidia"
        ):
            call()


def test_a_driver_without_a_device_is_asked_before_tensorrt_is(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", Untouchable("tensorrt"))
    device.without_driver()
    with pytest.raises(
        RuntimeUnavailable,
        match=r"cuInit failed: CUDA_ERROR_NO_DEVICE \(100\), no CUDA-capable device is detected",
    ):
        TensorRT.probe()


def test_a_device_that_is_not_there_is_named(trt: Any) -> None:
    with pytest.raises(RuntimeUnavailable, match="finds 1 devices, so there is no device 1"):
        TensorRT(device=1)


def test_without_a_cuda_library_it_says_what_to_install(
    trt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEADAPT_CUDART", "/nowhere/libcudart.so")
    with pytest.raises(
        RuntimeUnavailable,
        match=r"no CUDA runtime library \(.*nowhere.*nvidia-cuda-runtime.*EDGEADAPT_CUDART",
    ):
        TensorRT.probe()
    with pytest.raises(RuntimeUnavailable, match=r"has no cuda[A-Z]\w+; CUDA 12 or 13 is needed"):
        CudaRuntime("libc.so.6")


def test_without_tensorrt_it_says_what_to_install(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        RuntimeUnavailable, match=r"cannot be imported .*python3-libnvinfer.*edgeadapt\[tensorrt\]"
    ):
        TensorRT.probe()


def test_the_lean_runtime_and_old_releases_are_not_enough(tensorrt: Callable[[str], Any]) -> None:
    lean = tensorrt("11.4.1.9")
    del lean.OnnxParser
    with pytest.raises(
        RuntimeUnavailable,
        match=r"this TensorRT \(11.4.1.9\) has no OnnxParser; the full one is needed",
    ):
        TensorRT.probe()
    tensorrt("8.6.1")
    with pytest.raises(RuntimeUnavailable, match=r"TensorRT 8.6.1 is too old; 10.3 is the oldest"):
        TensorRT.probe()


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_a_factory_that_gives_nothing_is_an_error_with_the_log(
    tensorrt: Callable[[str], Any], device: Any, version: str
) -> None:
    """``cuInit`` works and TensorRT's own check does not: a driver that is too old for it."""
    device.without_driver()
    tensorrt(version)
    device.library.fake_driver(0)
    with pytest.raises(
        RuntimeUnavailable,
        match=(
            r"cannot start: pybind11::init\(\): factory function returned nullptr.*CUDA"
            r" initialization failure with error: 35"
        ),
    ):
        TensorRT(cache=None)


def test_the_device_is_described(device: Any) -> None:
    assert find_device() == Device("Fake Orin", (8, 7), "12.6")


def test_it_is_found_by_its_name(trt: Any, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgeadapt.runtime.entry_points",
        lambda group: [EntryPoint("tensorrt", "edgeadapt_tensorrt:TensorRT", group)],
    )
    opened = open_runtime("tensorrt", cache=None, lanes=1)
    assert (
        isinstance(opened, TensorRT) and isinstance(opened, Runtime) and opened.name == "tensorrt"
    )
    assert [(found.name, found.is_available) for found in available_runtimes()] == [
        ("tensorrt", True)
    ]
    device.without_driver()
    (found,) = available_runtimes()
    assert not found.is_available and "CUDA_ERROR_NO_DEVICE" in found.detail


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("cudaMalloc", lambda c: c.malloc(8)),
        ("cudaHostAlloc", lambda c: c.host_alloc(8)),
        ("cudaMemGetInfo", lambda c: c.memory()),
        ("cudaStreamCreateWithPriority", lambda c: c.stream(True)),
        ("cudaEventCreateWithFlags", lambda c: c.event()),
        ("cudaEventQuery", lambda c: c.is_done(c.event())),
        ("cudaEventSynchronize", lambda c: c.wait_for(c.event())),
        ("cudaDeviceGetAttribute", lambda c: c.attribute(18)),
        ("cudaDeviceSynchronize", lambda c: c.synchronize_device()),
        ("cudaStreamBeginCapture", lambda c: c.begin_capture(c.stream(True))),
        ("cudaEventRecord", lambda c: c.record(c.event(), c.stream(False))),
    ],
)
def test_every_return_code_is_checked_and_named(
    device: Any, function: str, call: Callable[[CudaRuntime], Any]
) -> None:
    cuda = CudaRuntime()
    device.fail(function, code=700)
    with pytest.raises(
        DeviceError,
        match=(
            rf"{function} failed: cudaErrorIllegalAddress \(700\), an illegal memory access was"
            r" encountered"
        ),
    ) as caught:
        call(cuda)
    assert caught.value.code == 700 and isinstance(caught.value, RuntimeUnavailable)
    device.fail(function, code=2)
    with pytest.raises(OutOfDeviceMemory, match="out of memory"):
        call(cuda)
    call(cuda)


def test_the_fake_finds_what_it_is_there_to_find(library: Any) -> None:
    """The control: freed memory that is used, freed twice, host addresses taken for the device's,
    and poison.
    """
    library.reset()
    cuda = CudaRuntime(library.path)
    stream, host, kept = cuda.stream(True), cuda.host_alloc(64), cuda.malloc(64)
    assert set(library.view(kept, 64)) == {0xCD}
    gone = cuda.malloc(64)
    cuda.free(gone)
    before = 0
    for code, text in (
        (lambda: cuda.copy(gone, host, 64, 1, stream), "was freed"),
        (lambda: cuda.copy(kept + 32, host, 64, 1, stream), "lies in no allocation"),
        (lambda: cuda.copy(host, host, 8, 3, stream), "is no device address"),
        (lambda: library.library.cudaFree(ctypes.c_void_p(gone)), "was freed before"),
    ):
        code()
        cuda.synchronize(stream)
        count, words = library.violations()
        assert count > before and text in words
        before = count
    library.reset()
