"""A measuring process that takes turns: one JSON order per line in, one JSON answer per line out,
stopped in between.

Run as ``python -m MODULE ARGUMENTS``; the module calls ``take_turns``. Without torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Protocol

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.harness.measure import ONE_THREAD


class Player(Protocol):
    """What plays the film."""

    def play(self, frames: int, rate_hz: float) -> dict[str, Any]:
        """The next frames, as fast as they are taken or at a rate (0: as fast)."""
        ...

    def end(self) -> dict[str, Any]: ...


def take_turns(make: Callable[..., Player]) -> None:
    """Make a player of the command line's arguments, and do what standard input says until it says
    ``end``.
    """
    arguments = json.loads(sys.argv[1])
    if arguments.pop("on_one_core"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any thread is started
    player = make(**arguments)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if order.pop("do") == "end":
            print(json.dumps(player.end()), flush=True)
            return
        print(json.dumps(player.play(**order)), flush=True)


class Turns:
    """The other side: a process that only runs while it has its turn, so that two of them can share
    a machine.

    Args:
        beside: entered while it plays, and left before it is stopped: for those who ask it
            something meanwhile.

    Raises:
        RuntimeUnavailable: from every method, if the process has failed; the message has its last
            line.
    """

    def __init__(
        self,
        module: str,
        beside: Callable[[], AbstractContextManager[object]] = nullcontext,
        **arguments: Any,
    ) -> None:
        self._beside = beside
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115  read when the process fails
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(arguments)],
            env={**os.environ, **ONE_THREAD},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
        )
        self._answer()
        self._process.send_signal(signal.SIGSTOP)

    def play(self, frames: int, rate_hz: float = 0.0) -> dict[str, Any]:
        self._process.send_signal(signal.SIGCONT)
        with self._beside():
            said = self._told({"do": "play", "frames": frames, "rate_hz": rate_hz})
        self._process.send_signal(signal.SIGSTOP)
        return said

    def end(self) -> dict[str, Any]:
        self._process.send_signal(signal.SIGCONT)
        said = self._told({"do": "end"})
        self._process.wait()
        return said

    def _told(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._complaints.seek(0)
            raise RuntimeUnavailable(
                "a measuring process failed:"
                f" {(self._complaints.read().strip().splitlines() or ['no message'])[-1]}"
            )
        said: dict[str, Any] = json.loads(line)
        return said

    def __enter__(self) -> Turns:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()  # a stopped process hears nothing else
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._complaints):
            if pipe is not None:
                pipe.close()


__all__ = ["Player", "Turns", "take_turns"]
