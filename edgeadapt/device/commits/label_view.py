"""Labelled rows as the live head sees them, and what they say of that head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.label_noise_odds import Belief, agrees_with_its_class
from edgeadapt.device.numerics.ridge_refit import refit_log_chances, two_sample_test
from edgeadapt.device.numerics.statistics import sign_test

FEWEST_KNOWN = 10
"""Labels of others that say how good the head is under a condition, or on a class that the factory
does not know.
"""
_FEWEST_COMPARED = 12  # samples that are compared with the factory's
# share of pairs of such a sample and a factory's that are separated, and the chance of that
_SEPARATED, _BY_CHANCE = 0.7, 1e-4
_APART_FEWEST, _APART = 3, 0.01  # rows on either side, and the chance of separating them by luck


@dataclass(frozen=True, eq=False)
class LabelView:
    """Labelled rows: what the live head, or a refitted one, says of them."""

    y: NDArray[np.int64]  # (N,) slots
    logits: NDArray[np.float32]  # (N, K)
    embedding: NDArray[np.float32]
    is_known: NDArray[np.bool_]  # (N,) not novel
    is_held_out: NDArray[np.bool_]  # (N,) labels that the head never learned
    shift: float

    def only(self, rows: NDArray[np.bool_]) -> LabelView:
        return LabelView(
            self.y[rows],
            self.logits[rows],
            self.embedding[rows],
            self.is_known[rows],
            self.is_held_out[rows],
            self.shift,
        )

    def among(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Logits (M, S) and labels (M,) as columns of these slots, of the rows with such labels."""
        rows = np.isin(self.y, slots)
        return self.logits[rows][:, slots], np.searchsorted(slots, self.y[rows])


def joined(parts: Sequence[LabelView]) -> LabelView:
    """The rows of all parts; their shift is unknown, and 0."""
    y, logits, embedding, known, held_out = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("y", "logits", "embedding", "is_known", "is_held_out")
    )
    return LabelView(y, logits, embedding, known, held_out, 0.0)


def is_unlike(factory: LabelView, seen: LabelView) -> bool:
    """Are the samples clearly of another distribution than the factory's, though no statistic of
    the stream moved? Then the head is not known to be right about them.
    """
    predicted, here = factory.logits.argmax(axis=1), seen.logits.argmax(axis=1)
    slots, column = np.unique(predicted, return_inverse=True)
    means = np.stack([factory.embedding[predicted == slot].mean(axis=0) for slot in slots])
    rows = np.isin(here, slots)
    if rows.sum() < _FEWEST_COMPARED:
        return False
    compared = seen.embedding[rows] - means[np.searchsorted(slots, here[rows])]
    separated, chance = two_sample_test(factory.embedding - means[column], compared)
    return separated >= _SEPARATED and chance < _BY_CHANCE


def refitted(reference: LabelView, seen: LabelView, belief: Belief) -> tuple[LabelView, LabelView]:
    """Rows in doubt and reference rows, by a head that the reference labels refitted: each
    reference row without its own label.
    """
    both = np.concatenate([reference.embedding, seen.embedding])
    chances = np.concatenate([belief.honest(reference.logits), belief.honest(seen.logits)])
    choosing = (
        reference.is_held_out
        if reference.is_held_out.sum() >= FEWEST_KNOWN
        else np.ones(len(reference.y), bool)
    )
    theirs, here = refit_log_chances(both, reference.y, chances, len(seen.y), choosing)
    return replace(seen, logits=here.astype(np.float32)), replace(
        reference, logits=theirs.astype(np.float32)
    )


def separated_from_class(
    embedding: NDArray[np.float32],
    y: NDArray[np.int64],
    predicted: NDArray[np.int64],
    flip: tuple[int, int] | None,
) -> NDArray[np.bool_] | None:
    """(N,) rows whose class the head takes for another though they lie apart from it; None if there
    are none.

    The exercise of a new wearer may resemble another exercise of the others: its label is right
    against the head, and its samples lie apart from those of the predicted class. Where a false
    source renames a class, they do not.
    """
    if flip is None:
        return None
    disputed = (predicted == flip[0]) & (y == flip[1])
    both = disputed | (predicted == flip[0]) & (y == flip[0])
    counts = int(disputed.sum()), int(both.sum() - disputed.sum())
    if min(counts) < _APART_FEWEST:
        return None
    right = int(agrees_with_its_class(embedding[both], disputed[both].astype(np.int64)).sum())
    return disputed if sign_test(sum(counts) - right, right) < _APART else None


__all__ = ["FEWEST_KNOWN", "LabelView", "is_unlike", "joined", "refitted", "separated_from_class"]
