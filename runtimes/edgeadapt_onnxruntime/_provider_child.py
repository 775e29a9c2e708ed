"""Runs in a child process: does a provider of ONNX Runtime load and add two numbers here? A driver
may crash whoever asks.

    python _provider_child.py PROVIDER DEVICE

Prints one JSON object as its last line; ``cause`` is empty if all is well, else a key of
``_probe.CAUSES``. It needs nothing but onnxruntime.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib
import importlib.util
import io
import json
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

DRIVER = "libcuda.so.1"
_SHARED = "libonnxruntime_providers_shared.so"
_LIBRARY = {
    "CUDAExecutionProvider": "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
}
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: of the compute capability
_LONGEST = 300  # characters of what is quoted
_ADDITION = bytes.fromhex(
    "080812003a370a0e0a01780a0178120179220341646412036164645a0f0a0178120a0a08080112040a020802620f0a0179120a0a08080112040a02080242040a001011"
)  # y = x + x over two floats, opset 17, IR version 8
Said = dict[str, Any]


def say(provider: str, device: int) -> Said:
    """The first thing that stands in the way, in the order in which one would put things right."""
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError as error:
        return {"cause": "import", "detail": str(error)}
    capi = Path(onnxruntime.__file__).parent / "capi"
    said: Said = {
        "version": onnxruntime.__version__,
        "cuda": getattr(onnxruntime, "cuda_version", ""),
        "wants": wanted_tensorrt(capi),
    }
    if provider not in onnxruntime.get_available_providers():
        return {**said, "cause": "overwritten" if _is_installed("onnxruntime-gpu") else "not built"}
    if (refused := _driver(device)) and "cause" in refused:
        return {**said, **refused}
    preload(onnxruntime, said["wants"])
    return {**said, **refused, **(_load(capi, provider) or _add(onnxruntime, provider, device))}


def _driver(device: int) -> Said:
    """The device's capability, or why there is none."""
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError as error:
        return {"cause": "no driver", "detail": str(error)}
    if code := int(cuda.cuInit(0)):
        return {"cause": "driver refused", "detail": f"cuInit says {code}"}
    count, numbers = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    cuda.cuDeviceGetCount(ctypes.byref(count))
    if device >= count.value:
        return {"cause": "no device", "detail": f"{count.value} here, number {device} wanted"}
    for number, attribute in zip(numbers, (_MAJOR, _MINOR), strict=True):
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    return {"capability": f"{numbers[0].value}.{numbers[1].value}"}


def wanted_tensorrt(capi: Path) -> str:
    """``libnvinfer.so.10``, which the TensorRT provider is linked with; empty if there is none."""
    library = capi / _LIBRARY["TensorrtExecutionProvider"]
    named = (
        re.search(rb"libnvinfer\.so\.[0-9]{1,3}", library.read_bytes())
        if library.is_file()
        else None
    )
    return named[0].decode() if named else ""


def preload(onnxruntime: Any, wants: str) -> None:
    """Load what pip put beside ONNX Runtime: no loader looks there. What is missing is named when
    the provider is loaded.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        getattr(onnxruntime, "preload_dlls", lambda: None)()
    for folder in _tensorrt_folders():
        for name in ("libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so"):
            place = folder / f"{name}.{wants.rpartition('.')[2]}"
            if place.is_file():
                with contextlib.suppress(OSError):
                    ctypes.CDLL(str(place), mode=ctypes.RTLD_GLOBAL)


def _tensorrt_folders() -> list[Path]:
    found = importlib.util.find_spec("tensorrt_libs")
    return [Path(folder) for folder in found.submodule_search_locations or []] if found else []


def _load(capi: Path, provider: str) -> Said:
    """What the loader says against the provider's library; empty if nothing."""
    try:
        ctypes.CDLL(str(capi / _SHARED), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(capi / _LIBRARY[provider]), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        missing = re.match(r"([^:]+): cannot open shared object file", str(error))
        if missing is None:
            return {"cause": "broken library", "detail": str(error)[:_LONGEST]}
        if not missing[1].startswith(("libnvinfer", "libnvonnxparser")):
            return {"cause": "no library", "detail": Path(missing[1]).name}
        beside = _tensorrt_beside()
        return {
            "cause": "other tensorrt" if beside else "no tensorrt",
            "detail": missing[1],
            "beside": beside,
        }
    return {}


def _tensorrt_beside() -> str:
    """A TensorRT that is here although the wanted one is not: the system's, else pip's."""
    names = [
        place.name for folder in _tensorrt_folders() for place in folder.glob("libnvinfer.so.*")
    ]
    return ctypes.util.find_library("nvinfer") or next(iter(sorted(names)), "")


def _add(onnxruntime: Any, provider: str, device: int) -> Said:
    """Run one addition, and see who ran it."""
    numpy: Any = importlib.import_module("numpy")
    try:
        session = onnxruntime.InferenceSession(
            _ADDITION,
            providers=[provider],
            provider_options=[{"device_id": str(device)}],
            enable_fallback=0,
        )
        if session.get_providers()[0] != provider:
            return {"cause": "fell back", "detail": str(session.get_providers()[0])}
        (sums,) = session.run(None, {"x": numpy.array([1, 2], numpy.float32)})
    # onnxruntime raises its own kinds and pybind11's; each is what this provider says
    except Exception as error:
        cause = "no kernel" if "no kernel image" in str(error) else "failed"
        return {"cause": cause, "detail": " ".join(str(error).split())[:_LONGEST]}
    return {
        "cause": "" if sums.tolist() == [2.0, 4.0] else "wrong numbers",
        "detail": f"1 + 1, 2 + 2 = {sums.tolist()}",
    }


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    print(json.dumps(say(sys.argv[1], int(sys.argv[2]))))
