"""Whether a provider of ONNX Runtime really computes here, and if not, why, and what to do: each in
one line.

``onnxruntime.get_available_providers`` lists what was compiled in. One that cannot load is left out
without an error, and the CPU does its work.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_onnxruntime._providers import TENSORRT
from edgeadapt_onnxruntime._wheels import (
    Machine,
    libraries,
    tensorrt,
    tensorrt_wheel,
    this_machine,
    wheel,
)

LIMIT_S = 120.0  # a TensorRT engine for one addition may take long on a small board

CAUSES: Mapping[str, tuple[str, str]] = {
    "import": (
        "onnxruntime cannot be imported: {detail}",
        "reinstall the onnxruntime package that belongs to this machine",
    ),
    "not built": ("onnxruntime {version} was built without the {short} provider", "{wheel}"),
    "overwritten": (
        "onnxruntime-gpu is installed, and a CPU build of onnxruntime lies over it",
        "pip uninstall -y onnxruntime onnxruntime-gpu, then install onnxruntime-gpu alone",
    ),
    "no driver": ("there is no NVIDIA driver: libcuda.so.1 does not load", "{driver}"),
    "driver refused": (
        "NVIDIA's driver is here and does not start: {detail}",
        "restart after an update of the driver; nvidia-smi or edgeadapt doctor says more",
    ),
    "no device": (
        "NVIDIA's driver does not see the GPU: {detail}",
        "check the device's number, CUDA_VISIBLE_DEVICES, and in a container --runtime nvidia",
    ),
    "no library": ("the {short} provider does not load: {detail} is missing", "{libraries}"),
    "no tensorrt": ("the {short} provider does not load: {detail} is missing", "{tensorrt}"),
    "other tensorrt": (
        "the {short} provider does not load: it is linked with {wants}, and {beside} is here",
        "{tensorrt}",
    ),
    "broken library": (
        "the {short} provider does not load: {detail}",
        "reinstall onnxruntime-gpu and the CUDA it was built for",
    ),
    "no kernel": (
        "onnxruntime {version} has no code for a GPU of compute capability {capability}",
        "{wheel}",
    ),
    "fell back": (
        "ONNX Runtime loads the {short} provider and then computes with {detail}",
        "edgeadapt doctor shows what ONNX Runtime wrote",
    ),
    "wrong numbers": (
        "the {short} provider computes wrong numbers: {detail}",
        "do not use it; another version of onnxruntime, or the CPU",
    ),
    "failed": (
        "the {short} provider fails: {detail}",
        "edgeadapt doctor shows driver, CUDA and TensorRT beside each other",
    ),
    "crashed": (
        "asking the {short} provider for one addition ended the process: {detail}",
        "the driver and the libraries do not fit each other; edgeadapt doctor shows them",
    ),
}
"""By what was found: what to say, and what to do."""

_passed: dict[tuple[str, int], str] = {}


def require(provider: str, device: int = 0) -> str:
    """One line about a provider that computes; it is asked once per process.

    Raises:
        RuntimeUnavailable: it does not compute here; the message says why and what to do.
    """
    if (provider, device) not in _passed:
        said = ask(provider, device)
        if said["cause"]:
            raise RuntimeUnavailable(sentence(said, provider, this_machine()))
        _passed[provider, device] = (
            f"{provider} computes on GPU {device}, compute capability {said['capability']}"
        )
    return _passed[provider, device]


def ask(provider: str, device: int = 0) -> dict[str, Any]:
    """What the child says; a crash or a hang is an answer."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("_provider_child.py")),
        provider,
        str(device),
    ]
    # what this process can import, the child can
    path = os.pathsep.join(place for place in sys.path if place)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"cause": "crashed", "detail": f"no answer within {LIMIT_S:g} s"}
    if done.returncode < 0:
        return {"cause": "crashed", "detail": f"killed by {signal.Signals(-done.returncode).name}"}
    try:
        said: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        return {
            "cause": "crashed",
            "detail": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][
                :300
            ],
        }
    # the error itself may have the place in the source only
    named = re.search(r"CUDA failure [0-9]+: [^;\n]+", f"{said.get('detail')}\n{done.stderr}")
    return {**said, "detail": named[0].strip()} if named and said["cause"] == "failed" else said


def sentence(said: Mapping[str, Any], provider: str, machine: Machine) -> str:
    """What was found, then what to do."""
    what, todo = CAUSES[said["cause"]]
    known = {
        "version": "",
        "detail": "",
        "capability": "",
        "beside": "",
        "wants": "",
        "cuda": "",
        **said,
    }
    return f"{what}. To do: {todo}".format(
        **known,
        short="TensorRT" if provider == TENSORRT else provider.removesuffix("ExecutionProvider"),
        wheel=tensorrt_wheel(machine) if provider == TENSORRT else wheel(machine),
        libraries=libraries(machine),
        tensorrt=tensorrt(machine, known["wants"], known["cuda"]),
        driver=(
            "sudo apt-get install nvidia-jetpack; in a container add --runtime nvidia"
            if machine.l4t
            else "install NVIDIA's driver if there is a card; without one use the CPU"
        ),
    )


__all__ = ["CAUSES", "ask", "require", "sentence"]
