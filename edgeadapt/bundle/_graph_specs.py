"""What a manifest says of tensors, of the graphs that use them, and of the encoder's input."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from edgeadapt.bundle._fields import (
    DType,
    Kind,
    Merge,
    Persist,
    Positive,
    Precision,
    Scope,
    Size,
    Strict,
    Trigger,
)
from edgeadapt.bundle.roles import RoleName


class TensorSpec(Strict, frozen=True, kw_only=True):
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


class PortSpec(Strict, frozen=True, kw_only=True):
    """One port or output of a graph; ``None`` in the shape is the batch."""

    name: str
    dtype: DType
    shape: tuple[int | None, ...]


class Parity(Strict, frozen=True, kw_only=True):
    """How a graph compared with torch when it was compiled."""

    cases: Positive
    tolerance: float
    median_error: float  # relative to the size of the change a step makes, or of the output
    worst_error: float
    arbiter: Literal["float32", "float64"] = "float32"
    onnxruntime: str = ""


class GraphSpec(Strict, frozen=True, kw_only=True):
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


class NumericSpec(Strict, frozen=True, kw_only=True):
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
    arguments: dict[str, float] = field(default_factory=dict)


class TriggerSpec(Strict, frozen=True, kw_only=True):
    """When a role may run."""

    role: RoleName
    when: Trigger
    min_gap_samples: Size = 0


class InputSpec(Strict, frozen=True, kw_only=True):
    """What the encoder takes. Mean and standard deviation are inside the graph, not here."""

    layout: Literal["NHWC", "NCHW", "NHW", "NC", "features"]
    dtype: Literal["uint8", "float32"]
    shape: tuple[Positive, ...]  # of one sample
    range: tuple[float, float] | None = None  # refused outside; None: any finite value
    colour: Literal["rgb", "bgr", "gray", "none"] = "none"
    resize: Literal["bilinear", "none"] = "none"
    mean: tuple[float, ...] = ()  # per channel, of calibration inputs, in input units
    std: tuple[float, ...] = ()
