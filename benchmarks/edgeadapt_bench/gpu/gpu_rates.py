"""Bandwidths and the cost of a launch: what the floor of a step is made of.

    python -m edgeadapt_bench.gpu.gpu_rates rates '{"quick": false}'

A bandwidth is bytes moved by the time of one copy, by the host's clock, from the call until the
stream is empty; a copy on the device moves each byte twice, once read and once written. Round trips
are from the call until the host knows that it was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from edgeadapt_tensorrt._cudart import ON_DEVICE, TO_DEVICE, TO_HOST, CudaRuntime
from numpy.typing import NDArray

from edgeadapt_bench.gpu.gpu_check import answer
from edgeadapt_bench.gpu.gpu_cuda import MIB, fill, noise, open_cuda, pinned
from edgeadapt_bench.gpu.gpu_result import GpuRow, measured

PART = "cudart"
LAUNCH, ON_THE_DEVICE = "launch of an empty CUDA graph, until done", "bandwidth, on the device"
"""The rows that the floor is computed from."""


def rates(quick: bool = False) -> list[GpuRow]:
    """Every figure; the size of a copy is well beyond the caches of a card."""
    cuda = open_cuda()
    size, large = (1 * MIB, 2 * MIB) if quick else (64 * MIB, 256 * MIB)
    copies, calls = (5, 50) if quick else (30, 1000)
    stream = cuda.stream(is_urgent=True)
    first, second = cuda.malloc(large), cuda.malloc(large)
    host, loose = pinned(cuda, noise(size)), noise(size).copy()

    def copying(to: int, source: int, nbytes: int, kind: int) -> Callable[[], None]:
        def run() -> None:
            cuda.copy(to, source, nbytes, kind, stream)
            cuda.synchronize(stream)

        return run

    rows = [
        _bandwidth(
            "bandwidth, pinned host to device",
            copying(first, host.address, size, TO_DEVICE),
            size,
            copies,
        ),
        _bandwidth(
            "bandwidth, device to pinned host",
            copying(host.address, first, size, TO_HOST),
            size,
            copies,
        ),
        _bandwidth(
            "bandwidth, pageable host to device",
            copying(first, loose.ctypes.data, size, TO_DEVICE),
            size,
            copies,
        ),
        _bandwidth(
            "bandwidth, device to pageable host",
            copying(loose.ctypes.data, first, size, TO_HOST),
            size,
            copies,
        ),
        _bandwidth(ON_THE_DEVICE, copying(second, first, large, ON_DEVICE), 2 * large, copies),
    ]
    return rows + _launches(cuda, stream, first, calls)


def _launches(cuda: CudaRuntime, stream: int, place: int, calls: int) -> list[GpuRow]:
    cuda.begin_capture(stream)
    empty = cuda.instantiate(cuda.end_capture(stream))
    cuda.begin_capture(stream)
    fill(cuda, place, 0, 256, stream)
    small = cuda.instantiate(cuda.end_capture(stream))
    event = cuda.event()

    def launch(graph: int) -> Callable[[], None]:
        def run() -> None:
            cuda.launch(graph, stream)
            cuda.synchronize(stream)

        return run

    def mark() -> None:
        cuda.record(event, stream)
        cuda.wait_for(event)

    return [
        _microseconds(LAUNCH, launch(empty), calls),
        _microseconds(
            "launch of a CUDA graph with one small fill, until done", launch(small), calls
        ),
        _microseconds("event, recorded and waited for", mark, calls),
    ]


def _seconds(run: Callable[[], None], count: int) -> NDArray[np.float64]:
    """Of each call, after a tenth of them that is not counted."""
    spent = []
    for number in range(count + max(2, count // 10)):
        started = time.perf_counter()
        run()
        if number >= max(2, count // 10):
            spent.append(time.perf_counter() - started)
    return np.array(spent)


def _bandwidth(name: str, run: Callable[[], None], nbytes: int, count: int) -> GpuRow:
    found = nbytes / _seconds(run, count) / 1e9
    return measured(PART, name, float(np.median(found)), "GB/s", _spread(found))


def _microseconds(name: str, run: Callable[[], None], count: int) -> GpuRow:
    found = 1e6 * _seconds(run, count)
    return measured(PART, name, float(np.median(found)), "us", _spread(found))


def _spread(found: NDArray[np.float64]) -> tuple[float, float]:
    return float(np.quantile(found, 0.1)), float(np.quantile(found, 0.9))


CHECKS = {"rates": rates}

if __name__ == "__main__":
    answer(CHECKS)
