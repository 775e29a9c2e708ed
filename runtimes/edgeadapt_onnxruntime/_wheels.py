"""Which build of ONNX Runtime has a GPU's code, by machine. ``docs/onnxruntime_gpu.md`` has the
marks and the sources.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

# by the last word of the device tree's `compatible`
_CHIPS = {"tegra194": "Xavier", "tegra234": "Orin", "tegra264": "Thor"}


@dataclass(frozen=True)
class Machine:
    """Where it runs. l4t: first number of Jetson Linux (JetPack 5, 6, 7: 35, 36, 38 and 39); 0
    elsewhere. chip: empty elsewhere.
    """

    architecture: str
    l4t: int = 0
    chip: str = ""


def this_machine(root: Path = Path("/")) -> Machine:
    release = re.search(r"# R([0-9]{1,3}) ", _text(root / "etc/nv_tegra_release"))
    compatible = _text(root / "proc/device-tree/compatible")
    return Machine(
        platform.machine(),
        int(release[1]) if release else 0,
        next((chip for name, chip in _CHIPS.items() if name in compatible), ""),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def wheel(machine: Machine) -> str:
    """What to install for the CUDA provider."""
    if machine.l4t and machine.l4t < 36:
        return (
            "JetPack 5 has no Python that edgeadapt runs on and a TensorRT that is too old: stay on"
            " the CPU, or install JetPack 6.2 or newer"
        )
    if machine.l4t == 36:
        return (
            "PyPI's onnxruntime-gpu has no code for Orin: take 1.23 or newer for Python 3.10 from"
            " the Jetson AI Lab index, which has 1.23.0 in jp6/cu129"
        )
    if machine.l4t and machine.chip == "Orin":
        return (
            "PyPI's onnxruntime-gpu has no code for Orin: on JetPack 7.2 build onnxruntime with"
            " CMAKE_CUDA_ARCHITECTURES=87; docs/onnxruntime_gpu.md names a wheel of others"
        )
    if machine.l4t:
        return (
            "PyPI's onnxruntime-gpu has no code for Thor: build onnxruntime with"
            " CMAKE_CUDA_ARCHITECTURES=110"
        )
    return (
        "nothing without an NVIDIA GPU; with one: pip uninstall -y onnxruntime, then pip install"
        " 'onnxruntime-gpu[cuda,cudnn]'"
    )


def tensorrt_wheel(machine: Machine) -> str:
    """What to install for the TensorRT provider; not every build with CUDA has it."""
    if machine.architecture == "aarch64" and not machine.l4t:
        return (
            "PyPI's aarch64 wheel has no TensorRT provider: use onnxruntime-cuda, or build"
            " onnxruntime with --use_tensorrt"
        )
    return wheel(machine)


def libraries(machine: Machine) -> str:
    """Where CUDA's and cuDNN's libraries come from."""
    return (
        "sudo apt-get install nvidia-jetpack"
        if machine.l4t
        else "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


def tensorrt(machine: Machine, wants: str, cuda: str) -> str:
    """Where the TensorRT of the right number comes from."""
    number = wants.rpartition(".")[2]
    if machine.l4t:
        return (
            "take a build of onnxruntime for this JetPack's TensorRT, or sudo apt-get install"
            f" libnvinfer{number}"
        )
    return (
        f"pip install 'tensorrt-cu{cuda.partition('.')[0] or 13}=={number}.*'; a newer TensorRT"
        " does not serve"
    )


__all__ = ["Machine", "libraries", "tensorrt", "tensorrt_wheel", "this_machine", "wheel"]
