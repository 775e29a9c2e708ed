"""The runtimes that graphs are placed on: the reference, which serves from the first moment, and
candidates, opened when there is time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.runtime import Runtime

REFERENCE = 0
"""Index of the place that every graph starts on, and goes back to."""


class Place:
    """One runtime.

    Args:
        index: its number; 0 is the reference.
        name: of the runtime.
        make: opens it; it may take long, and may raise.
        runtime: where it is open already.

    Attributes:
        why_not: why nothing is placed here; empty while something may be.
        has_served: a graph has lived here, so tensors may.
        gate: held by whoever loads a graph here: a runtime may build for minutes, and lets nobody
            else load meanwhile.
    """

    def __init__(
        self,
        index: int,
        name: str,
        make: Callable[[], Runtime] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.index, self.name = index, name
        self.why_not, self.has_served = "", False
        self.gate = threading.Lock()
        self._make, self._runtime = make, runtime

    @property
    def opened(self) -> Runtime:
        """The runtime. Raises: RuntimeUnavailable: it is not open."""
        if self._runtime is None:
            raise RuntimeUnavailable(
                f"runtime {self.name!r} is not open{': ' if self.why_not else ''}{self.why_not}"
            )
        return self._runtime

    @property
    def is_open(self) -> bool:
        return self._runtime is not None

    def open(self) -> None:
        """Open it, once. Where it does not open, ``why_not`` says why. On the thread of the trials
        only.
        """
        if self._runtime is None and self._make is not None and not self.why_not:
            try:
                self._runtime = self._make()
            # whatever an engine of others raises, it is not used, and the report says why
            except Exception as error:
                self.why_not = f"{type(error).__name__}: {error}"

    def let_go(self) -> None:
        """Give back what it holds; it is opened again when another graph is to be tried. Only where
        nothing has ever lived.
        """
        if self._make is not None and not self.has_served:
            self._runtime = None


__all__ = ["REFERENCE", "Place"]
