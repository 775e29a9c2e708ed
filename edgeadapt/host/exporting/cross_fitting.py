"""Every calibration row judges, and none by a head that learned it: folds, logits across them, and
the head they choose.

    logits(i) = head fitted on the rows outside the fold of i, asked about i
    loss      = min_T  -mean_i log softmax(logits(i) / T)[y_i]

The head that ships is fitted on all rows afterwards. Rows of one group (a recording, a person, a
day) lie in one fold, so that a head is never judged on what is nearly a copy of what it learned.
Source: V-fold cross-validation (Stone, J. R. Stat. Soc. B 1974); the loss is a proper score, and at
a few hundred rows it is steadier than accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.host.contracts import FactoryData, Head, as_tensors, with_derived
from edgeadapt.host.methods.heads.slda import StreamingLDA
from edgeadapt.host.methods.heads.standardisation import RandomFeatures, Standardisation

FOLDS = 5
SHRINKAGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 10.0)
FEW_FEATURES = 64  # below this width a linear head cannot see enough, and random features are tried
_RANDOM_WIDTH = 512
# times the least loss: as good, and a head of all rows wants less shrinkage than one of four fifths
_NEAR = 1.02
TEMPERATURES = np.geomspace(0.01, 100.0, 61)

Folds = NDArray[np.int64]
F32 = NDArray[np.float32]


def folds_of(
    y: NDArray[np.int64], groups: NDArray[np.int64] | None, count: int, seed: int
) -> Folds:
    """(N,) fold of every row: classes are spread evenly, and a group lies in one fold.

    Args:
        y: (N,) classes. groups: (N,) group of every row, or None for rows that are independent.
        count: folds; fewer where there are fewer groups.

    Raises:
        InputError: a single group, so that nothing could judge what it did not see.
    """
    rng = np.random.default_rng([seed, count])
    if groups is None:
        fold = np.empty(len(y), np.int64)
        start = 0
        for k in np.unique(y):
            rows = rng.permutation(np.flatnonzero(y == k))
            fold[rows] = (start + np.arange(len(rows))) % count
            start += len(rows)
        return fold
    names, of_row = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise InputError("groups name one group only; two or more are needed, or none at all")
    table = np.zeros((len(names), int(y.max()) + 1))
    np.add.at(table, (of_row, y), 1.0)
    count = min(count, len(names))
    held = np.zeros((count, table.shape[1]))
    place = np.zeros(len(names), np.int64)
    for group in sorted(rng.permutation(len(names)), key=lambda g: -table[g].sum()):
        # where its classes are rarest: each class's share of a fold is kept as even as groups allow
        place[group] = (
            int(
                ((held + table[group]) ** 2 / np.maximum(table.sum(axis=0), 1.0))
                .sum(axis=1)
                .argmin()
            )
            if held.any()
            else 0
        )
        held[place[group]] += table[group]
    return place[of_row]


def cross_fitted(heads: Sequence[Head], data: FactoryData, fold: Folds) -> list[F32]:
    """Logits (N, K) of every row by each head, fitted without the row's fold.

    ``heads`` share their sums and differ in how weights follow from them, so that each fold is
    summed once.
    """
    logits = [np.zeros((len(data.y), data.slots), np.float32) for _ in heads]
    for k in np.unique(fold):
        inside, outside = data.rows(fold != k), fold == k
        sums = as_tensors(heads[0].factory(inside))
        z = torch.from_numpy(data.z[outside])
        for head, found in zip(heads, logits, strict=True):
            found[outside] = head.predict(with_derived(sums, head.numerics()), z).numpy()
    return logits


def log_loss(logits: F32, y: NDArray[np.int64], classes: int) -> tuple[float, float]:
    """The least mean log loss over temperatures, and the temperature (Guo et al., ICML 2017, arXiv
    1706.04599).

    Of temperatures whose losses over all rows differ by half a nat or less it is the highest: where
    every row is right the loss falls for ever as the temperature does, and so many rows cannot know
    how sure to be.
    """
    active = logits[:, :classes].astype(np.float64)
    active -= active.max(axis=1, keepdims=True)
    right = active[np.arange(len(y)), y]

    def loss(t: float) -> float:
        return float(np.mean(np.log(np.exp(active / t).sum(axis=1)) - right / t))

    losses = np.array([loss(t) for t in TEMPERATURES])
    likely = TEMPERATURES[losses <= losses.min() + 0.5 / len(y)]
    return float(losses.min()), float(likely[-1])


def calibration_error(
    logits: F32, y: NDArray[np.int64], classes: int, temperature: float, bins: int = 10
) -> float:
    """Expected calibration error in 0..1: mean gap between confidence and accuracy, over bins of
    equal count (Naeini et al., AAAI 2015).
    """
    active = logits[:, :classes].astype(np.float64) / temperature
    p = np.exp(active - active.max(axis=1, keepdims=True))
    confidence = p.max(axis=1) / p.sum(axis=1)
    right = active.argmax(axis=1) == y
    parts = np.array_split(confidence.argsort(), min(bins, len(y)))
    return float(
        sum(abs(confidence[rows].mean() - right[rows].mean()) * len(rows) for rows in parts)
        / len(y)
    )


@dataclass(frozen=True, eq=False)
class Chosen:
    """A head, and the cross-fitted logits (N, K) that chose it."""

    head: Head
    logits: F32
    loss: float


def choose_slda(data: FactoryData, fold: Folds, seed: int, say: Callable[[str], None]) -> Chosen:
    """Linear discriminant analysis whose columns, features and shrinkage have the least
    cross-fitted loss.

    Tried: columns scaled nearly alike, columns scaled to unit variance, and for few columns random
    features; a candidate that is later in this list must be better by a fiftieth.
    """
    width, classes = data.dims.features, len(data.classes)
    projections = [Standardisation(width, floor=1.0), Standardisation(width)]
    if width < FEW_FEATURES:
        projections.append(RandomFeatures(_RANDOM_WIDTH, seed))
    best: Chosen | None = None
    for projection in projections:
        heads = [
            StreamingLDA(shrinkage=shrinkage, projection=projection) for shrinkage in SHRINKAGES
        ]
        found = cross_fitted(heads, data, fold)
        losses = [log_loss(logits, data.y, classes)[0] for logits in found]
        place = next(i for i, loss in enumerate(losses) if loss <= _NEAR * min(losses))
        say(
            f"  {projection.name}: shrinkage {SHRINKAGES[place]:g}, cross-fitted log loss"
            f" {losses[place]:.3f}"
        )
        if best is None or _NEAR * losses[place] < best.loss:
            best = Chosen(heads[place], found[place], losses[place])
    assert best is not None
    return best


def judged(head: Head, data: FactoryData, fold: Folds) -> Chosen:
    """A head that was chosen elsewhere, with its cross-fitted logits."""
    logits = cross_fitted([head], data, fold)[0]
    return Chosen(head, logits, log_loss(logits, data.y, len(data.classes))[0])


__all__ = [
    "FEW_FEATURES",
    "FOLDS",
    "Chosen",
    "Folds",
    "calibration_error",
    "choose_slda",
    "cross_fitted",
    "folds_of",
    "judged",
    "log_loss",
]
