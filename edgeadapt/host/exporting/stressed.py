"""Fourth stage of an export: what the label-free method may do, by a stress card of every one that
may be chosen.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.bundle import FACTORY, FROZEN, GUARD
from edgeadapt.bundle.schema import AdaptMode, AdaptPolicy
from edgeadapt.host.contracts import Arrays
from edgeadapt.host.exporting.calibrated import Calibrated
from edgeadapt.host.exporting.compiled import Compiled, Compiler
from edgeadapt.host.exporting.encoded import Progress
from edgeadapt.host.exporting.packed import pack
from edgeadapt.host.stress.card import Kind, StressCard, pool_for, stress_card
from edgeadapt.host.stress.strengths import STRENGTHS, Trial, best, card_of, milder, tried


@dataclass(frozen=True, eq=False)
class Stressed:
    """The graphs that ship, what adaptation may do, and the card that says why."""

    compiled: Compiled
    adapt: AdaptPolicy
    card: dict[str, Any]


def stress(compiler: Compiler, known: Calibrated, say: Progress) -> Stressed:
    """Compile, stress what may adapt, and choose."""
    card: dict[str, Any] = {
        "held_out_accuracy": 1 - known.error,
        "calibration_error": known.calibration_error,
        "novelty": known.novelty.alternatives,
    }
    compiled = compiler.compile(compiler.names[0])
    if compiled.name == "none":
        reason = "no label-free method in this bundle"
        return Stressed(compiled, AdaptPolicy(mode="off", reason=reason), card)
    if not known.encoded.settings.stress:
        return Stressed(compiled, _adapt(compiled, "advise", "not stress-tested"), card)
    trials = _trials(compiler, known, card, say)
    chosen = best(trials)
    compiled = compiler.compile(chosen.method)
    adapt = _adapt(compiled, chosen.mode, chosen.card.reason, chosen.strength)
    return Stressed(compiled, adapt, card | {"stress": card_of(trials)})


def _trials(
    compiler: Compiler, known: Calibrated, card: dict[str, Any], say: Progress
) -> list[Trial]:
    """A card of every method that may be chosen, and of milder forms of those that do harm. The
    bundle that is stressed is made from one half of the samples, so that the other half are streams
    it never saw.
    """
    rows, seed, samples = known.part.rows, known.encoded.settings.seed, known.encoded.data
    x, y = samples.x[rows], samples.y[rows]
    kind: Kind = "full" if known.encoded.settings.stress == "long" else "short"
    trials: list[Trial] = []
    pool = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.edge"
        for name in compiler.names:
            compiled = compiler.compile(name, is_trial=True)

            def run(strength: float, compiled: Compiled = compiled) -> StressCard:
                nonlocal pool
                say(f"stress: {compiled.name} at strength {strength:g}")
                adapt = _adapt(compiled, "act", "stress trial", strength)
                trial = pack(path, compiled, adapt, card, weights=_half(compiled))
                pool = pool or pool_for(trial, x, y, seed)
                return stress_card(trial, x, y, seed=seed, say=say, kind=kind, pool=pool)

            milds = STRENGTHS if compiled.composition.can_shrink else (1.0,)
            trials += tried(name, run, milds)
    return trials


def _half(compiled: Compiled) -> dict[str, Arrays]:
    """Weights from the rows that do not judge; those that do are its guard."""
    known = compiled.calibrated
    judge = known.part.judge
    frozen, factory = compiled.composition.values(known.part.evidence, known.route)
    guard: Arrays = {"z": judge.z.astype(np.float16), "y": judge.y}
    guard |= {"taps": judge.taps.astype(np.float16)} if judge.taps.shape[1] else {}
    return {FROZEN: frozen, FACTORY: factory, GUARD: guard}


def _adapt(compiled: Compiled, mode: AdaptMode, reason: str, strength: float = 1.0) -> AdaptPolicy:
    composition = compiled.composition
    return AdaptPolicy(
        mode=mode,
        method=compiled.name,
        strength=strength,
        steps=composition.steps,
        preserves_space=compiled.preserves_space,
        home=milder(composition.home, strength),
        refresh_samples=2 * compiled.calibrated.shift.window,
        reason=reason,
    )


__all__ = ["Stressed", "stress"]
