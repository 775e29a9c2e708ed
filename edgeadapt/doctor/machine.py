"""The machine that is looked at: one root for all files, so that a board can be laid out in a
folder.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeadapt.doctor.child import Answer, ask
from edgeadapt.doctor.kernel_clock import is_synchronised

STATE = "/var/lib/edgeadapt/state"
_LONGEST = 1 << 18  # bytes of one file
_LIBRARIES = (
    "usr/lib/{arch}-linux-gnu/nvidia",
    "usr/lib/{arch}-linux-gnu/tegra",
    "usr/lib/{arch}-linux-gnu",
    "usr/local/cuda/lib64",
    "usr/local/cuda/targets/*/lib",
    "usr/lib64",
    "usr/lib/wsl/lib",
)


@dataclass(frozen=True)
class Machine:
    """Where to look, and what cannot be read from a file.

    Attributes:
        root: above ``/proc``, ``/sys`` and ``/etc``.
        state: the state folder, as a path of that machine.
        environment: added to that of child processes. child_s: seconds that a child may take.
        clock_is_set: whether the kernel calls its clock synchronised; None if it does not say.
    """

    root: Path = Path("/")
    state: str = STATE
    architecture: str = field(default_factory=platform.machine)
    kernel: str = field(default_factory=platform.release)
    python: tuple[int, int, int] = sys.version_info[:3]
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    interpreter: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)
    child_s: float = 60.0
    now: Callable[[], float] = time.time
    clock_is_set: Callable[[], bool | None] = is_synchronised

    @property
    def is_here(self) -> bool:
        """The machine that this runs on, not a folder that looks like one."""
        return self.root == Path("/")

    @property
    def is_arm(self) -> bool:
        return self.architecture == "aarch64"

    @property
    def is_container(self) -> bool:
        return self.exists("/.dockerenv") or self.exists("/run/.containerenv")

    def path(self, name: str | os.PathLike[str]) -> Path:
        return self.root / os.fspath(name).lstrip("/")

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.path(name))

    def text(self, name: str | os.PathLike[str]) -> str:
        """Contents of a file, NULs as line ends; empty if it cannot be read now. Nothing is waited
        for.
        """
        try:
            file = os.open(self.path(name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return (
                    os.read(file, _LONGEST).decode("utf-8", "replace").replace("\0", "\n").strip()
                )
            finally:
                os.close(file)
        except OSError:
            return ""

    def number(self, name: str | os.PathLike[str]) -> float | None:
        try:
            return float(self.text(name))
        except ValueError:
            return None

    def matches(self, pattern: str) -> list[str]:
        """Names below the root that match, in order: ``/sys/class/thermal/thermal_zone*``."""
        return [
            f"/{path.relative_to(self.root)}"
            for path in sorted(self.root.glob(pattern.lstrip("/")))
        ]

    def library(self, name: str) -> list[str]:
        """Where a shared library may be loaded from; the loader's own search comes first."""
        folders = [folder.format(arch=self.architecture) for folder in _LIBRARIES]
        found = [
            str(self.path(place))
            for folder in folders
            for place in self.matches(f"{folder}/{name}")
        ]
        return [name, *found] if self.is_here and "*" not in name else found

    def ask(self, module: str, *arguments: str) -> Answer:
        """Run a module of this package in a child process."""
        return ask(
            self.interpreter,
            f"edgeadapt.doctor.{module}",
            arguments,
            self.environment,
            self.child_s,
        )


__all__ = ["STATE", "Machine"]
