"""The best choice of a head: how much the factory counts against field labels, and how strongly the
head is shrunk.

For a choice (a, s) the head is derived from  a x factory's sums + field's sums  at s times the
bundle's shrinkage::

    loss(a, s) = L_field + (|log a| + |log s|) / (4 n)
    L          = min_T  -mean log softmax(logits / T)[y]

L_field is cross-fitted over the newest n <= 256 accepted labels of a condition: learned ones are
evaluated by heads from which their fifth was taken back, held-out ones by all. The weight is chosen
first, at the shrinkage in use, then the shrinkage, and then the temperature, by which the head is
as sure of the field's labels as it is right. For the shared head the choice must also be better on
the field's labels and m = 25 labels of the factory together, as if its samples had not been
learned: few labels, or labels of one class, do not throw the factory's away.

Source: discounting old data by a power of its likelihood is the power prior (Ibrahim and Chen,
Stat. Sci. 2000); its power is chosen here by cross-validation. That the factory's loss must bear
the choice is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.commits.cross_fitting import Fold, cross_fitted
from edgeadapt.device.commits.factory_samples import FactorySamples
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import SOURCE, HeadChoice, LearnerState
from edgeadapt.runtime import Tensors

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
CLEARLY = 0.98
"""Of the loss: what another choice must reach to replace the one in use."""
_FACTORY_LABELS = 25.0  # m
# nats that a choice e times the bundle's must win over all labels: few choose nothing far off
_MODESTY = 0.25
_SAME = 0.7  # temperatures of this ratio are one
_TEMPERATURES = np.geomspace(0.01, 100.0, 25)


def log_losses(logits: F32, y: I64) -> NDArray[np.float64]:
    """(T,) mean log loss (N, K), (N,) at every temperature of the ladder; in nats."""
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    right = shifted[np.arange(len(y)), y]
    return np.array(
        [np.mean(np.log(np.exp(shifted / t).sum(axis=1)) - right / t) for t in _TEMPERATURES]
    )


def log_loss(logits: F32, y: I64) -> float:
    """The least of them."""
    return float(log_losses(logits, y).min())


class HeadSearch:
    """Evaluates choices; changes nothing."""

    def __init__(self, program: Program, factory: FactorySamples) -> None:
        self._program, self._factory = program, factory
        self._policy = program.manifest.policy.learn

    def best(
        self,
        live: LearnerState,
        domain: str,
        folds: Sequence[Fold],
        label_count: int,
        *,
        field_only: bool,
    ) -> tuple[float, HeadChoice]:
        """(loss, choice): the weight first, then the shrinkage; what is in use stays unless another
        is clearly better.

        Args:
            label_count: accepted labels of all conditions.
        """
        judged: dict[HeadChoice, tuple[F32, I64]] = {}

        def loss_of(choice: HeadChoice) -> float:
            logits, y = judged[choice] = self._judged(live, domain, folds, choice, field_only)
            modesty = _MODESTY * (abs(log(choice.factory_weight)) + abs(log(choice.shrinkage)))
            return log_loss(logits, y) + modesty / len(y)

        used = (loss_of(live.head), live.head)
        weighed = climbed(used, "factory_weight", self._policy.factory_weights, loss_of)
        found = climbed(weighed, "shrinkage", self._policy.shrinkages, loss_of)
        if domain == SOURCE:
            found = self._better_for_both(live, used, [found, weighed], label_count)
        return found[0], self._calibrated(found[1], *judged[found[1]])

    def _better_for_both(
        self,
        live: LearnerState,
        used: tuple[float, HeadChoice],
        better: Sequence[tuple[float, HeadChoice]],
        label_count: int,
    ) -> tuple[float, HeadChoice]:
        """The first choice that is better for the field's labels and the factory's samples
        together; else the one in use.
        """
        factory = self._factory.sets(live)

        def together(field: float, choice: HeadChoice) -> float:
            head = replace(
                live, tensors=self._program.derive(live.tensors, choice, live.classes), head=choice
            )
            losses = [
                log_loss(
                    known.logits(self._program, head)[:, known.slots],
                    np.searchsorted(known.slots, known.y),
                )
                for known in factory
                if known.slots is not None
            ]
            return (label_count * field + _FACTORY_LABELS * float(np.mean(losses))) / (
                label_count + _FACTORY_LABELS
            )

        if not factory or better[0][1] == used[1]:
            return better[0]
        limit = CLEARLY * together(*used)
        return next(
            (
                found
                for found in dict.fromkeys(better)
                if found[1] != used[1] and together(*found) < limit
            ),
            used,
        )

    def _calibrated(self, choice: HeadChoice, logits: F32, y: I64) -> HeadChoice:
        """The choice with the temperature that makes these logits (N, K) as sure as they are right
        (N,), if it is another than the one in use.
        """
        ratio = _TEMPERATURES / self._policy.temperature
        losses = len(y) * log_losses(logits, y)
        modesty = _MODESTY * np.abs(np.log(ratio * choice.temperature))
        fitted = float(ratio[np.argmin(losses + modesty)])
        if _SAME < fitted < 1 / _SAME:
            return choice
        return replace(choice, temperature=choice.temperature * fitted)

    def _judged(
        self,
        live: LearnerState,
        domain: str,
        folds: Sequence[Fold],
        choice: HeadChoice,
        field_only: bool,
    ) -> tuple[F32, I64]:
        below = live.domains[domain].tensors if domain in live.domains else Tensors()
        return cross_fitted(
            self._program,
            folds,
            lambda sums: self._program.derive(sums, choice, live.classes, field_only=field_only),
            below,
        )


def climbed(
    best: tuple[float, HeadChoice],
    name: str,
    ladder: Sequence[float],
    loss_of: Callable[[HeadChoice], float],
) -> tuple[float, HeadChoice]:
    """Down the ladder, or else up, as long as every rung is clearly better than the one before."""
    used: float = getattr(best[1], name)
    rungs = sorted({*ladder, used})
    for step in (-1, 1):
        at, found = rungs.index(used) + step, best
        while 0 <= at < len(rungs):
            choice = replace(best[1], **{name: rungs[at]})
            loss = loss_of(choice)
            if loss >= CLEARLY * found[0]:
                break
            at, found = at + step, (loss, choice)
        if found is not best:
            return found
    return best


__all__ = ["CLEARLY", "HeadSearch", "climbed", "log_loss"]
