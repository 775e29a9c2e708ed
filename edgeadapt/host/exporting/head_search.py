"""Bytes -> head: which head is best on held-out samples among those that fit into a budget.

Every candidate is judged as it will be used: it meets half of the classes at the factory, learns
the other half afterwards, and is asked about all of them; then the halves change places. So a
projection or a codebook that only fits the classes it was made from has no advantage. Bytes are all
tensors of the head: evidence, which is stored, frozen tensors, and what is derived from them in
memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Arrays, Dims, FactoryData, GivesReceipts, Head, with_derived
from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck
from edgeadapt.host.methods.heads.nearest_mean import NearestMean
from edgeadapt.host.methods.heads.projection import (
    HadamardProjection,
    PrincipalProjection,
    Projection,
)
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.heads.slda import StreamingLDA

WIDTHS = (32, 64, 128, 256, 512)
RANDOM_FEATURES = (128, 256, 512, 1024)
# up to this width random features are tried: they add what a linear head cannot see
FEW_FEATURES = 128
_FEWEST_FOR_KEYS = 8  # features up to which the bottleneck's default keys do not fit
# of heads on random features; validation rows of letters and wrist motion want no more, and less
# costs nothing there
RANDOM_PENALTY = 1e-3
SHRINKAGE, PENALTY = 0.1, 1e-2
"""Of projected heads, relative to the mean variance: for new classes of few labels beside the
factory's; at thousands of labels a tenth as much is 0.4 points better.
"""
_FEWEST_CLASSES = 4  # to be met in two halves
_BATCH = 512
State = dict[str, Tensor]


@dataclass(frozen=True)
class Candidate:
    """A head and what to call it."""

    label: str
    head: Head


@dataclass(frozen=True)
class Row:
    """One candidate: all bytes of its tensors, those of them that are evidence, and its held-out
    accuracy; None if it does not fit and was not tried.
    """

    label: str
    bytes: int
    evidence_bytes: int
    accuracy: float | None


@dataclass(frozen=True)
class Choice:
    """The head that was chosen, its label, and every candidate, the smallest first."""

    head: Head
    label: str
    rows: tuple[Row, ...]

    def table(self) -> str:
        """The rows as text, one a line."""
        lines = [
            f"{row.bytes / 1024:9.1f} KiB "
            f" {'  too large' if row.accuracy is None else f'{row.accuracy:10.1%}'}  {row.label}"
            for row in self.rows
        ]
        return "\n".join(
            f"{line}{'  <-' if row.label == self.label else ''}"
            for line, row in zip(lines, self.rows, strict=True)
        )


def head_bytes(head: Head, dims: Dims, kinds: Sequence[str] = ()) -> int:
    """Declared bytes of a head's tensors, of all kinds or of some."""
    specs = [spec for spec in head.tensors(dims) if not kinds or spec.kind in kinds]
    return sum(
        int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize for spec in specs
    )


def candidates(
    dims: Dims, seed: int = 0, *, penalty: float = 1e-2, balance: float = 1.0
) -> list[Candidate]:
    """Heads for features of this width; projected ones keep their means in feature space.

    Args:
        seed: of random projections. penalty, balance: of the ridge head on the features themselves.
    """
    ridge = Ridge(penalty=penalty, balance=balance, seed=seed)
    found = [
        Candidate("nearest mean", NearestMean()),
        Candidate("slda", StreamingLDA()),
        Candidate("ridge", ridge),
        Candidate("ridge, packed", replace(ridge, packed=True)),
    ]
    for width in (width for width in WIDTHS if width < dims.features):
        principal: Projection = PrincipalProjection(width, seed)
        found += [
            Candidate(
                f"slda, {width} principal", StreamingLDA(shrinkage=SHRINKAGE, projection=principal)
            ),
            Candidate(
                f"slda, {width} hadamard",
                StreamingLDA(shrinkage=SHRINKAGE, projection=HadamardProjection(width, seed)),
            ),
            Candidate(
                f"ridge, {width} principal",
                Ridge(penalty=PENALTY, balance=balance, projection=principal, packed=True),
            ),
        ]
    few = dims.features <= FEW_FEATURES
    if dims.features > _FEWEST_FOR_KEYS:
        found.append(
            Candidate("key-value", KeyValueBottleneck(seed=seed))
            if few
            else Candidate(
                "key-value, 64 principal",
                KeyValueBottleneck(projection=PrincipalProjection(64, seed), seed=seed),
            )
        )
    if few:
        found += [
            Candidate(
                f"ridge, {width} random features",
                Ridge(
                    penalty=RANDOM_PENALTY,
                    balance=balance,
                    random_features=width,
                    seed=seed,
                    packed=True,
                ),
            )
            for width in RANDOM_FEATURES
        ]
    return found


