"""Was the change good? Paired tests of a candidate against the live state, on samples that trained neither.

Factory samples judge the global tensors, among the factory's classes. Held-out field labels judge global tensors too, each
under the condition it came from. A candidate is vetoed if it loses more than ``margin`` of accuracy **and** a one-sided sign
test on the samples that changed is significant; a tensor that is not finite or out of bounds always vetoes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import GuardPolicy
from edgeadapt.device.memory import Memory
from edgeadapt.device.program import Program


@dataclass(frozen=True, eq=False)
class GuardSet:
    """Labelled features of one condition, never trained on.

    Attributes:
        z, taps: features before ``correct``; y: class slots; domain: where they were met; slots: the answer set, None for all.
    """

    name: str
    z: NDArray[np.float32]
    taps: NDArray[np.float32]
    y: NDArray[np.int64]
    domain: str
    slots: NDArray[np.int64] | None = None

    def correct(self, program: Program, memory: Memory) -> NDArray[np.bool_]:
        logits = program.read(self.z, self.taps, memory.tensors_in(self.domain)).logits
        if self.slots is not None:
            masked = np.full_like(logits, -np.inf)
            masked[:, self.slots] = logits[:, self.slots]
            logits = masked
        right: NDArray[np.bool_] = logits.argmax(axis=1) == self.y
        return right


@dataclass(frozen=True)
class Verdict:
    """Outcome of the guard; ``why`` is empty when the candidate passed."""

    why: str = ""
    accuracy: tuple[tuple[str, float, float], ...] = ()  # (set, live, candidate)

    @property
    def passed(self) -> bool:
        return not self.why


def sign_test(wins: int, losses: int) -> float:
    """P(at most ``wins`` of wins + losses by fair coin): small if the candidate lost more samples than it won."""
    total = wins + losses
    return sum(comb(total, k) for k in range(wins + 1)) / 2**total if total else 1.0


def upper_tail(count: int, total: int, chance: float) -> float:
    """P(Binomial(total, chance) >= count)."""
    return sum(comb(total, k) * chance**k * (1 - chance) ** (total - k) for k in range(count, total + 1))


def judge(program: Program, live: Memory, candidate: Memory, sets: Sequence[GuardSet], policy: GuardPolicy) -> Verdict:
    """Compare a candidate with the live state."""
    broken = out_of_bounds(program, candidate)
    if broken:
        return Verdict(broken)
    marks = []
    for guard in sets:
        before, after = guard.correct(program, live), guard.correct(program, candidate)
        marks.append((guard.name, float(before.mean()), float(after.mean())))
        loss = marks[-1][1] - marks[-1][2]
        chance = sign_test(int((after & ~before).sum()), int((before & ~after).sum()))
        if loss > policy.margin and chance < policy.significance:
            return Verdict(f"{guard.name}: accuracy {before.mean():.3f} -> {after.mean():.3f} on {len(before)} samples (p = {chance:.2g})", tuple(marks))
    return Verdict("", tuple(marks))


def out_of_bounds(program: Program, candidate: Memory) -> str:
    """Names the first tensor that is not finite or outside its declared bound; empty if all are inside."""
    checked = [s for s in program.manifest.tensors if s.bound is not None and s.scope == "global" and s.name in candidate.tensors]
    values = program.runtime.download(candidate.tensors, [s.name for s in checked])
    for spec in checked:
        problem = bound_problem(spec.name, values[spec.name], spec.bound)
        if problem:
            return problem
    return ""


def bound_problem(name: str, value: NDArray[np.float32], bound: float | None) -> str:
    extreme = float(np.abs(value).max(initial=0.0))
    if not np.isfinite(extreme):
        return f"{name} has values that are not finite"
    return f"{name} reaches {extreme:.3g}, its bound is {bound:g}" if bound is not None and extreme > bound else ""


def contradicting_labels(
    predicted: NDArray[np.int64], labelled: NDArray[np.int64], is_settled: NDArray[np.bool_], error: float, significance: float
) -> str:
    """Do the labels of one source contradict the head more than its own error allows?

    Args:
        predicted, labelled: (N,) class slots. is_settled: (N,) rows that count, labels of classes the head has settled on.
        error: how often the head errs on such samples. significance: below this chance the labels are held.
    """
    rows = int(is_settled.sum())
    wrong = int((predicted[is_settled] != labelled[is_settled]).sum())
    chance = upper_tail(wrong, rows, error)
    if rows < 5 or chance >= significance:
        return ""
    return f"{wrong} of {rows} labels contradict the head, which errs on {error:.0%} (p = {chance:.1g})"
