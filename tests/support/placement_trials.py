"""Patience until trials have settled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from edgeadapt.placement import PlacedRuntime

PATIENCE_S = 30.0


def settle(runtime: PlacedRuntime) -> None:
    """Wait until the trials could not go on without another call."""
    end = time.monotonic() + PATIENCE_S
    while not runtime.is_settled:
        assert time.monotonic() < end, runtime.report()
        time.sleep(0.002)


def drive(runtime: PlacedRuntime, call: Callable[[], Any], calls: int = 8) -> Any:
    """Make calls, and let the trials catch up after each."""
    for _ in range(calls):
        results = call()
        settle(runtime)
    return results


def rows(runtime: PlacedRuntime, graph: str) -> list[dict[str, Any]]:
    return [row for row in runtime.report()["graphs"] if row["graph"] == graph]
