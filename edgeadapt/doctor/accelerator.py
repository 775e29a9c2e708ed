"""NVIDIA's driver, the CUDA runtime and TensorRT, in this order: TensorRT is not touched before a
driver has answered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeadapt.doctor.board import Board, read_board
from edgeadapt.doctor.finding import Finding, broken, missing, note, ok
from edgeadapt.doctor.machine import Machine
from edgeadapt.doctor.packages import installed

DRIVER, CUDART, TENSORRT = "libcuda.so.1", "libcudart.so", "libnvinfer.so"
_ON_CPU = "Not needed: everything runs on the CPU without it."
_FLAGS = "docker run --runtime nvidia --gpus all ..."
_CODES = {
    3: "not initialised",
    34: "it is the stub that compilers link with",
    35: "the driver is older than CUDA",
    100: "no device",
    101: "no valid device",
    803: "driver and library are of different versions",
    804: "this card cannot run a newer CUDA than its driver",
    999: "unknown error",
}


@dataclass(frozen=True)
class Gpu:
    """What a driver that answers says of its first device."""

    name: str
    capability: str
    memory_mib: int
    processors: int
    is_integrated: bool


def accelerators(machine: Machine) -> list[Finding]:
    """Driver, CUDA runtime and TensorRT."""
    board = read_board(machine)
    answered, findings = driver(machine, board)
    return [
        *findings,
        *cuda(machine, board, answered is not None),
        *tensorrt(machine, board, answered is not None),
    ]


def driver(machine: Machine, board: Board) -> tuple[Gpu | None, list[Finding]]:
    """The GPU, if a driver answers, and what to say. Asked in a child process: a driver that
    crashes is a finding.
    """
    places = machine.library(DRIVER)
    todo = (
        _FLAGS
        if machine.is_container
        else (
            "sudo apt-get install nvidia-jetpack"
            if board.is_jetson
            else "Install NVIDIA's driver, if there is a card."
        )
    )
    answer = machine.ask("driver", *places)
    said = answer.said
    if answer.failure:
        return None, broken(
            "driver",
            f"{DRIVER}: {answer.failure}",
            f"Asking for a GPU ends the process. {_ON_CPU}",
            "Install the driver that belongs to this kernel, and restart.",
        )
    if "error" in said:
        if any(place != DRIVER for place in places):
            return None, broken(
                "driver", str(said["error"]), f"It is here and does not load. {_ON_CPU}", todo
            )
        absent = missing if board.is_jetson else note
        return None, absent("driver", f"no {DRIVER}", _ON_CPU, todo)
    if said["code"] or not said["devices"]:
        why = _CODES.get(said["code"], "") if said["code"] else "no device"
        return None, broken(
            "driver",
            f"{DRIVER} is here; cuInit says {said['code']}{f': {why}' if why else ''}",
            _ON_CPU,
            (
                _FLAGS
                if machine.is_container
                else "nvidia-smi says more; a restart after an update of the driver."
            ),
        )
    gpu = Gpu(**said["devices"][0])
    memory = "shared memory" if gpu.is_integrated else f"{gpu.memory_mib / 1024:.0f} GiB"
    found = (
        f"CUDA {_version(said['version'])}: {gpu.name}, compute capability {gpu.capability},"
        f" {gpu.processors} multiprocessors, {memory}"
    )
    expected = board.module.capability if board.module else gpu.capability
    if gpu.capability != expected:
        return gpu, note(
            "driver",
            found,
            f"Our table says {expected} of this module.",
            "Send us what edgeadapt doctor --json writes.",
        )
    return gpu, ok("driver", found)


def cuda(machine: Machine, board: Board, has_driver: bool) -> list[Finding]:
    """The runtime library, newest first; JetPack's and pip's."""
    places = [place for number in (13, 12, 11) for place in machine.library(f"{CUDART}.{number}")]
    answer = machine.ask("cuda", *places)
    if answer.failure:
        return broken(
            "cuda",
            f"{CUDART}: {answer.failure}",
            "TensorRT and ONNX Runtime's CUDA provider load it.",
            "Install CUDA again.",
        )
    if "error" in answer.said:
        if not has_driver:
            return []  # the driver's line says enough
        todo = (
            "sudo apt-get install nvidia-jetpack"
            if board.is_jetson
            else "pip install nvidia-cuda-runtime"
        )
        return missing(
            "cuda",
            f"no {CUDART}",
            "TensorRT and ONNX Runtime's CUDA provider load it. The CPU does not need it.",
            todo,
        )
    found = _version(answer.said["version"])
    wanted = board.jetpack.cuda.rstrip("?") if board.jetpack else found
    if found != wanted:
        return note(
            "cuda",
            f"{found}; JetPack {board.jetpack.name if board.jetpack else ''} brings {wanted}",
            "A board's driver serves its own CUDA; another may not start.",
            "sudo apt-get install nvidia-jetpack",
        )
    return ok("cuda", found)


def tensorrt(machine: Machine, board: Board, has_driver: bool) -> list[Finding]:
    on_disk = _on_disk(machine)
    if not has_driver:
        version = on_disk or (installed("tensorrt") if machine.is_here else None)
        if version is None:
            return []
        return note(
            "tensorrt",
            f"{version} is here and was not loaded",
            "Without a driver loading it may end the process.",
            "First what is said of the driver.",
        )
    answer = machine.ask("tensorrt")
    if answer.failure:
        return broken(
            "tensorrt",
            f"importing it: {answer.failure}",
            "Native engines cannot run; ONNX Runtime can.",
            "Reinstall the TensorRT that belongs to this driver.",
        )
    if "error" in answer.said:
        said = answer.said
        return _not_importable(board, on_disk, str(said["error"]), bool(said["is_installed"]))
    found = str(answer.said["version"])
    lean = (
        "" if answer.said["has_builder"] else ", the lean runtime: it runs engines and builds none"
    )
    for mismatch in (_beside_jetpack(board, found), _beside_library(on_disk, found)):
        if mismatch:
            return note(
                "tensorrt",
                f"{found}{lean}; {mismatch}",
                "Two versions side by side read each other's engines only by luck.",
                "Keep one: JetPack's, from apt.",
            )
    return ok("tensorrt", f"{found}{lean}")


def _not_importable(board: Board, on_disk: str, error: str, is_installed: bool) -> list[Finding]:
    if is_installed:
        why = "Its Python part is here, and a library of it is not."
        return broken("tensorrt", error, why, "Install the libraries of the same version.")
    if on_disk:
        why = (
            f"TensorRT {on_disk} is installed, and this Python does not see it: a virtual"
            " environment hides the system's packages."
        )
        todo = "/usr/bin/python3 -m venv --system-site-packages /opt/edgeadapt"
        return missing("tensorrt", error, why, todo)
    why = "Only native engines need it."
    if board.is_jetson:
        todo = "sudo apt-get install tensorrt python3-libnvinfer"
        return missing("tensorrt", "not installed", why, todo)
    return note("tensorrt", "not installed", why, "pip install tensorrt")


def _beside_jetpack(board: Board, found: str) -> str:
    wanted = board.jetpack.tensorrt.rstrip("?") if board.jetpack else ""
    return (
        f"JetPack {board.jetpack.name} brings {wanted}"
        if board.jetpack and not _begins(found, wanted)
        else ""
    )


def _beside_library(on_disk: str, found: str) -> str:
    return (
        f"the system's library is {on_disk}"
        if on_disk and not _begins(found, ".".join(on_disk.split(".")[:2]))
        else ""
    )


def _begins(version: str, start: str) -> bool:
    wanted = start.split(".")
    return version.split(".")[: len(wanted)] == wanted


def _on_disk(machine: Machine) -> str:
    """``10.3.0`` of ``libnvinfer.so.10.3.0``; empty if the library is not in the system's
    folders.
    """
    names = (
        re.search(r"libnvinfer\.so\.([0-9]+(?:\.[0-9]+){1,3})$", place)
        for place in machine.library(f"{TENSORRT}.*")
    )
    return max((name[1] for name in names if name), key=_order, default="")


def _order(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _version(number: int) -> str:
    """``12.6`` of 12060."""
    return f"{number // 1000}.{number % 1000 // 10}"


__all__ = ["Gpu", "accelerators", "cuda", "driver", "tensorrt"]
