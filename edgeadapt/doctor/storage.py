"""Where the state folder lies: is it there, may it be written, on which kind of disk, with how much
room.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.finding import Finding
from edgeadapt.doctor.machine import Machine

_NEEDED_MIB, _COMFORTABLE_MIB = 64, 1024
_DATABASE, _MAGIC = "learner.db", b"SQLite format 3\0"
_LOSES = {
    "tmpfs": "memory: a restart loses it",
    "ramfs": "memory: a restart loses it",
    "overlay": "a container's own layer: it goes with the container",
}
_PROMISES = {
    "nfs": "a network",
    "nfs4": "a network",
    "cifs": "a network",
    "9p": "a network",
    "vfat": "a file system",
    "exfat": "a file system",
    "fuseblk": "a file system",
}


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo."""

    place: str
    kind: str
    device: str
    is_read_only: bool


def state(machine: Machine) -> list[Finding]:
    """The folder itself. It is looked at, never opened: another process may be using it."""
    path = machine.path(machine.state)
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return [
            Finding(
                "state",
                "missing",
                "the state folder is a file",
                "Learning is kept in a folder.",
                "edgeadapt doctor --state DIR, with a folder",
                True,
            )
        ]
    parent = next(one for one in path.parents if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return [
            Finding(
                "state",
                "note",
                "not there yet, and this user may not make it",
                "A service makes its folder itself; a program run by hand cannot.",
                "edgeadapt doctor --state DIR, with the folder that you use",
            )
        ]
    return [Finding("state", "ok", "not there yet; it can be made", is_needed=True)]


def _folder(path: os.PathLike[str]) -> list[Finding]:
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return [
            Finding(
                "state",
                "note",
                "there, and this user may not use it",
                "It is private to the user who made it (mode 0700).",
                "Run the doctor as that user: sudo -u edgeadapt edgeadapt doctor",
            )
        ]
    database = os.path.join(path, _DATABASE)
    if not os.path.exists(database):
        return [Finding("state", "ok", "there, with nothing learned yet", is_needed=True)]
    with open(database, "rb") as file:
        is_database = file.read(len(_MAGIC)) == _MAGIC
    if not is_database:
        return [
            Finding(
                "state",
                "broken",
                f"{_DATABASE} is no database",
                "What was learned cannot be read.",
                "Move the folder away, or put a copy back.",
                True,
            )
        ]
    return [
        Finding(
            "state",
            "ok",
            f"there; {_DATABASE} has {os.path.getsize(database) / 2**20:.1f} MiB",
            is_needed=True,
        )
    ]


def disk(machine: Machine) -> list[Finding]:
    place = machine.path(machine.state)
    while not place.exists():
        place = place.parent
    mount = _mount_of(machine, machine.state)
    room = os.statvfs(place)
    free_mib = room.f_bavail * room.f_frsize >> 20
    found = f"{free_mib / 1024:.1f} GiB free at the state folder, on {_kind(machine, mount)}"
    if mount is not None and mount.is_read_only:
        return [
            Finding(
                "disk",
                "broken",
                f"{found}, mounted read-only",
                "Nothing can be learned where nothing can be written.",
                "Put the state folder on the data partition.",
                True,
            )
        ]
    if free_mib < _NEEDED_MIB:
        return [
            Finding(
                "disk",
                "missing",
                found,
                f"The journal needs {_NEEDED_MIB} MiB at least.",
                "Free some room, or use another disk.",
                True,
            )
        ]
    if mount is not None and mount.kind in _LOSES:
        return [
            Finding(
                "disk",
                "note",
                found,
                f"This is {_LOSES[mount.kind]}.",
                "Put the state folder on a disk, or mount a volume there.",
            )
        ]
    if mount is not None and mount.kind in _PROMISES:
        return [
            Finding(
                "disk",
                "note",
                found,
                f"This is {_PROMISES[mount.kind]} that may not keep what fsync and flock promise.",
                "Use ext4, f2fs or xfs.",
            )
        ]
    if _is_in_a_slot(machine, mount):
        return [
            Finding(
                "disk",
                "note",
                found,
                "The system has two slots, and an update replaces this one with everything in it.",
                "Put the state folder on a partition for data; firmware_notes/updates.md.",
            )
        ]
    if free_mib < _COMFORTABLE_MIB:
        return [
            Finding(
                "disk",
                "note",
                found,
                "A full disk stops learning, not answering.",
                "Free some room, or lower rows and commits in [keep].",
            )
        ]
    return [Finding("disk", "ok", found)]


def _mount_of(machine: Machine, folder: str) -> Mount | None:
    """The mount that the folder lies on; of two at one place the last one is seen."""
    path, best = PurePosixPath(folder), None
    for line in machine.text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, device, options) = left.split(), [*right.split(), "", "", ""][:3]
        if len(fields) < 6:
            continue
        place = fields[4].replace("\\040", " ")
        if path.is_relative_to(place) and (best is None or len(place) >= len(best.place)):
            best = Mount(place, kind, device, "ro" in (*fields[5].split(","), *options.split(",")))
    return best


def _kind(machine: Machine, mount: Mount | None) -> str:
    """File system and disk in words; the device's own name stays out, it may carry the
    machine's.
    """
    if mount is None:
        return "a disk that /proc does not name"
    name = PurePosixPath(mount.device).name
    if name.startswith("nvme"):
        return f"{mount.kind}, NVMe"
    if card := re.match(r"mmcblk[0-9]+", name):
        kinds = {"MMC": "eMMC", "SD": "an SD card"}
        return (
            f"{mount.kind},"
            f" {kinds.get(machine.text(f'/sys/block/{card[0]}/device/type'), 'eMMC or an SD card')}"
        )
    if re.match(r"(?:vd|xvd)[a-z]+", name):
        return f"{mount.kind}, a virtual disk"
    if drive := re.match(r"sd[a-z]+", name):
        spins = machine.text(f"/sys/block/{drive[0]}/queue/rotational") == "1"
        return f"{mount.kind}, {'a spinning disk' if spins else 'a solid-state disk'}"
    return mount.kind


def _is_in_a_slot(machine: Machine, mount: Mount | None) -> bool:
    return (
        read_board(machine).is_jetson
        and mount is not None
        and mount.place == "/"
        and machine.exists("/dev/disk/by-partlabel/APP_b")
    )


__all__ = ["disk", "state"]
