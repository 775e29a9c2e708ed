"""How far do labels speak against a head? Odds of two ways to be wrong against the head's own
uncertainty, as pure functions.

    p_i(c) ~ (1 - d) ((1 - m_c) softmax(logits_i / T)_c + m_c C[argmax logits_i, c]) + d / K
            row i, if every class were as frequent
    careless:  mean over e of  prod_i ((1 - e) + e / (K p_i(y_i)))
            a share e of the labels is drawn at random
    flipped:   mean over a, b and w of  prod_{i: y_i = b} ((1 - w) + w p_i(a) / p_i(b))
                   a share w of those called b is of class a

C is how often samples of class c are taken for another one. Each factor compares how likely a
*sample* is under two classes, so the mix of classes in a batch does not matter; its mean over
honest labels is 1 where p is right, and so is the weighted mean of the two: honest labels reach
odds of 1 / alpha with a chance of at most alpha (Markov; Ville's inequality for a growing record:
Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", Statistical Science
2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.numerics.softmax import tempered_softmax

F64 = NDArray[np.float64]
Slots = NDArray[np.int64]

CARELESS = (0.1, 0.2, 0.4, 0.8)
"""Shares of wrong labels that the first alternative averages over."""
FLIPPED = (0.3, 0.6, 0.9)
"""Shares of those called b that the second one takes for a."""
RENAMED = 0.8
"""Share of class a that a flip renames, so that labels of a speak against it."""
FLIPS = 0.5
"""Weight of the second: a strange condition, too, makes the head take one class for another, and
then it is the labels that are right.
"""
_HOTTER = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
_LOOSER = (1.0, 3.0, 10.0, 30.0, 60.0)
_MIXED = (0.03, 0.1, 0.3, 0.6, 0.9)
_LOOSEST = 0.9


@dataclass(frozen=True, eq=False)
class Belief:
    """What a head's logits say about honest labels.

    Attributes:
        temperature: T. slack: d, the share of labels that nothing predicts.
        mixed: (K,) m, how much the confusions weigh, by label.
        confusion: (K, K) C, by predicted class and label; rows add up to 1.
    """

    temperature: float
    slack: float
    mixed: F64 | float = 0.0
    confusion: F64 | None = None

    def honest(self, logits: NDArray[np.float32]) -> F64:
        """(N, K) chance of every class, if all were as frequent."""
        chance = tempered_softmax(logits, self.temperature)
        if self.confusion is not None:
            chance = (1.0 - self.mixed) * chance + self.mixed * self.confusion[
                logits.argmax(axis=1)
            ]
        chance = (1.0 - self.slack) * chance + self.slack / logits.shape[1]
        result: F64 = chance / chance.sum(axis=1, keepdims=True)
        return result


def learned_from(logits: NDArray[np.float32], y: Slots, prior: Belief) -> Belief:
    """The belief under which labels y (N,) that the head has not learned, or of others, are
    likeliest; never surer than ``prior``.

    T and d are shared; every class has its own m, so that a class that the head hardly knows yet
    does not make it doubt the others.
    """
    if not len(y):
        return prior
    classes, rows = logits.shape[1], np.arange(len(y))
    counts = np.zeros((classes, classes))
    np.add.at(counts, (logits.argmax(axis=1), y), 1.0)
    # (a, c): label c taken for a; one more count is spread over each c
    taken = (counts + 1.0 / classes) / (counts.sum(axis=0) + 1.0)
    confusion = taken / taken.sum(axis=1, keepdims=True)
    confused, present = confusion[logits.argmax(axis=1), y], np.unique(y)
    by_class = np.array([y == slot for slot in present], np.float64)  # (P, N)
    mixed = np.array(_MIXED)[:, None]
    best, likeliest = prior, -np.inf
    for temperature in (prior.temperature * hotter for hotter in _HOTTER):
        soft = tempered_softmax(logits, temperature)[rows, y]
        for slack in (min(_LOOSEST, prior.slack * looser) for looser in _LOOSER):
            # (M, P)
            fit = (
                np.log((1.0 - slack) * ((1.0 - mixed) * soft + mixed * confused) + slack / classes)
                @ by_class.T
            )
            if float(fit.max(axis=0).sum()) > likeliest:
                weights = np.full(classes, _MIXED[0])
                weights[present] = np.array(_MIXED)[fit.argmax(axis=0)]
                best = Belief(temperature, slack, weights, confusion)
                likeliest = float(fit.max(axis=0).sum())
    return best


@dataclass(frozen=True)
class Odds:
    """log10 of the odds that labels are false, and the likeliest way in which they are: a pair (a,
    b) if class a is called b.
    """

    log10: float
    flip: tuple[int, int] | None = None


def odds(p: F64, y: Slots) -> Odds:
    """Odds against labels y (N,) where honest ones have the chances p (N, K)."""
    if not len(y) or p.shape[1] < 2:
        return Odds(0.0)
    careless = _careless(p, y) + float(np.log1p(-FLIPS))
    flipped, pair = _flipped(p, y)
    flipped += float(np.log(FLIPS))
    return Odds(
        float(np.logaddexp(careless, flipped)) / float(np.log(10.0)),
        pair if flipped > careless else None,
    )


def false_label_likelihood(p: F64, y: Slots) -> float:
    """Natural log of how likely labels y (N,) are where they are false or mean nothing: either of
    the two ways, always wrong, or drawn at random.

    At random: every class as often as any other, or as often as in these labels (Laplace's rule of
    succession, from nothing).
    """
    classes, rows = p.shape[1], np.arange(len(y))
    honest = float(np.log(p[rows, y]).sum())
    never = float(np.log((1.0 - p[rows, y]).clip(1e-9) / max(1, classes - 1)).sum())
    counts = np.bincount(y, minlength=classes)
    drawn = (
        sum(lgamma(count + 1) for count in counts.tolist())
        + lgamma(classes)
        - lgamma(len(y) + classes)
    )
    evenly = -len(y) * float(np.log(max(2, int((counts > 0).sum()))))
    return float(
        np.logaddexp.reduce([honest + odds(p, y).log10 * float(np.log(10.0)), never, drawn, evenly])
    )


def _careless(p: F64, y: Slots) -> float:
    share = np.array(CARELESS)[:, None]
    chance = p[np.arange(len(y)), y][None]
    return _log_mean_exp(
        np.log((1.0 - share) + share / (p.shape[1] * chance)).sum(axis=1), len(CARELESS)
    )


def _flipped(p: F64, y: Slots) -> tuple[float, tuple[int, int] | None]:
    """Only pairs that some row speaks for are worked out; leaving the others at 0 keeps the odds a
    lower bound.
    """
    taken_for = p.argmax(axis=1)
    pairs = sorted(
        set(zip(taken_for[taken_for != y].tolist(), y[taken_for != y].tolist(), strict=True))
    )
    if not pairs:
        return -np.inf, None
    share = np.array(FLIPPED)[:, None]
    spared = np.log(1.0 - RENAMED)
    logs = np.concatenate(
        [
            np.log((1.0 - share) + share * p[y == b, a] / p[y == b, b]).sum(axis=1)
            + spared * (y == a).sum()
            for a, b in pairs
        ]
    )
    classes = p.shape[1]
    return (
        _log_mean_exp(logs, len(FLIPPED) * classes * (classes - 1)),
        pairs[int(np.argmax(logs)) // len(FLIPPED)],
    )


def _log_mean_exp(values: F64, count: int) -> float:
    largest = float(values.max())
    return largest + float(np.log(np.exp(values - largest).sum())) - float(np.log(count))


def agrees_with_its_class(embedding: NDArray[np.float32], y: Slots) -> NDArray[np.bool_]:
    """(N,) whether a row lies nearest to the mean of its own label among the *other* rows: labels
    that mean something do, whatever the head says.

    Cosine, after the batch mean is taken away; a row whose label is alone in the batch does not
    agree.
    """
    centred = embedding - embedding.mean(axis=0)
    unit = (centred / np.sqrt((centred * centred).sum(axis=1, keepdims=True) + 1e-12)).astype(
        np.float64
    )
    classes, slot = np.unique(y, return_inverse=True)
    one_hot = np.eye(len(classes))[slot]
    sums, counts = one_hot.T @ unit, one_hot.sum(axis=0)
    scores = unit @ (sums / np.sqrt((sums * sums).sum(axis=1, keepdims=True) + 1e-12)).T
    own = sums[slot] - unit
    own_score = (own * unit).sum(axis=1) / np.sqrt((own * own).sum(axis=1) + 1e-12)
    rows = np.arange(len(y))
    scores[rows, slot] = np.where(counts[slot] > 1, own_score, -np.inf)
    agrees: NDArray[np.bool_] = (scores.argmax(axis=1) == slot) & (counts[slot] > 1)
    return agrees


def copies(features: NDArray[np.float16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first (G,), group (N,)): rows that are equal bit for bit share a group; ``first`` is a row
    of each.
    """
    rows = np.ascontiguousarray(features).view(np.uint8).reshape(len(features), -1)
    seen: dict[bytes, int] = {}
    group = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in rows], np.int64)
    return np.unique(group, return_index=True)[1].astype(np.int64), group
