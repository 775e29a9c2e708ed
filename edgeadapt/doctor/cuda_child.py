"""Runs in a child process: loads NVIDIA's driver, or the CUDA runtime, and prints what it says.

python -m edgeadapt.doctor.cuda_child driver PATH...      the first that loads is asked
python -m edgeadapt.doctor.cuda_child runtime PATH...
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from typing import Any

_MAJOR, _MINOR, _INTEGRATED, _PROCESSORS = 75, 76, 18, 16  # CUdevice_attribute


def load(places: Sequence[str]) -> tuple[ctypes.CDLL | None, str]:
    """The first library that loads, or what the loader said of the last."""
    error = "no place to load it from"
    for place in places:
        try:
            return ctypes.CDLL(place), place
        except OSError as refused:
            error = str(refused)
    return None, error


def driver(places: Sequence[str]) -> dict[str, Any]:
    """Version and devices; ``code`` is that of cuInit, 0 if it went well."""
    cuda, place = load(places)
    if cuda is None:
        return {"error": place}
    code = int(cuda.cuInit(0))
    version = ctypes.c_int()
    if code:
        return {"code": code}
    cuda.cuDriverGetVersion(ctypes.byref(version))
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    return {
        "code": 0,
        "version": version.value,
        "devices": [_device(cuda, number) for number in range(count.value)],
    }


def _device(cuda: ctypes.CDLL, number: int) -> dict[str, Any]:
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGetName(name, len(name), number)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), number)

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), which, number)
        return value.value

    return {
        "name": name.value.decode("utf-8", "replace"),
        "capability": f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
        "memory_mib": memory.value >> 20,
        "processors": attribute(_PROCESSORS),
        "is_integrated": bool(attribute(_INTEGRATED)),
    }


def runtime(places: Sequence[str]) -> dict[str, Any]:
    """Version of the CUDA runtime library. It needs no driver to say so."""
    cudart, place = load(places)
    if cudart is None:
        return {"error": place}
    version = ctypes.c_int()
    code = int(cudart.cudaRuntimeGetVersion(ctypes.byref(version)))
    return {"code": code, "version": version.value}


if __name__ == "__main__":
    print(json.dumps({"driver": driver, "runtime": runtime}[sys.argv[1]](sys.argv[2:])))
