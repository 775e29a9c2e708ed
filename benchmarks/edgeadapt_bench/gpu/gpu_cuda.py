"""What the checks of the CUDA layer start from: the runtime library, a pool with its transfers, and
bytes to recognise.
"""

from __future__ import annotations

from ctypes import c_int, c_size_t, c_void_p

import numpy as np
from edgeadapt_tensorrt._buffers import Pool
from edgeadapt_tensorrt._cudart import CudaRuntime, DeviceError
from edgeadapt_tensorrt._transfers import Pinned, Transfers
from numpy.typing import NDArray

from edgeadapt_bench.gpu.gpu_check import absent_is_no_failure

MIB = 1 << 20
Bytes = NDArray[np.uint8]


def open_cuda() -> CudaRuntime:
    """The first device, current in this thread.

    Raises:
        NotHere: no CUDA runtime library.
        DeviceError: there is one, and it does not serve this driver.
    """
    with absent_is_no_failure(DeviceError):
        cuda = CudaRuntime()
    cuda.use()
    return cuda


def open_pool(cuda: CudaRuntime, chunk: int = MIB, limit: int = 0) -> Pool:
    """A pool as the runtime has it."""
    pool = Pool(cuda, chunk, limit)
    pool.transfers = Transfers(cuda)
    return pool


def noise(nbytes: int, seed: int = 0) -> Bytes:
    """Bytes at random, the same at every call."""
    return np.frombuffer(np.random.default_rng(seed).bytes(nbytes), np.uint8)


def pinned(cuda: CudaRuntime, content: Bytes) -> Pinned:
    """Pinned host memory with this content."""
    memory = Pinned(cuda, content.size)
    memory.bytes[:] = content
    return memory


def fill(cuda: CudaRuntime, address: int, value: int, nbytes: int, stream: int) -> None:
    """``cudaMemsetAsync``, which the runtime itself does not need."""
    function = cuda.library.cudaMemsetAsync
    function.argtypes, function.restype = (c_void_p, c_int, c_size_t, c_void_p), c_int
    cuda.check(function(address, value, nbytes, stream), "cudaMemsetAsync")
