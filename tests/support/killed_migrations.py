"""Processes that die in the middle of a migration: ``python killed_migrations.py BUNDLE`` reads
one case per line and forks one child for each.

A case is {"state", "step", "count"}: migrate the folder in place, and SIGKILL the process when it
reaches that step for the ``count``-th time. Nothing of the engine is loaded before the fork. It
answers each case with the child's exit status.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from edgeadapt.bundle import read_bundle
from edgeadapt.device.inference.program import Program
from edgeadapt.device.recovery.migrate import Migration
from edgeadapt.runtime import open_runtime

STEPS = (
    ("begun", 1),
    ("classes", 1),
    ("carried", 1),
    ("carried", 2),
    ("built", 1),
    ("whole", 1),
    ("kept", 1),
    ("renamed", 1),
    ("cleared", 1),
)


def migrate_and_die(state: Path, bundle: str, step: str, count: int) -> None:
    migration = Migration(Program(read_bundle(bundle), open_runtime()))
    reached: list[str] = []

    def at(name: str) -> None:
        reached.append(name)
        if reached.count(step) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    migration.at = at
    migration.in_place(state)


def main() -> None:
    for line in sys.stdin:
        case = json.loads(line)
        child = os.fork()
        if child == 0:
            migrate_and_die(Path(case["state"]), sys.argv[1], case["step"], case["count"])
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
