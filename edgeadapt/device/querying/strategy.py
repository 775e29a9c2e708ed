"""The query strategy: which samples of a window to ask about.

    gain_i     = 1 - (1 - doubt_i) (1 - newness_i)    the answer names another class, or a new one
    distance_i = 1 - exp(-min_j |e_i - e_j|^2 / m)
            j: chosen already, or asked before in this condition
    next       = argmax_i gain_i distance_i^(1/4)

``doubt`` is the disagreement of a committee of three with the prediction (``doubts``), ``newness``
the chance that a score above the threshold is a new class (``newness_of``), e the embeddings and m
the median squared distance in the window. Samples below ``FLOOR`` wait for a better window, except
for the few answers that separate a condition from new classes.

Sources: the probability of being wrong is the least-confident rule (Lewis and Gale, SIGIR 1994)
asked of a committee (Seung et al., COLT 1992); the distances are those of k-centre greedy (Sener
and Savarese, ICLR 2018, arXiv 1708.00489), as a weight and not alone; class mix and predictions are
re-estimated in turn as in Saerens et al. (Neural Computation 2002). The mean shift between them,
the product and the waiting are ours. Weights were chosen on the tuning corruptions;
``docs/methods/questions.md`` has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import NoveltyPolicy, PolicySpec
from edgeadapt.device.detection.policy import NOVEL, QUIET, UNCERTAIN
from edgeadapt.device.numerics.softmax import tempered_softmax
from edgeadapt.device.numerics.statistics import upper_tail

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
FLOOR = 0.6
"""A sample of less expected gain is not asked about ..."""
FLOOR_IF_NEW = 0.3
"""... or of less than this, where there are signs of new classes: each is worth several answers."""
_APART = 0.25  # exponent of the distance, by which it weighs less than the gain
# questions about a new topic, whatever their gain: as many answers separate a condition from new
# classes
_FIRST = 5
_SEARCHED = 20  # windows of one topic that are searched for the usual number of questions
_STEPS = 8  # of the third member of the committee
# chance, among known samples, of as many scores above the threshold, below which they speak for new
# classes
_EXCESS = 0.1
# more of a shifted window above the threshold: the shift has moved the scores, and they say nothing
_CROWD = 0.5
_SAME = 0.02  # of the typical squared distance: the same sample once more
# of the distance between classes, which is typical where everything in the window is alike
_LEAST_SPREAD = 0.1
_REMEMBERED = 64  # embeddings per topic
_TINY = 1e-9


class Seen(Protocol):
    """What is read of features: see ``program.HeadOutput``."""

    @property
    def embedding(self) -> F32: ...
    @property
    def logits(self) -> F32: ...
    @property
    def score(self) -> F32: ...


@dataclass(frozen=True, eq=False)
class HeadView:
    """A window of features and what the head makes of them.

    Attributes:
        z, taps: (N, D), (N, T). seen: what was read of them. read: reads moved z.
        means: (K, D) of the classes. active: (K,) those that there are.
    """

    z: F32
    taps: F32
    seen: Seen
    read: Callable[[F32], Seen]
    means: F32
    active: NDArray[np.bool_]

    @property
    def slots(self) -> NDArray[np.int64]:
        """(N,) predicted classes."""
        slots: NDArray[np.int64] = self.seen.logits.argmax(axis=1)
        return slots


@dataclass(frozen=True, eq=False)
class Candidates:
    """A window from which to choose.

    Attributes:
        embedding: (N, D). probability: (N, C) of the known classes. novelty: (N,) scores.
        doubt, newness: (N,) chance that the prediction is wrong, and that the class is new; see
            ``doubts`` and ``newness_of``.
        asked: (M, D) embeddings that were asked about before.
        spread: squared distance between two class means, the median.
        count: questions at most. least: questions even if the gain of each is small.
    """

    embedding: F32
    probability: F64
    novelty: F32
    doubt: F64
    newness: F64
    asked: F32
    spread: float
    count: int
    least: int = 0

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(N,) columns of ``probability``."""
        slots: NDArray[np.int64] = self.probability.argmax(axis=1)
        return slots

    @property
    def gain(self) -> F64:
        """(N,) chance that an answer differs from the prediction; 0 for a sample that is not
        finite.
        """
        chance = 1.0 - (1.0 - self.doubt) * (1.0 - self.newness)
        return np.where(_finite(self.embedding, self.novelty) & np.isfinite(chance), chance, 0.0)


Rule = Callable[[Candidates], list[int]]
"""Rows to ask about, the best first."""


