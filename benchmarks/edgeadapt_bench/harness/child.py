"""Measuring processes: a job of a bench module in a fresh Python with one thread, its answer as
JSON.

A module offers its jobs by ``if __name__ == "__main__": answer(JOBS)``; arguments and answers are
what JSON can carry.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.harness.measure import ONE_THREAD

Job = Callable[..., dict[str, Any]]


def start(
    module: str, job: str, *, environment: Mapping[str, str] | None = None, **arguments: Any
) -> subprocess.Popen[str]:
    """A job that runs beside the caller, who reads its lines or kills it."""
    return subprocess.Popen(
        [sys.executable, "-m", module, job, json.dumps(arguments)],
        env={**os.environ, **ONE_THREAD, **(environment or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def in_child(
    module: str, job: str, *, environment: Mapping[str, str] | None = None, **arguments: Any
) -> dict[str, Any]:
    """The answer of a job.

    Args:
        module: whose ``JOBS`` has the job.
        environment: variables beyond those that keep numeric libraries at one thread.

    Raises:
        RuntimeUnavailable: it failed; the message has its last line.
    """
    process = start(module, job, environment=environment, **arguments)
    out, complaints = process.communicate()
    if process.returncode:
        raise RuntimeUnavailable(
            f"a measuring process failed: {(complaints.strip().splitlines() or ['no message'])[-1]}"
        )
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return result


def answer(jobs: Mapping[str, Job]) -> None:
    """Run the job that the command line names and print its answer."""
    job, arguments = sys.argv[1:]
    print(json.dumps(jobs[job](**json.loads(arguments))), flush=True)
