"""Python packages, ONNX Runtime, its providers and the runtimes that edgeadapt finds; the bundle
that ships opens and predicts.
"""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.finding import Finding, broken, missing, note, ok
from edgeadapt.doctor.machine import Machine

PURPOSES = {
    "images": "to read image files",
    "daemon": "for edgeadapt serve: HTTP, metrics, MQTT",
    "video": "for cameras and video files",
    "host": "to train, export and compile",
}
# may come from the system without metadata
_MODULES = {
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
    "paho-mqtt": "paho",
    "faiss-cpu": "faiss",
}
_SHOWN = ("numpy", "msgspec", "safetensors", "cryptography")  # onnxruntime has a line of its own
_LEADING = {
    "images": "pillow",
    "daemon": "starlette",
    "video": "opencv-python-headless",
    "host": "torch",
}


def requirements(extra: str = "") -> list[str]:
    """Names of what the package, or one of its extras, wants here; markers about other Pythons are
    left out.
    """
    found = []
    for line in requires("edgeadapt") or ():
        wanted, _, marker = line.partition(";")
        asked = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        if (asked[1] if asked else "") == extra and "python_version" not in marker:
            found.append(re.split(r"[\s<>=!~\[(]", wanted.strip(), maxsplit=1)[0].lower())
    return found


def installed(name: str) -> str | None:
    """Version of a package; ``here`` if its module is, without metadata; None if it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        module = _MODULES.get(name, name.replace("-", "_"))
        return "here" if importlib.util.find_spec(module) is not None else None


def core(machine: Machine) -> list[Finding]:
    try:
        wanted = requirements()
    except PackageNotFoundError:
        return broken(
            "packages",
            "edgeadapt runs from a folder and is not installed",
            "Its runtimes are found by the metadata of an installation.",
            "pip install .",
            is_needed=True,
        )
    versions = {name: installed(name) for name in wanted}
    # a build for a GPU has another name and brings the same module
    if versions.get("onnxruntime") is None:
        versions["onnxruntime"] = installed("onnxruntime-gpu")
    absent = [name for name, found in versions.items() if found is None]
    if absent:
        return missing(
            "packages",
            f"without {', '.join(absent)}",
            "The core cannot do without.",
            f"pip install {' '.join(absent)}",
            is_needed=True,
        )
    return ok(
        "packages",
        ", ".join(f"{name} {versions[name]}" for name in _SHOWN if name in versions),
        is_needed=True,
    )


def extras(machine: Machine) -> list[Finding]:
    found: list[Finding] = []
    for extra, purpose in PURPOSES.items():
        try:
            versions = {name: installed(name) for name in requirements(extra)}
        except PackageNotFoundError:
            return []  # said by core()
        absent = [name for name, number in versions.items() if number is None]
        if absent:
            found += note(
                extra,
                f"without {', '.join(absent)}",
                f"Needed {purpose}; for nothing else.",
                f"pip install 'edgeadapt[{extra}]'",
            )
        else:
            found += ok(extra, f"{purpose} ({_LEADING[extra]} {versions[_LEADING[extra]]})")
    return found


_OLDEST = (1, 23)
# the second calls a service in a network, and none is asked here
_ALWAYS = ("CPUExecutionProvider", "AzureExecutionProvider")
_DATA = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte"


def onnxruntime(machine: Machine) -> list[Finding]:
    answer = machine.ask("onnxruntime")
    if answer.failure or "error" in answer.said:
        return _broken_onnxruntime(answer.failure or str(answer.said["error"]))
    found = str(answer.said["version"])
    if tuple(int(part) for part in re.findall(r"[0-9]+", found)[:2]) < _OLDEST:
        said = f"{found}; {_OLDEST[0]}.{_OLDEST[1]} or newer is needed"
        return _broken_onnxruntime(said, "pip install --upgrade onnxruntime")
    providers = dict(answer.said["providers"])
    return [
        *_core(machine, found, providers),
        *_providers(machine, providers, answer.errors, str(answer.said["wants"])),
    ]


def _broken_onnxruntime(
    said: str, todo: str = "pip install --force-reinstall onnxruntime"
) -> list[Finding]:
    return broken("onnxruntime", said, "Everything is computed by it.", todo, is_needed=True)


def _core(machine: Machine, found: str, providers: dict[str, str]) -> list[Finding]:
    usable = ", ".join(
        name.removesuffix("ExecutionProvider")
        for name, error in providers.items()
        if not error and name != _ALWAYS[1]
    )
    if providers.get(_ALWAYS[0], "absent"):
        said = providers.get(_ALWAYS[0], "it has no CPU provider")
        return _broken_onnxruntime(f"{found}: {said}")
    if machine.is_here and _is_installed("onnxruntime") and _is_installed("onnxruntime-gpu"):
        return note(
            "onnxruntime",
            f"{found}, from two packages: onnxruntime and onnxruntime-gpu",
            "Both packages write the same folder; the one that came last is half overwritten.",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one",
            is_needed=True,
        )
    return ok("onnxruntime", f"{found}, runs on {usable}", is_needed=True)


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
    found: list[Finding] = []
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
        why, todo = _why(machine, short, wants), _todo(machine, short, wants)
        found += note("provider", detail[:300], why, todo)
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
    answer = machine.ask("runtimes")
    statuses = {
        str(one["name"]): (bool(one["is_available"]), str(one["detail"]))
        for one in answer.said.get("runtimes", ())
    }
    here = [name for name, (is_available, _) in statuses.items() if is_available]
    if "onnxruntime" not in here:
        absent = (False, "onnxruntime is not registered")
        said = answer.failure or statuses.get("onnxruntime", absent)[1]
        return missing(
            "runtimes",
            said,
            "Nothing can be computed.",
            "pip install --force-reinstall edgeadapt",
            is_needed=True,
        )
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
    return [*ok("runtimes", ", ".join(here), is_needed=True), *others]


def bundle(machine: Machine) -> list[Finding]:
    answer = machine.ask("bundle")
    if answer.failure or "error" in answer.said:
        said = answer.failure or str(answer.said["error"])
        return broken(
            "bundle",
            said,
            "The bundle that ships does not work, so no other will.",
            "pip install --force-reinstall edgeadapt",
            is_needed=True,
        )
    return ok(
        "bundle",
        f"{answer.said['name']} opens and predicts ({answer.said['label']})",
        is_needed=True,
    )


def data(machine: Machine) -> list[Finding]:
    if any(machine.exists(f"{_DATA}{suffix}") for suffix in ("", ".gz")):
        return ok("data", "Fashion-MNIST, to train the demo's encoder")
    return note(
        "data",
        "no Fashion-MNIST",
        "Needed to train the demo's encoder; for nothing else.",
        "apt-get install dataset-fashion-mnist",
    )


__all__ = [
    "PURPOSES",
    "bundle",
    "core",
    "data",
    "extras",
    "installed",
    "onnxruntime",
    "requirements",
    "runtimes",
]
