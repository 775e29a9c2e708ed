"""How the machine is: heat, power and throttling as ``edgeadapt.device.vitals`` reads them, memory and load from psutil."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil

from edgeadapt.device.vitals import Sensors, Vitals


class Telemetry:
    """Measures at most once in ``interval_s``; thread-safe.

    Args:
        root: where sysfs is. process: whose memory is told; by default this one.
    """

    def __init__(
        self, root: str | Path = "/sys", process: psutil.Process | None = None, *, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sensors = Sensors(root, interval_s=interval_s, clock=clock)
        self._process = process or psutil.Process()
        self._lock = threading.Lock()
        self._sensed: Vitals | None = None
        self._last = Vitals()

    def read(self) -> Vitals:
        """The newest reading. What cannot be measured here is None or empty."""
        with self._lock:
            sensed = self._sensors.read()
            if sensed is not self._sensed:
                self._sensed = sensed
                load = psutil.getloadavg()[0] / (psutil.cpu_count() or 1)
                self._last = replace(sensed, memory_mib=self._process.memory_info().rss / 2**20, load=load)
            return self._last


__all__ = ["Telemetry", "Vitals"]
