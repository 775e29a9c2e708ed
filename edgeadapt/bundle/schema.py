"""The manifest: everything a device must know about a bundle, as versioned msgspec structs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from edgeadapt._json_schema import undented
from edgeadapt.bundle._fields import (
    AdaptMode,
    Positive,
    Precision,
    Sha256,
    Size,
    Slots,
    Strict,
    Variant,
)
from edgeadapt.bundle._graph_specs import (
    GraphSpec,
    InputSpec,
    NumericSpec,
    Parity,
    PortSpec,
    TensorSpec,
    TriggerSpec,
)
from edgeadapt.bundle._policy import (
    AccuracyPolicy,
    AdaptorSpec,
    AdaptPolicy,
    AskPolicy,
    GrowthPolicy,
    GuardPolicy,
    LearnPolicy,
    NoveltyPolicy,
    PolicySpec,
    ShiftPolicy,
    SmoothPolicy,
)
from edgeadapt.bundle.roles import RoleName
from edgeadapt.errors import BundleError

FORMAT = 2
"""Version of the manifest. A reader refuses a newer one and names the package version that wrote
it.

Since 2, weight files may keep tensors in fewer bytes (``_packed_forms``); bundles of format 1 are
read as they were.
"""
PLAIN_FORMAT = 1
"""The last version whose weight files keep every tensor as the manifest declares it."""


class PrecisionReport(Strict, frozen=True, kw_only=True):
    """What a variant of the encoder costs, on held-out samples, beside the float32 encoder on the
    same ones.
    """

    samples: Positive
    accuracy: float
    float32_accuracy: float
    agreement: float  # share of samples that both name alike
    median_error: float  # |z - z32| / |z32| of a sample's feature
    worst_error: float
    auroc: float | None  # of the novelty score, as ``NoveltyPolicy.auroc``
    float32_auroc: float | None
    # share of clean windows above the shift thresholds, of windows of one class, of two and of all
    false_alarms: float
    float32_false_alarms: float


class PrecisionSpec(Strict, frozen=True, kw_only=True):
    """A variant of the encoder: thresholds from its own features, and what it costs. Its graph has
    the role ``encode`` and this precision.
    """

    precision: Variant
    shift: ShiftPolicy
    novelty: NoveltyPolicy
    report: PrecisionReport
    probe: Annotated[tuple[float, ...], Meta(min_length=1, max_length=1024)]
    """Features of ``device.probing.probe_inputs`` where it was exported: a device whose kernels
    compute something else must not serve it.
    """
    probe_tolerance: Annotated[float, Meta(ge=0, le=1)]
    """How far off they may be, as a share of their size: what rounding in another order may
    cost.
    """


class Provenance(Strict, frozen=True, kw_only=True):
    created: str  # UTC, ISO 8601
    edgeadapt: str
    torch: str
    onnx: str
    seed: int
    encoder: str
    data: str
    recipe: str = ""  # sha256 of the recipe file


class Member(Strict, frozen=True, kw_only=True):
    """One file of the archive."""

    bytes: Size
    sha256: Sha256


class Manifest(Strict, frozen=True, kw_only=True):
    """The first member of a bundle; its signature covers every other member through their
    hashes.
    """

    format: Positive = FORMAT
    name: str
    version: Positive = 1
    """The maker's own number of the bundle called ``name``; it only grows. A state folder refuses
    one older than it has seen.
    """
    task: Literal["classify", "regress", "embed"] = "classify"
    classes: tuple[str, ...]
    class_slots: Slots
    domain_slots: Slots
    feature_dim: Positive
    tap_dim: Size
    space: Sha256  # ``space_of`` the encoder; held against it when a bundle is read
    batches: tuple[Positive, ...] = (1, 8, 32)
    input: InputSpec
    tensors: tuple[TensorSpec, ...]
    graphs: tuple[GraphSpec, ...]
    numerics: tuple[NumericSpec, ...] = ()
    triggers: tuple[TriggerSpec, ...] = ()
    policy: PolicySpec = PolicySpec()
    precisions: tuple[PrecisionSpec, ...] = ()  # of the encoder, beside float32
    provenance: Provenance
    members: dict[str, Member] = field(default_factory=dict)

    def tensor(self, name: str) -> TensorSpec:
        """The spec of one tensor."""
        for spec in self.tensors:
            if spec.name == name:
                return spec
        raise BundleError(f"manifest.json: no tensor called {name!r}")

    def graphs_for(self, role: RoleName) -> tuple[GraphSpec, ...]:
        """Every float32 graph that answers a role; several are candidates or rungs of the batch
        ladder. Variants: :meth:`encoder`.
        """
        return tuple(
            graph for graph in self.graphs if role in graph.roles and graph.precision == "float32"
        )

    def encoder(self, precision: Precision = "float32") -> GraphSpec | None:
        """The graph that turns inputs into features in this precision; None in a bundle that is
        given features.

        Raises:
            BundleError: the bundle has no encoder of this precision; the message lists what it has.
        """
        for graph in self.graphs:
            if "encode" in graph.roles and graph.precision == precision:
                return graph
        if precision == "float32":
            return None
        held = ", ".join(("float32", *(spec.precision for spec in self.precisions)))
        raise BundleError(
            f"{self.name} version {self.version} has no {precision} encoder; it has {held}. Ask for"
            " one of these, or export it with precisions"
        )

    def at(self, precision: Precision = "float32") -> Manifest:
        """The same with the thresholds of a variant of the encoder in ``policy``: what a device
        reads that serves this variant.

        Raises:
            BundleError: as :meth:`encoder`.
        """
        if precision == "float32":
            return self
        self.encoder(precision)
        spec = next(spec for spec in self.precisions if spec.precision == precision)
        return msgspec.structs.replace(
            self,
            policy=msgspec.structs.replace(self.policy, shift=spec.shift, novelty=spec.novelty),
        )


def encoder_tensors(frozen: Iterable[str], encoders: Iterable[GraphSpec]) -> list[str]:
    """Frozen tensors of the encoder, in the order in which the space hashes them; none in a bundle
    that is given features.

    Those that its graphs take, and those that came with it unread, such as the classifier of a
    network: their names begin with ``encoder.``.

    Args:
        frozen: names of all frozen tensors.
        encoders: graphs with the role ``encode``.
    """
    taken = [graph.frozen for graph in encoders]
    return (
        sorted({name for name in frozen if name.startswith("encoder.")}.union(*taken))
        if taken
        else []
    )


def space_of(*parts: bytes) -> str:
    """Hash of what produces a feature: the bytes of the graphs of the role ``encode``, then those
    of the encoder's frozen tensors by name.

    A bundle without such a graph is given features; its space is the hash of a name for whatever
    makes them.
    """
    return space_of_digests(hashlib.sha256(part).digest() for part in parts)


def space_of_digests(parts: Iterable[bytes]) -> str:
    """The same from the SHA-256 of each part."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON schema of the manifest, committed as ``docs/format/manifest.schema.json``."""
    schema: dict[str, Any] = undented(msgspec.json.schema(Manifest))
    return schema


__all__ = [
    "FORMAT",
    "PLAIN_FORMAT",
    "AccuracyPolicy",
    "AdaptMode",
    "AdaptPolicy",
    "AdaptorSpec",
    "AskPolicy",
    "GraphSpec",
    "GrowthPolicy",
    "GuardPolicy",
    "InputSpec",
    "LearnPolicy",
    "Manifest",
    "Member",
    "NoveltyPolicy",
    "NumericSpec",
    "Parity",
    "PolicySpec",
    "PortSpec",
    "Precision",
    "PrecisionReport",
    "PrecisionSpec",
    "Provenance",
    "ShiftPolicy",
    "SmoothPolicy",
    "TensorSpec",
    "TriggerSpec",
    "encoder_tensors",
    "json_schema",
    "space_of",
    "space_of_digests",
]
