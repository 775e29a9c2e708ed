"""Roles bound to executables: what the bundle computes, as plain calls on arrays and tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import FACTORY, Bundle
from edgeadapt.bundle._weights import tensor_bytes
from edgeadapt.bundle.schema import Precision, TensorSpec
from edgeadapt.device.inference.adaptor_family import Adaptors, shared_graphs
from edgeadapt.device.inference.head_derivation import HeadDerivation
from edgeadapt.device.inference.label_free_step import LabelFreeStep
from edgeadapt.device.inference.placement import placement_of
from edgeadapt.device.inference.precision_check import check_probe
from edgeadapt.device.inference.role_graphs import RoleGraphs
from edgeadapt.errors import BundleError
from edgeadapt.inputs import chunks
from edgeadapt.runtime import Executable, Runtime, Tensors, with_defaults

F32 = NDArray[np.float32]
NO_TENSORS = Tensors()
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
        self.graphs = RoleGraphs(bundle, self.manifest, runtime, precision)
        self.adaptors = Adaptors(bundle, runtime)
        values, own = bundle.weights(FACTORY), self.adaptors.all_names
        self.derive = HeadDerivation(bundle, self.manifest, runtime, values)
        self.refold = self.graphs.refold
        of_domain = self.specs("evidence", "parameter", "statistic", scope="domain")
        starts = {s.name: values[s.name] for s in of_domain if s.name not in own}
        self._factory_domain = runtime.upload(starts)
        self._label_free = self.graphs.adapt and LabelFreeStep(
            self.graphs.adapt,
            runtime,
            self.manifest.policy.adapt,
            self._factory_domain,
            [s.name for s in self.specs("statistic", scope="domain") if s.dtype == "float32"],
        )
        # what predictions read of the factory's tensors, once they were asked for
        self.factory_reads = NO_TENSORS
        self.encoded = 0  # inputs that went through the encoder, adaptation included

    def load_all(self) -> None:
        """Load what waits for its first call: who checks a bundle wants every refusal at once.

        Raises:
            BundleError, RuntimeUnavailable: the runtime refuses a graph.
        """
        self.graphs.load_all()

    def check_precision(self) -> None:
        """Refuse a machine on which the encoder of this precision is another encoder.

        Raises:
            RuntimeUnavailable: it computes something else here than on the host.
        """
        for variant in self.manifest.precisions:
            if self.graphs.encode is not None and variant.precision == self.precision:
                check_probe(self.graphs.encode, self.manifest.input, variant, self.runtime.name)

    # -- tensors -----------------------------------------------------------------------------------
    def specs(self, *kinds: str, scope: str = "global") -> list[TensorSpec]:
        return [s for s in self.manifest.tensors if s.kind in kinds and s.scope == scope]

    @property
    def checkpointed(self) -> tuple[str, ...]:
        """Names of global tensors that a snapshot keeps."""
        kept = self.specs("evidence", "parameter", "statistic")
        return tuple(spec.name for spec in kept if spec.persist == "checkpoint")

    def factory(self) -> Tensors:
        """Initial global tensors, derived ones included."""
        values = self.bundle.weights(FACTORY)
        own = self.adaptors.all_names
        # a domain's lie underneath: they correct nothing
        kept = [s for s in self.manifest.tensors if s.kind not in ("frozen", "derived")]
        starts = {s.name: values[s.name] for s in kept if s.name not in own}
        tensors = self.derive(self.runtime.upload(starts))
        self.factory_reads = tensors.only(shared_graphs(self.manifest, "predict")[0].reads)
        return tensors

    def factory_domain(self) -> Tensors:
        """Initial tensors of a new domain: they correct nothing."""
        return self._factory_domain

    def checkpoint(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        names = [name for name in self.checkpointed if name in tensors]
        return self.runtime.download(tensors, names)

    # -- roles -------------------------------------------------------------------------------------
    @property
    def has_encoder(self) -> bool:
        return self.graphs.encode is not None

    @property
    def adapts_encoder(self) -> bool:
        """True if adapting changes the encoder, so that its features are no longer the
        factory's.
        """
        return self.can_adapt and bool(self.refold)

    @property
    def preserves_space(self) -> bool:
        """True if labels may be learned from what an adapted encoder makes of a sample; else only
        from the factory encoder's features.
        """
        return not self.adapts_encoder or self.manifest.policy.adapt.preserves_space

    @property
    def can_adapt(self) -> bool:
        return self._label_free is not None

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
        """Features (N, D) and taps (N, T) of inputs that were checked; in chunks of
        ``encode_chunk``.

        Features that were computed elsewhere, z then taps in one row, are only taken apart.
        """
        run = encoder or self.graphs.encode
        if run is None or not self.takes(x):
            dim = self.manifest.feature_dim
            return np.ascontiguousarray(x[:, :dim]), np.ascontiguousarray(x[:, dim:])
        self.encoded += len(x)
        if len(x) <= self.encode_chunk:
            out, _ = run({"x": x}, NO_TENSORS)
            return out["z"], _taps(out, len(x))
        parts = [run({"x": x[rows]}, NO_TENSORS)[0] for rows in chunks(len(x), self.encode_chunk)]
        taps = [_taps(p, len(p["z"])) for p in parts]
        return np.concatenate([p["z"] for p in parts]), np.concatenate(taps)

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
        run = self.adaptors.read(adaptor) if adaptor else self.graphs.predict
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
            out, written = self.graphs.learn(ports, tensors)
            tensors = written.over(tensors)
            if self.graphs.redeem is not None:
                receipts.append(out["receipt"])
        return tensors, np.concatenate(receipts) if receipts else None

    def redeem(
        self, tensors: Tensors, receipts: NDArray[Any], y: NDArray[np.int64], sample_weight: F32
    ) -> Tensors:
        """What ``learn`` does to the tensors that have receipts, from the receipts alone: (N, C),
        as ``receipts_of`` reads them.
        """
        if self.graphs.redeem is None:
            raise BundleError("this bundle has no graph for the role 'redeem'")
        for rows in chunks(len(y), self.chunk):
            weight = sample_weight[rows]
            ports = {"receipt": receipts[rows], "y": y[rows], "sample_weight": weight}
            tensors = self.graphs.redeem(ports, tensors)[1].over(tensors)
        return tensors

    @property
    def gives_receipts(self) -> bool:
        return self.graphs.redeem is not None

    def receipts_of(self, stored: Sequence[bytes]) -> NDArray[Any]:
        """(N, C) of receipts as the journal keeps them."""
        outputs = shared_graphs(self.manifest, "learn")[0].outputs
        kind = next(port.dtype for port in outputs if port.name == "receipt")
        little = np.dtype(kind).newbyteorder("<")
        return np.stack([np.frombuffer(receipt, little).astype(kind) for receipt in stored])

    @property
    def beyond_receipts(self) -> tuple[str, ...]:
        """Evidence tensors that only a stored feature can be taken out of."""
        return tuple(spec.name for spec in self.specs("evidence") if not spec.receipt)

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
        if self._label_free is None:
            raise BundleError("this bundle has no graph for the role 'adapt'")
        self.encoded += self.manifest.policy.adapt.steps * len(inputs)
        return self._label_free.refresh(tensors, inputs, sample_weight, seed)

    def smooth(self, logits: F32, embedding: F32, tensors: Tensors) -> F32:
        """(N, K) logits in the light of each other, in chunks as the graphs take them; a rest that
        is too small stays as it is.
        """
        if self.graphs.smooth is None:
            raise BundleError("this bundle has no graph for the role 'smooth'")
        smoothed = logits.copy()
        for rows in chunks(len(logits), self.chunk):
            part = logits[rows]
            if len(part) >= self.manifest.policy.smooth.fewest:
                weight = np.ones(len(part), np.float32)
                ports = {"logits": part, "z": embedding[rows], "sample_weight": weight}
                smoothed[rows] = self.graphs.smooth(ports, tensors)[0]["smoothed"]
        return smoothed

    def placement(self) -> dict[str, str]:
        """Which runtime serves which role now; see ``placement_of``."""
        loaded = dict(self.graphs.loaded) | self.adaptors.loaded
        return placement_of(self.manifest, self.runtime, loaded)

    def numbers(self, name: str) -> NDArray[Any]:
        """A frozen tensor on the host."""
        return self.bundle.frozen[name]

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
