"""The encoder of a condition: loaded again with the constants that follow from its statistics, or
one that reads them as tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgeadapt.runtime import ArrayLike, Executable, GraphFile, Runtime, Signature, Tensors


@dataclass(frozen=True, eq=False)
class Bound:
    """A graph with tensors of its own: called like one that has none."""

    graph: Executable
    tensors: Tensors

    @property
    def signature(self) -> Signature:
        own = self.graph.signature
        reads = tuple(port for port in own.reads if port.name not in self.tensors)
        return Signature(own.ports, reads, own.outputs, own.writes)

    def __call__(
        self, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        return self.graph(ports, self.tensors.over(tensors))


@dataclass(frozen=True, eq=False)
class EncoderRefold:
    """How statistics become an encoder.

    Attributes:
        derive: constants from statistics. folded: what is loaded with them; None if no constant of
            the encoder follows from any.
        reading: an encoder that reads the tensors ``reads``; it is used where there is one.
    """

    runtime: Runtime
    derive: Executable | None
    folded: GraphFile | None
    constants: Sequence[str]
    reading: Executable | None
    reads: Sequence[str]

    def __bool__(self) -> bool:
        """True if statistics change the encoder."""
        return self.folded is not None or self.reading is not None

    def __call__(self, tensors: Tensors) -> Executable | None:
        """The encoder under these tensors of a condition; None if they do not change it."""
        if self.reading is not None:
            return Bound(self.reading, tensors.only(self.reads))
        if self.derive is None or self.folded is None:
            return None
        _, written = self.derive({}, tensors)
        return self.runtime.load(self.folded, self.runtime.download(written, self.constants))
