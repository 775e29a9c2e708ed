"""What the factory's encoder makes of a sample, computed once for all streams of a stress card.

Streams are orders of the same samples, and until a condition is corrected a learner encodes them as
the frozen model does. Corrected encoders run as on a device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeadapt.runtime import Executable, GraphFile, Runtime, Signature, Tensors

Rows = dict[bytes, dict[str, NDArray[Any]]]
"""Outputs of one sample by the hash of the sample."""


class RemembersFeatures:
    """A runtime whose encoder answers from memory what it was asked before.

    Args:
        runtime: runs everything.
        encoder: file name of the encoder's graph.
        known: rows by the hash of the graph and its weights; shared by runtimes that run the same
            encoder.
    """

    def __init__(self, runtime: Runtime, encoder: str, known: dict[str, Rows]) -> None:
        self._runtime, self._encoder, self._known = runtime, encoder, known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def load(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]] | None = None
    ) -> Executable:
        """As of the runtime; remembers the outputs of the encoder unless its constants are
        replaced.
        """
        loaded = self._runtime.load(graph, constants)
        if constants or graph.name != self._encoder:
            return loaded
        return _Encoder(loaded, self._known.setdefault(graph.sha256, {}))


class _Encoder:
    """The executable of an encoder: one port ``x`` (N, ...), outputs of N rows, no tensors."""

    def __init__(self, run: Executable, known: Rows) -> None:
        self._run, self._known = run, known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    @property
    def signature(self) -> Signature:
        return self._run.signature

    def __call__(
        self, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        x = np.asarray(ports["x"])
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x]
        places = {key: place for place, key in enumerate(keys) if key not in self._known}
        if places:
            found, _ = self._run({"x": np.ascontiguousarray(x[list(places.values())])}, tensors)
            for row, key in enumerate(places):
                self._known[key] = {name: value[row].copy() for name, value in found.items()}
        rows = [self._known[key] for key in keys]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, Tensors()


__all__ = ["RemembersFeatures", "Rows"]
