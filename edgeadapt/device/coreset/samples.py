"""What a selector chooses from, and the one interface of all selectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_SUM = 1e-2  # how far a row of probabilities may be from 1


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled features of a pool, N at least 1.

    Attributes:
        z: (N, D) features, finite. y: (N,) class slots, 0 or more.
        p: (N, K) probabilities of the current head, rows sum to 1; None where there is no head. The
            difficulty experts read them.
        weight: (N,) how many samples of the stream a row stands for, 0 or more and not all 0; ones
            if not given. Averages that a selection is to match are weighted by it.
        blank: (K,) probabilities for an input without content, a constant of the model; the
            grounding expert reads it.

    Raises:
        InputError: an empty pool, shapes that do not fit, or values that are not finite or out of
            range.

    >>> pool = Samples(np.eye(3), np.array([0, 0, 2]))
    >>> pool.slots, pool.classes.tolist(), len(pool)
    (3, [0, 2], 3)
    """

    z: F32
    y: I64
    p: F64 | None = None
    weight: F64 = field(default_factory=lambda: np.zeros(0))
    blank: F64 | None = None

    def __post_init__(self) -> None:
        z, y = np.asarray(self.z, np.float32), np.asarray(self.y)
        if z.ndim != 2 or not z.size:
            raise InputError(
                "samples: features must be (N, D) with at least one row and one column; got"
                f" {z.shape}"
            )
        count = len(z)
        if y.shape != (count,) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
            raise InputError(
                f"samples: y must be {count} class slots, whole numbers from 0; got {y.dtype}"
                f" {y.shape}"
            )
        weight = np.asarray(self.weight, np.float64) if np.size(self.weight) else np.ones(count)
        if (
            weight.shape != (count,)
            or not np.isfinite(weight).all()
            or weight.min() < 0
            or not weight.sum()
        ):
            raise InputError(
                f"samples: weight must be {count} finite numbers of at least 0, not all 0; got"
                f" shape {weight.shape}"
            )
        if not np.isfinite(z).all():
            raise InputError(
                f"samples: {int((~np.isfinite(z)).any(axis=1).sum())} of {count} rows have features"
                " that are not finite"
            )
        p = None if self.p is None else _probabilities(self.p, count, "p")
        if p is not None and y.max() >= p.shape[1]:
            raise InputError(f"samples: y goes up to {int(y.max())}, p has {p.shape[1]} classes")
        blank = self.blank
        if blank is not None:
            blank = _probabilities(np.atleast_2d(np.asarray(blank)), 1, "blank")[0]
            if p is None or len(blank) != p.shape[1]:
                has = "is not given" if p is None else f"has {p.shape[1]}"
                raise InputError(f"samples: blank has {len(blank)} classes, p {has}")
        checked = {"z": z, "y": y.astype(np.int64), "weight": weight, "p": p, "blank": blank}
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.z)

    @property
    def slots(self) -> int:
        """K."""
        return self.p.shape[1] if self.p is not None else int(self.y.max()) + 1

    @property
    def classes(self) -> I64:
        """Class slots that are present, ascending."""
        return np.unique(self.y)

    def take(self, rows: I64) -> Samples:
        p = None if self.p is None else self.p[rows]
        return Samples(self.z[rows], self.y[rows], p, self.weight[rows], self.blank)

    def content_order(self) -> I64:
        """(N,) an order of the rows that what they hold decides, not where they stand: a selector
        that works in it does not depend on arrival.
        """
        parts = [self.z, self.y, self.weight, *([] if self.p is None else [self.p])]
        bytes_of = [np.ascontiguousarray(p).view(np.uint8).reshape(len(self), -1) for p in parts]
        rows = np.hstack(bytes_of)
        digests = [blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
        return np.argsort(np.array(digests, "V8").view(np.uint64), kind="stable").astype(np.int64)


class Selector(Protocol):
    """Chooses at most ``budget`` rows of a pool."""

    name: ClassVar[str]

    def select(self, samples: Samples, budget: int, seed: int) -> I64:
        """Distinct rows, ascending: min(budget, N) of them, fewer only where the selector says so.

        Raises:
            InputError: a budget below 1, or what the selector needs is not in ``samples``.
        """
        ...


def checked(budget: int) -> int:
    """The budget, if it is one.

    Raises:
        InputError: it is below 1 or no whole number.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or budget < 1:
        raise InputError(f"a budget is a whole number of samples, at least 1; got {budget!r}")
    return int(budget)


def _probabilities(given: NDArray[np.floating], count: int, name: str) -> F64:
    p = np.asarray(given, np.float64)
    if p.ndim != 2 or len(p) != count or not p.shape[1]:
        raise InputError(
            f"samples: {name} must have {count} rows of K probabilities; got {p.shape}"
        )
    if not np.isfinite(p).all() or p.min() < -_SUM or np.abs(p.sum(axis=1) - 1.0).max() > _SUM:
        raise InputError(f"samples: the rows of {name} must be probabilities that sum to 1")
    return np.clip(p, 0.0, 1.0)
