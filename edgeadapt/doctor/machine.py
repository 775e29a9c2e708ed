"""The machine that is looked at: one root for all files, so that a board can be laid out in a
folder. A question that may crash or hang is asked in a child process; a crash is an answer.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_GRACE_S = 2.0  # after SIGKILL; a process in the kernel's hands may not die at once
_LONGEST = 300  # characters of what is quoted


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        said: the child's object; empty if it gave none.
        failure: why it gave none, in words.
        errors: what it wrote to standard error.
    """

    said: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    errors: str = ""


def ask(
    interpreter: str,
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    limit_s: float,
) -> Answer:
    """Run ``interpreter -m module arguments`` for at most ``limit_s`` seconds; never raises for
    what the child does.
    """
    command = [interpreter, "-m", module, *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        try:
            out, errors = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            try:
                _, errors = child.communicate(timeout=_GRACE_S)
            except subprocess.TimeoutExpired:
                errors = ""
            return Answer(failure=f"no answer within {limit_s:g} s", errors=errors)
    return _read(child.returncode, out, errors)


def _read(code: int, out: str, errors: str) -> Answer:
    if code < 0:
        return Answer(failure=f"killed by {signal.Signals(-code).name}", errors=errors)
    last = (errors.strip().splitlines() or [f"exit code {code}"])[-1][:_LONGEST]
    if code > 0:
        return Answer(failure=last, errors=errors)
    try:
        said = json.loads(out.strip().rpartition("\n")[2])
    except ValueError:
        said = None
    return (
        Answer(said, errors=errors)
        if isinstance(said, dict)
        else Answer(failure="it printed no JSON", errors=errors)
    )


_UNSYNCHRONISED = 0x40  # STA_UNSYNC
# bytes into struct timex on 64-bit Linux: modes, padding, offset, freq, maxerror, esterror (five
# words of 8)
_STATUS_AT = 40
_ROOM = 512  # bytes, more than the struct has


def is_synchronised() -> bool | None:
    """None where the call is not allowed, or a word has 4 bytes."""
    if ctypes.sizeof(ctypes.c_long) != 8:
        return None
    timex = ctypes.create_string_buffer(_ROOM)
    if ctypes.CDLL(None).adjtimex(timex) < 0:
        return None
    status = ctypes.c_int.from_buffer(timex, _STATUS_AT).value
    return not status & _UNSYNCHRONISED


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

    def ask(self, probe: str, *arguments: str) -> Answer:
        """Run a probe of ``probe_child`` in a child process."""
        return ask(
            self.interpreter,
            "edgeadapt.doctor.probe_child",
            (probe, *arguments),
            self.environment,
            self.child_s,
        )


__all__ = ["STATE", "Answer", "Machine", "ask", "is_synchronised"]
