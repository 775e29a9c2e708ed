"""Is it cool enough, and is there power enough, for work that can wait? Thresholds with a way back
that is longer than the way there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from edgeadapt.device.resources.sensors import SensorReadings
from edgeadapt.errors import InputWarning

_COOLER_C = 3.0
_LESS_POWER = 0.95


class ThermalPowerLimit:
    """Work that can wait does not start above a limit, and starts again 3 C, or 5% of the power,
    below it.

    Args:
        temperature_c: of the hottest zone. power_w: of the whole device. None: no limit.
        readings: the newest sensor readings. A limit on what they lack is not kept, and one
            ``InputWarning`` says so.
    """

    def __init__(
        self,
        temperature_c: float | None,
        power_w: float | None,
        readings: Callable[[], SensorReadings],
    ) -> None:
        self._temperature_c, self._power_w, self._readings = temperature_c, power_w, readings
        self._is_hot = self._is_over = False
        self._missed: set[str] = set()
        self._measure(stacklevel=6)  # the caller of edgeadapt.open

    @property
    def why(self) -> str:
        """Why work waits, as it was when last asked; empty if it need not."""
        parts = []
        if self._is_hot:
            parts.append(f"the hottest zone is above temperature_c = {self._temperature_c:g}")
        if self._is_over:
            parts.append(f"the power is above power_w = {self._power_w:g}")
        return "; ".join(parts)

    def allows(self) -> bool:
        """True if work that can wait may start now."""
        self._measure(stacklevel=3)
        return not (self._is_hot or self._is_over)

    def _measure(self, stacklevel: int) -> None:
        if self._temperature_c is None and self._power_w is None:
            return
        now = self._readings()
        if self._temperature_c is not None:
            bar = self._temperature_c - _COOLER_C * self._is_hot
            what = "a temperature (no readable /sys/class/thermal)"
            measured = now.hottest_c
            self._is_hot = self._is_above(measured, bar, "temperature_c", what, stacklevel + 1)
        if self._power_w is not None:
            bar = self._power_w * (_LESS_POWER if self._is_over else 1.0)
            what = "its power (no INA3221 in /sys/class/hwmon)"
            self._is_over = self._is_above(now.power_w, bar, "power_w", what, stacklevel + 1)

    def _is_above(
        self, value: float | None, bar: float, limit: str, what: str, stacklevel: int
    ) -> bool:
        if value is not None:
            return value > bar
        if limit not in self._missed:
            self._missed.add(limit)
            warnings.warn(
                f"the budget has a limit {limit}, and this device does not tell {what}: the limit"
                " is not kept",
                InputWarning,
                stacklevel=stacklevel,
            )
        return False
