"""Operating system, Python, processor and memory."""

from __future__ import annotations

import os
import re
import sqlite3

from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.finding import Finding
from edgeadapt.doctor.machine import Machine

_OLDEST_PYTHON, _OLDEST_SQLITE = (3, 10), (3, 37)  # SQLite: STRICT tables
_TRIED = ("x86_64", "aarch64")  # architectures for which ONNX Runtime has wheels
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY")
_SMALL_MIB, _SCARCE_MIB = 8 << 10, 256


def system(machine: Machine) -> list[Finding]:
    named = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.text("/etc/os-release"), re.MULTILINE)
    where = ", in a container" if machine.is_container else ""
    found = (
        f"{named[1] if named else 'an unnamed system'}, kernel {machine.kernel},"
        f" {machine.architecture}{where}"
    )
    if machine.architecture not in _TRIED:
        return [
            Finding(
                "system",
                "note",
                found,
                "ONNX Runtime has wheels for 64-bit x86 and ARM only.",
                "Build ONNX Runtime for this processor, or use another machine.",
            )
        ]
    return [Finding("system", "ok", found)]


def python(machine: Machine) -> list[Finding]:
    version, oldest = ".".join(map(str, machine.python)), ".".join(map(str, _OLDEST_PYTHON))
    if machine.python[:2] < _OLDEST_PYTHON:
        return [
            Finding(
                "python",
                "missing",
                f"{version}; {oldest} or newer is needed",
                "The package does not install here.",
                "docker build -f deploy/container/Containerfile.cpu -t edgeadapt .",
                True,
            )
        ]
    jetpack = read_board(machine).jetpack
    if jetpack is not None and version.rpartition(".")[0] != jetpack.python:
        return [
            Finding(
                "python",
                "note",
                f"{version}; JetPack {jetpack.name} brings {jetpack.python}",
                "JetPack's TensorRT belongs to the system's Python and cannot be imported by"
                " another.",
                "/usr/bin/python3 -m venv --system-site-packages /opt/edgeadapt",
                True,
            )
        ]
    return [Finding("python", "ok", version, is_needed=True)]


def sqlite(machine: Machine) -> list[Finding]:
    oldest = ".".join(map(str, _OLDEST_SQLITE))
    if sqlite3.sqlite_version_info[:2] < _OLDEST_SQLITE:
        return [
            Finding(
                "sqlite",
                "missing",
                f"{sqlite3.sqlite_version}; {oldest} or newer is needed",
                "The journal uses STRICT tables.",
                "A Python with a newer SQLite, or a newer system.",
                True,
            )
        ]
    return [Finding("sqlite", "ok", sqlite3.sqlite_version, is_needed=True)]


def cpu(machine: Machine) -> list[Finding]:
    threads = [f"{name}={os.environ[name]}" for name in _THREADS if name in os.environ]
    limits = "; " + ", ".join(threads) if threads else ""
    found = f"{_plural(machine.cores, 'core')}{_model(machine)}{limits}"
    if threads or machine.cores == 1:
        return [Finding("cpu", "ok", found)]
    why = "numpy's OpenBLAS starts a thread per core; inference uses one anyway."
    return [Finding("cpu", "note", found, why, "export OMP_NUM_THREADS=1")]


def _model(machine: Machine) -> str:
    named = re.search(r"^model name\s*: (.+)$", machine.text("/proc/cpuinfo"), re.MULTILINE)
    return f", {named[1]}" if named else ""


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _told(machine: Machine) -> dict[str, int]:
    """MiB by name, of /proc/meminfo."""
    return {
        name: int(kib) >> 10
        for name, kib in re.findall(
            r"^(\w+):\s+([0-9]+) kB$", machine.text("/proc/meminfo"), re.MULTILINE
        )
    }


def memory(machine: Machine) -> list[Finding]:
    told = _told(machine)
    if "MemTotal" not in told:
        return [
            Finding(
                "memory",
                "note",
                "/proc/meminfo does not say",
                "How much may be used is not known.",
                "Mount /proc.",
            )
        ]
    total, free = told["MemTotal"], told.get("MemAvailable", told["MemTotal"])
    shared = ", shared by CPU and GPU" if read_board(machine).is_jetson else ""
    found = f"{_gib(total)} GiB{shared}, {_gib(free)} GiB available"
    if free < _SCARCE_MIB:
        return [
            Finding(
                "memory",
                "note",
                found,
                f"A learner takes up to {_SCARCE_MIB} MiB with the default budget.",
                "Stop something, or lower memory_mib in [budget].",
            )
        ]
    return [Finding("memory", "ok", found)]


def swap(machine: Machine) -> list[Finding]:
    areas = [line.split() for line in machine.text("/proc/swaps").splitlines()[1:]]
    total = sum(int(area[2]) for area in areas) >> 10
    on_flash = [area[0] for area in areas if not area[0].startswith("/dev/zram")]
    if not areas:
        if read_board(machine).is_jetson and 0 < _told(machine).get("MemTotal", 0) < _SMALL_MIB:
            return [
                Finding(
                    "swap",
                    "note",
                    "none",
                    "Building an engine on a module with 8 GB or less may run out of memory.",
                    "sudo systemctl enable --now nvzramconfig",
                )
            ]
        return [Finding("swap", "ok", "none")]
    if on_flash:
        why = "Swap on flash wears it out and makes answers wait; zram does neither."
        return [
            Finding(
                "swap",
                "note",
                f"{_gib(total)} GiB, on a disk",
                why,
                "swapoff the file or partition, and use zram.",
            )
        ]
    return [Finding("swap", "ok", f"{_gib(total)} GiB, zram")]


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f}"


__all__ = ["cpu", "memory", "python", "sqlite", "swap", "system"]
