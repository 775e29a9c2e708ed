"""Roles bound to executables: what the bundle computes, as plain calls on arrays and tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import FACTORY, Bundle
from edgeadapt.bundle._weights import tensor_bytes
from edgeadapt.bundle.schema import GraphSpec, Precision, TensorSpec
from edgeadapt.device.inference.adaptor_family import Adaptors, shared_graphs
from edgeadapt.device.inference.late_graph import LateGraph
from edgeadapt.device.inference.placement import placement_of
from edgeadapt.device.inference.precision_check import check_probe
from edgeadapt.device.inference.state import AS_SHIPPED, HeadChoice
from edgeadapt.device.numerics.linalg import NUMERICS, one_thread
from edgeadapt.errors import BundleError, StateError
from edgeadapt.inputs import chunks
from edgeadapt.runtime import ArrayLike, Executable, Runtime, Signature, Tensors, with_defaults

F32 = NDArray[np.float32]
NO_TENSORS = Tensors()
_LINEAR = "head.weight"  # logits are proportional to it
_PENALTIES = ("shrinkage", "penalty")  # arguments of numerics that a head's choice multiplies
_PIECE, _LARGE = 8, 1 << 13  # images of so many values, whose activations are what fills memory
# what decisions read
_CORE = frozenset({"shift.moment", "shift.mean", "route.centre", "route.projection"})


@dataclass(eq=False, slots=True)
class HeadOutput:
    """What the feature-side roles say about a batch."""

    embedding: F32  # (N, D) corrected feature
    logits: F32  # (N, K)
    score: F32  # (N,) novelty
    residual: F32  # (N, R) from the predicted class, uncorrected


@dataclass(frozen=True, eq=False)
class Bound:
    """A graph with tensors of its own: called like one that has none."""

    graph: Executable
    tensors: Tensors

    @property
    def signature(self) -> Signature:
        own = self.graph.signature
        return Signature(
            own.ports,
            tuple(port for port in own.reads if port.name not in self.tensors),
            own.outputs,
            own.writes,
        )

    def __call__(
        self, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        return self.graph(ports, self.tensors.over(tensors))


class Program:
    """A bundle's graphs on a runtime. Holds no state: tensors go in, tensors come out.

    What an answer needs is loaded at once; what learns and adapts, at its first call or by
    ``load_all``.

    Args:
        precision: of the encoder that turns inputs into features, and of the thresholds in
            ``manifest``; everything else is as it is.

    Raises:
        BundleError: a graph is missing or cannot be loaded, or there is no encoder of this
            precision.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime, precision: Precision = "float32") -> None:
        self.bundle = bundle
        self.runtime = with_defaults(runtime)
        self.manifest = bundle.manifest.at(precision)
        self.precision = precision
        missing = sorted(_CORE - {spec.name for spec in self.manifest.tensors})
        if missing:
            raise BundleError(
                f"manifest.json: no tensor called {missing[0]!r}; this is not a bundle that a"
                " learner can open"
            )
        self.chunk = max(self.manifest.batches)
        is_large = math.prod(self.manifest.input.shape) >= _LARGE
        pieces = [size for size in self.manifest.batches if is_large and size <= _PIECE]
        self._piece = max(pieces, default=self.chunk)
        self._executables: dict[str, Executable] = {}  # by file
        encoder = self.manifest.encoder(precision)
        self._encode = self._loaded(encoder) if encoder else None
        self._read = self._required("predict")
        self._late: list[LateGraph] = []
        learn = self._late_load("learn")
        if learn is None:
            raise BundleError("manifest.json: no graph answers the role 'learn'")
        self._learn = learn
        self._redeem = self._late_load("redeem")
        self._adapt_spec, self._adapt = self._adapt_graph()
        self._refold = self._late_load("derive")
        self._smooth = self._required("smooth") if self.manifest.policy.smooth.method else None
        constants = set(encoder.frozen) if encoder else set()
        self._constants = constants & set(self._spec("derive").writes) if self._refold else set()
        refolding = self._refolding(encoder)
        # the bundle may be replaced while it is in use
        self._encode_file = bundle.graph_file(refolding) if refolding and self._constants else None
        self._unfolded_spec, self._unfolded = self._unfolded_graph()
        values = bundle.weights(FACTORY)
        self._factory_sums: dict[str, F32] = {
            name: values[name] for name in self.manifest.policy.learn.weighted
        }
        self.adaptors = Adaptors(bundle, runtime)
        own = self.adaptors.all_names
        self._factory_domain = runtime.upload(
            {
                s.name: values[s.name]
                for s in self.specs("evidence", "parameter", "statistic", scope="domain")
                if s.name not in own
            }
        )
        # what predictions read of the factory's tensors, once they were asked for
        self.factory_reads = NO_TENSORS
        self.encoded = 0  # inputs that went through the encoder, adaptation included

    def _spec(self, role: Any) -> GraphSpec:
        return shared_graphs(self.manifest, role)[0]

    def _load(self, role: Any) -> Executable | None:
        specs = shared_graphs(self.manifest, role)
        return self._loaded(specs[0]) if specs else None

    def _loaded(self, spec: GraphSpec) -> Executable:
        loaded = self._executables[spec.file] = self.runtime.load(self.bundle.graph_file(spec))
        return loaded

    def _late_load(self, role: Any) -> LateGraph | None:
        specs = shared_graphs(self.manifest, role)
        return self._late_graph(specs[0]) if specs else None

    def _late_graph(self, spec: GraphSpec, is_rare: bool = False) -> LateGraph:
        """A graph that no answer waits for."""

        def keep(loaded: Executable) -> None:
            self._executables[spec.file] = loaded

        file = replace(self.bundle.graph_file(spec), is_rare=is_rare)
        self._late.append(LateGraph(file, self.runtime, keep))
        return self._late[-1]

    def load_all(self) -> None:
        """Load what waits for its first call: who checks a bundle wants every refusal at once.

        Raises:
            BundleError, RuntimeUnavailable: the runtime refuses a graph.
        """
        for graph in self._late:
            graph.load()

    def _refolding(self, encoder: GraphSpec | None) -> GraphSpec | None:
        """The encoder whose constants a condition replaces: the one that serves, or the float32 one
        where the runtime cannot quantise what it is given later.
        """
        by_input = self.precision == "int8" and self.runtime.refolds_by_input
        return self.manifest.encoder() if by_input else encoder

    def check_precision(self) -> None:
        """Refuse a machine on which the encoder of this precision is another encoder.

        Raises:
            RuntimeUnavailable: it computes something else here than on the host.
        """
        for variant in self.manifest.precisions:
            if self._encode is not None and variant.precision == self.precision:
                check_probe(self._encode, self.manifest.input, variant, self.runtime.name)

    def _required(self, role: Any) -> Executable:
        loaded = self._load(role)
        if loaded is None:
            raise BundleError(f"manifest.json: no graph answers the role {role!r}")
        return loaded

    def _adapt_graph(self) -> tuple[GraphSpec | None, Executable | None]:
        wanted = self.manifest.policy.adapt.method
        for spec in self.manifest.graphs_for("adapt"):
            if wanted in spec.methods:
                return spec, self._late_graph(spec, is_rare=True)
        return None, None

    def _unfolded_graph(self) -> tuple[GraphSpec | None, Executable | None]:
        """The encoder once more, reading a condition's statistics as tensors: nothing is loaded
        again when they change.
        """
        for spec in shared_graphs(self.manifest, "encode"):
            if spec.reads:
                return spec, self._late_graph(spec)
        return None, None

    # -- tensors -----------------------------------------------------------------------------------
    def specs(self, *kinds: str, scope: str = "global") -> list[TensorSpec]:
        return [
            spec for spec in self.manifest.tensors if spec.kind in kinds and spec.scope == scope
        ]

    @property
    def checkpointed(self) -> tuple[str, ...]:
        """Names of global tensors that a snapshot keeps."""
        return tuple(
            s.name
            for s in self.manifest.tensors
            if s.scope == "global"
            and s.persist == "checkpoint"
            and s.kind not in ("frozen", "derived")
        )

    def factory(self) -> Tensors:
        """Initial global tensors, derived ones included."""
        values = self.bundle.weights(FACTORY)
        own = self.adaptors.all_names
        # a domain's lie underneath: they correct nothing
        names = [
            s.name
            for s in self.manifest.tensors
            if s.kind not in ("frozen", "derived") and s.name not in own
        ]
        tensors = self.derive(self.runtime.upload({name: values[name] for name in names}))
        self.factory_reads = tensors.only(self._spec("predict").reads)
        return tensors

    def factory_domain(self) -> Tensors:
        """Initial tensors of a new domain: they correct nothing."""
        return self._factory_domain

    def checkpoint(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        return self.runtime.download(
            tensors, [name for name in self.checkpointed if name in tensors]
        )

    # -- roles -------------------------------------------------------------------------------------
    @property
    def has_encoder(self) -> bool:
        return self._encode is not None

    @property
    def adapts_encoder(self) -> bool:
        """True if adapting changes the encoder, so that its features are no longer the
        factory's.
        """
        return self._adapt is not None and (bool(self._constants) or self._unfolded is not None)

    @property
    def preserves_space(self) -> bool:
        """True if labels may be learned from what an adapted encoder makes of a sample; else only
        from the factory encoder's features.
        """
        return not self.adapts_encoder or self.manifest.policy.adapt.preserves_space

    @property
    def can_adapt(self) -> bool:
        return self._adapt is not None

    def takes(self, x: NDArray[Any]) -> bool:
        """True for inputs of the encoder, False for features that were computed elsewhere."""
        return x.shape[1:] == self.manifest.input.shape

    @property
    def encode_chunk(self) -> int:
        """Images in one call of the encoder: on a device with a memory of its own the largest rung.

        Where a call computes on the caller's thread, a large batch of large images is no faster and
        its activations stay in the arena: a window of EfficientNet-Lite0 at 32 images a call held
        90 MiB more. Small images go at once: calls in the background delay answers, each a little.
        """
        return self._piece if self.runtime.runs_where_called else self.chunk

    def encode(self, x: NDArray[Any], encoder: Executable | None = None) -> tuple[F32, F32]:
        """Features (N, D) and taps (N, T) of inputs that passed the door; in chunks of
        ``encode_chunk``.

        Features that were computed elsewhere, z then taps in one row, are only taken apart.
        """
        run = encoder or self._encode
        if run is None or not self.takes(x):
            dim = self.manifest.feature_dim
            return np.ascontiguousarray(x[:, :dim]), np.ascontiguousarray(x[:, dim:])
        self.encoded += len(x)
        if len(x) <= self.encode_chunk:
            out, _ = run({"x": x}, NO_TENSORS)
            return out["z"], _taps(out, len(x))
        parts = [run({"x": x[rows]}, NO_TENSORS)[0] for rows in chunks(len(x), self.encode_chunk)]
        return np.concatenate([p["z"] for p in parts]), np.concatenate(
            [_taps(p, len(p["z"])) for p in parts]
        )

    def read(self, z: F32, taps: F32, tensors: Tensors) -> HeadOutput:
        """Answers through the correction, and the adaptor if there is one, that ``tensors``
        hold.
        """
        if len(z) > self.chunk:
            parts = [self.read(z[rows], taps[rows], tensors) for rows in chunks(len(z), self.chunk)]
            return HeadOutput(
                *(
                    np.concatenate([getattr(p, name) for p in parts])
                    for name in ("embedding", "logits", "score", "residual")
                )
            )
        ports = {"z": z, "taps": taps} if taps.shape[1] else {"z": z}
        adaptor = self.adaptors.held_in(tensors) if self.adaptors else ""
        run = self.adaptors.read(adaptor) if adaptor else self._read
        out, _ = run(ports, tensors)
        return HeadOutput(out["embedding"], out["logits"], out["score"], out["residual"])

    def learn(
        self,
        tensors: Tensors,
        z: F32,
        taps: F32,
        y: NDArray[np.int64],
        sample_weight: F32,
        is_factory: F32,
    ) -> tuple[Tensors, NDArray[Any] | None]:
        """``tensors`` with the evidence of labelled samples added; negative weights take it away.
        Derives nothing.

        Returns:
            The tensors, and the receipts (N, C) if the bundle gives any.
        """
        receipts = []
        for rows in chunks(len(z), self.chunk):
            ports = {
                "z": z[rows],
                "y": y[rows],
                "sample_weight": sample_weight[rows],
                "is_factory": is_factory[rows],
            }
            if taps.shape[1]:
                ports["taps"] = taps[rows]
            out, written = self._learn(ports, tensors)
            tensors = written.over(tensors)
            if self._redeem is not None:
                receipts.append(out["receipt"])
        return tensors, np.concatenate(receipts) if receipts else None

    def redeem(
        self, tensors: Tensors, receipts: NDArray[Any], y: NDArray[np.int64], sample_weight: F32
    ) -> Tensors:
        """What ``learn`` does to the tensors that have receipts, from the receipts alone: (N, C),
        as ``receipts_of`` reads them.
        """
        if self._redeem is None:
            raise BundleError("this bundle has no graph for the role 'redeem'")
        for rows in chunks(len(y), self.chunk):
            _, written = self._redeem(
                {"receipt": receipts[rows], "y": y[rows], "sample_weight": sample_weight[rows]},
                tensors,
            )
            tensors = written.over(tensors)
        return tensors

    @property
    def gives_receipts(self) -> bool:
        return self._redeem is not None

    def receipts_of(self, stored: Sequence[bytes]) -> NDArray[Any]:
        """(N, C) of receipts as the journal keeps them."""
        kind = next(port.dtype for port in self._spec("learn").outputs if port.name == "receipt")
        return np.stack(
            [
                np.frombuffer(receipt, np.dtype(kind).newbyteorder("<")).astype(kind)
                for receipt in stored
            ]
        )

    @property
    def beyond_receipts(self) -> tuple[str, ...]:
        """Evidence tensors that only a stored feature can be taken out of."""
        return tuple(
            spec.name for spec in self.specs("evidence") if not getattr(spec, "receipt", False)
        )

    def derive(
        self,
        tensors: Tensors,
        head: HeadChoice = AS_SHIPPED,
        classes: Sequence[str | None] = (),
        *,
        field_only: bool = False,
    ) -> Tensors:
        """``tensors`` with everything recomputed that follows from the evidence.

        Args:
            head: how much the factory's share of the head's sums counts, the shrinkage, and how
                sure the head is.
            classes: by slot, as they are now; a slot that the factory's class left has no factory
                share. Empty: as at the factory.
            field_only: the head's sums have no factory share yet, as those of one condition's
                labels.
        """
        share = head.factory_weight - (0.0 if field_only else 1.0)
        for numeric in self.manifest.numerics:
            held = [name for name in numeric.reads if name not in self.bundle.frozen]
            values = {
                **self.runtime.download(tensors, held),
                **{name: self.numbers(name) for name in numeric.reads if name not in held},
            }
            if share:
                values |= {
                    name: values[name] + np.float32(share) * self._factory_share(name, classes)
                    for name in held
                    if name in self.manifest.policy.learn.weighted
                }
            arguments = {
                name: value * (head.shrinkage if name in _PENALTIES else 1.0)
                for name, value in numeric.arguments.items()
            }
            with one_thread():
                try:
                    results = NUMERICS[numeric.numeric](
                        *(values[name] for name in numeric.reads), **arguments
                    )
                except np.linalg.LinAlgError as error:
                    raise StateError(
                        f"{', '.join(numeric.writes)} cannot be derived: {error}"
                    ) from error
            written = dict(zip(numeric.writes, results, strict=True))
            if head.temperature != 1.0 and _LINEAR in written:
                written[_LINEAR] = written[_LINEAR] / np.float32(head.temperature)
            tensors = self.runtime.upload(written).over(tensors)
        return tensors

    def _factory_share(self, name: str, classes: Sequence[str | None]) -> F32:
        """A sum as the bundle brings it, without classes that left their slots."""
        value = self._factory_sums[name]
        axis = next(spec.class_axis for spec in self.manifest.tensors if spec.name == name)
        gone = [
            slot
            for slot, known in enumerate(self.manifest.classes)
            if classes and classes[slot] != known
        ]
        if axis is None or not gone:
            return value
        value = value.copy()
        value[(slice(None),) * axis + (gone,)] = 0
        return value

    def adapt(
        self, tensors: Tensors, inputs: NDArray[Any], sample_weight: F32, seed: int = 0
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        """One label-free refresh: as many calls as the policy says, each from what the one before
        left.

        Args:
            inputs: frames or features, as the bundle's method takes them.
            seed: of a method that searches at random.

        Returns:
            The outputs of the last call, with the largest ``wants_reset`` of all; and the tensors
            that were written.
        """
        if self._adapt is None or self._adapt_spec is None:
            raise BundleError("this bundle has no graph for the role 'adapt'")
        shapes = {port.name: port.shape for port in self._adapt_spec.ports}
        ports = {"x" if "x" in shapes else "z": inputs, "sample_weight": sample_weight}
        width = [int(n or 0) for n in shapes.get("noise", ())]
        rng, written, wishes = np.random.default_rng(seed), NO_TENSORS, []
        strength = self.manifest.policy.adapt.strength
        tensors = self._drawn_out(tensors, 1.0 / strength).over(tensors)
        for _ in range(self.manifest.policy.adapt.steps):
            self.encoded += len(inputs)
            drawn = {"noise": rng.standard_normal(width).astype(np.float32)} if width else {}
            outputs, new = self._adapt({**ports, **drawn}, written.over(tensors))
            written = new.over(written)
            wishes.append(outputs["wants_reset"])
        return {**outputs, "wants_reset": np.maximum.reduce(wishes)}, self._drawn_out(
            written, strength
        ).over(written)

    def _drawn_out(self, tensors: Tensors, factor: float) -> Tensors:
        """The statistics of a condition at ``factor`` times their distance from the factory's;
        nothing for a factor of 1.

        A condition keeps them as they act, at the strength of the bundle, and an average goes on
        from where it is at full strength.
        """
        if factor == 1.0 or self._adapt_spec is None:
            return NO_TENSORS
        is_statistic = {
            spec.name for spec in self.specs("statistic", scope="domain") if spec.dtype == "float32"
        }
        names = [
            name for name in self._adapt_spec.writes if name in is_statistic and name in tensors
        ]
        factory = self.runtime.download(self._factory_domain, names)
        now = self.runtime.download(tensors, names)
        moved = {
            name: factory[name] + np.float32(factor) * (now[name] - factory[name]) for name in names
        }
        return self.runtime.upload(moved)

    def smooth(self, logits: F32, embedding: F32, tensors: Tensors) -> F32:
        """(N, K) logits in the light of each other, in chunks as the graphs take them; a rest that
        is too small stays as it is.
        """
        if self._smooth is None:
            raise BundleError("this bundle has no graph for the role 'smooth'")
        smoothed = logits.copy()
        for rows in chunks(len(logits), self.chunk):
            part = logits[rows]
            if len(part) >= self.manifest.policy.smooth.fewest:
                ports = {
                    "logits": part,
                    "z": embedding[rows],
                    "sample_weight": np.ones(len(part), np.float32),
                }
                smoothed[rows] = self._smooth(ports, tensors)[0]["smoothed"]
        return smoothed

    def refold(self, tensors: Tensors) -> Executable | None:
        """The encoder with the constants that follow from a domain's statistics, or the one that
        reads them, bound to them.
        """
        if self._unfolded is not None and self._unfolded_spec is not None:
            return Bound(self._unfolded, tensors.only(self._unfolded_spec.reads))
        if self._refold is None or self._encode_file is None:
            return None
        _, written = self._refold({}, tensors)
        constants = self.runtime.download(written, sorted(self._constants))
        return self.runtime.load(self._encode_file, constants)

    def placement(self) -> dict[str, str]:
        """Which runtime serves which role now; see ``placement_of``."""
        return placement_of(
            self.manifest, self.runtime, dict(self._executables) | self.adaptors.loaded
        )

    def numbers(self, name: str) -> NDArray[Any]:
        """A frozen tensor on the host."""
        value: NDArray[Any] = self.bundle.frozen[name]
        return value

    def nbytes(self) -> Mapping[str, int]:
        """Declared bytes by kind."""
        sizes: dict[str, int] = {}
        families = self.adaptors.all_names
        for spec in self.manifest.tensors:
            if spec.name in families:
                continue
            copies = self.manifest.domain_slots if spec.scope == "domain" else 1
            sizes[spec.kind] = sizes.get(spec.kind, 0) + copies * tensor_bytes(spec)
        if self.adaptors:  # one of the family for each condition
            largest = max(map(self.adaptors.nbytes, self.adaptors.candidates))
            sizes["adaptor"] = self.manifest.domain_slots * largest
        return sizes


def _taps(out: Mapping[str, NDArray[Any]], count: int) -> F32:
    return out["taps"] if "taps" in out else np.zeros((count, 0), np.float32)
