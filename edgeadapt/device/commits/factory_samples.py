"""The bundle's own samples, which judge every change, though the factory's head learned them too.

A head is right on what it learned. So the bundle says what each sample adds to its own logits:
those of the head that ships minus those of a head that was fitted without the sample's fold. It is
taken off before the sample judges. Beside n labels from the field the factory's samples weigh less,
and so does each of them::

    own(state) = own(choice) / T  w N / (w N + n)

with N = factory_count x classes and w the factory's weight. At another weight or shrinkage that
part is another one, and is measured here in the same way: a fold's share of the sums is taken back
(evidence is additive), and the head is derived again; once for a choice and whenever n is four
times as large.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import GUARD
from edgeadapt.device.commits.guard import ValidationSet
from edgeadapt.device.inference.program import F32, Program
from edgeadapt.device.inference.state import SOURCE, LearnerState

FACTORY_SET = "factory samples"
_FOLDS = 5
_SHIPPED = (1.0, 1.0)  # weight and shrinkage


class FactorySamples:
    """Reads the guard member of a bundle; without one there are no samples."""

    def __init__(self, program: Program) -> None:
        self._program = program
        has_any = any(member == GUARD for member in program.manifest.members)
        values = (
            program.bundle.weights(GUARD)
            if has_any
            else {"z": np.zeros((0, program.manifest.feature_dim)), "y": np.zeros(0)}
        )
        self._z = np.ascontiguousarray(values["z"], np.float32)
        self._y = values["y"].astype(np.int64)
        self._taps = (
            np.ascontiguousarray(values["taps"], np.float32)
            if "taps" in values
            else np.zeros((len(self._z), 0), np.float32)
        )
        self._weight = values.get("weight")
        self._own: dict[tuple[float, float, int], F32] = (
            {(*_SHIPPED, 0): np.asarray(values["own"], np.float32)} if "own" in values else {}
        )

    def sets(self, live: LearnerState) -> list[ValidationSet]:
        """Samples of the factory's classes that are still where the factory put them; a freed slot
        may hold another class."""
        kept = self._kept(live)
        rows = np.isin(self._y, kept)
        if not rows.any():
            return []
        slots = np.intersect1d(self._y, kept)
        own = (lambda memory: self.own(memory)[rows]) if self._own else None
        return [
            ValidationSet(
                FACTORY_SET, self._z[rows], self._taps[rows], self._y[rows], SOURCE, slots, own
            )
        ]

    def _kept(self, memory: LearnerState) -> list[int]:
        """Slots that still have the factory's class."""
        return [
            slot
            for slot, name in enumerate(self._program.manifest.classes)
            if memory.classes[slot] == name
        ]

    def own(self, memory: LearnerState) -> F32:
        """(N, factory classes) what every sample adds to its own logits in this state."""
        choice = (memory.head.factory_weight, memory.head.shrinkage)
        size = 0 if choice == _SHIPPED else memory.labels.bit_length() // 2
        key = (*choice, size)
        if key not in self._own:
            self._own = {known: own for known, own in self._own.items() if known[2] in (0, size)}
            self._own[key] = self._measured(memory) / self._share(memory)
        return self._own[key] * np.float32(self._share(memory) / memory.head.temperature)

    def _share(self, memory: LearnerState) -> float:
        """Of the factory in all that the head learned."""
        manifest = self._program.manifest
        factory = (
            memory.head.factory_weight * manifest.policy.learn.factory_count * len(manifest.classes)
        )
        return factory / (factory + memory.labels * manifest.policy.learn.field_weight)

    def _measured(self, memory: LearnerState) -> F32:
        head, weight = replace(memory.head, temperature=1.0), np.asarray(self._weight, np.float32)
        classes = len(self._program.manifest.classes)
        whole = self._program.forward_head(
            self._z, self._taps, self._program.derive(memory.tensors, head, memory.classes)
        ).logits
        own = np.zeros((len(self._y), classes), np.float32)
        for number in range(_FOLDS):
            rows = (_fold_of(self._y) == number) & np.isin(self._y, self._kept(memory))
            if not rows.any():
                continue
            ones = np.ones(int(rows.sum()), np.float32)
            without, _ = self._program.learn(
                memory.tensors,
                self._z[rows],
                self._taps[rows],
                self._y[rows],
                -head.factory_weight * weight[rows],
                ones,
            )
            logits = self._program.forward_head(
                self._z[rows], self._taps[rows], self._program.derive(without, head, memory.classes)
            ).logits
            own[rows] = (whole[rows] - logits)[:, :classes]
        return own


def _fold_of(y: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) fold of every sample; classes are spread evenly."""
    fold = np.empty(len(y), np.int64)
    fold[np.argsort(y, kind="stable")] = np.arange(len(y)) % _FOLDS
    return fold


__all__ = ["FACTORY_SET", "FactorySamples"]
