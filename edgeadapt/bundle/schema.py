"""The manifest: everything a device must know about a bundle, as versioned msgspec structs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edgeadapt._json_schema import undented
from edgeadapt.bundle.roles import RoleName
from edgeadapt.errors import BundleError

FORMAT = 2
"""Version of the manifest. A reader refuses a newer one and names the package version that wrote
it.

Since 2, weight files may keep tensors in fewer bytes (``_packing``); bundles of format 1 are read
as they were.
"""
PLAIN_FORMAT = 1
"""The last version whose weight files keep every tensor as the manifest declares it."""

DType = Literal["float32", "float16", "int64", "int32", "int8", "uint8", "bool"]
Kind = Literal["frozen", "evidence", "parameter", "statistic", "derived"]
Scope = Literal["global", "domain", "stream"]
Merge = Literal["add", "mean", "replace", "refuse"]
Persist = Literal["checkpoint", "session", "never"]
Trigger = Literal["every_batch", "shift", "label", "idle"]
AdaptMode = Literal["act", "advise", "off"]
Precision = Literal["float32", "float16", "int8"]
"""What an encoder computes in."""
Variant = Literal["float16", "int8"]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
# memory is taken for each before anything is computed
Slots = Annotated[int, Meta(ge=1, le=1 << 16)]


class _Strict(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown fields are errors: a typo in a manifest must not be silently ignored."""


