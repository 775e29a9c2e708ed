"""Where a head keeps the class means that novelty scores read: in feature space, or in the space of
its projection.

``mean.moment`` and ``head.mean`` in feature space take 4 (D + 1) K + 4 D K bytes: 328 kB at D =
1280 and K = 32, many times the rest of a head on 64 dimensions. A compact head keeps
``mean.moment`` (M + 1, K) and derives ``head.mean`` (K, D) by ``back_projection``: what a mean has
outside the span of the projection is taken from the factory mean c. So 4 D K bytes are left,
derived, never stored, and there for the scores that read them.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec
from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.host.contracts import Dims, Values, class_moment, derived, evidence, head_tensors
from edgeadapt.host.methods.heads.projection import Projection

MOMENT = "mean.moment"
_MEAN, _PLACE = "head.mean", "head.place"


@runtime_checkable
class KeepsMeans(Protocol):
    """A head that can say what samples do to ``mean.moment`` alone: labels met under other
    conditions leave the means of novelty scores as they are.
    """

    def learn_means(
        self, t: Values, z: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]: ...


def mean_tensors(
    projection: Projection | None, width: int, dims: Dims, *, compact: bool
) -> list[TensorSpec]:
    """Evidence of the means, and what a linear head of ``width`` inputs derives."""
    if projection is None or not compact:
        return [evidence(MOMENT, (dims.features + 1, dims.slots), 1), *head_tensors(width, dims)]
    return [
        evidence(MOMENT, (width + 1, dims.slots), 1),
        derived(_PLACE, (dims.slots, width), 0),
        *head_tensors(width, dims),
    ]


def mean_numerics(
    projection: Projection | None, head: NumericSpec, *, compact: bool
) -> list[NumericSpec]:
    """The numeric of a head that writes its means, and the way back where they are compact."""
    if projection is None or not compact:
        return [head]
    writes = tuple(_PLACE if name == _MEAN else name for name in head.writes)
    reads = (_PLACE, *projection.names)
    return [
        msgspec.structs.replace(head, writes=writes),
        NumericSpec(numeric="back_projection", reads=reads, writes=(_MEAN,)),
    ]


def added_means(
    projection: Projection | None,
    t: Values,
    z: Tensor,
    y: Tensor,
    sample_weight: Tensor,
    *,
    compact: bool,
) -> dict[str, Tensor]:
    """``mean.moment`` after these samples, in the space in which the head keeps it."""
    values = projection.apply(t, z) if projection is not None and compact else z
    return {MOMENT: t[MOMENT] + class_moment(values, y, sample_weight, t[MOMENT].shape[1])}


__all__ = ["KeepsMeans", "added_means", "mean_numerics", "mean_tensors"]
