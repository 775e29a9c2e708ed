"""Child processes for work that may never end or take all memory: their start and their limits.

They are bounded, not locked up: a child has the rights of the daemon, but may write no file.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

_NICE = 5  # honest requests go first
_RUN = (
    "import runpy, sys; sys.path[:] = sys.argv.pop(1).split(':'); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def start(
    module: str, arguments: tuple[str, ...], theirs: socket.socket
) -> subprocess.Popen[bytes]:
    """Run a module of this package in a process of its own; it finds its socket at descriptor 0.

    It imports from where this process does, and gets a session of its own, so that an interrupt at
    a terminal ends the daemon, which ends it.
    """
    places = ":".join(os.path.abspath(place) for place in sys.path)
    command = [sys.executable, "-I", "-c", _RUN, places, module, *arguments]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
    environment.pop("NOTIFY_SOCKET", None)  # only the daemon speaks to its supervisor
    return subprocess.Popen(
        command,
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        cwd="/",
        env=environment,
        start_new_session=True,
    )


def confine(memory_bytes: int) -> None:
    """For the child, once it has imported what it needs: this much address space more, no file
    written, no core, and the first to be ended where memory is short.
    """
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _limit(resource.RLIMIT_AS, taken + memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(
        OSError
    ):  # a container may have no such file, or forbid it: the limit above stands
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(_NICE)


def limit_time(seconds: float) -> None:
    """From now on this process may compute for so long: it ends even where its parent has gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 2, is_soft=True)


def _limit(what: int, most: int, *, is_soft: bool = False) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, hard if is_soft else most))


def physical_memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


__all__ = ["confine", "limit_time", "physical_memory", "start"]
