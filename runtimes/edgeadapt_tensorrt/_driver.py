"""Is there a GPU? Asked of the driver by ctypes, before TensorRT is imported.

Without a driver TensorRT 11.4 returns a runtime object whose first use ends the process with a
segmentation fault, and TensorRT up to 10 raises ``TypeError: factory function returned nullptr``.
So nothing of it is touched until ``cuInit`` has said that there is a device.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_char_p, c_int
from dataclasses import dataclass

from edgeadapt.errors import RuntimeUnavailable

NAME = "libcuda.so.1"
VARIABLE = "EDGEADAPT_LIBCUDA"
"""Environment variable with the path of another libcuda."""
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Device:
    """What a plan is built for: another one of these is another plan."""

    name: str
    capability: tuple[int, int]
    driver: str  # the CUDA version that the driver speaks, "12.6"

    def __str__(self) -> str:
        return (
            f"{self.name}, compute capability {self.capability[0]}.{self.capability[1]}, driver for"
            f" CUDA {self.driver}"
        )


def find_device(ordinal: int = 0, path: str | None = None) -> Device:
    """The device of this number.

    Args:
        ordinal: 0 is the first one.
        path: of libcuda; by default ``$EDGEADAPT_LIBCUDA``, then ``libcuda.so.1``.

    Raises:
        RuntimeUnavailable: no driver, or none that finds a device of this number.
    """
    where = path or os.environ.get(VARIABLE) or NAME
    try:
        driver = ctypes.CDLL(where)
    except OSError as error:
        raise RuntimeUnavailable(
            f"no NVIDIA driver ({error}): TensorRT runs on NVIDIA GPUs only; on a Jetson the driver"
            " comes with JetPack, in a container with --runtime nvidia. The runtime onnxruntime"
            " needs none"
        ) from error
    _check(driver, driver.cuInit(0), "cuInit")
    count = _number(driver, "cuDeviceGetCount")
    if ordinal >= count:
        raise RuntimeUnavailable(
            f"the NVIDIA driver finds {count} devices, so there is no device {ordinal}"
        )
    device = _number(driver, "cuDeviceGet", ordinal)
    name = ctypes.create_string_buffer(256)
    _check(driver, driver.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    capability = (
        _number(driver, "cuDeviceGetAttribute", _MAJOR, device),
        _number(driver, "cuDeviceGetAttribute", _MINOR, device),
    )
    version = _number(driver, "cuDriverGetVersion")
    return Device(
        name.value.decode("utf-8", "replace"),
        capability,
        f"{version // 1000}.{version % 1000 // 10}",
    )


def _number(driver: ctypes.CDLL, name: str, *arguments: int) -> int:
    out = c_int()
    _check(driver, getattr(driver, name)(byref(out), *arguments), name)
    return out.value


def _check(driver: ctypes.CDLL, code: int, doing: str) -> None:
    if code:
        texts = []
        for call in (driver.cuGetErrorName, driver.cuGetErrorString):
            out = c_char_p()
            call(code, byref(out))
            texts.append((out.value or b"?").decode())
        raise RuntimeUnavailable(
            f"{doing} failed: {texts[0]} ({code}), {texts[1]}; is the GPU visible to this process,"
            " and its driver new enough?"
        )
