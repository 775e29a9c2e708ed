"""One line of NVIDIA's ``tegrastats`` as numbers. The form changes from release to release; what a
line does not say is None or left out.

Written from lines that devices printed: Orin Nano with JetPack 6, AGX Orin with JetPack 5 and 7.2,
AGX Thor with R38.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgeadapt.device.resources.sensors import hottest, total_power
from edgeadapt.errors import InputError

_LONGEST = 1 << 14  # characters; real lines have less than 1000
_MEMORY = r"(?<!\S){} ([0-9]{{1,9}})/([0-9]{{1,9}})MB(?!\S)"
_RAM, _SWAP = re.compile(_MEMORY.format("RAM")), re.compile(_MEMORY.format("SWAP"))
_CPU = re.compile(r"(?<!\S)CPU \[([^\]]{0,4096})\]")
_CORE = re.compile(r"([0-9]{1,3})%(?:@[0-9]{1,9})?\Z")  # or "off"
# "12%@[1300,1300]", "0%@[305]", "35%"; "@[314,314]" has no load
_GPU = re.compile(r"(?<!\S)GR3D_FREQ ([0-9]{1,3})%")
# now, or now/average
_TEMPERATURE = re.compile(
    r"(?<!\S)([A-Za-z][A-Za-z0-9_-]{0,63})@(-?[0-9]{1,6}(?:\.[0-9]{1,6})?)C(?:/-?[0-9.]{1,12}C)?(?!\S)"
)
# now/average, on R39 three; Nano and TX2 without unit
_POWER = re.compile(
    r"(?<!\S)([A-Z][A-Z0-9_]{0,63}) ([0-9]{1,9})(?:(?:mW)(?:/[0-9]{1,9}mW){0,2}|/[0-9]{1,9})(?!\S)"
)
_OFF_C = -100.0  # -256: the zone has no power


@dataclass(frozen=True)
class Tegrastats:
    """What a line says.

    Attributes:
        cpu_loads: of each core, 0..1; None: it is off.
        gpu_load: 0..1, or None.
        temperatures: degrees Celsius by zone; zones that are off are left out.
        power_mw: at that moment, by rail.
        total_power_w: of the rail that feeds the module, or the sum of all rails.
    """

    ram_used_mib: int
    ram_total_mib: int
    swap_used_mib: int | None
    swap_total_mib: int | None
    cpu_loads: tuple[float | None, ...]
    gpu_load: float | None
    temperatures: Mapping[str, float]
    power_mw: Mapping[str, int]
    total_power_w: float | None

    @property
    def hottest_c(self) -> float | None:
        return hottest(self.temperatures)


def parse(line: str) -> Tegrastats:
    """Read a line.

    Raises:
        InputError: it does not say how much memory is used, as every line of ``tegrastats`` does.
    """
    ram = _RAM.search(line[:_LONGEST])
    if len(line) > _LONGEST or ram is None:
        raise InputError(f"not a line of tegrastats: {line[:80]!r}")
    swap, cores, gpu = _SWAP.search(line), _CPU.search(line), _GPU.search(line)
    temperatures = {
        name: float(value) for name, value in _TEMPERATURE.findall(line) if float(value) > _OFF_C
    }
    rails = {name: int(value) for name, value in _POWER.findall(line) if name != "NC"}
    return Tegrastats(
        ram_used_mib=int(ram[1]),
        ram_total_mib=int(ram[2]),
        swap_used_mib=int(swap[1]) if swap else None,
        swap_total_mib=int(swap[2]) if swap else None,
        cpu_loads=tuple(_load(core) for core in cores[1].split(",")) if cores and cores[1] else (),
        gpu_load=int(gpu[1]) / 100 if gpu else None,
        temperatures=temperatures,
        power_mw=rails,
        total_power_w=total_power({name: value / 1000 for name, value in rails.items()}),
    )


def _load(core: str) -> float | None:
    found = _CORE.match(core.strip())
    return int(found[1]) / 100 if found else None


__all__ = ["Tegrastats", "parse"]
