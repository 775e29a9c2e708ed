"""Runs in a child process, since a driver or an engine may crash or hang, and prints one JSON
object:

python -m edgeadapt.doctor.probe_child driver PATH...     NVIDIA's, the first that loads is asked
python -m edgeadapt.doctor.probe_child cuda PATH...       the CUDA runtime library
python -m edgeadapt.doctor.probe_child tensorrt           only where a driver answered
python -m edgeadapt.doctor.probe_child onnxruntime        one addition on every listed provider
python -m edgeadapt.doctor.probe_child runtimes           registered ones, and why one cannot run
python -m edgeadapt.doctor.probe_child bundle             the one that ships opens and predicts
python -m edgeadapt.doctor.probe_child self-test RUNTIME  see ``edgeadapt.doctor.self_test_steps``
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

_MAJOR, _MINOR, _INTEGRATED, _PROCESSORS = 75, 76, 18, 16  # CUdevice_attribute
# y = x + x over two floats, opset 17, IR version 8: a device has no `onnx` to build it with.
ADDITION = bytes.fromhex(
    "080812003a370a0e0a01780a0178120179220341646412036164645a0f0a0178120a0a08080112040a020802"
    "620f0a0179120a0a08080112040a02080242040a001011"
)


def _load(places: tuple[str, ...]) -> ctypes.CDLL | str:
    """The first library that loads, or what the loader said of the last."""
    error = "no place to load it from"
    for place in places:
        try:
            return ctypes.CDLL(place)
        except OSError as refused:
            error = str(refused)
    return error


def driver(*places: str) -> dict[str, Any]:
    """Version and devices; ``code`` is that of cuInit, 0 if it went well."""
    cuda = _load(places)
    if isinstance(cuda, str):
        return {"error": cuda}
    if code := int(cuda.cuInit(0)):
        return {"code": code}
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    devices = [_device(cuda, number) for number in range(count.value)]
    return {"code": 0, "version": version.value, "devices": devices}


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


def cuda_runtime(*places: str) -> dict[str, Any]:
    """Version of the CUDA runtime library. It needs no driver to say so."""
    cudart = _load(places)
    if isinstance(cudart, str):
        return {"error": cudart}
    version = ctypes.c_int()
    code = int(cudart.cudaRuntimeGetVersion(ctypes.byref(version)))
    return {"code": code, "version": version.value}


def tensorrt() -> dict[str, Any]:
    """Import it and make a runtime. Without a driver TensorRT 11 returns an object whose next call
    ends the process, so this is never asked first.
    """
    try:
        found = import_module("tensorrt")
    except ImportError as error:
        return {"error": str(error), "is_installed": not isinstance(error, ModuleNotFoundError)}
    runtime = found.Runtime(found.Logger(found.Logger.ERROR))
    return {
        "version": found.__version__,
        "has_builder": hasattr(found, "Builder"),
        "has_runtime": runtime is not None,
    }


def onnxruntime() -> dict[str, Any]:
    """A provider that is listed may not load: ONNX Runtime then says so on standard error and goes
    on without it.
    """
    try:
        import numpy as np
        import onnxruntime as ort
    except ImportError as error:
        return {"error": str(error)}
    found: dict[str, str] = {}
    for provider in ort.get_available_providers():
        try:
            session = ort.InferenceSession(ADDITION, providers=[provider])
            (sum_,) = session.run(None, {"x": np.array([1, 2], np.float32)})
        # onnxruntime raises its own kinds and pybind11's; each is what this provider says
        except Exception as error:
            found[provider] = f"{type(error).__name__}: {error}"
            continue
        ran = session.get_providers()[0]
        if sum_.tolist() != [2.0, 4.0]:
            found[provider] = f"1 + 1, 2 + 2 = {sum_.tolist()}"
        else:
            found[provider] = "" if ran == provider else "it is listed and does not load"
    wants = _wanted_tensorrt(Path(ort.__file__).parent)
    return {"version": ort.__version__, "providers": found, "wants": wants}


def _wanted_tensorrt(package: Path) -> str:
    """``libnvinfer.so.10``, which the TensorRT provider of this build is linked with; empty if
    there is none.
    """
    provider = package / "capi" / "libonnxruntime_providers_tensorrt.so"
    content = provider.read_bytes() if provider.is_file() else b""
    named = re.search(rb"libnvinfer\.so\.[0-9]{1,3}", content)
    return named[0].decode() if named else ""


def runtimes() -> dict[str, Any]:
    from edgeadapt.runtime import available_runtimes

    return {"runtimes": [asdict(status) for status in available_runtimes()]}


def bundle() -> dict[str, Any]:
    from edgeadapt.demo.sample import bundle_path, load_sample
    from edgeadapt.device.learner import open as open_learner
    from edgeadapt.errors import EdgeadaptError

    try:
        with open_learner(bundle_path()) as learner:
            label = learner.predict(load_sample().x[0]).labels[0]
    except (EdgeadaptError, OSError) as error:
        return {"error": str(error)}
    return {"name": bundle_path().name, "label": label}


def self_test(*arguments: str) -> dict[str, Any]:
    from edgeadapt.doctor.self_test_steps import run_self_test

    return asdict(run_self_test(arguments))


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "driver": driver,
    "cuda": cuda_runtime,
    "tensorrt": tensorrt,
    "onnxruntime": onnxruntime,
    "runtimes": runtimes,
    "bundle": bundle,
    "self-test": self_test,
}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]](*sys.argv[2:])))
