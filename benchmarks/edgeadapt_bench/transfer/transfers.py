"""One transfer: what the factory had, what the field brings, what is judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """Labelled features in the order in which they arrive.

    Attributes:
        z: (N, D) float32. y: (N,) int64, an index into the classes of the transfer.
        unit: (N,) int64; rows of one unit (an emoji, a recording) are near copies of each other.
    """

    z: F32
    y: I64
    unit: I64

    def __post_init__(self) -> None:
        if self.z.ndim != 2 or self.y.shape != (len(self.z),) or self.unit.shape != self.y.shape:
            raise InputError(
                f"features {self.z.shape} for labels {self.y.shape} and units {self.unit.shape}"
            )

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, chosen: Rows) -> Part:
        return Part(self.z[chosen], self.y[chosen], self.unit[chosen])

    def then(self, other: Part) -> Part:
        """This part, and the other after it."""
        return Part(
            np.concatenate([self.z, other.z]),
            np.concatenate([self.y, other.y]),
            np.concatenate([self.unit, other.unit]),
        )


@dataclass(frozen=True, eq=False)
class Transfer:
    """From a factory to a field.

    Attributes:
        name: ``factory-field-encoder``.
        data: the data set that the units number.
        source: what was measured, for the report.
        classes: names; the first ``known`` are the factory's, the others come in the field.
        factory: the calibration set. stream: of known classes, in the field, in order of arrival.
        test: of known classes, in the field, judged.
        clean: the same kind of units in the factory's condition, judged too, in their natural
            order.
        new, new_test: of the new classes in the field, to arrive and to be judged; or None.
        has_groups: units are groups of rows in time order (recordings), not single samples.
    """

    name: str
    data: str
    source: str
    classes: tuple[str, ...]
    known: int
    factory: Part
    stream: Part
    test: Part
    clean: Part
    new: Part | None = None
    new_test: Part | None = None
    has_groups: bool = False

    def __post_init__(self) -> None:
        learned = [part for part in (self.factory, self.stream, self.new) if part is not None]
        judged = [part for part in (self.test, self.clean, self.new_test) if part is not None]
        taught = set(np.concatenate([part.unit for part in learned]).tolist())
        if shared := taught & self.judged_units:
            raise InputError(f"transfer {self.name!r}: {len(shared)} units are learned and judged")
        if shared := set(self.factory.unit.tolist()) & set(self.stream.unit.tolist()):
            raise InputError(
                f"transfer {self.name!r}: {len(shared)} units are in the factory and in the field"
            )
        for part in (self.factory, self.stream, self.test, self.clean):
            if not len(part) or part.y.max() >= self.known:
                raise InputError(
                    f"transfer {self.name!r}: a part of the known classes is empty or has others"
                )
        if any(not np.isfinite(part.z).all() for part in (*learned, *judged)):
            raise InputError(f"transfer {self.name!r}: features that are not finite")

    @property
    def judged_units(self) -> set[int]:
        """Units of everything that is judged."""
        parts = [part for part in (self.test, self.clean, self.new_test) if part is not None]
        return set(np.concatenate([part.unit for part in parts]).tolist())

    @property
    def units(self) -> set[int]:
        """Units of everything."""
        parts = [part for part in (self.factory, self.stream, self.new) if part is not None]
        return self.judged_units | set(np.concatenate([part.unit for part in parts]).tolist())


def capped(y: I64, rows: Rows, per_class: int, rng: np.random.Generator) -> Rows:
    """At most ``per_class`` random rows of every class, in ascending order."""
    drawn = [rng.permutation(rows[y[rows] == k])[:per_class] for k in np.unique(y[rows])]
    return np.sort(np.concatenate(drawn))


def held(y: I64, share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) a share of every class, drawn with a seed that belongs to the data and to no run."""
    rng = np.random.default_rng([seed, 17])
    chosen = np.zeros(len(y), bool)
    for k in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == k))
        chosen[rows[: round(share * len(rows))]] = True
    return chosen


def relabelled(y: I64, classes: Rows) -> I64:
    """(N,) the place of every label in ``classes``, -1 for those that are not there."""
    place = np.full(int(max(y.max(), classes.max())) + 1, -1, np.int64)
    place[classes] = np.arange(len(classes))
    result: I64 = place[y]
    return result
