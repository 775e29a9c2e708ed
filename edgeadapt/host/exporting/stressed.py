"""Fourth stage of an export: the stress card says which label-free method, and whether it acts."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.bundle import FACTORY, FROZEN, GUARD
from edgeadapt.bundle.schema import AdaptMode, AdaptPolicy
from edgeadapt.host.contracts import Arrays
from edgeadapt.host.exporting.compiled import Compiled
from edgeadapt.host.exporting.packed import pack
from edgeadapt.host.stress.card import Kind, StressCard, pool_for, stress_card
from edgeadapt.host.stress.strengths import STRENGTHS, Trial, best, card_of, milder, tried

Card = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Stressed:
    """The composition that ships, what adaptation may do in it, and what ``card.json`` holds."""

    compiled: Compiled
    adapt: AdaptPolicy
    card: Card


def stress(compiled: Compiled) -> Stressed:
    """Stress every label-free method that may be chosen, and let the cards decide."""
    calibrated = compiled.calibrated
    card: Card = {
        "held_out_accuracy": 1 - calibrated.cross_fitted.error,
        "calibration_error": calibrated.cross_fitted.calibration_error,
        "novelty": calibrated.novelty.alternatives,
    }
    if compiled.method == "none":
        off = AdaptPolicy(mode="off", reason="no label-free method in this bundle")
        return Stressed(compiled, off, card)
    if not calibrated.encoded.settings.stress:
        return Stressed(compiled, adapt_policy(compiled, "advise", "not stress-tested"), card)
    trials, by_method = _trials(compiled, card)
    chosen = best(trials)
    compiled = by_method[chosen.method].complete()
    adapt = adapt_policy(compiled, chosen.mode, chosen.card.reason, chosen.strength)
    return Stressed(compiled, adapt, card | {"stress": card_of(trials)})


def adapt_policy(
    compiled: Compiled, mode: AdaptMode, reason: str, strength: float = 1.0
) -> AdaptPolicy:
    """What the device may do with the label-free method."""
    declared = compiled.composition.declared
    return AdaptPolicy(
        mode=mode,
        method=compiled.method,
        strength=strength,
        steps=int(declared("steps", 1)),
        preserves_space=bool(declared("preserves_space", True)),
        home=milder(float(declared("home", AdaptPolicy().home)), strength),
        refresh_samples=2 * compiled.calibrated.shift.window,
        reason=reason,
    )


def _trials(first: Compiled, card: Card) -> tuple[list[Trial], dict[str, Compiled]]:
    """A card of every method that may be chosen, and of milder forms of those that do harm; the
    methods by name.
    """
    encoded, rows = first.calibrated.encoded, first.calibrated.part.rows
    settings, samples, say = encoded.settings, encoded.samples, encoded.say
    x, y = samples.x[rows], samples.y[rows]
    kind: Kind = "full" if settings.stress == "long" else "short"
    trials: list[Trial] = []
    by_method = {first.method: first}
    pool = None
    with tempfile.TemporaryDirectory() as folder:
        for method in settings.adaptations(bool(encoded.encoder.norms)):
            compiled = by_method.get(method) or first.around(method)
            by_method[method] = compiled
            weights = _trial_weights(compiled)

            def run(
                strength: float,
                compiled: Compiled = compiled,
                weights: dict[str, Arrays] = weights,
            ) -> StressCard:
                nonlocal pool
                say(f"stress: {compiled.method} at strength {strength:g}")
                adapt = adapt_policy(compiled, "act", "stress trial", strength)
                trial = pack(compiled, adapt, card, weights).write(Path(folder) / "trial.edge")
                pool = pool or pool_for(trial, x, y, settings.seed)
                return stress_card(trial, x, y, seed=settings.seed, say=say, kind=kind, pool=pool)

            can_shrink = compiled.composition.declared("can_shrink", False)
            trials += tried(method, run, STRENGTHS if can_shrink else (1.0,))
    return trials, by_method


def _trial_weights(compiled: Compiled) -> dict[str, Arrays]:
    """Of one half of the samples, so that the other half are streams the bundle never saw."""
    calibrated = compiled.calibrated
    part, judge = calibrated.part, calibrated.part.judge
    weights = compiled.composition.weights(part.evidence, calibrated.signature_space)
    guard: Arrays = {"z": judge.z.astype(np.float16), "y": judge.y}
    if judge.dims.taps:
        guard["taps"] = judge.taps.astype(np.float16)
    return {FROZEN: weights.frozen, FACTORY: weights.factory, GUARD: guard}
