"""Which adaptor is worth training: candidates ranked by a score of their probe features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeadapt.device.adaptors.scores import I64, SCORES, Array, Candidate, ridge, shares_of
from edgeadapt.device.numerics.linalg import one_thread
from edgeadapt.errors import InputError

MARGIN = 0.005
"""Leave-one-out loss that an adaptor must win over the base."""
_ONE_CLASS = "labels of one class teach an adaptor to answer with it"


@dataclass(frozen=True)
class Ranked:
    """A candidate in the ranking; ``name`` is empty for the base without an adaptor.

    Attributes:
        score: of the score that was asked for.
        gain: leave-one-out loss won over the base, about what accuracy wins.
        fits: into the budget.
        reason: one sentence for people and journals.
    """

    name: str
    score: float
    gain: float
    state_bytes: int
    latency_ms: float
    fits: bool
    reason: str


def choose(
    candidates: Sequence[Candidate],
    logits: Array,
    y: I64,
    *,
    budget_bytes: int | None = None,
    latency_ms: float | None = None,
    score: str = "ridge",
    margin: float = MARGIN,
    scale: float = 1.0,
) -> list[Ranked]:
    """Rank the candidates and the base; the first is the pick.

    Candidates that fit into the budget and win at least ``margin`` of leave-one-out loss over the
    base come first, best score first, the smaller of equals; then the base; then those that win
    less; then those that do not fit. Labels of fewer than two classes are an argument for no
    adaptor: it would learn to answer with that class.

    The base must not have learned these samples: a head that has is right about nearly all of them,
    and no adaptor seems to be worth it.

    Args:
        candidates: with distinct names and probes of the same N samples.
        logits: (N, K) of the base. y: (N,) class slots. scale: inverse temperature of the logits.
        budget_bytes, latency_ms: the most a candidate may take; None for no limit.
        score: a key of ``SCORES``.

    Raises:
        InputError: fewer than two samples, shapes that do not agree, values that are not finite, a
            label outside the logits, an unknown score, two candidates of one name.
    """
    if score not in SCORES:
        raise InputError(f"no score called {score!r}; scores: {', '.join(SCORES)}")
    names = [candidate.name for candidate in candidates]
    if len(set(names)) < len(names) or "" in names:
        raise InputError(f"candidates have distinct names that are not empty, got {names}")
    with one_thread():
        rows = [_judged(candidate, logits, y, score, scale) for candidate in candidates]
        base_accuracy = float((shares_of(logits, y, scale).argmax(axis=1) == y).mean())
    kinds = len(np.unique(y))
    good, weak, outside = [], [], []
    for ranked in sorted(rows, key=lambda r: (-r.score, r.state_bytes, r.name)):
        over = _over(ranked, budget_bytes, latency_ms)
        wins = f"wins {ranked.gain:.3f} of loss over the base, each sample judged by the others"
        if over:
            outside.append(replace(ranked, fits=False, reason=over))
        elif kinds < 2:
            weak.append(replace(ranked, reason=_ONE_CLASS))
        elif not ranked.gain >= margin:
            weak.append(replace(ranked, reason=f"{wins}, less than {margin:g}"))
        else:
            good.append(replace(ranked, reason=f"{score} {ranked.score:.4g}; {wins}"))
    if good:
        why = "an adaptor is better"
    elif not weak:
        why = "no candidate fits"
    else:
        why = _ONE_CLASS if kinds < 2 else f"no candidate wins {margin:g} of loss"
    reason = f"no adaptor: right on {base_accuracy:.1%} of the labelled samples; {why}"
    return [*good, Ranked("", 0.0, 0.0, 0, 0.0, True, reason), *weak, *outside]


def _judged(candidate: Candidate, logits: Array, y: I64, score: str, scale: float) -> Ranked:
    left_out = ridge(candidate.probe, logits, y, scale=scale, read_out=candidate.read_out)
    value = -left_out.loss if score == "ridge" else SCORES[score](candidate, logits, y, scale)
    return Ranked(
        candidate.name, value, left_out.gain, candidate.state_bytes, candidate.latency_ms, True, ""
    )


def _over(ranked: Ranked, budget_bytes: int | None, latency_ms: float | None) -> str:
    if budget_bytes is not None and ranked.state_bytes > budget_bytes:
        return f"{ranked.state_bytes:,} bytes, the budget is {budget_bytes:,}"
    if latency_ms is not None and ranked.latency_ms > latency_ms:
        return f"{ranked.latency_ms:.3g} ms, the budget is {latency_ms:.3g} ms"
    return ""


__all__ = ["MARGIN", "Ranked", "choose"]
