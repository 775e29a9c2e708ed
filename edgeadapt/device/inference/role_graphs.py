"""The graphs of a bundle by role: what an answer needs is loaded at once, what learns and adapts at
its first call.
"""

from __future__ import annotations

from dataclasses import replace

from edgeadapt.bundle import Bundle
from edgeadapt.bundle.roles import RoleName
from edgeadapt.bundle.schema import GraphSpec, Manifest, Precision
from edgeadapt.device.inference.adaptor_family import shared_graphs
from edgeadapt.device.inference.encoder_refold import EncoderRefold
from edgeadapt.device.inference.late_graph import LateGraph
from edgeadapt.errors import BundleError
from edgeadapt.runtime import Executable, Runtime


class RoleGraphs:
    """Executables of the roles; None where the bundle has no graph for one.

    Attributes:
        loaded: those that were loaded so far, by file.
        adapt: of the label-free method that the bundle's policy names, with its description.

    Raises:
        BundleError: a graph is missing or cannot be loaded.
    """

    def __init__(
        self, bundle: Bundle, manifest: Manifest, runtime: Runtime, precision: Precision
    ) -> None:
        self._bundle, self._manifest, self._runtime = bundle, manifest, runtime
        self._late: list[LateGraph] = []
        self.loaded: dict[str, Executable] = {}
        encoder = manifest.encoder(precision)
        self.encode = self._now(encoder) if encoder else None
        self.predict = self._now(self._required("predict"))
        self.learn = self._later(self._required("learn"))
        redeem = self._first("redeem")
        self.redeem = self._later(redeem) if redeem else None
        method = manifest.policy.adapt.method
        adapt = next((s for s in manifest.graphs_for("adapt") if method in s.methods), None)
        self.adapt = (adapt, self._later(adapt, is_rare=True)) if adapt else None
        derive = self._first("derive")
        self.smooth = self._now(self._required("smooth")) if manifest.policy.smooth.method else None
        # the encoder whose constants a condition replaces: the one that serves, or the float32 one
        # where the runtime cannot quantise what it is given later
        by_input = runtime.refolds_by_input
        folded = manifest.encoder() if precision == "int8" and by_input else encoder
        constants = {*encoder.frozen}.intersection(derive.writes) if encoder and derive else set()
        reading = next((spec for spec in shared_graphs(manifest, "encode") if spec.reads), None)
        self.refold = EncoderRefold(
            runtime,
            self._later(derive) if derive else None,
            # the bundle may be replaced while it is in use
            bundle.graph_file(folded) if folded and constants else None,
            sorted(constants),
            self._later(reading) if reading else None,
            reading.reads if reading else (),
        )

    def load_all(self) -> None:
        """Load what waits for its first call.

        Raises:
            BundleError, RuntimeUnavailable: the runtime refuses a graph.
        """
        for graph in self._late:
            graph.load()

    def _first(self, role: RoleName) -> GraphSpec | None:
        return next(iter(shared_graphs(self._manifest, role)), None)

    def _required(self, role: RoleName) -> GraphSpec:
        spec = self._first(role)
        if spec is None:
            raise BundleError(f"manifest.json: no graph answers the role {role!r}")
        return spec

    def _now(self, spec: GraphSpec) -> Executable:
        loaded = self.loaded[spec.file] = self._runtime.load(self._bundle.graph_file(spec))
        return loaded

    def _later(self, spec: GraphSpec, *, is_rare: bool = False) -> LateGraph:
        """A graph that no answer waits for."""

        def keep(loaded: Executable) -> None:
            self.loaded[spec.file] = loaded

        file = replace(self._bundle.graph_file(spec), is_rare=is_rare)
        self._late.append(LateGraph(file, self._runtime, keep))
        return self._late[-1]
