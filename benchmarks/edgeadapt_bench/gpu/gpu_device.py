"""Which GPU is here, asked in a child process: a driver may crash whoever asks.

python -m edgeadapt_bench.gpu.gpu_device
        prints one JSON object: the card, or the reason why there is none
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from dataclasses import asdict
from typing import Any

from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.machine import Machine, ask
from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.gpu.gpu_result import Card

LIMIT_S = 60.0
_NO_DRIVER = "no NVIDIA driver: libcuda.so.1 does not load (a container needs --runtime nvidia)"
_FAKE = "fake_reset"  # exported by the library of the tests and by none of NVIDIA's


def find(limit_s: float = LIMIT_S) -> tuple[Card | None, str]:
    """The card, or None and why."""
    answer = ask(sys.executable, "edgeadapt_bench.gpu.gpu_device", (), {}, limit_s)
    if answer.failure:
        return None, f"asking NVIDIA's driver failed: {answer.failure}"
    return (
        (Card(**answer.said["card"]), "")
        if "card" in answer.said
        else (None, str(answer.said["reason"]))
    )


def say() -> dict[str, Any]:
    from edgeadapt_tensorrt._driver import NAME, VARIABLE, find_device

    try:
        device = find_device()
    except RuntimeUnavailable as error:
        return {"reason": _NO_DRIVER if str(error).startswith("no NVIDIA driver") else str(error)}
    module = read_board(Machine()).module
    return {
        "card": asdict(
            Card(
                device.name,
                module.name if module else "",
                f"{device.capability[0]}.{device.capability[1]}",
                device.driver,
                _is_fake(os.environ.get(VARIABLE) or NAME),
            )
        )
    }


def _is_fake(driver: str) -> bool:
    """Whether the driver or the CUDA library is that of the tests; where CUDA's is not named, it is
    the system's.
    """
    from edgeadapt_tensorrt._cudart import VARIABLE

    named = os.environ.get(VARIABLE)
    return any(
        hasattr(ctypes.CDLL(path), _FAKE)
        for path in (driver, *([named] if named and os.path.exists(named) else []))
    )


if __name__ == "__main__":
    print(json.dumps(say()))
