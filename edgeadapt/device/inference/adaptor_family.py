"""The family of adaptors that a bundle carries, as plain calls: which one a condition holds, one
training step, what a candidate sees.

A condition's adaptor is the one whose tensors it holds: predictions of every other condition cannot
change with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import FACTORY, Bundle
from edgeadapt.bundle._weights import tensor_bytes
from edgeadapt.bundle.roles import RoleName
from edgeadapt.bundle.schema import AdaptorSpec, GraphSpec, Manifest
from edgeadapt.errors import BundleError
from edgeadapt.runtime import Executable, Runtime, Tensors

F32 = NDArray[np.float32]
_ROLES: tuple[RoleName, ...] = ("predict", "fit", "probe")


def adaptor_of(graph: GraphSpec, manifest: Manifest) -> str:
    """The candidate that a graph is made for; empty for a graph that every condition shares."""
    names = {candidate.name for candidate in manifest.policy.growth.candidates}
    return next((name for name in graph.methods if name in names), "")


def shared_graphs(manifest: Manifest, role: RoleName) -> list[GraphSpec]:
    """Graphs of a role that no adaptor is part of."""
    return [graph for graph in manifest.graphs_for(role) if not adaptor_of(graph, manifest)]


class Adaptors:
    """Graphs are read with the bundle, whose file may be replaced, and loaded when they are first
    used: most devices grow one or two candidates.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self._runtime, self._manifest = runtime, bundle.manifest
        self.candidates: Mapping[str, AdaptorSpec] = {
            spec.name: spec for spec in bundle.manifest.policy.growth.candidates
        }
        self._marks = {spec.tensors[0]: name for name, spec in self.candidates.items()}
        self._loaded: dict[tuple[str, RoleName], Executable] = {}
        prefixes = tuple(f"{name}." for name in self.candidates)  # an empty one begins no name
        kept = [spec.name for spec in bundle.manifest.tensors if spec.scope == "domain"]
        self.all_names = frozenset(name for name in kept if name.startswith(prefixes))
        """Tensors of any candidate, those of its training alone included."""
        self._files = {
            (name, role): bundle.graph_file(graph)
            for name in self.candidates
            for role in _ROLES
            for graph in bundle.manifest.graphs_for(role)
            if name in graph.methods
        }
        factory = bundle.weights(FACTORY) if self.candidates else {}
        self._starts = {name: factory[name] for name in self.all_names if name in factory}

    def __bool__(self) -> bool:
        return bool(self.candidates)

    @property
    def loaded(self) -> dict[str, Executable]:
        """Those that were used so far, by file."""
        return {self._files[key].name: run for key, run in list(self._loaded.items())}

    def held_in(self, tensors: Mapping[str, Any]) -> str:
        """The candidate whose tensors these are; empty without one."""
        return next((name for mark, name in self._marks.items() if mark in tensors), "")

    def names(self, candidate: str) -> tuple[str, ...]:
        """Tensors that a prediction reads, and a condition keeps."""
        return self.candidates[candidate].tensors

    def nbytes(self, candidate: str) -> int:
        """Bytes that a condition keeps of it."""
        return sum(tensor_bytes(self._manifest.tensor(name)) for name in self.names(candidate))

    def without(self, tensors: Tensors) -> Tensors:
        """The same tensors, and no adaptor; the very same value if there was none."""
        held = self.held_in(tensors)
        own = self.names(held) if held else ()
        return tensors.only([name for name in tensors if name not in own]) if held else tensors

    def fresh(self, candidate: str) -> Tensors:
        """Factory values of a candidate, which correct nothing; what only training needs starts at
        zero.
        """
        values: dict[str, NDArray[Any]] = {}
        for spec in self._manifest.tensors:
            if spec.scope == "domain" and spec.name.startswith(f"{candidate}."):
                start = self._starts.get(spec.name)
                values[spec.name] = np.zeros(spec.shape, spec.dtype) if start is None else start
        return self._runtime.upload(values)

    def read(self, candidate: str) -> Executable:
        return self._graph(candidate, "predict")

    def probe(self, candidate: str, z: F32) -> F32:
        """(N, P) the features whose read-out this candidate would train, at its factory values."""
        out, _ = self._graph(candidate, "probe")({"z": z}, self.fresh(candidate))
        hidden: F32 = out["hidden"]
        return hidden

    def fit(
        self,
        candidate: str,
        tensors: Tensors,
        z: F32,
        y: NDArray[np.int64],
        sample_weight: F32,
        learning_rate: float,
    ) -> tuple[float, Tensors]:
        """One gradient step: the loss before it, and what it wrote."""
        ports = {
            "z": z,
            "y": y,
            "sample_weight": sample_weight,
            "learning_rate": np.float32(learning_rate),
        }
        out, written = self._graph(candidate, "fit")(ports, tensors)
        return float(out["loss"]), written

    def _graph(self, candidate: str, role: RoleName) -> Executable:
        key: tuple[str, RoleName] = (candidate, role)
        if key not in self._loaded:
            if key not in self._files:
                raise BundleError(
                    f"manifest.json: no graph answers the role {role!r} with the adaptor"
                    f" {candidate!r}"
                )
            self._loaded[key] = self._runtime.load(self._files[key])
        return self._loaded[key]
