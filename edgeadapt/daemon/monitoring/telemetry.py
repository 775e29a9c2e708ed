"""How the machine is: heat, power, memory and load from ``/sys`` and ``/proc``, and what
``tegrastats`` says of a Jetson beyond that.

In a container, or where the kernel hides its power monitors, ``tegrastats --logfile`` outside of it
knows what ``/sys`` inside does not show.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeadapt.daemon.tegrastats import Tegrastats, parse
from edgeadapt.device.resources.sensors import Sensors, hottest, total_power
from edgeadapt.errors import InputError

_TAIL = 1 << 14  # bytes; a line has less than 1000
_FRESH_S = 30.0  # a line that is older says nothing about now


class Telemetry:
    """Read by whoever looks; what cannot be measured is None or left out.

    Args:
        tegrastats: the file that ``tegrastats --logfile`` appends to.
        sensors: of ``/sys``.
        clock: seconds since the epoch, as file times are.
    """

    def __init__(
        self,
        tegrastats: Path | None = None,
        sensors: Sensors | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.error = ""
        self._path, self._sensors, self._clock = tegrastats, sensors or Sensors(), clock

    def read(self) -> dict[str, Any]:
        """``temperature_c`` by zone, ``power_w`` by rail, ``hottest_c``, ``total_power_w``,
        ``gpu_load`` and ``load`` (0..1; the load of all cores may be more), ``memory_mib``.

        A zone or rail of both is given once, as ``/sys`` has it.
        """
        readings, line = self._sensors.read(), self._line()
        temperatures: Mapping[str, float] = {
            **({} if line is None else line.temperatures),
            **readings.temperatures,
        }
        rails: Mapping[str, float] = {
            **(
                {}
                if line is None
                else {name: value / 1000 for name, value in line.power_mw.items()}
            ),
            **readings.rails,
        }
        return {
            "temperature_c": dict(temperatures),
            "power_w": dict(rails),
            "hottest_c": hottest(temperatures),
            "total_power_w": total_power(rails),
            "gpu_load": None if line is None else line.gpu_load,
            "memory_mib": readings.memory_mib,
            "load": readings.load,
            "is_throttled": readings.is_throttled,
        }

    def _line(self) -> Tegrastats | None:
        if self._path is None:
            return None
        try:
            with open(self._path, "rb") as file:
                about = os.fstat(file.fileno())
                file.seek(max(0, about.st_size - _TAIL))
                # the last one may not be whole yet
                lines = file.read(_TAIL).decode("utf-8", "replace").split("\n")[:-1]
            age_s = abs(self._clock() - about.st_mtime)
            if not lines:
                raise InputError("there is no line in it yet")
            if age_s > _FRESH_S:
                raise InputError(f"its last line is {age_s:.0f} s old: does tegrastats run?")
            found = parse(lines[-1])
        except (OSError, InputError) as error:
            self.error = f"{self._path}: {getattr(error, 'strerror', None) or error}"
            return None
        self.error = ""
        return found


__all__ = ["Telemetry"]
