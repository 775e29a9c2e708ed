"""Who takes part in a race of steps, from this package: our runtime, the systems of torch, and the
floor under all.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from edgeadapt_bench.harness.step_race import Entrant
from edgeadapt_bench.steps import _step_inputs as step_inputs

_WORKER = "edgeadapt_bench.steps._step_worker_"


def ours(
    prepared: step_inputs.Prepared, name: str = "edgeadapt", graph: Path | None = None
) -> Entrant:
    """Our runtime on a prepared graph, or on another file."""
    return Entrant(
        name,
        (sys.executable, "-m", f"{_WORKER}ours", *([] if graph is None else [str(graph)])),
        named=prepared.named,
    )


def torch_entrants(which: Mapping[str, str], cache: Path) -> list[Entrant]:
    """Name -> system of the torch worker. Each compiles into an empty cache."""
    return [
        Entrant(
            name,
            (sys.executable, "-m", f"{_WORKER}torch", system),
            {"TORCHINDUCTOR_CACHE_DIR": str(cache / name)},
        )
        for name, system in which.items()
    ]


def floor() -> Entrant:
    return Entrant("floor", (sys.executable, "-m", f"{_WORKER}floor"), is_checked=False)
