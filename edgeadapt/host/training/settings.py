"""What a run was asked for. A checkpoint keeps it, and is continued with nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from edgeadapt.errors import InputError
from edgeadapt.host.training.augmentation import Augment

OptimiserName = Literal["sgd", "adamw", "lamb"]
PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda"]

DEFAULT_LR: dict[str, float] = {"sgd": 0.2, "adamw": 4e-3, "lamb": 1e-2}
DEFAULT_WEIGHT_DECAY: dict[str, float] = {"sgd": 5e-4, "adamw": 0.02, "lamb": 0.02}


@dataclass(frozen=True)
class Settings:
    """All that decides the weights: ``data`` and ``validation`` are fingerprints of the samples,
    ``ranks`` the number of processes.

    ``lr`` and ``weight_decay`` are numbers here, ``precision`` and ``device`` no longer ``"auto"``.

    Raises:
        InputError: a value is out of range.
    """

    epochs: int
    batch: int
    optimiser: OptimiserName
    lr: float
    momentum: float
    weight_decay: float
    augment: Augment
    patience: int
    precision: str
    device: str
    ranks: int
    seed: int
    data: str
    validation: str = ""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise InputError(
                f"training needs epochs >= 1 and batch >= 2; got {self.epochs} and {self.batch}"
            )
        if not (0 < self.lr < math.inf and 0 <= self.momentum < 1 and 0 <= self.weight_decay < 1):
            given = f"{self.lr}, {self.momentum}, {self.weight_decay}"
            raise InputError(
                f"training needs lr > 0, and momentum and weight_decay in [0, 1); got {given}"
            )
        require_one_of("augment", self.augment, Augment)
        if self.patience < 0:
            raise InputError(
                "patience is a number of epochs, 0 to switch early stopping off; got"
                f" {self.patience}"
            )
        if self.batch % self.ranks or self.batch < 2 * self.ranks:
            raise InputError(
                f"{self.ranks} processes share every batch: it must be {2 * self.ranks} or a larger"
                f" multiple of {self.ranks}; got {self.batch}"
            )


def require_one_of(key: str, value: object, allowed: object) -> None:
    """Refuse a name that is not one of a ``Literal``.

    Raises:
        InputError: it is not.
    """
    if value not in get_args(allowed):
        raise InputError(f"{key} must be one of {', '.join(get_args(allowed))}; got {value!r}")


def rate_and_decay(
    optimiser: str, lr: float | None, weight_decay: float | None
) -> tuple[float, float]:
    """Peak learning rate and weight decay: those given, else the defaults of the optimiser.

    Raises:
        InputError: no such optimiser.
    """
    require_one_of("optimiser", optimiser, OptimiserName)
    return DEFAULT_LR[optimiser] if lr is None else lr, (
        DEFAULT_WEIGHT_DECAY[optimiser] if weight_decay is None else weight_decay
    )


__all__ = [
    "DEFAULT_LR",
    "DEFAULT_WEIGHT_DECAY",
    "DeviceName",
    "OptimiserName",
    "PrecisionName",
    "Settings",
    "rate_and_decay",
    "require_one_of",
]
