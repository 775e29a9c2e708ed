"""Deltas, starts and scores by the names that recipes use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.deltas.low_rank import LowRank
from edgeadapt.host.tuning.deltas.scale_shift import ScaleShift
from edgeadapt.host.tuning.deltas.whole import Bias, Full, Head
from edgeadapt.host.tuning.scores.explained_variance import ExplainedVariance as ByVariance
from edgeadapt.host.tuning.scores.squared_gradient import SquaredGradient
from edgeadapt.host.tuning.starts.context_oriented import ContextOriented
from edgeadapt.host.tuning.starts.explained_variance import ExplainedVariance

DELTAS: dict[str, Any] = {kind.name: kind for kind in (Head, Full, Bias, ScaleShift, LowRank)}
STARTS: dict[str, Any] = {kind.name: kind for kind in (ExplainedVariance, ContextOriented)}
SCORES: dict[str, Any] = {kind.name: kind for kind in (SquaredGradient, ByVariance)}


def member(kinds: Mapping[str, Any], key: str, name: str, options: Mapping[str, Any]) -> Any:
    """The member of this name, with these settings.

    Args:
        kinds: one of the three tables.
        key: of the recipe, for messages, such as ``"tune.method"``.

    Raises:
        InputError: no such name or setting; the message has those that there are.
    """
    kind = kinds.get(name)
    if kind is None:
        raise InputError(f"{key} = {name!r}; allowed: {', '.join(sorted(kinds))}")
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        allowed = ", ".join(known) or "none"
        raise InputError(f"{key} {name!r} has no option {unknown[0]!r}; allowed: {allowed}")
    return kind(**options)


__all__ = ["DELTAS", "SCORES", "STARTS", "member"]