class TensorSpec(_Strict, frozen=True, kw_only=True):
    """What the core must know about a tensor so that it need not know the method.

    *Evidence* is additive and canonical; *derived* is recomputed from it and never stored;
    *statistic* describes inputs; *parameter* is trained; *frozen* never changes after export.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9_]+(\.[A-Za-z0-9_]+)+$")]
    dtype: DType
    shape: tuple[Size, ...]
    kind: Kind
    scope: Scope = "global"
    # hash of the feature space the values are valid in; "" while it is valid in any
    space: str = ""
    merge: Merge = "refuse"
    class_axis: int | None = None  # grows and is cleared with a class
    bound: float | None = None  # values must be finite and within +-bound to be published
    persist: Persist = "checkpoint"
    receipt: bool = False
    """Evidence only: its part of a labelled sample can be told from the receipt that ``learn``
    returns, so that forgetting needs no stored feature. A graph with the role ``redeem`` writes it.
    """


class PortSpec(_Strict, frozen=True, kw_only=True):
    """One port or output of a graph; ``None`` in the shape is the batch."""

    name: str
    dtype: DType
    shape: tuple[int | None, ...]


class Parity(_Strict, frozen=True, kw_only=True):
    """How a graph compared with torch when it was compiled."""

    cases: Positive
    tolerance: float
    median_error: float  # relative to the size of the change a step makes, or of the output
    worst_error: float
    arbiter: Literal["float32", "float64"] = "float32"
    onnxruntime: str = ""


class GraphSpec(_Strict, frozen=True, kw_only=True):
    """One graph: the roles it answers (several when they were fused), its ports and the tensors it
    touches.
    """

    file: str
    roles: tuple[RoleName, ...]
    methods: tuple[str, ...]
    batch: Positive | None  # None: free at run time
    ports: tuple[PortSpec, ...]
    outputs: tuple[PortSpec, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    frozen: tuple[str, ...]
    nodes: Positive
    parity: Parity
    precision: Precision = "float32"
    """Of an encoder's inner values. Others than ``float32`` are variants of the encoder, see
    :class:`PrecisionSpec`; ports are float32 in each.
    """


class NumericSpec(_Strict, frozen=True, kw_only=True):
    """A derived tensor computed by a named numeric of ``device/linalg.py`` instead of a graph."""

    numeric: Literal[
        "balanced_ridge",
        "nearest_mean",
        "class_mean",
        "class_direction",
        "class_residual",
        "slda",
        "back_projection",
        "log_frequency",
    ]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    arguments: dict[str, float] = {}


class TriggerSpec(_Strict, frozen=True, kw_only=True):
    """When a role may run."""

    role: RoleName
    when: Trigger
    min_gap_samples: Size = 0


class InputSpec(_Strict, frozen=True, kw_only=True):
    """What the encoder takes. Mean and standard deviation are inside the graph, not here."""

    layout: Literal["NHWC", "NCHW", "NHW", "NC", "features"]
    dtype: Literal["uint8", "float32"]
    shape: tuple[Positive, ...]  # of one sample
    range: tuple[float, float] | None = None  # refused outside; None: any finite value
    colour: Literal["rgb", "bgr", "gray", "none"] = "none"
    resize: Literal["bilinear", "none"] = "none"
    mean: tuple[float, ...] = ()  # per channel, of calibration inputs, in input units
    std: tuple[float, ...] = ()


class ShiftPolicy(_Strict, frozen=True, kw_only=True):
    """Thresholds of the shift axis, one per group of residual columns."""

    window: Slots = 32
    groups: tuple[Slots, ...] = ()  # widths; they add up to R
    thresholds: tuple[float, ...] = ()  # of the window statistic
    confirm_windows: Positive = 2  # consecutive windows above the threshold before anything acts
    strong: float = 4.0  # times the threshold: such a window needs no second one
    clear_windows: Positive = 2  # consecutive windows below it before the condition counts as over
    # columns of the residual space that tell conditions apart
    signature: tuple[Size, Size] = (0, 0)
    # relative squared distance below which two signatures are the same condition
    route_distance: float = 0.1


class NoveltyPolicy(_Strict, frozen=True, kw_only=True):
    method: str = ""
    threshold: float = 0.0  # of the per-sample score
    rate: float = 0.05  # share of known clean samples above the threshold at calibration
    window_share: float = 0.5  # share of novel samples in a window that reads as novel
    # the lower of two: classes held out of the head, and images that no training showed; None: not
    # judged
    auroc: float | None = None
    alternatives: dict[str, float] = {}

    @property
    def judgement(self) -> str:
        """The mark in words; a bundle from before marks were optional has one of .5 and no
        alternatives where none was made.
        """
        if self.auroc is None or not self.alternatives:
            return "not judged: no class could be held out"
        return f"AUROC {self.auroc:.3f} on what it did not know"


class AdaptPolicy(_Strict, frozen=True, kw_only=True):
    """Whether label-free adaptation may act, as the bundle's own stress card decided."""

    mode: AdaptMode = "off"
    method: str = ""
    # share of the way from the factory's statistics to a condition's that a correction goes
    strength: Annotated[float, Meta(gt=0, le=1)] = 1.0
    # calls of the graph per refresh, each from the tensors that the one before left
    steps: Positive = 1
    # an adapted encoder's features mean what the factory's do: labels may be learned from them
    preserves_space: bool = True
    # share of their distance from the classes that corrected inputs may keep, else the correction
    # is not used
    home: float = 0.85
    memory: Size = 64  # recent inputs, in memory only
    min_memory: Size = 32  # samples before the first correction
    refresh_samples: Positive = 64  # between two refreshes
    reason: str = ""


class LearnPolicy(_Strict, frozen=True, kw_only=True):
    method: str = ""
    field_weight: float = 1.0  # sample_weight of a label from the field
    # all factory samples of a class together weigh as much as this many labels
    factory_count: float = 25.0
    held_out_every: Positive = 5
    temperature: float = 1.0  # softmax temperature of the logits
    # evidence of which the factory's share may count more or less: the head's sums
    weighted: tuple[str, ...] = ()
    # of that share, to choose from; 1 is ``factory_count`` labels a class
    factory_weights: tuple[float, ...] = (0.04, 0.2, 1.0, 4.0, 16.0)
    shrinkages: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)  # times the bundle's own, to choose from
    judged: Positive = 256  # newest labels of a condition that choose


class GuardPolicy(_Strict, frozen=True, kw_only=True):
    margin: float = 0.01  # accuracy a candidate may lose
    significance: float = 0.05  # one-sided paired sign test
    # accuracy on factory samples that all labels together may cost, however small each step is
    worst: float = 0.05
    factory_samples: Size = 0
    source_error: float = 0.1  # share of clean held-out samples the factory head gets wrong
    # a source whose labels contradict the head less likely than this is held
    source_significance: float = 1e-4


class AskPolicy(_Strict, frozen=True, kw_only=True):
    per_condition: Size = 20
    per_batch: Size = 10
    per_day: Size = 200
    at_most: Size = 100  # in one condition, where answers say that 20 were not enough


