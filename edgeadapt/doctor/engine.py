"""ONNX Runtime, its providers and the runtimes that edgeadapt finds; the bundle that ships opens
and predicts.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.finding import Finding
from edgeadapt.doctor.machine import Machine

_OLDEST = (1, 23)
# the second calls a service in a network, and none is asked here
_ALWAYS = ("CPUExecutionProvider", "AzureExecutionProvider")
_DATA = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte"


def onnxruntime(machine: Machine) -> list[Finding]:
    answer = machine.ask("onnxruntime_child")
    if answer.failure or "error" in answer.said:
        said = answer.failure or str(answer.said["error"])
        return [
            Finding(
                "onnxruntime",
                "broken",
                said,
                "Everything is computed by it.",
                "pip install --force-reinstall onnxruntime",
                True,
            )
        ]
    found = str(answer.said["version"])
    if tuple(int(part) for part in re.findall(r"[0-9]+", found)[:2]) < _OLDEST:
        return [
            Finding(
                "onnxruntime",
                "broken",
                f"{found}; {_OLDEST[0]}.{_OLDEST[1]} or newer is needed",
                "Everything is computed by it.",
                "pip install --upgrade onnxruntime",
                True,
            )
        ]
    providers = dict(answer.said["providers"])
    return [
        _core(machine, found, providers),
        *_providers(machine, providers, answer.errors, str(answer.said["wants"])),
    ]


def _core(machine: Machine, found: str, providers: dict[str, str]) -> Finding:
    usable = ", ".join(
        name.removesuffix("ExecutionProvider")
        for name, error in providers.items()
        if not error and name != _ALWAYS[1]
    )
    if providers.get(_ALWAYS[0], "absent"):
        return Finding(
            "onnxruntime",
            "broken",
            f"{found}: {providers.get(_ALWAYS[0], 'it has no CPU provider')}",
            "Everything is computed by it.",
            "pip install --force-reinstall onnxruntime",
            True,
        )
    both = (
        [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
        if machine.is_here
        else []
    )
    if len(both) == 2:
        why = "Both packages write the same folder; the one that came last is half overwritten."
        return Finding(
            "onnxruntime",
            "note",
            f"{found}, from two packages: {' and '.join(both)}",
            why,
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one",
            True,
        )
    return Finding("onnxruntime", "ok", f"{found}, runs on {usable}", is_needed=True)


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _providers(
    machine: Machine, providers: dict[str, str], errors: str, wants: str
) -> list[Finding]:
    """One line for each that is listed and cannot be used, with the library that it lacks."""
    lacks = dict(re.findall(r"providers_(\w+)\.so with error: ([^\s:]+)", errors))
    found = []
    for name, error in providers.items():
        if not error or name in _ALWAYS:
            continue
        short = name.removesuffix("ExecutionProvider")
        library = lacks.get(short.lower(), "")
        detail = (
            f"{short} is listed and does not load{f': no {library}' if library else ''}"
            if error.startswith("it is listed")
            else f"{short}: {error}"
        )
        found.append(
            Finding(
                "provider",
                "note",
                detail[:300],
                _why(machine, short, wants),
                _todo(machine, short, wants),
            )
        )
    return found


def _why(machine: Machine, short: str, wants: str) -> str:
    if short == "Tensorrt" and wants:
        others = {
            Path(place).name
            for place in machine.library("libnvinfer.so.[0-9]*")
            if re.fullmatch(r"libnvinfer\.so\.[0-9]+", Path(place).name)
        } - {wants}
        beside = (
            f", and {' and '.join(sorted(others))} {'is' if len(others) == 1 else 'are'} here"
            if others
            else ""
        )
        return f"This build is linked with {wants}{beside}. The CPU provider does the work instead."
    return "The CPU provider does the work instead."


def _todo(machine: Machine, short: str, wants: str) -> str:
    if read_board(machine).is_jetson:
        return (
            "Take ONNX Runtime from the Jetson AI Lab index; PyPI's has no code for Orin or Thor."
        )
    if short == "Tensorrt" and wants:
        return (
            "Nothing without a GPU; with one: pip install"
            f" 'tensorrt-cu13=={wants.rpartition('.')[2]}.*'"
        )
    return "Nothing without a GPU; with one: pip install 'onnxruntime-gpu[cuda,cudnn]'"


def runtimes(machine: Machine) -> list[Finding]:
    answer = machine.ask("product_child", "runtimes")
    statuses = {
        str(one["name"]): (bool(one["is_available"]), str(one["detail"]))
        for one in answer.said.get("runtimes", ())
    }
    here = [name for name, (is_available, _) in statuses.items() if is_available]
    if "onnxruntime" not in here:
        said = (
            answer.failure
            or statuses.get("onnxruntime", (False, "onnxruntime is not registered"))[1]
        )
        return [
            Finding(
                "runtimes",
                "missing",
                said,
                "Nothing can be computed.",
                "pip install --force-reinstall edgeadapt",
                True,
            )
        ]
    others = [
        Finding(
            "runtime",
            "note",
            f"{name}: {detail.removeprefix('RuntimeUnavailable: ')}",
            "It is registered and cannot run here.",
            "See the lines above.",
        )
        for name, (is_available, detail) in statuses.items()
        if not is_available
    ]
    return [Finding("runtimes", "ok", ", ".join(here), is_needed=True), *others]


def bundle(machine: Machine) -> list[Finding]:
    answer = machine.ask("product_child", "bundle")
    if answer.failure or "error" in answer.said:
        said = answer.failure or str(answer.said["error"])
        return [
            Finding(
                "bundle",
                "broken",
                said,
                "The bundle that ships does not work, so no other will.",
                "pip install --force-reinstall edgeadapt",
                True,
            )
        ]
    return [
        Finding(
            "bundle",
            "ok",
            f"{answer.said['name']} opens and predicts ({answer.said['label']})",
            is_needed=True,
        )
    ]


def data(machine: Machine) -> list[Finding]:
    if any(machine.exists(f"{_DATA}{suffix}") for suffix in ("", ".gz")):
        return [Finding("data", "ok", "Fashion-MNIST, to train the demo's encoder")]
    return [
        Finding(
            "data",
            "note",
            "no Fashion-MNIST",
            "Needed to train the demo's encoder; for nothing else.",
            "apt-get install dataset-fashion-mnist",
        )
    ]


__all__ = ["bundle", "data", "onnxruntime", "runtimes"]
