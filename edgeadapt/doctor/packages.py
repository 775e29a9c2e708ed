"""Python packages: the core, and what each extra is for. The list is that of the installed
package's own metadata.
"""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, requires, version

from edgeadapt.doctor.finding import Finding
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
        return [
            Finding(
                "packages",
                "broken",
                "edgeadapt runs from a folder and is not installed",
                "Its runtimes are found by the metadata of an installation.",
                "pip install .",
                True,
            )
        ]
    versions = {name: installed(name) for name in wanted}
    # a build for a GPU has another name and brings the same module
    if versions.get("onnxruntime") is None:
        versions["onnxruntime"] = installed("onnxruntime-gpu")
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        return [
            Finding(
                "packages",
                "missing",
                f"without {', '.join(missing)}",
                "The core cannot do without.",
                f"pip install {' '.join(missing)}",
                True,
            )
        ]
    return [
        Finding(
            "packages",
            "ok",
            ", ".join(f"{name} {versions[name]}" for name in _SHOWN if name in versions),
            is_needed=True,
        )
    ]


def extras(machine: Machine) -> list[Finding]:
    found = []
    for extra, purpose in PURPOSES.items():
        try:
            versions = {name: installed(name) for name in requirements(extra)}
        except PackageNotFoundError:
            return []  # said by core()
        missing = [name for name, number in versions.items() if number is None]
        if missing:
            found.append(
                Finding(
                    extra,
                    "note",
                    f"without {', '.join(missing)}",
                    f"Needed {purpose}; for nothing else.",
                    f"pip install 'edgeadapt[{extra}]'",
                )
            )
        else:
            found.append(
                Finding(extra, "ok", f"{purpose} ({_LEADING[extra]} {versions[_LEADING[extra]]})")
            )
    return found


__all__ = ["PURPOSES", "core", "extras", "installed", "requirements"]
