"""How hot the device is and what power it draws, as Linux reports it under ``/sys`` and ``/proc``;
read without root.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SYS, PROC = Path("/sys"), Path("/proc")
_OFF_C = -100.0  # Jetson says -256 of a zone whose power is off
_CONSTANT = "PMIC"  # zones of Jetson that say 50 or 100 whatever the temperature is
_TOTAL_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")
_LONGEST = 4096  # bytes of one file
_SUM_CHANNEL = 7  # of an INA3221: the sum of the shunt voltages, which is no rail


@dataclass(frozen=True)
class SensorReadings:
    """What was measured; a None or an empty mapping: nothing here measures it.

    Attributes:
        hottest_c: the hottest zone, degrees Celsius.
        temperatures: by zone.
        power_w: of the whole device, or of all rails that are measured.
        rails: W by rail.
        is_throttled: a cooling device other than a fan is at work.
        memory_mib: resident, of this process.
        load: tasks that run or wait, averaged over a minute, per core.
    """

    hottest_c: float | None = None
    temperatures: Mapping[str, float] = field(default_factory=dict)
    power_w: float | None = None
    rails: Mapping[str, float] = field(default_factory=dict)
    is_throttled: bool = False
    memory_mib: float | None = None
    load: float | None = None


class Sensors:
    """Reads at most once in ``interval_s``, and repeats the last reading in between; thread-safe.

    Args:
        sys, proc: where these file systems are; by default ``/sys`` and ``/proc``.
        interval_s: seconds.
    """

    def __init__(
        self,
        sys: str | Path | None = None,
        proc: str | Path | None = None,
        interval_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sys, self._proc = Path(sys or SYS), Path(proc or PROC)
        self._interval_s, self._clock = interval_s, clock
        self._lock = threading.Lock()
        self._last = SensorReadings()
        self._read_at: float | None = None

    def read(self) -> SensorReadings:
        """Never fails: what cannot be read now is left out."""
        with self._lock:
            now = self._clock()
            if self._read_at is None or now - self._read_at >= self._interval_s:
                temperatures, rails = read_temperatures(self._sys), read_rails(self._sys)
                self._last = SensorReadings(
                    hottest(temperatures),
                    temperatures,
                    total_power(rails),
                    rails,
                    read_is_throttled(self._sys),
                    self._resident_mib(),
                    self._load(),
                )
                self._read_at = now
            return self._last

    def _resident_mib(self) -> float | None:
        pages = _column(self._proc / "self" / "statm", 1)
        return None if pages is None else pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _load(self) -> float | None:
        load = _column(self._proc / "loadavg", 0)
        return None if load is None else load / (os.cpu_count() or 1)


def read_temperatures(sys: Path) -> dict[str, float]:
    """Degrees Celsius by zone. A zone that is switched off, or answers EAGAIN because its power is,
    is left out.
    """
    found: dict[str, float] = {}
    for zone in _numbered(sys / "class" / "thermal", "thermal_zone"):
        name, value = _text(zone / "type"), _number(zone / "temp")
        if value is not None and value / 1000 > _OFF_C:
            found[_unused(name or zone.name, found)] = value / 1000
    return found


def read_rails(sys: Path) -> dict[str, float]:
    """W by rail, of every INA3221: channel N has ``inN_label``, ``inN_input`` in mV and
    ``currN_input`` in mA.
    """
    found: dict[str, float] = {}
    for monitor in _numbered(sys / "class" / "hwmon", "hwmon"):
        if "ina3221" not in _text(monitor / "name"):
            continue
        for channel in range(1, _SUM_CHANNEL):
            name = _text(monitor / f"in{channel}_label")
            millivolts = _number(monitor / f"in{channel}_input")
            milliamperes = _number(monitor / f"curr{channel}_input")
            if name != "NC" and millivolts is not None and milliamperes is not None:
                rail = _unused(name or f"{monitor.name} {channel}", found)
                found[rail] = millivolts * milliamperes / 1e6
    return found


def read_is_throttled(sys: Path) -> bool:
    """True if something was slowed down to cool it. A fan that turns is no such thing."""
    devices = _numbered(sys / "class" / "thermal", "cooling_device")
    return any(
        (_number(device / "cur_state") or 0) > 0 and "fan" not in _text(device / "type").lower()
        for device in devices
    )


def hottest(temperatures: Mapping[str, float]) -> float | None:
    """The highest of the zones that measure anything."""
    measured = {k: v for k, v in temperatures.items() if not k.upper().startswith(_CONSTANT)}
    return max(measured.values(), default=None)


def total_power(rails: Mapping[str, float]) -> float | None:
    """Of the rail that feeds the module, where there is one (Orin Nano and NX, Thor, Nano); else
    the sum (AGX Orin).
    """
    total = next((rails[name] for name in _TOTAL_RAILS if name in rails), None)
    return sum(rails.values()) if rails and total is None else total


def _numbered(folder: Path, prefix: str) -> Iterator[Path]:
    """``prefix0``, ``prefix1``, ... in the order of their numbers."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    ours = [name for name in names if re.fullmatch(prefix + "[0-9]{1,6}", name)]
    numbers = sorted(int(name[len(prefix) :]) for name in ours)
    yield from (folder / f"{prefix}{number}" for number in numbers)


def _unused(name: str, taken: Mapping[str, float]) -> str:
    number = 1
    while (candidate := name if number == 1 else f"{name} {number}") in taken:
        number += 1
    return candidate


def _text(path: Path) -> str:
    """Its contents; empty if it cannot be read now. Nothing is waited for."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(file, _LONGEST).decode("utf-8", "replace").strip("\0 \t\r\n")
        finally:
            os.close(file)
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    return _column(path, 0)


def _column(path: Path, column: int) -> float | None:
    columns = _text(path).split()
    try:
        value = float(columns[column])
    except (IndexError, ValueError):
        return None
    return value if abs(value) < 1e12 else None  # not a number is none of them
