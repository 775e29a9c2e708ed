"""When may a graph move?"""

from __future__ import annotations

from dataclasses import dataclass

from edgeadapt.errors import InputError
from edgeadapt.runtime import GraphFile


@dataclass(frozen=True)
class Rules:
    """What has to hold before batches of about one size leave the reference.

    Args:
        tolerance: relative difference that is rounding in float32: of an output's size, of a
            tensor's change.
        low_tolerance: the same in float16 and int8, where right kernels in another order differ by
            a few thousandths.
        calls: real calls that have to agree.
        gain: share of the round trip that has to be gained, over wherever they run now.
        sample_mib: that copies of calls may take, MiB, while they wait to be run again.

    Raises:
        InputError: a value that means nothing.
    """

    tolerance: float = 1e-3
    low_tolerance: float = 0.02
    calls: int = 4
    gain: float = 0.1
    sample_mib: int = 64

    def __post_init__(self) -> None:
        for name in ("tolerance", "low_tolerance"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is above 0, got {getattr(self, name)}")
        for name in ("calls", "sample_mib"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.gain < 1.0:
            raise InputError(f"gain is in [0, 1), got {self.gain}")

    def tolerance_of(self, graph: GraphFile) -> float:
        """By what the graph computes in."""
        return (
            self.tolerance
            if graph.precision == "float32"
            else max(self.tolerance, self.low_tolerance)
        )


__all__ = ["Rules"]
