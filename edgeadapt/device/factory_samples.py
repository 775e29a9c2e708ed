"""The bundle's own samples, which judge every change, though the factory's head learned them too.

A head is right on what it learned. So the bundle says what each sample adds to its own logits: those of
the head that ships minus those of a head that was fitted without the sample's fold. It is taken off
before the sample judges. At another shrinkage that part is another one, and is measured here in the same
way: the sums of a fold are taken back from the factory's (evidence is additive), and the head is derived
again. Beside n labels from the field the factory's samples weigh less, and so does each of them::

    own(state) = own(shrinkage) / T  w N / (w N + n)        N = factory_count x classes, w the factory's weight
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import GUARD
from edgeadapt.device.guard import GuardSet
from edgeadapt.device.memory import SOURCE, HeadChoice, Memory
from edgeadapt.device.program import F32, Program

FACTORY_SET = "factory samples"
_FOLDS = 5


class FactorySamples:
    """Reads the guard member of a bundle; without one there are no samples."""

    def __init__(self, program: Program) -> None:
        self._program = program
        has_any = any(member == GUARD for member in program.manifest.members)
        values = program.bundle.weights(GUARD) if has_any else {"z": np.zeros((0, program.manifest.feature_dim)), "y": np.zeros(0)}
        self._z, self._y = np.ascontiguousarray(values["z"], np.float32), values["y"].astype(np.int64)
        self._taps = np.ascontiguousarray(values["taps"], np.float32) if "taps" in values else np.zeros((len(self._z), 0), np.float32)
        self._weight = values.get("weight")
        self._own: dict[float, F32] = {1.0: np.asarray(values["own"], np.float32)} if "own" in values else {}

    def sets(self, live: Memory) -> list[GuardSet]:
        """Samples of the factory's classes that are still where the factory put them; a freed slot may hold another class."""
        kept = [slot for slot, name in enumerate(self._program.manifest.classes) if live.classes[slot] == name]
        rows = np.isin(self._y, kept)
        if not rows.any():
            return []
        slots = np.intersect1d(self._y, kept)
        own = (lambda memory: self.own(memory)[rows]) if self._own else None
        return [GuardSet(FACTORY_SET, self._z[rows], self._taps[rows], self._y[rows], SOURCE, slots, own)]

    def own(self, memory: Memory) -> F32:
        """(N, factory classes) what every sample adds to its own logits in this state."""
        if memory.head.shrinkage not in self._own:
            self._own[memory.head.shrinkage] = self._measured(memory.head.shrinkage)
        manifest = self._program.manifest
        factory = memory.head.factory_weight * manifest.policy.learn.factory_count * len(manifest.classes)
        share = factory / (factory + memory.labels * manifest.policy.learn.field_weight)
        return self._own[memory.head.shrinkage] * np.float32(share / memory.head.temperature)

    def _measured(self, shrinkage: float) -> F32:
        head, weight = HeadChoice(shrinkage=shrinkage), self._weight
        factory = self._program.factory()
        classes = len(self._program.manifest.classes)
        whole = self._program.read(self._z, self._taps, self._program.derive(factory, head)).logits
        own = np.zeros((len(self._y), classes), np.float32)
        for number in range(_FOLDS):
            rows = _fold_of(self._y) == number
            taken = -np.asarray(weight, np.float32)[rows]
            ones = np.ones(len(taken), np.float32)
            without, _ = self._program.learn(factory, self._z[rows], self._taps[rows], self._y[rows], taken, ones)
            logits = self._program.read(self._z[rows], self._taps[rows], self._program.derive(without, head)).logits
            own[rows] = (whole[rows] - logits)[:, :classes]
        return own


def _fold_of(y: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) fold of every sample; classes are spread evenly."""
    fold = np.empty(len(y), np.int64)
    fold[np.argsort(y, kind="stable")] = np.arange(len(y)) % _FOLDS
    return fold


__all__ = ["FACTORY_SET", "FactorySamples"]
