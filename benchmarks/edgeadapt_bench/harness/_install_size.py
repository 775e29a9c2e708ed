"""Bytes that a package and everything it requires take on this disk."""

from __future__ import annotations

import os
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_OURS = ("edgeadapt", "edgeadapt_onnxruntime")


def installed_bytes(*packages: str) -> int:
    """Of packages with what they require, extras and compiled Python left out.

    Raises:
        PackageNotFoundError: one of ``packages`` is not installed.
    """
    sizes: dict[str, int] = {}
    waiting = [distribution(name) for name in packages]
    while waiting:
        found = waiting.pop()
        name = canonicalize_name(found.metadata["Name"])
        if name in sizes:
            continue
        sizes[name] = sum(map(_folder_bytes, _OURS)) if name == "edgeadapt" else _own_bytes(found)
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                try:
                    waiting.append(distribution(requirement.name))
                except PackageNotFoundError:
                    continue  # not on this disk: it takes no bytes
    return sum(sizes.values())


def _own_bytes(package: Distribution) -> int:
    files = [
        Path(str(file.locate())) for file in package.files or () if "__pycache__" not in file.parts
    ]
    return sum(file.stat().st_size for file in files if file.is_file())


def _folder_bytes(package: str) -> int:
    """Of a package by its folder: an editable installation lists no files."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    total = 0
    for folder, inner, files in os.walk(spec.submodule_search_locations[0]):
        inner[:] = [name for name in inner if name != "__pycache__"]
        total += sum((Path(folder) / name).stat().st_size for name in files)
    return total