def choose_head(
    data: FactoryData,
    judge: FactoryData,
    state_kib: float | None = None,
    seed: int = 0,
    *,
    heads: Sequence[Candidate] | None = None,
) -> Choice:
    """The head with the best held-out accuracy within the budget; of equals the smaller one.

    Args:
        data: factory evidence.
        judge: samples that made no evidence.
        state_kib: all bytes of the head, in KiB; None for no limit.
        heads: instead of ``candidates``.

    Raises:
        InputError: nothing fits (the message has the bytes of the smallest head), a budget that is
            not positive, no samples, or features that are not finite.
    """
    _check(data, judge, state_kib)
    limit = float("inf") if state_kib is None else 1024.0 * state_kib
    tried = [
        _fitting(candidate, data.dims, limit)
        for candidate in (candidates(data.dims, seed) if heads is None else heads)
    ]
    sized = sorted(
        ((head_bytes(candidate.head, data.dims), candidate) for candidate in tried),
        key=lambda pair: pair[0],
    )
    if not sized or sized[0][0] > limit:
        smallest = (
            f"the smallest, {sized[0][1].label}, takes {sized[0][0] / 1024:.1f} KiB"
            if sized
            else "there are no candidates"
        )
        raise InputError(
            f"no head fits into state_kib = {state_kib:g} at {data.dims.features} features and"
            f" {data.slots} class slots: {smallest}"
        )
    halves = _halves(data, [candidate.head for size, candidate in sized if size <= limit], seed)
    rows: list[Row] = []
    best: tuple[float, Candidate] | None = None
    for size, candidate in sized:
        accuracy = (
            float(np.mean([half.accuracy(candidate.head, judge) for half in halves]))
            if size <= limit
            else None
        )
        rows.append(
            Row(
                candidate.label,
                size,
                head_bytes(candidate.head, data.dims, ("evidence",)),
                accuracy,
            )
        )
        if accuracy is not None and (best is None or accuracy > best[0]):
            best = (accuracy, candidate)
    assert best is not None  # the smallest fits
    return Choice(best[1].head, best[1].label, tuple(rows))


def _check(data: FactoryData, judge: FactoryData, state_kib: float | None) -> None:
    if state_kib is not None and (
        isinstance(state_kib, bool)
        or not isinstance(state_kib, (int, float))
        or not 0.0 < state_kib < float("inf")
    ):
        raise InputError(f"state_kib is a positive number of KiB, got {state_kib!r}")
    for name, part in (("evidence", data), ("judge", judge)):
        if not len(part.y):
            raise InputError(
                "a head is chosen by calibration samples, and there are none to"
                f" {'learn from' if name == 'evidence' else 'judge by'}"
            )
        if not np.isfinite(part.z).all():
            raise InputError(f"the {name} features have values that are not finite")
    if judge.z.shape[1] != data.z.shape[1]:
        raise InputError(
            f"evidence has {data.z.shape[1]} features and the judge {judge.z.shape[1]}"
        )


def _fitting(candidate: Candidate, dims: Dims, limit: float) -> Candidate:
    """The candidate, with compact means if that is what makes it fit; or if even that does not, the
    smaller of the two.
    """
    head: Any = candidate.head
    if head_bytes(head, dims) <= limit or getattr(head, "projection", None) is None or head.compact:
        return candidate
    compact = replace(head, compact=True)
    return (
        Candidate(f"{candidate.label}, compact", compact)
        if head_bytes(compact, dims) < head_bytes(head, dims)
        else candidate
    )


@dataclass(frozen=True)
class _Half:
    """Some classes known at the factory, the rest learned afterwards; the widest principal
    projection of the first is fitted once.
    """

    known: FactoryData
    later: FactoryData
    principal: Arrays

    @classmethod
    def of(
        cls, data: FactoryData, known: NDArray[np.int64], widest: PrincipalProjection | None
    ) -> _Half:
        first = data.only(known)
        return cls(
            first,
            data.only(np.setdiff1d(data.classes, known)),
            widest.factory(first) if widest else {},
        )

    def accuracy(self, head: Any, judge: FactoryData) -> float:
        projection = getattr(head, "projection", None)
        if isinstance(projection, PrincipalProjection):
            head = replace(head, projection=_Cut(projection.width, projection.seed, self.principal))
        state = {
            name: torch.from_numpy(np.ascontiguousarray(value))
            for name, value in head.factory(self.known).items()
        }
        # it counts whole labels
        later = (
            self.later
            if not isinstance(head, GivesReceipts)
            else replace(self.later, sample_weight=np.ones_like(self.later.sample_weight))
        )
        with torch.no_grad():
            for start in range(0, len(later.y), _BATCH):
                z, taps, y, weight = (
                    torch.from_numpy(value[start : start + _BATCH])
                    for value in (later.z, later.taps, later.y, later.sample_weight)
                )
                state |= head.learn(state, z, taps, y, weight)
            found = with_derived(state, head.numerics())
            logits = head.predict(found, torch.from_numpy(judge.z))
        return float((logits.argmax(dim=1).numpy() == judge.y).mean())


@dataclass(frozen=True)
class _Cut(PrincipalProjection):
    """The first columns of a wider projection that was fitted already: the same tensors for a
    fraction of the time.
    """

    widest: Arrays = field(default_factory=dict)

    def factory(self, data: FactoryData) -> Arrays:
        centre, digits = (self.widest[name] for name in self.names)
        return dict(
            zip(self.names, (centre, np.ascontiguousarray(digits[:, : self.width])), strict=True)
        )


def _halves(data: FactoryData, heads: Sequence[Any], seed: int) -> list[_Half]:
    classes = np.random.default_rng(seed).permutation(data.classes)
    half = len(classes) // 2
    principal = [
        head.projection
        for head in heads
        if isinstance(getattr(head, "projection", None), PrincipalProjection)
    ]
    widest = max(principal, key=lambda projection: projection.width) if principal else None
    return [
        _Half.of(data, known, widest)
        for known in (
            (classes[:half], classes[half:]) if len(classes) >= _FEWEST_CLASSES else (classes,)
        )
    ]


__all__ = ["Candidate", "Choice", "Row", "candidates", "choose_head", "head_bytes"]
