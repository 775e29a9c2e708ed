"""Labelled features in a training and a test part, one shape for every stream."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pool:
    """Features and labels of one data set.

    Attributes:
        z: (N, D) float32. y: (N,) int64, an index into ``classes``. test_z, test_y: the part that
        is reported on. group: (N,) int64, the domain or subject of a row; 0 everywhere if there is
        only one. groups: their names. unit: (N,) int64; rows of one unit are near copies (an emoji
        in four styles) and stay on one side of a split. test_unit: the same for the test part: rows
        of one unit are no independent evidence (windows of one recording). source: what was
        measured, for the report.
    """

    name: str
    z: F32
    y: I64
    test_z: F32
    test_y: I64
    classes: tuple[str, ...]
    group: I64
    test_group: I64
    source: str
    groups: tuple[str, ...] = ("all",)
    unit: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    test_unit: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        for name, labels in (("unit", self.y), ("test_unit", self.test_y)):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.arange(len(labels)))
            if getattr(self, name).shape != labels.shape:
                raise InputError(
                    f"pool {self.name!r}: {name} has shape {getattr(self, name).shape} for"
                    f" {len(labels)} rows"
                )
        for z, y, group in (
            (self.z, self.y, self.group),
            (self.test_z, self.test_y, self.test_group),
        ):
            if z.ndim != 2 or z.dtype != np.float32 or not len(z) or not np.isfinite(z).all():
                raise InputError(
                    f"pool {self.name!r}: features must be finite float32 (N, D) with N at least 1;"
                    f" got {z.dtype} {z.shape}"
                )
            if (
                y.shape != (len(z),)
                or group.shape != (len(z),)
                or y.min() < 0
                or y.max() >= len(self.classes)
            ):
                raise InputError(
                    f"pool {self.name!r}: {len(z)} features, labels {y.shape} from {y.min()} to"
                    f" {y.max()}, {len(self.classes)} classes"
                )

    @property
    def dim(self) -> int:
        return int(self.z.shape[1])

    def only(self, classes: I64 | list[int]) -> Pool:
        """The rows of some classes, relabelled in the order given."""
        new = np.full(len(self.classes), -1, np.int64)
        new[np.asarray(classes)] = np.arange(len(classes))
        rows, test_rows = new[self.y] >= 0, new[self.test_y] >= 0
        return replace(
            self,
            z=self.z[rows],
            y=new[self.y[rows]],
            group=self.group[rows],
            unit=self.unit[rows],
            test_z=self.test_z[test_rows],
            test_y=new[self.test_y[test_rows]],
            test_group=self.test_group[test_rows],
            test_unit=self.test_unit[test_rows],
            classes=tuple(self.classes[int(k)] for k in classes),
        )

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Pool:
        """Fewer training rows, the same test part."""
        return replace(
            self,
            z=self.z[chosen],
            y=self.y[chosen],
            group=self.group[chosen],
            unit=self.unit[chosen],
        )

    def held_out(self, share: float = 0.15, seed: int = 9) -> NDArray[np.bool_]:
        """(N,) a share of the units of every class, at least one: the training rows that choices
        are made on.

        Raises:
            InputError: a share outside (0, 1), or a class with a single unit.
        """
        if not 0.0 < share < 1.0:
            raise InputError(
                f"the held-out share must be between 0 and 1, both excluded; got {share}"
            )
        rng = np.random.default_rng(seed)
        held = np.zeros(len(self.y), bool)
        for k in np.unique(self.y):
            units = np.unique(self.unit[self.y == k])
            if len(units) < 2:
                raise InputError(
                    f"pool {self.name!r}: class {self.classes[k]!r} has one unit; holding some out"
                    " needs at least two"
                )
            wanted = min(max(1, round(share * len(units))), len(units) - 1)
            held |= np.isin(self.unit, rng.permutation(units)[:wanted]) & (self.y == k)
        return held

    def validation(self, share: float = 0.15, seed: int = 9) -> Pool:
        """The training rows in two parts, the second in place of the test part: what is chosen is
        chosen here, and the test part stays unseen.

        Raises:
            InputError: a share outside (0, 1), or a class with a single unit.
        """
        held = self.held_out(share, seed)
        source = f"{self.source}; {share:.0%} of the training part held out"
        return replace(
            self.rows(~held),
            test_z=self.z[held],
            test_y=self.y[held],
            test_group=self.group[held],
            test_unit=self.unit[held],
            source=source,
        )
