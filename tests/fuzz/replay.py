"""Execute kept inputs again, each in a child of its own, and say what happened."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from fuzz.target import Target, load_target


def replay(files: Sequence[Path]) -> int:
    """Exit code 0 if every input is accepted or refused by name, else 1."""
    failed = 0
    for file in files:
        target = load_target(file.name.split("-")[0])
        if target is None:
            print(f"{file}: left out, a package is missing")
            continue
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os._exit(attempt(target, file))
        _, status = os.waitpid(child, 0)
        failed += status != 0
        if os.WIFSIGNALED(status):
            print(f"{file}: died of signal {os.WTERMSIG(status)}")
    return 1 if failed else 0


def attempt(target: Target, file: Path) -> int:
    """In this process: 0 if the input is accepted or refused by name."""
    with tempfile.TemporaryDirectory() as scratch:
        execute = target.prepare(Path(scratch))
        try:
            execute(file.read_bytes())
            print(f"{file}: accepted", flush=True)
        except target.named as error:
            print(f"{file}: refused: {type(error).__name__}: {str(error)[:300]}", flush=True)
        except BaseException:
            print(f"{file}: finding", flush=True)
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
            return 1
    return 0
