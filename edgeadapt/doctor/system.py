"""Operating system, Python, processor and memory, and where the state folder lies: is it there, may
it be written, on which kind of disk, with how much room.
"""

from __future__ import annotations

import os
import re
import sqlite3
from dataclasses import dataclass
from pathlib import PurePosixPath

from edgeadapt.doctor.board import read_board
from edgeadapt.doctor.finding import Finding, broken, missing, note, ok
from edgeadapt.doctor.machine import Machine

_OLDEST_PYTHON, _OLDEST_SQLITE = (3, 10), (3, 37)  # SQLite: STRICT tables
_TRIED = ("x86_64", "aarch64")  # architectures for which ONNX Runtime has wheels
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY")
_SMALL_MIB, _SCARCE_MIB = 8 << 10, 256


def system(machine: Machine) -> list[Finding]:
    named = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.text("/etc/os-release"), re.MULTILINE)
    where = ", in a container" if machine.is_container else ""
    found = (
        f"{named[1] if named else 'an unnamed system'}, kernel {machine.kernel},"
        f" {machine.architecture}{where}"
    )
    if machine.architecture not in _TRIED:
        return note(
            "system",
            found,
            "ONNX Runtime has wheels for 64-bit x86 and ARM only.",
            "Build ONNX Runtime for this processor, or use another machine.",
        )
    return ok("system", found)


def python(machine: Machine) -> list[Finding]:
    version, oldest = ".".join(map(str, machine.python)), ".".join(map(str, _OLDEST_PYTHON))
    if machine.python[:2] < _OLDEST_PYTHON:
        return missing(
            "python",
            f"{version}; {oldest} or newer is needed",
            "The package does not install here.",
            "docker build -f deploy/container/Containerfile.cpu -t edgeadapt .",
            is_needed=True,
        )
    jetpack = read_board(machine).jetpack
    if jetpack is not None and version.rpartition(".")[0] != jetpack.python:
        return note(
            "python",
            f"{version}; JetPack {jetpack.name} brings {jetpack.python}",
            (
                "JetPack's TensorRT belongs to the system's Python and cannot be imported by"
                " another."
            ),
            "/usr/bin/python3 -m venv --system-site-packages /opt/edgeadapt",
            is_needed=True,
        )
    return ok("python", version, is_needed=True)


def sqlite(machine: Machine) -> list[Finding]:
    oldest = ".".join(map(str, _OLDEST_SQLITE))
    if sqlite3.sqlite_version_info[:2] < _OLDEST_SQLITE:
        return missing(
            "sqlite",
            f"{sqlite3.sqlite_version}; {oldest} or newer is needed",
            "The journal uses STRICT tables.",
            "A Python with a newer SQLite, or a newer system.",
            is_needed=True,
        )
    return ok("sqlite", sqlite3.sqlite_version, is_needed=True)


def cpu(machine: Machine) -> list[Finding]:
    threads = [f"{name}={os.environ[name]}" for name in _THREADS if name in os.environ]
    limits = "; " + ", ".join(threads) if threads else ""
    found = f"{_plural(machine.cores, 'core')}{_model(machine)}{limits}"
    if threads or machine.cores == 1:
        return ok("cpu", found)
    why = "numpy's OpenBLAS starts a thread per core; inference uses one anyway."
    return note("cpu", found, why, "export OMP_NUM_THREADS=1")


def _model(machine: Machine) -> str:
    named = re.search(r"^model name\s*: (.+)$", machine.text("/proc/cpuinfo"), re.MULTILINE)
    return f", {named[1]}" if named else ""


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _meminfo(machine: Machine) -> dict[str, int]:
    """MiB by name, of /proc/meminfo."""
    return {
        name: int(kib) >> 10
        for name, kib in re.findall(
            r"^(\w+):\s+([0-9]+) kB$", machine.text("/proc/meminfo"), re.MULTILINE
        )
    }


def memory(machine: Machine) -> list[Finding]:
    known = _meminfo(machine)
    if "MemTotal" not in known:
        return note(
            "memory",
            "/proc/meminfo does not say",
            "How much may be used is not known.",
            "Mount /proc.",
        )
    total, free = known["MemTotal"], known.get("MemAvailable", known["MemTotal"])
    shared = ", shared by CPU and GPU" if read_board(machine).is_jetson else ""
    found = f"{_gib(total)} GiB{shared}, {_gib(free)} GiB available"
    if free < _SCARCE_MIB:
        return note(
            "memory",
            found,
            f"A learner takes up to {_SCARCE_MIB} MiB with the default budget.",
            "Stop something, or lower memory_mib in [budget].",
        )
    return ok("memory", found)


