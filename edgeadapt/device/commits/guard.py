"""Was the change good? Paired tests of a candidate against the live state, on samples that trained
neither.

Factory samples judge the global tensors, among the factory's classes. Held-out field labels judge
global tensors and those of the condition they come from. A candidate is vetoed if it loses more
than ``margin`` of accuracy **and** a one-sided sign test on the samples that changed is
significant. A tensor that is not finite or out of bounds always vetoes, whatever its kind and
scope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle.schema import GuardPolicy
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import LearnerState
from edgeadapt.device.numerics.statistics import sign_test
from edgeadapt.runtime import Tensors


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """Labelled features of one condition, never trained on.

    Attributes:
        z, taps: features before ``correct``; y: class slots; domain: where they were met; slots:
            the answer set, None for all.
        own: what the samples, which the factory's head learned, add to their own logits (N, factory
            classes) in a state; None if none were learned.
    """

    name: str
    z: NDArray[np.float32]
    taps: NDArray[np.float32]
    y: NDArray[np.int64]
    domain: str
    slots: NDArray[np.int64] | None = None
    own: Callable[[LearnerState], NDArray[np.float32]] | None = None

    def logits(self, program: Program, memory: LearnerState) -> NDArray[np.float32]:
        """(N, K) as if the samples had not been learned at the factory."""
        logits = program.forward_head(self.z, self.taps, memory.judged_in(self.domain)).logits
        if self.own is not None:
            own = self.own(memory)
            logits = logits.copy()
            logits[:, : own.shape[1]] -= own
        return logits

    def correct(self, program: Program, memory: LearnerState) -> NDArray[np.bool_]:
        logits = self.logits(program, memory)
        if self.slots is not None:
            masked = np.full_like(logits, -np.inf)
            masked[:, self.slots] = logits[:, self.slots]
            logits = masked
        right: NDArray[np.bool_] = logits.argmax(axis=1) == self.y
        return right


@dataclass(frozen=True)
class GuardDecision:
    """Outcome of the guard; ``why`` is empty when the candidate passed."""

    why: str = ""
    accuracy: tuple[tuple[str, float, float], ...] = ()  # (set, live, candidate)
    set: str = ""  # the one that spoke against it, if one did

    @property
    def passed(self) -> bool:
        return not self.why


def judge(
    program: Program,
    live: LearnerState,
    candidate: LearnerState,
    sets: Sequence[ValidationSet],
    policy: GuardPolicy,
) -> GuardDecision:
    """Compare a candidate with the live state."""
    broken = out_of_bounds(program, candidate, live)
    if broken:
        return GuardDecision(broken)
    marks = []
    for guard in sets:
        before, after = guard.correct(program, live), guard.correct(program, candidate)
        marks.append((guard.name, float(before.mean()), float(after.mean())))
        loss = marks[-1][1] - marks[-1][2]
        chance = sign_test(int((after & ~before).sum()), int((before & ~after).sum()))
        if loss > policy.margin and chance < policy.significance:
            return GuardDecision(
                f"{guard.name}: accuracy {before.mean():.3f} -> {after.mean():.3f} on {len(before)}"
                f" samples (p = {chance:.2g})",
                tuple(marks),
                guard.name,
            )
    return GuardDecision("", tuple(marks))


def cumulative_loss(
    program: Program,
    origin: LearnerState,
    live: LearnerState,
    candidate: LearnerState,
    sets: Sequence[ValidationSet],
    policy: GuardPolicy,
) -> str:
    """Why a candidate goes one step too far down; empty if it does not.

    :func:`judge` compares with the state before, and many steps can each be too small for it. This
    compares with the factory: a candidate that has lost more than ``policy.worst`` there, more than
    chance would, must not lose any further. A state that is below already, and a candidate that
    does not lower it, pass.
    """
    for guard in sets:
        first, now, after = (guard.correct(program, memory) for memory in (origin, live, candidate))
        lost = float(first.mean() - after.mean())
        chance = sign_test(int((after & ~first).sum()), int((first & ~after).sum()))
        if after.mean() < now.mean() and lost > policy.worst and chance < policy.significance:
            return (
                f"{guard.name}: accuracy {first.mean():.3f} at the factory, {now.mean():.3f} now,"
                f" {after.mean():.3f} with these labels"
            )
    return ""


def out_of_bounds(
    program: Program, candidate: LearnerState, live: LearnerState | None = None
) -> str:
    """Names the first tensor that is not finite or outside its declared bound; empty if all are
    inside.

    Evidence, parameters, statistics and derived tensors, global ones and those of every condition.
    Buffers that ``live`` holds too were checked when they went live.
    """
    held = live if live is not None else LearnerState(0, Tensors(), (), {})
    places = [("", candidate.tensors, held.tensors)]
    for name, domain in candidate.domains.items():
        places.append(
            (
                f" of {name}",
                domain.tensors,
                held.domains[name].tensors if name in held.domains else Tensors(),
            )
        )
    bounds = {spec.name: spec.bound for spec in program.manifest.tensors}
    for place, tensors, known in places:
        moved = [name for name in tensors if not (name in known and known[name] is tensors[name])]
        for name, value in program.runtime.download(tensors, moved).items():
            problem = bound_problem(name + place, value, bounds.get(name))
            if problem:
                return problem
    return ""


def bound_problem(name: str, value: NDArray[np.float32], bound: float | None) -> str:
    extreme = float(np.abs(value).max(initial=0.0))
    if not np.isfinite(extreme):
        return f"{name} has values that are not finite"
    return (
        f"{name} reaches {extreme:.3g}, its bound is {bound:g}"
        if bound is not None and extreme > bound
        else ""
    )
