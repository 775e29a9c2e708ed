"""A logistic regression that answers beside the head, from the bundle's samples and stored rows.

    logits(x) = (W x + T V x / t) / 2    W the head, T its temperature, V the regression, t its own

Half the sum of their log probabilities: a product of experts (Hinton, Neural Comput. 2002).
Discriminant analysis knows the spread of all factory samples and needs few labels; a logistic
regression moves only where it was wrong and forgives features that are not normal. Together they
are better than either (``docs/methods/heads.md``). V holds nothing that a row does not: it is made
anew after every change, is never stored, and never judges, since it knows its rows by heart. Its
penalty and t are those of the least log loss over the same rows in five folds.

Both see the same features, corrected and projected. The learning graph says what these are: its
class sums of one row are that row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.cross_fitting import FOLDS
from edgeadapt.device.commits.evidence_sums import corrections_now
from edgeadapt.device.commits.guard import ValidationSet
from edgeadapt.device.inference.program import F32, Program
from edgeadapt.device.inference.state import SOURCE, LearnerState
from edgeadapt.device.numerics.linalg import one_thread
from edgeadapt.device.numerics.logistic_regression import logistic
from edgeadapt.device.storage.features import rows_to_arrays
from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.runtime import Tensors

I64 = NDArray[np.int64]
ROWS = 512
"""Of the newest labels that it learns."""
_CS = (1.0, 10.0, 100.0, 1000.0)
_TEMPERATURES = np.geomspace(0.25, 16.0, 25)
_GROWN = 1 / 8  # share by which the rows change before both are chosen again
_SAMPLES = 512  # of the bundle's at most, spread evenly over the classes
_CLASSES = 32  # at most: each costs as much again
_FIELD = 3.0  # a label from the field counts as so many of the bundle's samples
_HEAD, _WEIGHT, _SUMS = "slda", "head.weight", "slda.moment"


class LogisticHead:
    """For bundles whose head is discriminant analysis; of others it leaves the head as it is."""

    def __init__(self, program: Program) -> None:
        self._program = program
        policy = program.manifest.policy.learn
        self.is_here = policy.method == _HEAD and bool(policy.weighted)
        self._chosen: dict[str, tuple[int, float, float]] = {}  # condition -> rows, C, t

    def reconsider(self) -> None:
        """Labels were taken back: penalties and temperatures are chosen anew."""
        self._chosen = {}

    def beside(
        self,
        head: Tensors,
        live: LearnerState,
        factory: Sequence[ValidationSet],
        rows: Sequence[EvidenceRow],
        domain: str = SOURCE,
    ) -> Tensors:
        """The derived ``head`` of a condition with a regression of the same labels beside it.

        A class of which there is neither a sample nor a row with features leaves it alone, and so
        do more than 32 classes.
        """
        rows = [row for row in rows if row.weight > 0.0]
        if not self.is_here or not (factory or rows):
            return head
        kept = [_spread(known.y, _SAMPLES) for known in factory]
        parts = [
            self._features(live, known.z[few], known.taps[few], SOURCE)
            for known, few in zip(factory, kept, strict=True)
        ]
        labels = [known.y[few] for known, few in zip(factory, kept, strict=True)]
        samples = sum(map(len, labels))
        for place in dict.fromkeys(row.domain for row in rows):
            z, taps, y, _, _ = rows_to_arrays(
                [row for row in rows if row.domain == place],
                live.slots,
                self._program.manifest.feature_dim,
            )
            parts.append(self._features(live, z, taps, place))
            labels.append(y)
        values = self._program.runtime.download(head, (_WEIGHT, "head.active"))
        slots = np.flatnonzero(values["head.active"])
        y = np.concatenate(labels)
        if not 2 <= len(slots) <= _CLASSES or not np.array_equal(np.unique(y), slots):
            return head
        x, y = np.concatenate(parts), np.searchsorted(slots, y)
        counts = np.where(np.arange(len(x)) < samples, 1.0, _FIELD).astype(np.float32)
        weight = values[_WEIGHT].copy()
        with one_thread():
            known = self._chosen.get(domain, (0, 0.0, 0.0))
            if abs(len(x) - known[0]) > _GROWN * known[0]:
                known = self._chosen[domain] = (len(x), *_cross_fitted(x, y, counts))
            _, c, t = known
            (found,) = logistic(x, y, counts, len(slots), [c])
        scale = self._program.manifest.policy.learn.temperature
        weight[:, slots] = (weight[:, slots] + scale / t * found) / 2.0
        return self._program.runtime.upload({_WEIGHT: weight}).over(head)

    def _features(self, live: LearnerState, z: F32, taps: F32, domain: str) -> F32:
        """(N, M) what the head sees of features (N, D) under a condition."""
        program = self._program
        below = corrections_now(program, [domain], live).get(domain, Tensors()).over(live.tensors)
        names = [spec.name for spec in program.manifest.tensors if spec.kind == "evidence"]
        empty = program.runtime.upload(
            {name: np.zeros_like(v) for name, v in program.runtime.download(below, names).items()}
        ).over(below)
        width = program.manifest.class_slots
        found = []
        for first in range(0, len(z), width):
            part = slice(first, first + width)
            count = len(z[part])
            ones = np.ones(count, np.float32)
            learned, _ = program.learn(
                empty, z[part], taps[part], np.arange(count), ones, np.zeros(count, np.float32)
            )
            found.append(program.runtime.download(learned, (_SUMS,))[_SUMS][:-1, :count].T)
        return np.concatenate(found)


def _spread(y: I64, most: int) -> I64:
    """Places of at most so many rows, in turn from every class (N,)."""
    order = np.argsort(y, kind="stable")
    turn = np.arange(len(y)) - np.searchsorted(y[order], y[order])
    return np.sort(order[np.argsort(turn, kind="stable")][:most])


def _cross_fitted(x: F32, y: I64, weight: F32) -> tuple[float, float]:
    """C and t of the least log loss of rows (N, M) with classes 0..K-1 (N,) and weights (N,)."""
    classes, fold = int(y.max()) + 1, np.empty(len(y), np.int64)
    fold[np.argsort(y, kind="stable")] = np.arange(len(y)) % FOLDS
    logits = np.zeros((len(_CS), len(y), classes))
    for number in range(FOLDS):
        inside, outside = fold != number, fold == number
        heads = logistic(x[inside], y[inside], weight[inside], classes, _CS)
        for found, head in zip(logits, heads, strict=True):
            found[outside] = x[outside] @ head[:-1] + head[-1]
    logits -= logits.max(axis=2, keepdims=True)
    right = logits[:, np.arange(len(y)), y]
    losses = np.array(
        [
            [weight @ (np.log(np.exp(found / t).sum(axis=1)) - correct / t) for t in _TEMPERATURES]
            for found, correct in zip(logits, right, strict=True)
        ]
    )
    c, t = np.unravel_index(int(losses.argmin()), losses.shape)
    return _CS[c], float(_TEMPERATURES[t])


__all__ = ["ROWS", "LogisticHead"]
