"""Time and the watchdog: what an unattended device needs."""

from __future__ import annotations

import time
from pathlib import Path

import edgeadapt
from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.finding import Finding
from edgeadapt.doctor.machine import Machine

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
        return [
            Finding("clock", "broken", found, why, "sudo systemctl enable --now systemd-timesyncd")
        ]
    is_set = True if machine.exists(_SYNCED) else machine.clock_is_set()
    if is_set:
        return [Finding("clock", "ok", f"{found}, synchronised")]
    has_own = "" if machine.exists("/sys/class/rtc/rtc0") else ", no clock of its own"
    told = "nobody says whether it is synchronised" if is_set is None else "not synchronised"
    why = "Evidence and questions carry times; many carrier boards have no battery for their clock."
    return [
        Finding(
            "clock",
            "note",
            f"{found}, {told}{has_own}",
            why,
            "sudo systemctl enable --now systemd-timesyncd",
        )
    ]


def watchdog(machine: Machine) -> list[Finding]:
    devices = machine.matches("/dev/watchdog[0-9]*")
    if not devices:
        why = "A hang of the whole system stays one; the daemon's own watchdog needs only systemd."
        todo = "Nothing on a desk; in the field RuntimeWatchdogSec= needs one."
        return (
            [Finding("watchdog", "note", "no device", why, todo)]
            if read_board(machine).is_jetson
            else []
        )
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
        return [
            Finding(
                "watchdog",
                "note",
                found,
                "Nobody resets this device if it hangs.",
                "RuntimeWatchdogSec=30 in /etc/systemd/system.conf.d/watchdog.conf",
            )
        ]
    return [Finding("watchdog", "ok", found)]


__all__ = ["clock", "watchdog"]
