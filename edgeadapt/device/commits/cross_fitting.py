"""A state judged by the very labels that it learned: each by sums from which its fifth was taken
back.

Evidence is additive, so a head without some labels is one subtraction away. Which fifth a label
lies in follows from its features, and not from when it came.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.evidence_sums import add_evidence, corrections_now
from edgeadapt.device.inference.program import F32, Program
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.storage.features import rows_to_arrays
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.runtime import Tensors

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Fold:
    """Sums without a fifth of the rows, and the rows (n, D), (n, T) with their class slots (n,)."""

    tensors: Tensors
    z: F32
    taps: F32
    y: NDArray[np.int64]


def folds_of(
    program: Program,
    live: LearnerState,
    tensors: Tensors,
    rows: Sequence[EvidenceRow],
    learned: Collection[int],
) -> list[Fold]:
    """The rows in fifths of even class mix, each with ``tensors`` that have not learned it.

    Args:
        live: whose classes and corrections count.
        rows: of one condition, with features.
        learned: ``seq`` of those that ``tensors`` have learned.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i].label, rows[i].draw, rows[i].seq))
    fold = np.empty(len(rows), np.int64)
    fold[order] = np.arange(len(rows)) % FOLDS
    corrections = corrections_now(program, list(dict.fromkeys(row.domain for row in rows)), live)
    found = []
    for number in range(min(FOLDS, len(rows))):
        inside = [rows[i] for i in np.flatnonzero(fold == number).tolist()]
        gone = [row for row in inside if row.seq in learned]
        without = (
            add_evidence(program, tensors, gone, live.slots, corrections, sign=-1.0)[0]
            if gone
            else tensors
        )
        z, taps, y, _, _ = rows_to_arrays(inside, live.slots, program.manifest.feature_dim)
        found.append(Fold(without, z, taps, y))
    return found


def cross_fitted(
    program: Program, folds: Sequence[Fold], derive: Callable[[Tensors], Tensors], below: Tensors
) -> tuple[F32, NDArray[np.int64]]:
    """Logits (N, K) and class slots (N,) of all rows.

    Args:
        derive: from sums to a head. below: tensors of the condition.
    """
    logits = [
        program.forward_head(fold.z, fold.taps, below.over(derive(fold.tensors))).logits
        for fold in folds
    ]
    return np.concatenate(logits), np.concatenate([fold.y for fold in folds])


__all__ = ["FOLDS", "Fold", "cross_fitted", "folds_of"]
