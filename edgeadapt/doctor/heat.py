"""How hot it is, where it will slow down, and whether it does."""

from __future__ import annotations

from edgeadapt.device.resources.sensors import hottest, read_is_throttled, read_temperatures
from edgeadapt.doctor.finding import Finding
from edgeadapt.doctor.machine import Machine

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
        return [
            Finding(
                "heat",
                "note",
                f"{found}; it is being slowed down",
                "Answers and learning take longer than they could.",
                "Better cooling, or a smaller power mode.",
            )
        ]
    if slows and now > slows[0] - _NEAR_C:
        return [
            Finding(
                "heat",
                "note",
                found,
                f"Less than {_NEAR_C:.0f} °C are left before it slows down.",
                f"Better cooling, or temperature_c = {slows[0] - 2 * _NEAR_C:.0f} in [budget].",
            )
        ]
    return [Finding("heat", "ok", found)]


__all__ = ["heat", "trip_points"]
