"""Streams, events and CUDA graphs of the CUDA layer on a real card: what is enqueued runs in order,
and a replay sees new contents.

    python -m edgeadapt_bench.gpu.gpu_order events|priorities|replay|broken '{}'
"""

from __future__ import annotations

import contextlib
from ctypes import byref, c_int, c_void_p

import numpy as np
from edgeadapt_tensorrt._cudart import ON_DEVICE, TO_DEVICE, TO_HOST, DeviceError

from edgeadapt_bench.gpu.gpu_check import answer
from edgeadapt_bench.gpu.gpu_cuda import MIB, fill, noise, open_cuda, open_pool, pinned
from edgeadapt_bench.gpu.gpu_result import GpuRow, checked

PART = "cudart"
_TURNS = 50


def events() -> list[GpuRow]:
    """One stream writes, another waits for its event and reads; fifty times over, with the host
    waiting only at the end.
    """
    cuda = open_cuda()
    pool = open_pool(cuda)
    size = 2 * MIB
    contents = [noise(size, seed) for seed in range(2)]
    sources = [pinned(cuda, content) for content in contents]
    writer, reader = cuda.stream(is_urgent=False), cuda.stream(is_urgent=True)
    shared = cuda.malloc(size)
    seen = [pinned(cuda, np.zeros(64, np.uint8)) for _ in range(_TURNS)]
    marks = []
    for turn in range(_TURNS):
        if marks:
            marks[-1].before(writer)  # not before the reader has read
        cuda.copy(shared, sources[turn % 2].address, size, TO_DEVICE, writer)
        pool.mark(writer, "the write").before(reader)
        cuda.copy(seen[turn].address, shared + size - 64, 64, TO_HOST, reader)
        marks.append(pool.mark(reader, "the read"))
    marks[-1].wait()
    wrong = sum(
        not np.array_equal(one.bytes, contents[turn % 2][-64:]) for turn, one in enumerate(seen)
    )
    is_known = marks[-1].is_done() and cuda.is_done(marks[-1].event)
    return [
        checked(
            PART,
            "two streams in the order of their events",
            not wrong and is_known,
            f"{wrong} of {_TURNS} reads came too early or too late",
        )
    ]


def priorities() -> list[GpuRow]:
    """Answers run at the highest priority that the device has, learning at the lowest."""
    cuda = open_cuda()
    function = cuda.library.cudaStreamGetPriority
    function.argtypes, function.restype = (c_void_p, c_void_p), c_int
    found = []
    for is_urgent in (True, False):
        out = c_int()
        cuda.check(function(cuda.stream(is_urgent), byref(out)), "cudaStreamGetPriority")
        found.append(out.value)
    least, greatest = c_int(), c_int()
    cuda.check(
        cuda.library.cudaDeviceGetStreamPriorityRange(byref(least), byref(greatest)),
        "cudaDeviceGetStreamPriorityRange",
    )
    is_right = found == [greatest.value, least.value]
    return [
        checked(
            PART,
            "stream priorities",
            is_right,
            f"{found[0]} for answers and {found[1]} for learning; the device has {greatest.value}"
            f" to {least.value}",
        )
    ]


def replay() -> list[GpuRow]:
    """Copies and a fill as one graph; launched again after its source changed, it brings what is
    there now.
    """
    cuda = open_cuda()
    size = MIB + 3
    source, target = pinned(cuda, noise(size)), pinned(cuda, np.zeros(size, np.uint8))
    first, second = cuda.malloc(size), cuda.malloc(size)
    stream = cuda.stream(is_urgent=True)
    cuda.begin_capture(stream)
    cuda.copy(first, source.address, size, TO_DEVICE, stream)
    cuda.copy(second, first, size, ON_DEVICE, stream)
    fill(cuda, second, 7, 100, stream)
    cuda.copy(target.address, second, size, TO_HOST, stream)
    graph = cuda.instantiate(cuda.end_capture(stream))
    cuda.synchronize(stream)
    did_nothing = not target.bytes.any()
    wrong = 0
    for turn in range(20):
        content = noise(size, turn + 1)
        source.bytes[:] = content
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        wrong += not (
            np.array_equal(target.bytes[100:], content[100:])
            and bool(np.all(target.bytes[:100] == 7))
        )
    cuda.destroy_graph(graph)
    found = f"{wrong} of 20 launches differ" + ("" if did_nothing else "; the capture itself ran")
    return [
        checked(
            PART,
            "CUDA graph of copies and a fill, with changed contents",
            not wrong and did_nothing,
            found,
        )
    ]


def broken() -> list[GpuRow]:
    """What cannot be recorded is our own error, and the stream works afterwards."""
    cuda = open_cuda()
    content = noise(1000)
    source = pinned(cuda, content)
    target = pinned(cuda, np.zeros_like(content))
    middle = cuda.malloc(1000)
    stream = cuda.stream(is_urgent=True)
    said = ""
    cuda.begin_capture(stream)
    with contextlib.suppress(DeviceError):  # waiting while recording is what must not be done
        cuda.synchronize(stream)
    try:
        cuda.end_capture(stream)
    except DeviceError as error:
        said = str(error)
    cuda.copy(middle, source.address, 1000, TO_DEVICE, stream)
    cuda.copy(target.address, middle, 1000, TO_HOST, stream)
    cuda.synchronize(stream)
    goes_on = bool(np.array_equal(target.bytes, content))
    return [
        checked(
            PART,
            "what cannot be recorded",
            bool(said) and goes_on,
            (said or "the capture passed") + ("" if goes_on else "; the stream does not go on"),
        )
    ]


CHECKS = {"events": events, "priorities": priorities, "replay": replay, "broken": broken}

if __name__ == "__main__":
    answer(CHECKS)
