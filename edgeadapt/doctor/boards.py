"""Facts about NVIDIA's boards and releases that the doctor decides by, each with its mark;
`firmware_notes/` prints these same tables.

A value that ends in ``?`` is unverified whatever the mark of its row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

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
_TORCH_TENSORRT = f"docs.pytorch.org/TensorRT getting_started/jetpack; L4T: {_STATS}"

JETPACKS = (
    JetPack(
        "5.1.1",
        ("35.3.1",),
        "20.04",
        "5.10",
        "3.8",
        "11.4",
        "8.6.0",
        "8.5.2",
        "Xavier, Orin",
        "CPU only",
        "public source",
        f"edgehook/Jetson-AI-task; L4T: {_STATS}",
    ),
    JetPack(
        "5.1.2",
        ("35.4.1",),
        "20.04",
        "5.10",
        "3.8",
        "11.4",
        "8.6.0",
        "8.5.2",
        "Xavier, Orin",
        "CPU only",
        "public source",
        f"edgehook/Jetson-AI-task; L4T: {_STATS}",
    ),
    JetPack(
        "5.1.6",
        ("35.6.4",),
        "20.04",
        "5.10",
        "3.8",
        "11.4",
        "8.6.0",
        "8.5.2",
        "Xavier, Orin",
        "CPU only",
        "public source",
        f"edgehook/Jetson-AI-task; L4T: {_STATS}",
    ),
    JetPack(
        "6.0",
        ("36.3.0",),
        "22.04",
        "5.15",
        "3.10",
        "12.2?",
        "8.9?",
        "8.6.2?",
        "Orin",
        "CPU only",
        "unverified",
        "recalled; jetson-containers says CUDA 12.4",
    ),
    JetPack(
        "6.1",
        ("36.4.0",),
        "22.04",
        "5.15",
        "3.10",
        "12.6",
        "9.3",
        "10.3",
        "Orin",
        "second",
        "vendor document",
        _TORCH_TENSORRT,
    ),
    JetPack(
        "6.2",
        ("36.4.3",),
        "22.04",
        "5.15",
        "3.10",
        "12.6",
        "9.3",
        "10.3",
        "Orin",
        "first",
        "vendor document",
        _TORCH_TENSORRT,
    ),
    JetPack(
        "6.2.1",
        ("36.4.4", "36.4.7"),
        "22.04",
        "5.15",
        "3.10",
        "12.6",
        "9.3",
        "10.3",
        "Orin",
        "first",
        "vendor document",
        _TORCH_TENSORRT,
    ),
    JetPack(
        "6.2.2",
        ("36.5.0",),
        "22.04",
        "5.15",
        "3.10",
        "12.6",
        "9.3",
        "10.3",
        "Orin",
        "first",
        "vendor document",
        _TORCH_TENSORRT,
    ),
    JetPack(
        "7.0",
        ("38.2.0",),
        "24.04",
        "6.8",
        "3.12",
        "13.0",
        "9.12?",
        "10.13",
        "Thor",
        "second",
        "vendor document",
        "developer.nvidia.com JetPack archive 7.0; NVIDIA/skills @7149a886",
    ),
    JetPack(
        "7.1",
        ("38.4.0",),
        "24.04",
        "6.8",
        "3.12",
        "13.0",
        "9.12",
        "10.13",
        "Thor",
        "second",
        "vendor document",
        "NVIDIA/IsaacTeleop #1050 quoting JetPack archive 7.1",
    ),
    JetPack(
        "7.2",
        ("39.2.0",),
        "24.04",
        "6.8",
        "3.12",
        "13.2",
        "9.20",
        "10.16",
        "Orin, Thor",
        "first",
        "public source",
        "roboflow/inference #2531; OE4T/meta-tegra #2224",
    ),
    JetPack(
        "7.2.1",
        ("39.2.1",),
        "24.04",
        "6.8",
        "3.12",
        "13.2?",
        "9.20?",
        "10.16?",
        "Orin, Thor",
        "first",
        "public source",
        "L4T: JetPack 7.2.1 installation guides, found by `# R39 (release), REVISION: 2.1`",
        "2026-11-26",
    ),
)

_SUPER = "brojogopalsapui.com; hokwangchoi/jetson-orin-nano-benchmarks"
MODULES = (
    Module(
        "p3767-0004",
        "Orin Nano 4 GB",
        "Orin",
        "8.7",
        "4?",
        "4",
        "34 to 51?",
        "7 to 10 (25)",
        "public source",
        _STATS,
    ),
    Module(
        "p3767-0003",
        "Orin Nano 8 GB",
        "Orin",
        "8.7",
        "8",
        "8",
        "68 to 102",
        "7, 15, 25",
        "public source",
        f"{_STATS}; {_SUPER}",
    ),
    Module(
        "p3767-0005",
        "Orin Nano 8 GB (developer kit)",
        "Orin",
        "8.7",
        "8",
        "8",
        "68 to 102",
        "7, 15, 25",
        "public source",
        f"{_STATS}; {_SUPER}",
    ),
    Module(
        "p3767-0001",
        "Orin NX 8 GB",
        "Orin",
        "8.7",
        "8?",
        "8",
        "102",
        "10 to 20 (40)",
        "public source",
        _STATS,
    ),
    Module(
        "p3767-0000",
        "Orin NX 16 GB",
        "Orin",
        "8.7",
        "8?",
        "16",
        "102",
        "10 to 25 (40)",
        "public source",
        _STATS,
    ),
    Module(
        "p3701-0004",
        "AGX Orin 32 GB",
        "Orin",
        "8.7",
        "14?",
        "32",
        "205?",
        "15 to 40",
        "public source",
        _STATS,
    ),
    Module(
        "p3701-0000",
        "AGX Orin (developer kit)",
        "Orin",
        "8.7",
        "16?",
        "32 or 64?",
        "205?",
        "15 to 60?",
        "public source",
        "nv_boot_control.conf of OE4T/meta-tegra recipes",
        "2026-11-26",
    ),
    Module(
        "p3701-0005",
        "AGX Orin 64 GB",
        "Orin",
        "8.7",
        "16",
        "64",
        "205?",
        "15 to 60",
        "public source",
        f"{_STATS}; NVIDIA/Deep-Learning-Accelerator-SW",
    ),
    Module(
        "p3834-0008",
        "Thor T5000",
        "Thor",
        "11.0",
        "20",
        "128",
        "273?",
        "40 to 130",
        "public source",
        f"{_STATS}; forums.developer.nvidia.com 356355",
    ),
)

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
