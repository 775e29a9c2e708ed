"""Facts about NVIDIA's boards and releases that the doctor decides by, each with its mark;
`firmware_notes/` prints these same tables.

A value that ends in ``?`` is unverified whatever the mark of its row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

Mark = Literal["verified", "public source", "vendor document", "unverified"]
Support = Literal["first", "second", "CPU only"]
"""first: what we aim at. second: written for, after the first. CPU only: TensorRT is too old for
learning steps.
"""


@dataclass(frozen=True)
class JetPack:
    """One release of NVIDIA's software for its boards; ``l4t`` are the releases of Jetson Linux
    that it is.
    """

    name: str
    l4t: tuple[str, ...]
    ubuntu: str
    kernel: str
    python: str
    cuda: str
    cudnn: str
    tensorrt: str
    chips: str
    support: Support
    mark: Mark
    source: str
    date: str = "2026-11-24"


@dataclass(frozen=True)
class Module:
    """One module. sms: streaming multiprocessors. bandwidth: GB/s of its memory. power: W. part: as
    the device tree has it.
    """

    part: str
    name: str
    chip: str
    capability: str
    sms: str
    memory: str
    bandwidth: str
    power: str
    mark: Mark
    source: str
    date: str = "2026-11-24"


_STATS = "jetson_stats @f41d5cad"
_SOURCES: dict[str, tuple[str, ...]] = {
    "edgehook": ("public source", f"edgehook/Jetson-AI-task; L4T: {_STATS}"),
    "recalled": ("unverified", "recalled; jetson-containers says CUDA 12.4"),
    "torch": (
        "vendor document",
        f"docs.pytorch.org/TensorRT getting_started/jetpack; L4T: {_STATS}",
    ),
    "archive 7.0": (
        "vendor document",
        "developer.nvidia.com JetPack archive 7.0; NVIDIA/skills @7149a886",
    ),
    "archive 7.1": ("vendor document", "NVIDIA/IsaacTeleop #1050 quoting JetPack archive 7.1"),
    "roboflow": ("public source", "roboflow/inference #2531; OE4T/meta-tegra #2224"),
    "guides": (
        "public source",
        "L4T: JetPack 7.2.1 installation guides, found by `# R39 (release), REVISION: 2.1`",
        "2026-11-26",
    ),
    "stats": ("public source", _STATS),
    "super": (
        "public source",
        f"{_STATS}; brojogopalsapui.com; hokwangchoi/jetson-orin-nano-benchmarks",
    ),
    "tegra": ("public source", "nv_boot_control.conf of OE4T/meta-tegra recipes", "2026-11-26"),
    "accelerator": ("public source", f"{_STATS}; NVIDIA/Deep-Learning-Accelerator-SW"),
    "forum": ("public source", f"{_STATS}; forums.developer.nvidia.com 356355"),
}
"""Mark, source, and date where it is another."""


def _rows(table: str) -> list[list[Any]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


# name, L4T, Ubuntu, kernel, Python, CUDA, cuDNN, TensorRT, chips, support, source
_JETPACKS = """
5.1.1 | 35.3.1 | 20.04 | 5.10 | 3.8 | 11.4 | 8.6.0 | 8.5.2 | Xavier, Orin | CPU only | edgehook
5.1.2 | 35.4.1 | 20.04 | 5.10 | 3.8 | 11.4 | 8.6.0 | 8.5.2 | Xavier, Orin | CPU only | edgehook
5.1.6 | 35.6.4 | 20.04 | 5.10 | 3.8 | 11.4 | 8.6.0 | 8.5.2 | Xavier, Orin | CPU only | edgehook
6.0 | 36.3.0 | 22.04 | 5.15 | 3.10 | 12.2? | 8.9? | 8.6.2? | Orin | CPU only | recalled
6.1 | 36.4.0 | 22.04 | 5.15 | 3.10 | 12.6 | 9.3 | 10.3 | Orin | second | torch
6.2 | 36.4.3 | 22.04 | 5.15 | 3.10 | 12.6 | 9.3 | 10.3 | Orin | first | torch
6.2.1 | 36.4.4 36.4.7 | 22.04 | 5.15 | 3.10 | 12.6 | 9.3 | 10.3 | Orin | first | torch
6.2.2 | 36.5.0 | 22.04 | 5.15 | 3.10 | 12.6 | 9.3 | 10.3 | Orin | first | torch
7.0 | 38.2.0 | 24.04 | 6.8 | 3.12 | 13.0 | 9.12? | 10.13 | Thor | second | archive 7.0
7.1 | 38.4.0 | 24.04 | 6.8 | 3.12 | 13.0 | 9.12 | 10.13 | Thor | second | archive 7.1
7.2 | 39.2.0 | 24.04 | 6.8 | 3.12 | 13.2 | 9.20 | 10.16 | Orin, Thor | first | roboflow
7.2.1 | 39.2.1 | 24.04 | 6.8 | 3.12 | 13.2? | 9.20? | 10.16? | Orin, Thor | first | guides
"""
JETPACKS = tuple(
    JetPack(name, tuple(l4t.split()), *cells, *_SOURCES[source])
    for name, l4t, *cells, source in _rows(_JETPACKS)
)

# part, name, chip, capability, sms, memory, bandwidth, power, source
_MODULES = """
p3767-0004 | Orin Nano 4 GB | Orin | 8.7 | 4? | 4 | 34 to 51? | 7 to 10 (25) | stats
p3767-0003 | Orin Nano 8 GB | Orin | 8.7 | 8 | 8 | 68 to 102 | 7, 15, 25 | super
p3767-0005 | Orin Nano 8 GB (developer kit) | Orin | 8.7 | 8 | 8 | 68 to 102 | 7, 15, 25 | super
p3767-0001 | Orin NX 8 GB | Orin | 8.7 | 8? | 8 | 102 | 10 to 20 (40) | stats
p3767-0000 | Orin NX 16 GB | Orin | 8.7 | 8? | 16 | 102 | 10 to 25 (40) | stats
p3701-0004 | AGX Orin 32 GB | Orin | 8.7 | 14? | 32 | 205? | 15 to 40 | stats
p3701-0000 | AGX Orin (developer kit) | Orin | 8.7 | 16? | 32 or 64? | 205? | 15 to 60? | tegra
p3701-0005 | AGX Orin 64 GB | Orin | 8.7 | 16 | 64 | 205? | 15 to 60 | accelerator
p3834-0008 | Thor T5000 | Thor | 11.0 | 20 | 128 | 273? | 40 to 130 | forum
"""
MODULES = tuple(Module(*cells, *_SOURCES[source]) for *cells, source in _rows(_MODULES))

CHIPS = {"tegra234": "Orin", "tegra264": "Thor", "tegra194": "Xavier"}
"""By the last word of the device tree's ``compatible``."""


