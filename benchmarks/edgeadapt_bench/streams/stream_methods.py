"""Which heads run in the streams: everything in ``host/methods/heads`` that predicts, at the sizes
that the byte classes ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.host.contracts import FactoryData
from edgeadapt.host.exporting.head_search import candidates, choose_head
from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck
from edgeadapt.host.methods.heads.nearest_mean import NearestMean
from edgeadapt.host.methods.heads.projection import (
    HadamardProjection,
    PrincipalProjection,
    SignProjection,
)
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.heads.slda import StreamingLDA
from edgeadapt_bench.baselines.stream_heads import state_bytes
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.streams.stream_tables import BYTE_CLASSES

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
LADDER_ROWS = 4000  # that a default is chosen on, and as many that judge it
PENALTIES = (0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
SHRINKAGES = (1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3)
WIDTHS = (128, 256, 512, 1024)
# features beyond which random features cost more than they are: their matrix has to be kept
WIDE = 512
# projections below this: wider ones are no smaller than a packed square of the features
WIDEST = 1024


@dataclass(frozen=True)
class StreamMethod:
    """A head in a run: ``variants`` share their evidence and differ in arguments of their numerics;
    validation picks one.

    Attributes:
        family: what its points are joined by in a picture.
        variants: the first is the head as it ships.
        of_all_stages: its frozen tensors come from unlabelled rows of all stages, not of the first
            alone.
    """

    label: str
    family: str
    variants: tuple[Any, ...]
    of_all_stages: bool = False

    @property
    def shipped(self) -> Any:
        return self.variants[0]


def methods(dim: int, quick: bool = False) -> list[StreamMethod]:
    """The heads that ship; a quick run has one of each kind."""
    widths = WIDTHS[:1] if quick else WIDTHS
    penalties, shrinkages = (PENALTIES[::4], SHRINKAGES[::3]) if quick else (PENALTIES, SHRINKAGES)
    found = [
        StreamMethod("nearest mean", "nearest mean", (NearestMean(),)),
        StreamMethod("ridge", "ridge", _varied(Ridge(), "penalty", penalties)),
        StreamMethod("SLDA", "SLDA", _varied(StreamingLDA(), "shrinkage", shrinkages)),
    ]
    found += [
        StreamMethod(
            f"ridge, {width} random features",
            "ridge, random features",
            _varied(Ridge(random_features=width), "penalty", penalties),
        )
        for width in widths
        if dim < WIDE or width == WIDE
    ]
    for width in (w for w in (64, *widths) if w < min(dim, WIDEST)):
        head = StreamingLDA(projection=PrincipalProjection(width), compact=True)
        found += _with_both_factories(
            f"SLDA, {width} principal", "SLDA, principal", _varied(head, "shrinkage", shrinkages)
        )
        found.append(
            StreamMethod(
                f"SLDA, {width} Hadamard",
                "SLDA, Hadamard",
                (StreamingLDA(projection=HadamardProjection(width), compact=True),),
            )
        )
    if dim > WIDE:
        found.append(
            StreamMethod(
                "SLDA, 256 signs",
                "SLDA, signs",
                (StreamingLDA(projection=SignProjection(256), compact=True),),
            )
        )
    if quick:
        return [method for method in found if not method.of_all_stages] + [
            StreamMethod(
                "key-value, 8 books of 32", "key-value", (KeyValueBottleneck(books=8, pairs=32),)
            )
        ]
    counts = (
        KeyValueBottleneck(projection=PrincipalProjection(64), compact=True)
        if dim > WIDE
        else KeyValueBottleneck()
    )
    found += _with_both_factories("key-value", "key-value", (counts,))
    return found


def _with_both_factories(label: str, family: str, variants: tuple[Any, ...]) -> list[StreamMethod]:
    return [
        StreamMethod(label, family, variants),
        StreamMethod(
            f"{label} of all stages", f"{family} of all stages", variants[:1], of_all_stages=True
        ),
    ]


def few_shot_methods(dim: int, quick: bool = False) -> list[StreamMethod]:
    """Those of them whose square state a few labels can fill, one of each kind, and what ships."""
    kinds = (
        "nearest mean",
        "ridge",
        "SLDA",
        "SLDA, 64 principal",
        "SLDA, 256 principal",
        "key-value",
    )
    return [
        replace(found, variants=(found.shipped, *found.variants[1::3]))
        for found in methods(dim, quick)
        if found.label in kinds
    ]


def _varied(head: Any, argument: str, values: Sequence[float]) -> tuple[Any, ...]:
    return (
        head,
        *(
            replace(head, **{argument: value})
            for value in values
            if value != getattr(head, argument)
        ),
    )


def defaults(pool: Pool, seed: int = 0) -> dict[str, StreamMethod | None]:
    """Byte class -> the head that ``host.ladder`` takes for it, None if it has none that small.

    The ladder judges its candidates on training rows held out of its evidence. Its own budget
    counts what is derived in memory too; here, as for every method of the streams, evidence and
    frozen tensors have to fit.
    """
    fitted, rng = pool.validation(), np.random.default_rng(seed)
    data, judge = (
        _part(z, y, rng, len(pool.classes))
        for z, y in ((fitted.z, fitted.y), (fitted.test_z, fitted.test_y))
    )
    known = candidates(data.dims)
    choice = choose_head(data, judge, heads=known)
    accuracy = {row.label: float(row.accuracy or 0.0) for row in choice.rows}
    chosen: dict[str, StreamMethod | None] = {}
    for name, limit in BYTE_CLASSES.items():
        fitting = [
            (accuracy[c.label], -state_bytes(head, data.dims), c.label, head)
            for c in known
            for head in _forms(c.head)
            if state_bytes(head, data.dims) <= limit
        ]
        best = max(fitting, key=lambda entry: entry[:2], default=None)
        chosen[name] = (
            None
            if best is None
            else StreamMethod(f"{best[2]}, by the ladder", "by the ladder", (best[3],))
        )
    return chosen


def _part(z: F32, y: I64, rng: np.random.Generator, slots: int) -> FactoryData:
    rows = rng.permutation(len(y))[:LADDER_ROWS]
    return FactoryData(
        z[rows],
        np.zeros((len(rows), 0), np.float32),
        y[rows],
        np.ones(len(rows), np.float32),
        slots,
    )


def _forms(head: Any) -> list[Any]:
    return (
        [head] if getattr(head, "projection", None) is None else [head, replace(head, compact=True)]
    )


def with_defaults(
    found: list[StreamMethod], chosen: dict[str, StreamMethod | None]
) -> tuple[list[StreamMethod], dict[str, str | None]]:
    """The methods and those defaults that are not among them; byte class -> label of its
    default.
    """
    labels: dict[str, str | None] = {}
    for name, default in chosen.items():
        known = (
            None
            if default is None
            else next(
                (
                    method
                    for method in found
                    if method.shipped == default.shipped and not method.of_all_stages
                ),
                None,
            )
        )
        if default is not None and known is None:
            known = default
            found = [*found, default]
        labels[name] = None if known is None else known.label
    return found, labels
