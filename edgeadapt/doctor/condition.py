"""What the machine is doing: power mode and clocks, heat, time, and its watchdog."""

from __future__ import annotations

import re
import time
from pathlib import Path, PurePosixPath

import edgeadapt
from edgeadapt.device.resources.sensors import hottest, read_is_throttled, read_temperatures
from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.finding import Finding, broken, note, ok
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
        return note(
            "power mode",
            f"{_CONFIG} and {_STATUS} do not say",
            "Speed and heat depend on it, and every figure measured here.",
            "nvpmodel -q",
        )
    others = ", ".join(name for key, name in sorted(names.items()) if key != number)
    if number not in names:
        return note(
            "power mode",
            f"number {number}, which {_CONFIG} does not name; it names {others}",
            "The status is older than the configuration.",
            "sudo nvpmodel -m N, with one of its numbers",
        )
    return ok(
        "power mode",
        (
            f"{names[number]}{' (the default)' if chosen is None else ''}; others: {others}"
            if others
            else names[number]
        ),
    )


def clocks(machine: Machine) -> list[Finding]:
    measured = [*_cpu_clocks(machine), *_gpu_clocks(machine)]
    if not measured:
        return []
    found = "; ".join(
        f"{name} {_span(low, high)} MHz{', ' + governor if governor else ''}"
        for name, low, high, _, governor in measured
    )
    pinned = [name for name, low, high, _, _ in measured if low == high]
    capped = [name for name, _, high, most, _ in measured if high < most]
    if len(pinned) == len(measured):
        return note(
            "clocks",
            found,
            "Clocks are pinned: right for measuring, hot and hungry in the field.",
            (
                "sudo jetson_clocks --restore"
                if read_board(machine).is_jetson
                else "Set a governor that scales: schedutil."
            ),
        )
    if capped and not read_board(machine).is_jetson:  # on a Jetson the power mode does that
        return note(
            "clocks",
            found,
            f"{' and '.join(capped)} may not run as fast as it can.",
            "Raise scaling_max_freq, or leave it if that is meant.",
        )
    return ok("clocks", found)


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


_NEAR_C = 10.0
_SLOWS, _STOPS = ("passive", "hot"), ("critical",)


def trip_points(machine: Machine, kinds: tuple[str, ...]) -> list[float]:
    """Degrees Celsius of the trip points of these kinds, over all zones; 0 and below are
    placeholders.
    """
    found = []
    for trip in machine.matches("/sys/class/thermal/thermal_zone*/trip_point_*_type"):
        celsius = machine.number(f"{trip.removesuffix('_type')}_temp")
        if machine.text(trip) in kinds and celsius is not None and celsius > 0:
            found.append(celsius / 1000)
    return sorted(found)


def heat(machine: Machine) -> list[Finding]:
    sys = machine.path("/sys")
    zones = read_temperatures(sys)
    now = hottest(zones)
    if now is None:
        return []
    name = next(zone for zone, celsius in zones.items() if celsius == now)
    slows, stops = trip_points(machine, _SLOWS), trip_points(machine, _STOPS)
    limits = [f"slows down at {slows[0]:.4g} °C"] if slows else []
    limits += [f"stops at {stops[0]:.4g} °C"] if stops else []
    found = (
        f"{now:.0f} °C ({name}, the hottest of {len(zones)});"
        f" {', '.join(limits) or 'its limits are not told'}"
    )
    if read_is_throttled(sys):
        return note(
            "heat",
            f"{found}; it is being slowed down",
            "Answers and learning take longer than they could.",
            "Better cooling, or a smaller power mode.",
        )
    if slows and now > slows[0] - _NEAR_C:
        return note(
            "heat",
            found,
            f"Less than {_NEAR_C:.0f} °C are left before it slows down.",
            f"Better cooling, or temperature_c = {slows[0] - 2 * _NEAR_C:.0f} in [budget].",
        )
    return ok("heat", found)


_SYNCED = "/run/systemd/timesync/synchronized"
_DAY_S = 86400.0


def clock(machine: Machine) -> list[Finding]:
    now, installed = machine.now(), Path(edgeadapt.__file__).stat().st_mtime
    found = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < installed - _DAY_S:
        why = (
            "The clock is before the day this package was installed: labels and questions would"
            " carry that time."
        )
        return broken("clock", found, why, "sudo systemctl enable --now systemd-timesyncd")
    is_set = True if machine.exists(_SYNCED) else machine.clock_is_set()
    if is_set:
        return ok("clock", f"{found}, synchronised")
    has_own = "" if machine.exists("/sys/class/rtc/rtc0") else ", no clock of its own"
    synchronised = (
        "nobody says whether it is synchronised" if is_set is None else "not synchronised"
    )
    why = "Evidence and questions carry times; many carrier boards have no battery for their clock."
    return note(
        "clock",
        f"{found}, {synchronised}{has_own}",
        why,
        "sudo systemctl enable --now systemd-timesyncd",
    )


def watchdog(machine: Machine) -> list[Finding]:
    devices = machine.matches("/dev/watchdog[0-9]*")
    if not devices:
        why = "A hang of the whole system stays one; the daemon's own watchdog needs only systemd."
        todo = "Nothing on a desk; in the field RuntimeWatchdogSec= needs one."
        return note("watchdog", "no device", why, todo) if read_board(machine).is_jetson else []
    about = f"/sys/class/watchdog/{devices[0].rpartition('/')[2]}"
    identity, timeout = machine.text(f"{about}/identity"), machine.text(f"{about}/timeout")
    is_active = machine.text(f"{about}/state") == "active"
    found = ", ".join(
        part
        for part in (
            identity or devices[0],
            f"{timeout} s" if timeout else "",
            "active" if is_active else "not in use",
        )
        if part
    )
    if not is_active and read_board(machine).is_jetson:
        return note(
            "watchdog",
            found,
            "Nobody resets this device if it hangs.",
            "RuntimeWatchdogSec=30 in /etc/systemd/system.conf.d/watchdog.conf",
        )
    return ok("watchdog", found)


__all__ = [
    "clock",
    "clocks",
    "default_mode",
    "heat",
    "mode_number",
    "power_mode",
    "power_modes",
    "trip_points",
    "watchdog",
]