def l4t_release(text: str) -> str:
    """``36.4.3`` of ``# R36 (release), REVISION: 4.3, GCID: ...``; empty if it says none."""
    found = re.search(r"R([0-9]{1,3}) \(release\), REVISION: ([0-9]{1,3}(?:\.[0-9]{1,3})?)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def jetpack_of(l4t: str) -> JetPack | None:
    """The release that has this L4T, or the last one before it with the same first number; None for
    another first number.
    """
    same = [jetpack for jetpack in JETPACKS if jetpack.l4t[0].split(".")[0] == l4t.split(".")[0]]
    return max(
        (one for one in same if _order(one.l4t[0]) <= _order(l4t)),
        key=lambda one: _order(one.l4t[0]),
        default=same[0] if same else None,
    )


def module_of(compatible: str) -> Module | None:
    """The module that a device tree's ``compatible`` names:
    ``nvidia,p3768-0000+p3767-0005-super``.
    """
    return next((module for module in MODULES if module.part in compatible), None)


def chip_of(compatible: str) -> str:
    """``Orin``, ``Thor`` or ``Xavier``; empty for others."""
    return next((name for number, name in CHIPS.items() if number in compatible), "")


def _order(l4t: str) -> tuple[int, ...]:
    return tuple(int(part) for part in l4t.split("."))


__all__ = [
    "CHIPS",
    "JETPACKS",
    "MODULES",
    "JetPack",
    "Mark",
    "Module",
    "Support",
    "chip_of",
    "jetpack_of",
    "l4t_release",
    "module_of",
]
