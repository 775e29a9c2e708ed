"""Machines laid out in a folder, with files in the forms that boards have."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeadapt.doctor.machine import Machine

NOON = 1_800_000_000.0  # 2027-01-15

_ORIN_LIBRARIES = "/usr/lib/aarch64-linux-gnu/nvidia"
_OS = {
    20: 'PRETTY_NAME="Ubuntu 20.04.6 LTS"\n',
    22: 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    24: 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\n',
}
_NVME = (
    "25 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n26 25 0:5 / /dev rw - devtmpfs"
    " devtmpfs rw\n"
)
_EMMC = "25 1 179:1 / / rw,relatime shared:1 - ext4 /dev/mmcblk0p1 rw\n"
_ZRAM = (
    "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/zram0                             "
    " partition\t650240\t\t0\t\t5\n/dev/zram1                             "
    " partition\t650240\t\t0\t\t5\n"
)

NANO_MODES = """
# Orin Nano 8 GB
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""

ORIN_NANO: dict[str, str] = {
    "/etc/os-release": _OS[22],
    "/etc/nv_tegra_release": (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed"
        " Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT:"
        " oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
        "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
    ),
    "/proc/device-tree/model": (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"
    ),
    "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
    "/proc/device-tree/serial-number": "1424325030133\0",
    "/etc/hostname": "adas-line-3\n",
    "/proc/meminfo": (
        "MemTotal:        7802880 kB\nMemFree:          812344 kB\nMemAvailable:    5201344"
        " kB\nSwapTotal:       3901440 kB\n"
    ),
    "/proc/swaps": _ZRAM,
    "/proc/self/mountinfo": _NVME,
    "/etc/nvpmodel.conf": NANO_MODES,
    "/var/lib/nvpmodel/status": "pmode:0002 fmode:fan_mode_quiet\n",
    "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": "52968\n",
    "/sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
    "/sys/class/thermal/thermal_zone0/trip_point_0_temp": "104500\n",
    "/sys/class/thermal/thermal_zone0/trip_point_1_type": "passive\n",
    "/sys/class/thermal/thermal_zone0/trip_point_1_temp": "99000\n",
    "/sys/class/thermal/thermal_zone0/trip_point_2_type": "active\n",
    "/sys/class/thermal/thermal_zone0/trip_point_2_temp": "51000\n",
    "/sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
    "/sys/class/thermal/thermal_zone1/temp": "-256000\n",
    "/sys/class/thermal/thermal_zone2/type": "tj-thermal\n",
    "/sys/class/thermal/thermal_zone2/temp": "53400\n",
    "/sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "/sys/class/thermal/cooling_device0/cur_state": "2\n",
    "/sys/class/thermal/cooling_device1/type": "devfreq-17000000.gpu\n",
    "/sys/class/thermal/cooling_device1/cur_state": "0\n",
    "/sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "/sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "/sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov\n",
    "/run/systemd/timesync/synchronized": "",
    "/sys/class/rtc/rtc0/name": "tegra-rtc\n",
    "/dev/watchdog0": "",
    "/sys/class/watchdog/watchdog0/identity": "Tegra WDT\n",
    "/sys/class/watchdog/watchdog0/timeout": "120\n",
    "/sys/class/watchdog/watchdog0/state": "active\n",
    f"{_ORIN_LIBRARIES}/../libnvinfer.so.10.3.0": "",
    **{
        f"/sys/devices/system/cpu/cpu{core}/cpufreq/{name}": value
        for core in range(6)
        for name, value in (
            ("scaling_min_freq", "729600\n"),
            ("scaling_max_freq", "1728000\n"),
            ("cpuinfo_max_freq", "1728000\n"),
            ("scaling_governor", "schedutil\n"),
        )
    },
}

AGX_ORIN: dict[str, str] = {
    **ORIN_NANO,
    "/etc/os-release": _OS[24],
    "/etc/nv_tegra_release": (
        "# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64, DATE: Mon"
        " Jun  1 09:28:48 PM UTC 2026\n# KERNEL_VARIANT: oot\n"
    ),
    "/proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "/proc/device-tree/compatible": (
        "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0"
    ),
    "/proc/meminfo": "MemTotal:       64325016 kB\nMemAvailable:   42000000 kB\n",
    "/proc/swaps": (
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/swapfile                              "
        " file\t\t8388604\t\t0\t\t-2\n"
    ),
    "/proc/self/mountinfo": _EMMC,
    "/sys/block/mmcblk0/device/type": "MMC\n",
    "/dev/disk/by-partlabel/APP_b": "",
    "/etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MODE_15W >\n< POWER_MODEL ID=2"
        " NAME=MODE_30W >\n< POWER_MODEL ID=3 NAME=MODE_50W >\n< PM_CONFIG DEFAULT=2 >\n"
    ),
    "/var/lib/nvpmodel/status": "pmode:0000 fmode:cool\n",
    "/sys/class/thermal/cooling_device1/cur_state": "3\n",
    "/sys/class/thermal/thermal_zone2/temp": "99500\n",
    "/sys/class/watchdog/watchdog0/state": "inactive\n",
    f"{_ORIN_LIBRARIES}/../libnvinfer.so.10.3.0": "",
    f"{_ORIN_LIBRARIES}/../libnvinfer.so.10.16.2": "",
}
del AGX_ORIN["/run/systemd/timesync/synchronized"], AGX_ORIN["/sys/class/rtc/rtc0/name"]

