"""The runtimes that the suite measures, opened as a device would open them, with plans kept in a
folder of the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeadapt.runtime import Runtime, open_runtime
from edgeadapt_bench.gpu.gpu_check import absent_is_no_failure

CPU = "onnxruntime"
GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt")


def opened(name: str, plans: str, **options: Any) -> Runtime:
    """A runtime by its registered name.

    Args:
        plans: folder in which engines are kept for the next process; made when missing.

    Raises:
        NotHere: it cannot run here; the message says why and what to do.
        DeviceError: it can, and the device failed.
    """
    from edgeadapt_tensorrt import DeviceError

    own: dict[str, Any] = {} if name in (CPU, "onnxruntime-cuda") else {"cache": Path(plans) / name}
    with absent_is_no_failure(DeviceError):
        return open_runtime(name, **own, **options)
