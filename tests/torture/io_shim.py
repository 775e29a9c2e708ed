"""The fault shim from Python: compile it, start a process under it, arm it from inside that
process.

Faults are armed by the number of the call that changes the watched folder, counted from 1 since
``watch``; reads count apart.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("io_shim.c")


class Mode(IntEnum):
    """What the armed call suffers."""

    OFF = 0
    KILL = 1  # the process is gone before the call
    EIO = 2  # the call fails once: a failing disk
    ENOSPC = 3  # the call fails once: a full disk
    SHORT = 4  # a write takes a part, and says so
    TORN = 5  # a write takes a part, and the process is gone; gone after any other call
    FULL = 6  # from this call on no write and no new file, until lifted
    # what was not synced is lost (all of it; with a seed an arbitrary part), and the process is
    # gone
    POWER = 7
    READ_EIO = 8  # the N-th read fails once


DEADLY = (Mode.KILL, Mode.TORN, Mode.POWER)


class Shim:
    """The shim this process was started with."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        try:
            self._watch, self._arm, self._lift = library.io_watch, library.io_arm, library.io_lift
        except AttributeError as error:
            raise RuntimeError(
                f"this process was not started under {SOURCE.name}: see start()"
            ) from error
        self._watch.argtypes, self._watch.restype = [ctypes.c_char_p], None
        self._arm.argtypes, self._arm.restype = [ctypes.c_int, ctypes.c_long, ctypes.c_uint], None
        self._lift.restype = None
        self._numbers = [library.io_calls, library.io_reads, library.io_fired]
        for number in self._numbers:
            number.restype = ctypes.c_long
        self._where = library.io_where
        self._where.restype = ctypes.c_char_p

    def watch(self, folder: Path) -> None:
        """Count from here; files of the folder that are open already count too. The folder need not
        exist yet.
        """
        self._watch(os.path.realpath(folder).encode())

    def arm(self, mode: Mode, at: int, seed: int = 0) -> None:
        """``at`` is the call to suffer; ``seed`` varies how much of a write is taken, and what a
        power cut leaves.
        """
        self._arm(mode, at, seed)

    def lift(self) -> None:
        """No fault any more; counting goes on."""
        self._lift()

    @property
    def calls(self) -> int:
        return int(self._numbers[0]())

    @property
    def reads(self) -> int:
        return int(self._numbers[1]())

    @property
    def fired(self) -> int:
        """How many calls suffered."""
        return int(self._numbers[2]())

    @property
    def where(self) -> str:
        """The first call that suffered, and its file."""
        return bytes(self._where()).decode(errors="replace")


def compiler() -> str | None:
    return shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile into a folder.

    Raises:
        RuntimeError: no compiler, or it refuses; the message has its words.
    """
    cc, library = compiler(), folder / "io_shim.so"
    if cc is None:
        raise RuntimeError("the fault shim needs a C compiler named cc, and this machine has none")
    command = [
        cc,
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(SOURCE),
        "-ldl",
    ]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"{' '.join(command)}: {made.stderr}")
    return library


def environment(library: Path) -> dict[str, str]:
    """This environment with the shim before every library, and one thread per engine: the process
    will fork.
    """
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def rerun_under_shim() -> None:
    """Make this process one that runs under the shim: compile, then execute the same command again.
    Returns in the second run.
    """
    if hasattr(ctypes.CDLL(None), "io_watch"):
        made = os.environ.pop("LD_PRELOAD")
        shutil.rmtree(Path(made).parent)
        return
    variables = environment(build(Path(tempfile.mkdtemp(prefix="io_shim-"))))
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], variables)