class AccuracyPolicy(_Strict, frozen=True, kw_only=True):
    """The label-free estimate of accuracy, from held-out calibration samples: see
    ``device/accuracy.py``.
    """

    # of the margin between the two largest logits: the share below it is the estimated error
    threshold: float = 0.0
    accuracy: Annotated[float, Meta(ge=0, le=1)] = 1.0  # of the head on the held-out samples
    samples: Size = 0  # how many these were; 0: the bundle was exported without an estimate
    # share below the threshold among held-out samples taken for a class
    class_rates: tuple[float, ...] = ()
    margin: float = 0.05  # accuracy that may be lost before it counts
    deviations: float = 2.5  # standard deviations beyond the margin that chance is given
    # windows over which the excess is looked at
    horizons: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (4, 8, 16)
    # per horizon: sum of squared shares of the predicted classes from which on ...
    concentrations: tuple[float, ...] = ()
    # ... so much excess is that of difficult classes which come one after the other
    allowances: tuple[float, ...] = ()


class AdaptorSpec(_Strict, frozen=True, kw_only=True):
    """One adaptor that a condition may grow, and how it is trained. Its graphs (read, fit, probe)
    name it among their methods.
    """

    name: Annotated[str, Meta(pattern="^[a-z0-9_]+$")]
    # of a domain, read in predictions; what only training needs is not listed
    tensors: Annotated[tuple[str, ...], Meta(min_length=1)]
    learning_rate: float
    steps: Positive
    batch: Positive
    per_column: bool = False  # it trains one number per column of its probe, and not a read-out


class GrowthPolicy(_Strict, frozen=True, kw_only=True):
    """When a condition grows an adaptor of its own, and which."""

    candidates: tuple[AdaptorSpec, ...] = ()
    fewest_labels: Positive = 40  # learned labels of the condition
    again: float = 1.5  # looked at again when the labels have grown by this factor
    # relative squared distance between the earlier and the later half of its labelled samples
    coherent: float = 0.15
    samples: Positive = 256  # labelled samples it is trained on, at most
    # by which candidates are ranked without training
    score: Literal["ridge", "spectral", "naswot"] = "ridge"
    margin: float = 0.01  # accuracy that it must win in cross-validation
    adaptor_kib: float = 1024.0  # of one condition
    # that a sample may take in what an adaptor reads, measured on the device
    adaptor_ms: float = 1.0


class SmoothPolicy(_Strict, frozen=True, kw_only=True):
    """Whether answers of a batch speak for each other where a stream shows one class after the
    other. Predictions alone read it.
    """

    method: str = ""  # "" for a bundle without one
    # standard deviations above what a stream without order shows, see ``device/correlation.py``
    threshold: float = 3.0
    fewest: Slots = 8  # samples of a batch; smaller ones are left alone


class PolicySpec(_Strict, frozen=True, kw_only=True):
    """Every number a decision needs; the device reads them and raises none."""

    shift: ShiftPolicy = ShiftPolicy()
    novelty: NoveltyPolicy = NoveltyPolicy()
    adapt: AdaptPolicy = AdaptPolicy()
    learn: LearnPolicy = LearnPolicy()
    guard: GuardPolicy = GuardPolicy()
    ask: AskPolicy = AskPolicy()
    accuracy: AccuracyPolicy = AccuracyPolicy()
    growth: GrowthPolicy = GrowthPolicy()
    smooth: SmoothPolicy = SmoothPolicy()


class PrecisionReport(_Strict, frozen=True, kw_only=True):
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


class PrecisionSpec(_Strict, frozen=True, kw_only=True):
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


class Provenance(_Strict, frozen=True, kw_only=True):
    created: str  # UTC, ISO 8601
    edgeadapt: str
    torch: str
    onnx: str
    seed: int
    encoder: str
    data: str
    recipe: str = ""  # sha256 of the recipe file


class Member(_Strict, frozen=True, kw_only=True):
    """One file of the archive."""

    bytes: Size
    sha256: Sha256


class Manifest(_Strict, frozen=True, kw_only=True):
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
    members: dict[str, Member] = {}

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
