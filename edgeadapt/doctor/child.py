"""A question that may crash or hang is asked in a child process; a crash is an answer.

The child is a module of this package that prints one JSON object as its last line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


__all__ = ["Answer", "ask"]
