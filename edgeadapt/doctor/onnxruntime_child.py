"""Runs in a child process: imports ONNX Runtime and runs one addition on every provider that it
lists.

A provider that is listed may not load: ONNX Runtime then says so on standard error and goes on
without it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# y = x + x over two floats, opset 17, IR version 8: a device has no `onnx` to build it with.
ADDITION = bytes.fromhex(
    "080812003a370a0e0a01780a0178120179220341646412036164645a0f0a0178120a0a08080112040a020802620f0a0179120a0a08080112040a02080242040a001011"
)


def say() -> dict[str, Any]:
    try:
        import numpy as np
        import onnxruntime
    except ImportError as error:
        return {"error": str(error)}
    found: dict[str, str] = {}
    for provider in onnxruntime.get_available_providers():
        try:
            session = onnxruntime.InferenceSession(ADDITION, providers=[provider])
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
    return {
        "version": onnxruntime.__version__,
        "providers": found,
        "wants": _wanted_tensorrt(Path(onnxruntime.__file__).parent),
    }


def _wanted_tensorrt(package: Path) -> str:
    """``libnvinfer.so.10``, which the TensorRT provider of this build is linked with; empty if
    there is none.
    """
    provider = package / "capi" / "libonnxruntime_providers_tensorrt.so"
    named = (
        re.search(rb"libnvinfer\.so\.[0-9]{1,3}", provider.read_bytes())
        if provider.is_file()
        else None
    )
    return named[0].decode() if named else ""


if __name__ == "__main__":
    print(json.dumps(say()))
