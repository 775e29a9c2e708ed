"""The part of the CUDA runtime that is needed, by ctypes: memory, streams, events and graphs.
Nothing to install beyond CUDA itself.

Every call's return code is checked and becomes a :class:`DeviceError` with CUDA's name and text.
Handles and addresses are plain integers. A graph is instantiated by
``cudaGraphInstantiateWithFlags``: ``cudaGraphInstantiate`` changed its arguments between CUDA 11
and 12.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from typing import Any

from edgeadapt.errors import DeviceError, RuntimeUnavailable

NAMES = ("libcudart.so.13", "libcudart.so.12")
VARIABLE = "EDGEADAPT_CUDART"
"""Environment variable with the path of another libcudart."""

OUT_OF_MEMORY, NOT_READY = 2, 600
TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3
_MAPPED, _NON_BLOCKING, _NO_TIMING, _THREAD_LOCAL = 2, 1, 2, 1
_INTEGRATED, _CAN_MAP_HOST = 18, 19
_DEVICE_KINDS = (2, 3)  # cudaMemoryType: device, managed

_P, _I = c_void_p, c_int
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cudaRuntimeGetVersion": (_P,),
    "cudaSetDevice": (_I,),
    "cudaDeviceGetAttribute": (_P, _I, _I),
    "cudaMemGetInfo": (_P, _P),
    "cudaDeviceGetStreamPriorityRange": (_P, _P),
    "cudaDeviceSynchronize": (),
    "cudaGetLastError": (),
    "cudaMalloc": (_P, c_size_t),
    "cudaFree": (_P,),
    "cudaHostAlloc": (_P, c_size_t, c_uint),
    "cudaFreeHost": (_P,),
    "cudaHostGetDevicePointer": (_P, _P, c_uint),
    "cudaPointerGetAttributes": (_P, _P),
    "cudaMemcpyAsync": (_P, _P, c_size_t, _I, _P),
    "cudaStreamCreateWithPriority": (_P, c_uint, _I),
    "cudaStreamDestroy": (_P,),
    "cudaStreamSynchronize": (_P,),
    "cudaStreamWaitEvent": (_P, _P, c_uint),
    "cudaEventCreateWithFlags": (_P, c_uint),
    "cudaEventDestroy": (_P,),
    "cudaEventRecord": (_P, _P),
    "cudaEventQuery": (_P,),
    "cudaEventSynchronize": (_P,),
    "cudaStreamBeginCapture": (_P, _I),
    "cudaStreamEndCapture": (_P, _P),
    "cudaGraphInstantiateWithFlags": (_P, _P, c_ulonglong),
    "cudaGraphLaunch": (_P, _P),
    "cudaGraphExecDestroy": (_P,),
    "cudaGraphDestroy": (_P,),
}


class _Attributes(ctypes.Structure):
    """``cudaPointerAttributes`` up to what is read, and room for what CUDA 13 has behind it."""

    _fields_ = (("kind", c_int), ("device", c_int), ("rest", c_ulonglong * 16))


class OutOfDeviceMemory(DeviceError):
    """The device has no memory left for what was asked; nothing was changed, and what is freed
    makes room.
    """


class CudaRuntime:
    """One loaded ``libcudart`` and one device of it.

    Args:
        path: of the library; by default ``$EDGEADAPT_CUDART``, then CUDA 13, then CUDA 12: where
            the loader looks, then what pip installed. One that is not named is passed over if it is
            newer than the driver.
        device: ordinal.

    Raises:
        RuntimeUnavailable: no such library, or one that lacks a function.
    """

    def __init__(self, path: str | None = None, device: int = 0) -> None:
        self.device = device
        self.library, self.path = _open(path)
        for name, arguments in _FUNCTIONS.items():
            try:
                function = getattr(self.library, name)
            except AttributeError as error:
                raise RuntimeUnavailable(
                    f"{self.path} has no {name}; CUDA 12 or 13 is needed"
                ) from error
            function.argtypes, function.restype = arguments, c_int
        self.library.cudaGetErrorName.restype = self.library.cudaGetErrorString.restype = c_char_p
        self._here = threading.local()

    def use(self) -> None:
        """Make the device current in this thread; every thread starts with device 0."""
        if not getattr(self._here, "is_set", False):
            self.check(self.library.cudaSetDevice(self.device), "cudaSetDevice")
            self._here.is_set = True

    def check(self, code: int, doing: str) -> None:
        """Raises: DeviceError unless the code is success, with its name and text; OutOfDeviceMemory
        for that one.
        """
        if not code:
            return
        self.library.cudaGetLastError()  # or the next call would return it again
        name, text = (
            bytes(call(code) or b"?").decode()
            for call in (self.library.cudaGetErrorName, self.library.cudaGetErrorString)
        )
        message = f"{doing} failed: {name} ({code}), {text}"
        raise (
            OutOfDeviceMemory(message, code)
            if code == OUT_OF_MEMORY
            else DeviceError(message, code)
        )

    def _handle(self, name: str, *arguments: Any) -> int:
        out = c_void_p()
        self.check(getattr(self.library, name)(byref(out), *arguments), name)
        return int(out.value or 0)

    def version(self) -> str:
        """``"12.6"``, of the runtime library."""
        out = c_int()
        self.check(self.library.cudaRuntimeGetVersion(byref(out)), "cudaRuntimeGetVersion")
        return f"{out.value // 1000}.{out.value % 1000 // 10}"

    def attribute(self, number: int) -> int:
        out = c_int()
        self.check(
            self.library.cudaDeviceGetAttribute(byref(out), number, self.device),
            "cudaDeviceGetAttribute",
        )
        return out.value

    def reads_host_memory(self) -> bool:
        """Whether GPU and CPU share their memory (a Jetson), so that pinned host memory is read in
        place.
        """
        return bool(self.attribute(_INTEGRATED) and self.attribute(_CAN_MAP_HOST))

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device. On a Jetson the page cache counts as used although it
        can be reclaimed.
        """
        free, total = c_size_t(), c_size_t()
        self.check(self.library.cudaMemGetInfo(byref(free), byref(total)), "cudaMemGetInfo")
        return free.value, total.value

    # -- memory

    def malloc(self, nbytes: int) -> int:
        return self._handle("cudaMalloc", nbytes)

    def free(self, address: int) -> None:
        self.check(self.library.cudaFree(address), "cudaFree")

    def host_alloc(self, nbytes: int) -> int:
        """Pinned host memory that the device can address too."""
        return self._handle("cudaHostAlloc", nbytes, _MAPPED)

    def host_free(self, address: int) -> None:
        self.check(self.library.cudaFreeHost(address), "cudaFreeHost")

    def device_address(self, host: int) -> int:
        """Where the device sees pinned host memory."""
        return self._handle("cudaHostGetDevicePointer", host, 0)

    def device_of(self, address: int) -> int | None:
        """The ordinal of the device whose memory this is, managed memory included; None for
        anything else.
        """
        found = _Attributes()
        self.check(
            self.library.cudaPointerGetAttributes(byref(found), address), "cudaPointerGetAttributes"
        )
        return int(found.device) if found.kind in _DEVICE_KINDS else None

    def copy(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        if nbytes:
            self.check(
                self.library.cudaMemcpyAsync(to, source, nbytes, kind, stream), "cudaMemcpyAsync"
            )

    # -- streams and events

    def stream(self, is_urgent: bool) -> int:
        """A stream that the default stream does not wait for: of the device's highest priority, or
        of its lowest.
        """
        least, greatest = c_int(), c_int()
        self.check(
            self.library.cudaDeviceGetStreamPriorityRange(byref(least), byref(greatest)),
            "cudaDeviceGetStreamPriorityRange",
        )
        return self._handle(
            "cudaStreamCreateWithPriority",
            _NON_BLOCKING,
            greatest.value if is_urgent else least.value,
        )

    def destroy_stream(self, stream: int) -> None:
        self.check(self.library.cudaStreamDestroy(stream), "cudaStreamDestroy")

    def synchronize(self, stream: int) -> None:
        self.check(self.library.cudaStreamSynchronize(stream), "cudaStreamSynchronize")

    def synchronize_device(self) -> None:
        self.check(self.library.cudaDeviceSynchronize(), "cudaDeviceSynchronize")

    def wait(self, stream: int, event: int) -> None:
        """What is enqueued from now on runs after the event; the host does not wait."""
        self.check(self.library.cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent")

    def event(self) -> int:
        return self._handle("cudaEventCreateWithFlags", _NO_TIMING)

    def destroy_event(self, event: int) -> None:
        self.check(self.library.cudaEventDestroy(event), "cudaEventDestroy")

    def record(self, event: int, stream: int) -> None:
        self.check(self.library.cudaEventRecord(event, stream), "cudaEventRecord")

    def is_done(self, event: int) -> bool:
        code = self.library.cudaEventQuery(event)
        if code == NOT_READY:
            self.library.cudaGetLastError()
            return False
        self.check(code, "cudaEventQuery")
        return True

    def wait_for(self, event: int) -> None:
        """The host waits."""
        self.check(self.library.cudaEventSynchronize(event), "cudaEventSynchronize")

    # -- graphs

    def begin_capture(self, stream: int) -> None:
        """Only this thread's calls are restricted while it lasts."""
        self.check(
            self.library.cudaStreamBeginCapture(stream, _THREAD_LOCAL), "cudaStreamBeginCapture"
        )

    def end_capture(self, stream: int) -> int:
        """The recorded graph. Raises DeviceError where something in it cannot be recorded; the
        stream is usable then too.
        """
        out = c_void_p()
        self.check(self.library.cudaStreamEndCapture(stream, byref(out)), "cudaStreamEndCapture")
        return int(out.value or 0)

    def instantiate(self, graph: int) -> int:
        """A graph that can be launched; the recorded one is destroyed."""
        try:
            return self._handle("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self.check(self.library.cudaGraphDestroy(graph), "cudaGraphDestroy")

    def launch(self, graph: int, stream: int) -> None:
        self.check(self.library.cudaGraphLaunch(graph, stream), "cudaGraphLaunch")

    def destroy_graph(self, graph: int) -> None:
        self.check(self.library.cudaGraphExecDestroy(graph), "cudaGraphExecDestroy")


def _open(path: str | None) -> tuple[ctypes.CDLL, str]:
    named = path or os.environ.get(VARIABLE)
    reasons = []
    for name in [named] if named else [*NAMES, *_of_wheels()]:
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
            continue
        driver, own = (
            _major(library, function)
            for function in ("cudaDriverGetVersion", "cudaRuntimeGetVersion")
        )
        if named or not 0 < driver < own:  # 0 without a driver
            return library, name
        reasons.append(f"{name} is of CUDA {own}, and the driver speaks CUDA {driver}")
    raise RuntimeUnavailable(
        f"no CUDA runtime library ({'; '.join(reasons)}): install CUDA 12 or 13, or 'pip install"
        f" nvidia-cuda-runtime', or name a libcudart in ${VARIABLE}"
    )


def _major(library: ctypes.CDLL, function: str) -> int:
    """A major version that a library tells; 0 if it does not."""
    out = c_int()
    call = getattr(library, function, None)
    return out.value // 1000 if call is not None and call(byref(out)) == 0 else 0


def _of_wheels() -> list[str]:
    """What pip put into ``nvidia/``, as torch's wheels bring it too: no loader looks there. In the
    order of ``NAMES``; nothing is imported.
    """
    found = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in found.submodule_search_locations or []] if found else []
    return [
        str(place)
        for name in NAMES
        for folder in folders
        for place in sorted(folder.glob(f"*/lib/{name}"))
    ]
