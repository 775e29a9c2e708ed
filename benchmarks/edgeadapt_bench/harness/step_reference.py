"""Where the steps of a system must end before its time is taken."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt_bench.harness.process import MeasuringProcess

Arrays = Mapping[str, NDArray[Any]]
_ULP = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Reference:
    """Where every system must arrive, in float64: the parameters at the end of several walks of
    ``steps`` steps, all from ``start``.

    Walk ``i`` begins at input ``i * steps``. A system is judged by its median :func:`distance` over
    the walks, so that a walk on which float32 is unstable decides nothing.
    """

    start: Arrays
    ends: Sequence[Arrays]
    steps: int
    tolerance: float


def distance(start: Arrays, end: Arrays, got: Arrays) -> float:
    """The largest ``|got - end| / |end - start|`` of any tensor, Euclidean; what float32 cannot
    hold of the values is not counted.

    Raises:
        InputError: ``got`` has other tensors or shapes, or is not finite.
    """
    if sorted(got) != sorted(end):
        raise InputError(
            f"has the tensors {', '.join(sorted(got)) or 'none'} instead of"
            f" {', '.join(sorted(end))}"
        )
    worst = 0.0
    for name, want in end.items():
        if got[name].shape != want.shape:
            raise InputError(
                f"{name} has shape {list(got[name].shape)} instead of {list(want.shape)}"
            )
        if not np.isfinite(got[name]).all():
            raise InputError(f"{name} is not finite")
        error = np.maximum(np.abs(got[name].astype(np.float64) - want) - _ULP * np.abs(want), 0.0)
        worst = max(worst, float(np.linalg.norm(error) / np.linalg.norm(want - start[name])))
    return worst


def check(
    process: MeasuringProcess,
    reference: Reference,
    named: Callable[[Arrays], Arrays],
    limit_s: Callable[[], float],
) -> float:
    """The system's median distance from the reference.

    Args:
        named: from the tensors it holds to those of the reference.
        limit_s: seconds for the next answer.

    Raises:
        InputError: it is larger than the tolerance: the system takes another step, and its time
            would say nothing.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "end.npz"
        for walk, end in enumerate(reference.ends):
            first, steps = walk * reference.steps, reference.steps
            process.ask("follow", limit_s(), first=first, steps=steps, file=str(file))
            with np.load(file) as read:
                got = named({name: read[name] for name in read.files})
            try:
                found.append(distance(reference.start, end, got))
            except InputError as error:
                raise InputError(f"{process.name} is not timed: {error}") from None
    median = float(np.median(found))
    if not median <= reference.tolerance:
        raise InputError(
            f"{process.name} is not timed: after {reference.steps} steps its parameters are"
            f" {median:.1e} of the way off the reference, tolerance {reference.tolerance:.0e}; it"
            " does not take the same step"
        )
    return median
