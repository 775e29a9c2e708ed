"""Memory of the CUDA layer on a real card: what goes to the device comes back bit for bit, and what
does not fit has a name.

    python -m edgeadapt_bench.gpu.gpu_memory device|pinned|mapped|pool|full|arrays '{}'
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from edgeadapt_tensorrt._arrays import DeviceArray, admit
from edgeadapt_tensorrt._buffers import DeviceBuffer, Pool
from edgeadapt_tensorrt._cudart import ON_DEVICE, TO_DEVICE, TO_HOST, OutOfDeviceMemory

from edgeadapt.errors import InputError
from edgeadapt_bench.gpu.gpu_check import NotHere, answer
from edgeadapt_bench.gpu.gpu_cuda import MIB, fill, noise, open_cuda, open_pool, pinned
from edgeadapt_bench.gpu.gpu_result import GpuRow, checked

PART = "cudart"
_BY_ADDRESS = 4  # cudaMemcpyDefault: CUDA sees by the addresses what lies where
# below, at and beyond a step of the arena, and in pieces of the stage
_SIZES = (1, 255, 256, 257, 4096, 4 * MIB - 1, 9 * MIB + 3)


def device() -> list[GpuRow]:
    """Through the pool and the transfers, as tensors go."""
    cuda = open_cuda()
    pool = open_pool(cuda)
    wrong = []
    for number, nbytes in enumerate(_SIZES):
        content = noise(nbytes, number)
        buffer = pool.take(content.dtype, content.shape)
        pool.transfers.upload([(content, buffer)])
        if not np.array_equal(buffer.numpy(), content):
            wrong.append(nbytes)
    tally = pool.transfers.uploads, pool.transfers.downloads
    is_counted = all((one.count, one.nbytes) == (len(_SIZES), sum(_SIZES)) for one in tally)
    found = (
        f"CUDA {cuda.version()}, {sum(_SIZES)} bytes in {len(_SIZES)} sizes"
        + (f"; differs at {wrong} bytes" if wrong else "")
        + ("" if is_counted else f"; counted {tally}")
    )
    return [checked(PART, "device memory, there and back", not wrong and is_counted, found)]


def page_locked() -> list[GpuRow]:
    """Pinned to device, device to device, device to other pinned memory, on one stream without
    waiting.
    """
    cuda = open_cuda()
    content = noise(3 * MIB + 7)
    source = pinned(cuda, content)
    target = pinned(cuda, np.zeros_like(content))
    first = cuda.malloc(content.size)
    second = cuda.malloc(content.size)
    stream = cuda.stream(is_urgent=True)
    cuda.copy(first, source.address, content.size, TO_DEVICE, stream)
    cuda.copy(second, first, content.size, ON_DEVICE, stream)
    cuda.copy(target.address, second, content.size, TO_HOST, stream)
    cuda.synchronize(stream)
    return [
        checked(
            PART,
            "pinned memory, there and back",
            bool(np.array_equal(target.bytes, content)),
            f"{content.size} bytes by three copies in a row",
        )
    ]


def mapped() -> list[GpuRow]:
    """The device fills pinned host memory in place, and copies by its own address of it."""
    cuda = open_cuda()
    content = noise(MIB + 5)
    source = pinned(cuda, content)
    target = pinned(cuda, np.zeros_like(content))
    middle = cuda.malloc(content.size)
    stream = cuda.stream(is_urgent=True)
    fill(cuda, target.device_address, 7, content.size, stream)
    cuda.synchronize(stream)
    is_filled = bool(np.all(target.bytes == 7))
    cuda.copy(middle, source.device_address, content.size, _BY_ADDRESS, stream)
    cuda.copy(target.device_address, middle, content.size, _BY_ADDRESS, stream)
    cuda.synchronize(stream)
    shared = (
        "this GPU shares its memory with the CPU"
        if cuda.reads_host_memory()
        else "this GPU has memory of its own"
    )
    return [
        checked(
            PART,
            "mapped memory, filled and copied by the device's address",
            is_filled and bool(np.array_equal(target.bytes, content)),
            shared,
        )
    ]


def pool() -> list[GpuRow]:
    """Buffers that come and go keep their values, and a size that repeats comes back to its
    place.
    """
    cuda = open_cuda()
    held = open_pool(cuda)
    rng = np.random.default_rng(0)
    live: dict[int, tuple[Any, DeviceBuffer]] = {}
    wrong = 0
    for number in range(300):
        if len(live) > 20:
            content, buffer = live.pop(int(rng.choice(list(live))))
            wrong += not np.array_equal(buffer.numpy(), content)
            del buffer
        content = noise(int(rng.integers(1, 60_000)), number)
        buffer = held.take(content.dtype, content.shape)
        held.transfers.upload([(content, buffer)])
        live[number] = content, buffer
    wrong += sum(not np.array_equal(buffer.numpy(), content) for content, buffer in live.values())
    places = {_place(held) for _ in range(8)}
    found = (
        f"{wrong} of 300 buffers differ; a size that repeats had {len(places)} addresses;"
        f" {held.arena.reserved // MIB} MiB reserved"
    )
    return [checked(PART, "pool of buffers", not wrong and len(places) == 1, found)]


def _place(held: Pool) -> int:
    return held.take(np.dtype(np.uint8), (1000,)).address


def full() -> list[GpuRow]:
    """More than there is: our own error with numbers, from the device's refusal and from the pool's
    limit, and then it goes on.
    """
    cuda = open_cuda()
    _, total = cuda.memory()
    rows = []
    for name, held, size in (
        ("the device is full", open_pool(cuda), 2 * total),
        ("the limit of the pool", open_pool(cuda, limit=8 * MIB), 64 * MIB),
    ):
        content = noise(100_000)
        kept = held.take(content.dtype, content.shape)
        held.transfers.upload([(content, kept)])
        try:
            held.take(np.dtype(np.uint8), (size,))
            said = ""
        except OutOfDeviceMemory as error:
            said = str(error)
        after = held.take(content.dtype, content.shape)
        held.transfers.upload([(content, after)])
        goes_on = np.array_equal(kept.numpy(), content) and np.array_equal(after.numpy(), content)
        rows.append(
            checked(
                PART,
                f"out of memory: {name}",
                bool(said and goes_on),
                (said if goes_on else "it does not go on") or f"{size} bytes were given",
            )
        )
    return rows


def arrays() -> list[GpuRow]:
    """Arrays of others, read where they lie: our own memory by the interface, then torch's and
    CuPy's by both protocols.
    """
    cuda = open_cuda()
    held = open_pool(cuda)
    stream = cuda.stream(is_urgent=True)
    content = noise(40_000).view(np.float32).reshape(100, 100)
    content = np.nan_to_num(content)

    def arrived(name: str, value: Any) -> GpuRow:
        found = admit(
            "the array", value, content.dtype, cuda, stream, lambda of: held.mark(of, "an array")
        )
        if not isinstance(found, DeviceArray):
            return checked(
                PART, name, False, f"it was taken as a {type(found).__name__} on the host"
            )
        if found.ready is not None:
            found.ready.before(stream)
        target = pinned(cuda, np.zeros(content.nbytes, np.uint8))
        cuda.copy(target.address, found.address, found.nbytes, TO_HOST, stream)
        cuda.synchronize(stream)
        is_same = (
            found.shape == content.shape
            and found.dtype == content.dtype
            and target.bytes.tobytes() == content.tobytes()
        )
        return checked(PART, name, is_same, f"{found.dtype}{list(found.shape)} at its own address")

    own = held.take(content.dtype, content.shape)
    held.transfers.upload([(content, own)])
    interface = {
        "shape": content.shape,
        "typestr": content.dtype.str,
        "data": (own.address, False),
        "version": 3,
    }
    rows = [
        arrived(
            "__cuda_array_interface__, our own memory",
            SimpleNamespace(__cuda_array_interface__=interface),
        )
    ]
    try:
        admit(
            "the array",
            SimpleNamespace(
                __cuda_array_interface__={**interface, "data": (content.ctypes.data, False)}
            ),
            content.dtype,
            cuda,
            stream,
            lambda of: held.mark(of, ""),
        )
        rows.append(
            checked(
                PART, "an address of the host is refused", False, "it was taken for device memory"
            )
        )
    except InputError as error:
        rows.append(
            checked(PART, "an address of the host is refused", True, str(error).split(" (")[0])
        )
    return rows


def foreign(library: str) -> list[GpuRow]:
    """Arrays of torch or CuPy: made there on the device, read here."""
    try:
        module: Any = importlib.import_module(library)
    except ImportError as error:
        raise NotHere(f"{library} is not installed ({error})") from error
    cuda = open_cuda()
    content = np.arange(30_000, dtype=np.float32).reshape(100, 300)
    make = {"torch": _of_torch, "cupy": _of_cupy}[library]
    value, finish = make(module, content)
    held = open_pool(cuda)
    stream = cuda.stream(is_urgent=True)
    rows = []
    for protocol, given in (
        ("__dlpack__", value),
        (
            "__cuda_array_interface__",
            SimpleNamespace(__cuda_array_interface__=value.__cuda_array_interface__),
        ),
    ):
        found = admit(
            "the array", given, content.dtype, cuda, stream, lambda of: held.mark(of, "an array")
        )
        assert isinstance(found, DeviceArray)
        if found.ready is not None:
            found.ready.before(stream)
        else:
            finish()
        target = pinned(cuda, np.zeros(content.nbytes, np.uint8))
        cuda.copy(target.address, found.address, found.nbytes, TO_HOST, stream)
        cuda.synchronize(stream)
        is_same = (
            target.bytes.tobytes() == content.tobytes()
            and found.address == value.__cuda_array_interface__["data"][0]
        )
        rows.append(
            checked(
                PART,
                f"{protocol} of {library}",
                bool(is_same),
                f"{library} {module.__version__}, read at its own address",
            )
        )
    return rows


def _of_torch(torch: Any, content: Any) -> tuple[Any, Callable[[], object]]:
    if not torch.cuda.is_available():
        raise NotHere(f"torch {torch.__version__} sees no GPU; a build for CUDA is needed")
    return torch.from_numpy(content).to("cuda") * 1.0, torch.cuda.synchronize


def _of_cupy(cupy: Any, content: Any) -> tuple[Any, Callable[[], object]]:
    return cupy.asarray(content) * np.float32(1), cupy.cuda.get_current_stream().synchronize


CHECKS = {
    "device": device,
    "pinned": page_locked,
    "mapped": mapped,
    "pool": pool,
    "full": full,
    "arrays": arrays,
    "foreign": foreign,
}

if __name__ == "__main__":
    answer(CHECKS)