def swap(machine: Machine) -> list[Finding]:
    areas = [line.split() for line in machine.text("/proc/swaps").splitlines()[1:]]
    total = sum(int(area[2]) for area in areas) >> 10
    on_flash = [area[0] for area in areas if not area[0].startswith("/dev/zram")]
    if not areas:
        if read_board(machine).is_jetson and 0 < _meminfo(machine).get("MemTotal", 0) < _SMALL_MIB:
            return note(
                "swap",
                "none",
                "Building an engine on a module with 8 GB or less may run out of memory.",
                "sudo systemctl enable --now nvzramconfig",
            )
        return ok("swap", "none")
    if on_flash:
        why = "Swap on flash wears it out and makes answers wait; zram does neither."
        return note(
            "swap",
            f"{_gib(total)} GiB, on a disk",
            why,
            "swapoff the file or partition, and use zram.",
        )
    return ok("swap", f"{_gib(total)} GiB, zram")


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f}"


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
        return missing(
            "state",
            "the state folder is a file",
            "Learning is kept in a folder.",
            "edgeadapt doctor --state DIR, with a folder",
            is_needed=True,
        )
    parent = next(one for one in path.parents if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return note(
            "state",
            "not there yet, and this user may not make it",
            "A service makes its folder itself; a program run by hand cannot.",
            "edgeadapt doctor --state DIR, with the folder that you use",
        )
    return ok("state", "not there yet; it can be made", is_needed=True)


def _folder(path: os.PathLike[str]) -> list[Finding]:
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return note(
            "state",
            "there, and this user may not use it",
            "It is private to the user who made it (mode 0700).",
            "Run the doctor as that user: sudo -u edgeadapt edgeadapt doctor",
        )
    database = os.path.join(path, _DATABASE)
    if not os.path.exists(database):
        return ok("state", "there, with nothing learned yet", is_needed=True)
    with open(database, "rb") as file:
        is_database = file.read(len(_MAGIC)) == _MAGIC
    if not is_database:
        return broken(
            "state",
            f"{_DATABASE} is no database",
            "What was learned cannot be read.",
            "Move the folder away, or put a copy back.",
            is_needed=True,
        )
    return ok(
        "state",
        f"there; {_DATABASE} has {os.path.getsize(database) / 2**20:.1f} MiB",
        is_needed=True,
    )


def disk(machine: Machine) -> list[Finding]:
    place = machine.path(machine.state)
    while not place.exists():
        place = place.parent
    mount = _mount_of(machine, machine.state)
    room = os.statvfs(place)
    free_mib = room.f_bavail * room.f_frsize >> 20
    found = f"{free_mib / 1024:.1f} GiB free at the state folder, on {_kind(machine, mount)}"
    if mount is not None and mount.is_read_only:
        return broken(
            "disk",
            f"{found}, mounted read-only",
            "Nothing can be learned where nothing can be written.",
            "Put the state folder on the data partition.",
            is_needed=True,
        )
    if free_mib < _NEEDED_MIB:
        return missing(
            "disk",
            found,
            f"The journal needs {_NEEDED_MIB} MiB at least.",
            "Free some room, or use another disk.",
            is_needed=True,
        )
    if mount is not None and mount.kind in _LOSES:
        return note(
            "disk",
            found,
            f"This is {_LOSES[mount.kind]}.",
            "Put the state folder on a disk, or mount a volume there.",
        )
    if mount is not None and mount.kind in _PROMISES:
        return note(
            "disk",
            found,
            f"This is {_PROMISES[mount.kind]} that may not keep what fsync and flock promise.",
            "Use ext4, f2fs or xfs.",
        )
    if _is_in_a_slot(machine, mount):
        return note(
            "disk",
            found,
            "The system has two slots, and an update replaces this one with everything in it.",
            "Put the state folder on a partition for data; firmware_notes/updates.md.",
        )
    if free_mib < _COMFORTABLE_MIB:
        return note(
            "disk",
            found,
            "A full disk stops learning, not answering.",
            "Free some room, or lower rows and commits in [keep].",
        )
    return ok("disk", found)


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


__all__ = ["cpu", "disk", "memory", "python", "sqlite", "state", "swap", "system"]