THOR: dict[str, str] = {
    **{
        name: text
        for name, text in ORIN_NANO.items()
        if not name.startswith(("/sys/class/devfreq", "/usr/lib"))
    },
    "/etc/os-release": _OS[24],
    "/etc/nv_tegra_release": (
        "# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, EABI: aarch64, DATE: Wed"
        " Dec 31 22:56:17 UTC 2025\n"
    ),
    "/proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "/proc/device-tree/compatible": (
        "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0"
    ),
    "/proc/meminfo": "MemTotal:      128825804 kB\nMemAvailable:  120000000 kB\n",
    "/proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    "/etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n< PM_CONFIG DEFAULT=1 >\n"
    ),
    "/sys/class/devfreq/gpu-gpc-0/min_freq": "1575000000\n",
    "/sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000\n",
    "/sys/class/devfreq/gpu-gpc-0/governor": "performance\n",
    "/sys/class/devfreq/gpu-nvd-0/min_freq": "1575000000\n",
    "/sys/class/devfreq/gpu-nvd-0/max_freq": "1575000000\n",
}
del THOR["/var/lib/nvpmodel/status"]
THOR |= {
    name: "2601000\n"
    for name in THOR
    if name.endswith(("scaling_min_freq", "scaling_max_freq", "cpuinfo_max_freq"))
}

XAVIER: dict[str, str] = {
    **{name: text for name, text in ORIN_NANO.items() if not name.startswith("/usr/lib")},
    "/etc/os-release": _OS[20],
    "/etc/nv_tegra_release": (
        "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue"
        " Aug  1 19:57:35 UTC 2023\n"
    ),
    "/proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
    "/proc/device-tree/compatible": (
        "nvidia,p3509-0000+p3668-0000\0nvidia,p3449-0000+p3668-0000\0nvidia,tegra194\0"
    ),
    "/proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    "/proc/self/mountinfo": _EMMC,
    "/sys/block/mmcblk0/device/type": "SD\n",
    "/var/lib/nvpmodel/status": "pmode:0009\n",
}

PC: dict[str, str] = {
    "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
    "/proc/meminfo": "MemTotal:       16307204 kB\nMemAvailable:   12034400 kB\n",
    "/proc/cpuinfo": "processor\t: 0\nmodel name\t: An Ordinary CPU @ 3.00GHz\n",
    "/proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    "/proc/self/mountinfo": "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n",
    "/sys/block/sda/queue/rotational": "0\n",
    "/run/systemd/timesync/synchronized": "",
}

_FACTS: dict[str, dict[str, Any]] = {
    "orin nano": {
        "files": ORIN_NANO,
        "architecture": "aarch64",
        "kernel": "5.15.148-tegra",
        "python": (3, 10, 12),
        "cores": 6,
    },
    "agx orin": {
        "files": AGX_ORIN,
        "architecture": "aarch64",
        "kernel": "6.8.12-1021-tegra",
        "python": (3, 12, 3),
        "cores": 12,
    },
    "thor": {
        "files": THOR,
        "architecture": "aarch64",
        "kernel": "6.8.12-tegra",
        "python": (3, 12, 3),
        "cores": 14,
    },
    "xavier": {
        "files": XAVIER,
        "architecture": "aarch64",
        "kernel": "5.10.120-tegra",
        "python": (3, 8, 10),
        "cores": 6,
    },
    "pc": {
        "files": PC,
        "architecture": "x86_64",
        "kernel": "6.12.48-amd64",
        "python": (3, 13, 5),
        "cores": 8,
    },
}
NAMES = tuple(_FACTS)


def lay_out(
    name: str, root: Path, changes: Mapping[str, str | None] | None = None, **facts: Any
) -> Machine:
    """Write the machine's files below ``root``; ``changes`` replaces some, or with None leaves them
    out.
    """
    told = {**_FACTS[name], **facts}
    files = {**told.pop("files"), **(changes or {})}
    (root / "var" / "lib").mkdir(parents=True)
    for path, text in files.items():
        if text is not None:
            place = (root / path.lstrip("/")).resolve()
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
    return Machine(**{"root": root, "now": lambda: NOON, "clock_is_set": lambda: False, **told})


DRIVER = """
#include <string.h>
#include <stddef.h>
int cuInit(unsigned flags) { %s }
int cuDriverGetVersion(int *v) { *v = %d; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, "%s", n); return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = 7990000000u; return 0; }
int cuDeviceGetAttribute(int *v, int which, int d) {
    *v = which == 75 ? %d : which == 76 ? %d : which == 16 ? 8 : which == 18 ? 1 : 0;
    return 0;
}
"""
RUNTIME = "int cudaRuntimeGetVersion(int *v) { *v = %d; return 0; }\n"


def compile_library(source: str, path: Path) -> None:
    """A shared library of this machine's own kind, in place of NVIDIA's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = path.parent / f"{path.name}.c"
    code.write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", path, code], check=True, timeout=60)
    code.unlink()


HAS_COMPILER = shutil.which("gcc") is not None
