"""What a user could pick instead, on the same features: a frozen head, and the same head refitted
with labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.numerics.linalg import NUMERICS


class RefittedHead:
    """The bundle's ridge head, fitted from scratch on labelled features of one condition: the
    oracle of a report.

    It sees the uncorrected features of the factory encoder and as many labels as it is given.
    """

    def __init__(
        self,
        z: NDArray[np.float32],
        y: NDArray[np.int64],
        slots: int,
        *,
        penalty: float = 1e-3,
        balance: float = 1.0,
    ) -> None:
        h = np.concatenate([z, np.ones((len(z), 1), np.float32)], axis=1).astype(np.float64)
        target = np.eye(slots)[y]
        moment = h.T @ target
        weight, _, active = NUMERICS["balanced_ridge"](
            h.T @ h, moment, moment, penalty=penalty, balance=balance
        )
        self._weight = np.asarray(weight, np.float64)
        self._active = np.asarray(active) > 0

    def predict(self, z: NDArray[np.float32]) -> NDArray[np.int64]:
        """(N, D) features -> (N,) class slots."""
        logits = z.astype(np.float64) @ self._weight[:-1] + self._weight[-1]
        logits[:, ~self._active] = -np.inf
        slots: NDArray[np.int64] = logits.argmax(axis=1)
        return slots

    def accuracy(self, z: NDArray[np.float32], y: NDArray[np.int64]) -> float:
        return float((self.predict(z) == y).mean())


def recovery(accuracy: float, frozen: float, oracle: float) -> float:
    """(accuracy - frozen) / (oracle - frozen): 0 for doing nothing, 1 for the labelled oracle."""
    return (accuracy - frozen) / max(oracle - frozen, 1e-9)


def as_slots(labels: Any, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Class names -> slots in ``names``."""
    table = {name: slot for slot, name in enumerate(names)}
    return np.array([table[label] for label in labels], np.int64)
