"""Which recent inputs stay in memory for adaptation: balanced by predicted class, never written to
disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class ReplayBuffer:
    """At most ``capacity`` inputs, balanced by predicted class; a reservoir within a class.

    While there is room every input is kept. Then an input of a class that is not the largest
    replaces a random one of the largest class; an input of the largest class replaces one of its
    own with probability kept / seen. So a long run of one class does not push the others out (Gong
    et al., NOTE, NeurIPS 2022, section 3.2, PBRS).
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self.capacity = capacity
        self._rng = np.random.default_rng(seed)
        self._inputs: list[NDArray[Any]] = []
        self._classes: list[int] = []
        self._distances: list[float] = []
        self._seen: dict[int, int] = {}
        self.refusals = 0  # corrections in a row that were computed from it and not used
        self.fresh = 0  # inputs offered since the user of the memory last reset it

    def __len__(self) -> int:
        return len(self._inputs)

    def add(
        self, inputs: NDArray[Any], classes: NDArray[np.int64], distances: NDArray[np.float32]
    ) -> None:
        """Offer a batch (N, ...) with its predicted class slots (N,) and the distances (N,) of its
        factory features from the classes.
        """
        self.fresh += len(inputs)
        for row, slot, distance in zip(inputs, classes.tolist(), distances.tolist(), strict=True):
            self._seen[slot] = self._seen.get(slot, 0) + 1
            if len(self._inputs) < self.capacity:
                self._inputs.append(row.copy())
                self._classes.append(slot)
                self._distances.append(distance)
                continue
            place = self._place(slot)
            if place is not None:
                self._inputs[place], self._classes[place], self._distances[place] = (
                    row.copy(),
                    slot,
                    distance,
                )

    def _place(self, slot: int) -> int | None:
        counts: dict[int, int] = {}
        for kept in self._classes:
            counts[kept] = counts.get(kept, 0) + 1
        largest = max(counts.values())
        if counts.get(slot, 0) < largest:
            victims = [k for k, n in counts.items() if n == largest]
            victim = victims[int(self._rng.integers(len(victims)))]
        elif self._rng.random() < counts[slot] / self._seen[slot]:
            victim = slot
        else:
            return None
        places = [i for i, kept in enumerate(self._classes) if kept == victim]
        return places[int(self._rng.integers(len(places)))]

    def relabel(self, classes: NDArray[np.int64]) -> None:
        """New predictions for what is kept, in order: an adapted encoder knows the early inputs
        better.
        """
        if len(classes) != len(self._classes):
            raise ValueError(f"{len(self._classes)} inputs are kept, got {len(classes)} classes")
        self._classes = [int(slot) for slot in classes]

    @property
    def mean_distance(self) -> float:
        """Mean distance of what is kept from the classes, as the factory encoder saw it."""
        return float(np.mean(self._distances))

    def inputs(self) -> NDArray[Any]:
        return np.stack(self._inputs)

    @property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self._inputs)