def choose_questions(window: Candidates) -> list[int]:
    """Rows (at most ``count``) to ask about, the best first: distinct samples of high gain.

    The choice does not depend on the order of the window; of samples that are the same (squared
    distance below a fiftieth of the typical one) it takes one. A sample with a value that is not
    finite is never asked about: its label could not be learned.
    """
    rows = np.flatnonzero(_finite(window.embedding, window.novelty))
    if not len(rows) or window.count <= 0:
        return []
    gain = np.maximum(window.gain[rows], _TINY)
    # one order, however the window came
    order = np.lexsort((*window.embedding[rows].T, -window.novelty[rows], -gain))
    rows, gain = rows[order], gain[order]
    embedding = window.embedding[rows].astype(np.float64)
    distance = _squared(embedding, embedding)
    typical = float(np.median(distance[~np.eye(len(rows), dtype=bool)])) if len(rows) > 1 else 0.0
    typical = max(typical, _LEAST_SPREAD * window.spread, _TINY)
    nearest = (
        _squared(embedding, window.asked.astype(np.float64)).min(axis=1)
        if len(window.asked)
        else np.full(len(rows), np.inf)
    )
    floor = FLOOR_IF_NEW if window.newness.any() else FLOOR
    chosen: list[int] = []
    while len(chosen) < window.count:
        value = gain * (1.0 - np.exp(-nearest / typical)) ** _APART
        value = np.where(nearest > _SAME * typical, value, 0.0)
        worth = np.where(gain >= floor, value, 0.0)
        has_enough = len(chosen) >= window.least
        best = int((worth if worth.any() or has_enough else value).argmax())
        if (worth if has_enough else value)[best] <= 0.0:
            break
        chosen.append(best)
        nearest = np.minimum(nearest, distance[best])
    return [int(rows[index]) for index in chosen]


def doubts(
    read: Callable[[F32], Seen],
    z: F32,
    seen: Seen,
    means: F32,
    active: NDArray[np.bool_],
    temperature: float,
) -> tuple[F64, F64]:
    """Known-class probabilities of a window, and the chance that its predictions are wrong.

    A shift moves a whole window, so that classes near a border change sides together, and
    confidently. Two more members of the committee see the window moved back to its class means,
    ``z <- z - (mean embedding - sum_k mix_k mean_k)``, with the mix that they predict: one after a
    single step from the predicted mix, one after eight steps from its square root, which favours
    rare classes. The doubt is 1 - the mean probability of the predicted class over the three.

    Args:
        read: features (N, D) -> output of the head.
        z: (N, D).
        seen: ``read(z)``.
        means: (K, D) class means.
        active: (K,) classes that can be answered.
        temperature: of the softmax.

    Returns:
        (N, C) probabilities over the active classes and (N,) doubt; rows that are not finite have
        doubt 0.
    """
    own = tempered_softmax(seen.logits[:, active], temperature)
    rows = np.flatnonzero(
        _finite(seen.embedding, seen.score)
        & np.isfinite(own).all(axis=1)
        & np.isfinite(z).all(axis=1)
    )
    doubt = np.zeros(len(own))
    if not len(rows) or own.shape[1] < 2:
        return own, doubt
    mix, class_means = own[rows].mean(axis=0), means[active].astype(np.float64)

    def moved_back(mix: F64, steps: int) -> F64:
        moved, embedding, opinion = z.copy(), seen.embedding, own
        for _ in range(steps):
            gap = embedding[rows].mean(axis=0, dtype=np.float64) - mix @ class_means
            moved = moved - gap.astype(np.float32)
            again = read(moved)
            embedding = again.embedding
            opinion = tempered_softmax(again.logits[:, active], temperature)
            mix = opinion[rows].mean(axis=0)
        return opinion

    rarer = np.sqrt(mix) / np.sqrt(mix).sum()
    predicted = own.argmax(axis=1)
    committee = [own, moved_back(mix, 1), moved_back(rarer, _STEPS)]
    agreed = np.mean([opinion[rows, predicted[rows]] for opinion in committee], axis=0)
    doubt[rows] = np.where(np.isfinite(agreed), 1.0 - agreed, 0.0)
    return own, doubt


def newness_of(score: F32, policy: NoveltyPolicy, *, is_shifted: bool) -> F64:
    """(N,) chance that a sample is of a new class, from the novelty scores (N,) of its window.

        (1 - rate / f) / (1 + exp(-2 (score - threshold) / spread)),
                f = share above the threshold, spread = 1.5 median |score - median|

    Zero unless significantly more of the window lies above the threshold than the ``rate`` that
    known samples reach; and zero in a shifted window of which more than half does: then the shift
    has moved the scores.
    """
    chance = np.zeros(len(score))
    rows = np.isfinite(score)
    known = min(max(policy.rate, 1e-6), 0.5)
    above, count = int((score[rows] > policy.threshold).sum()), int(rows.sum())
    if (
        not above
        or upper_tail(above, count, known) >= _EXCESS
        or (is_shifted and above > _CROWD * count)
    ):
        return chance
    spread = max(1.5 * float(np.median(np.abs(score[rows] - np.median(score[rows])))), _TINY)
    steep = np.clip(2.0 * (score[rows].astype(np.float64) - policy.threshold) / spread, -50.0, 50.0)
    chance[rows] = max(0.0, 1.0 - known * count / above) / (1.0 + np.exp(-steep))
    return chance


