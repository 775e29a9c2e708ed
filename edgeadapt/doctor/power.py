"""Power mode and clocks: what the board is allowed to do, and what it does."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.finding import Finding
from edgeadapt.doctor.machine import Machine

_STATUS, _CONFIG = "/var/lib/nvpmodel/status", "/etc/nvpmodel.conf"
_GPU = re.compile(r"gpu|gv11b|ga10b|gb10b")


def power_modes(config: str) -> dict[int, str]:
    """Number -> name of `/etc/nvpmodel.conf`: ``< POWER_MODEL ID=2 NAME=MAXN_SUPER >``."""
    found = re.findall(
        r"^\s*<\s*POWER_MODEL\s+ID=([0-9]{1,3})\s+NAME=([^\s>]{1,64})\s*>", config, re.MULTILINE
    )
    return {int(number): name for number, name in found}


def mode_number(status: str) -> int | None:
    """2 of ``pmode:0002 fmode:fan_mode_quiet``."""
    found = re.search(r"pmode:\s*([0-9]{1,6})", status)
    return int(found[1]) if found else None


def default_mode(config: str) -> int | None:
    """1 of ``< PM_CONFIG DEFAULT=1 >``."""
    found = re.search(r"^\s*<\s*PM_CONFIG\s+DEFAULT=([0-9]{1,3})\s*>", config, re.MULTILINE)
    return int(found[1]) if found else None


def power_mode(machine: Machine) -> list[Finding]:
    """By name: numbers differ from board to board and from release to release."""
    if not read_board(machine).is_jetson:
        return []
    config = machine.text(_CONFIG)
    names = power_modes(config)
    chosen = mode_number(machine.text(_STATUS))
    usual = default_mode(config)
    number = usual if chosen is None else chosen
    if not names or number is None:
        return [
            Finding(
                "power mode",
                "note",
                f"{_CONFIG} and {_STATUS} do not say",
                "Speed and heat depend on it, and every figure measured here.",
                "nvpmodel -q",
            )
        ]
    others = ", ".join(name for key, name in sorted(names.items()) if key != number)
    if number not in names:
        return [
            Finding(
                "power mode",
                "note",
                f"number {number}, which {_CONFIG} does not name; it names {others}",
                "The status is older than the configuration.",
                "sudo nvpmodel -m N, with one of its numbers",
            )
        ]
    return [
        Finding(
            "power mode",
            "ok",
            (
                f"{names[number]}{' (the default)' if chosen is None else ''}; others: {others}"
                if others
                else names[number]
            ),
        )
    ]


def clocks(machine: Machine) -> list[Finding]:
    told = [*_cpu_clocks(machine), *_gpu_clocks(machine)]
    if not told:
        return []
    found = "; ".join(
        f"{name} {_span(low, high)} MHz{', ' + governor if governor else ''}"
        for name, low, high, _, governor in told
    )
    pinned = [name for name, low, high, _, _ in told if low == high]
    capped = [name for name, _, high, most, _ in told if high < most]
    if len(pinned) == len(told):
        return [
            Finding(
                "clocks",
                "note",
                found,
                "Clocks are pinned: right for measuring, hot and hungry in the field.",
                (
                    "sudo jetson_clocks --restore"
                    if read_board(machine).is_jetson
                    else "Set a governor that scales: schedutil."
                ),
            )
        ]
    if capped and not read_board(machine).is_jetson:  # on a Jetson the power mode does that
        return [
            Finding(
                "clocks",
                "note",
                found,
                f"{' and '.join(capped)} may not run as fast as it can.",
                "Raise scaling_max_freq, or leave it if that is meant.",
            )
        ]
    return [Finding("clocks", "ok", found)]


def _span(low: float, high: float) -> str:
    return f"at {low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _cpu_clocks(machine: Machine) -> list[tuple[str, float, float, float, str]]:
    """Name, lowest, highest and possible MHz, governor; one line for cores that are alike."""
    groups: dict[tuple[float, float, float, str], int] = {}
    for core in machine.matches("/sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
        low, high, most = (
            machine.number(f"{core}/{name}")
            for name in ("scaling_min_freq", "scaling_max_freq", "cpuinfo_max_freq")
        )
        if low is not None and high is not None:
            key = (
                low / 1000,
                high / 1000,
                (most or high) / 1000,
                machine.text(f"{core}/scaling_governor"),
            )
            groups[key] = groups.get(key, 0) + 1
    return [
        (f"{count} CPU {'core' if count == 1 else 'cores'}", *key) for key, count in groups.items()
    ]


def _gpu_clocks(machine: Machine) -> list[tuple[str, float, float, float, str]]:
    found = []
    for device in machine.matches("/sys/class/devfreq/*"):
        node = machine.text(f"{device}/device/of_node/name") or PurePosixPath(device).name
        low, high = machine.number(f"{device}/min_freq"), machine.number(f"{device}/max_freq")
        if _GPU.search(node) and low is not None and high is not None:
            found.append(
                ("GPU", low / 1e6, high / 1e6, high / 1e6, machine.text(f"{device}/governor"))
            )
    return found[:1]


__all__ = ["clocks", "default_mode", "mode_number", "power_mode", "power_modes"]
