"""Runs in a child process, and only where a driver answered: imports TensorRT and makes a runtime.

Without a driver TensorRT 11 returns an object whose next call ends the process, so this is never
asked first.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any


def say() -> dict[str, Any]:
    try:
        tensorrt = import_module("tensorrt")
    except ImportError as error:
        return {"error": str(error), "is_installed": not isinstance(error, ModuleNotFoundError)}
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
    return {
        "version": tensorrt.__version__,
        "has_builder": hasattr(tensorrt, "Builder"),
        "has_runtime": runtime is not None,
    }


if __name__ == "__main__":
    print(json.dumps(say()))