class Asking:
    """What one stream was asked about, per topic (a condition, or one of those in ``policy.py``):
    in memory only, and bounded.
    """

    def __init__(self, rule: Rule = choose_questions) -> None:
        self.rule = rule
        self._asked: dict[str, F32] = {}
        self._counts: dict[str, int] = {}
        self._searched: dict[str, int] = {}

    def forget(self) -> None:
        """The samples that were asked about; how many stays."""
        self._asked = {topic: asked[:0] for topic, asked in self._asked.items()}

    def restart(self, topic: str) -> None:
        """Its questions may be asked anew; the samples that were asked about stay known."""
        if topic in self._counts:
            self._counts[topic] = self._searched[topic] = 0

    def count(self, topic: str) -> int:
        """Questions about a topic so far."""
        return self._counts.get(topic, 0)

    def spent(self, topic: str, limit: int, usual: int | None = None) -> int:
        """Questions about a topic; all of ``limit`` once enough windows were searched, in
        proportion where ``limit`` is above the ``usual`` number.
        """
        windows = _SEARCHED * max(1.0, limit / max(1, limit if usual is None else usual))
        return limit if self._searched.get(topic, 0) >= windows else self._counts.get(topic, 0)

    def choose(
        self,
        topic: str,
        head: HeadView,
        policy: PolicySpec,
        *,
        is_settled: bool,
        topics: Collection[str],
        limit: int | None = None,
    ) -> list[int]:
        """Rows of a window to ask about now, and remembers them.

        Args:
            topic: a condition, or one of ``NOVEL``, ``UNCERTAIN``, ``QUIET``.
            is_settled: by the answers this is a condition of known classes.
            topics: conditions that still exist.
            limit: questions about the topic in all; None for the bundle's ``per_condition``.
        """
        for known in [
            known
            for known in self._counts
            if known not in topics and known not in (topic, NOVEL, UNCERTAIN, QUIET)
        ]:
            del self._counts[known], self._asked[known], self._searched[known]
        before, seen = self._counts.get(topic, 0), head.seen
        probability, doubt = doubts(
            head.read, head.z, seen, head.means, head.active, policy.learn.temperature
        )
        newness = (
            np.zeros(len(head.z))
            if is_settled
            else newness_of(seen.score, policy.novelty, is_shifted=topic in topics)
        )
        width = seen.embedding.shape[1]
        asked = self._asked.get(topic, np.zeros((0, width), np.float32))
        count = min(
            policy.ask.per_batch, (policy.ask.per_condition if limit is None else limit) - before
        )
        least = max(0, min(_FIRST - before, count))
        window = Candidates(
            seen.embedding,
            probability,
            seen.score,
            doubt,
            newness,
            asked,
            _class_spread(head.means[head.active]),
            count,
            least,
        )
        rows = self.rule(window)[: max(0, count)]
        self._asked[topic] = np.concatenate([asked, seen.embedding[rows]])[-_REMEMBERED:]
        self._counts[topic] = before + len(rows)
        self._searched[topic] = self._searched.get(topic, 0) + 1
        return rows


def _finite(embedding: F32, score: F32) -> NDArray[np.bool_]:
    rows: NDArray[np.bool_] = np.isfinite(embedding).all(axis=1) & np.isfinite(score)
    return rows


def _squared(a: F64, b: F64) -> F64:
    """(N, M) squared distances of rows, exactly 0 for equal ones."""
    return np.array([((b - row) ** 2).sum(axis=1) for row in a]).reshape(len(a), len(b))


def _class_spread(means: F32) -> float:
    """Median squared distance between two class means; 0 where there are no two."""
    if len(means) < 2:
        return 0.0
    distance = _squared(means.astype(np.float64), means.astype(np.float64))
    return float(np.median(distance[~np.eye(len(means), dtype=bool)]))


__all__ = [
    "FLOOR",
    "FLOOR_IF_NEW",
    "NOVEL",
    "Asking",
    "Candidates",
    "HeadView",
    "Rule",
    "choose_questions",
    "doubts",
    "newness_of",
]
