"""Labelled data of any kind: inputs, labels and class names, chosen, split and identified alike for
images and for sensors.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError, UnknownClassError
from edgeadapt.host.data.class_numbers import are_names, class_numbers
from edgeadapt.host.data.group_split import held_out_rows

Labels = NDArray[np.int64]
Data = TypeVar("Data", bound="Labelled")


@dataclass(frozen=True, eq=False)
class Labelled:
    """What ``ImageData`` and ``SensorData`` share. A kind of data says what one input is called and
    which arrays it takes.

    Args:
        x: (N, ...) inputs.
        y: (N,) class names, or int64, an index into ``classes``; kept as the latter.
        classes: distinct names.
        groups: (N,) text or whole numbers: the recording, person, day or site of every input, in
            which rows are in the order of time; None: inputs are independent.

    Raises:
        InputError: shapes, dtypes or labels do not fit together; the message has the offending
            value.
        UnknownClassError: a name that is no class.
    """

    x: NDArray[Any]
    y: Labels
    classes: tuple[str, ...]
    groups: NDArray[Any] | None = None
    noun: ClassVar[str] = "input"

    def __post_init__(self) -> None:
        self._check_inputs()
        if are_names(named := np.asarray(self.y)):
            object.__setattr__(self, "y", class_numbers(named, self.classes))
        if self.y.dtype != np.int64 or self.y.shape != (len(self.x),):
            raise InputError(
                f"labels must be int64 ({len(self.x)},), one per {self.noun}; got {self.y.dtype}"
                f" {self.y.shape}"
            )
        if self.groups is not None and (
            self.groups.shape != (len(self.x),) or self.groups.dtype.kind not in "iuU"
        ):
            raise InputError(
                f"groups must be text or whole numbers ({len(self.x)},), one per {self.noun}; got"
                f" {self.groups.dtype} {self.groups.shape}; without groups they are independent (in"
                ' a recipe: data.groups = "")'
            )
        if len(set(self.classes)) != len(self.classes):
            raise InputError(f"a class is named twice: {', '.join(self.classes)}")
        if len(self.y) and not (int(self.y.min()) >= 0 and int(self.y.max()) < len(self.classes)):
            raise InputError(
                f"labels run from {self.y.min()} to {self.y.max()}, but there are"
                f" {len(self.classes)} classes"
            )

    def _check_inputs(self) -> None:
        raise NotImplementedError

    @property
    def channels(self) -> int:
        """Channels of one input, as a network counts them."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.x)

    @property
    def counts(self) -> tuple[int, ...]:
        """Inputs per class, in the order of ``classes``."""
        return tuple(np.bincount(self.y, minlength=len(self.classes)).tolist())

    def require_every_class(self) -> None:
        """Data one can train on.

        Raises:
            InputError: no input, fewer than two classes, or a class without an input.
        """
        if len(self.classes) < 2 or not len(self.x):
            raise InputError(
                f"needs {self.noun}s of at least two classes; got {len(self.x)} of"
                f" {', '.join(self.classes) or 'no class'}"
            )
        empty = [name for name, count in zip(self.classes, self.counts, strict=True) if not count]
        if empty:
            raise InputError(f"class {empty[0]!r} has no {self.noun}; leave it out with only(...)")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of names, shape, inputs and labels."""
        digest = hashlib.sha256(repr((self.classes, self.x.shape)).encode())
        digest.update(np.ascontiguousarray(self.x).data)
        digest.update(np.ascontiguousarray(self.y).data)
        return digest.hexdigest()

    def take(self: Data, rows: NDArray[Any]) -> Data:
        """The chosen rows (indices or a mask), with all class names kept."""
        return replace(self, x=self.x[rows], y=self.y[rows], groups=self._groups_of(rows))

    def _groups_of(self, rows: NDArray[Any]) -> NDArray[Any] | None:
        return None if self.groups is None else self.groups[rows]

    def only(self: Data, classes: Sequence[str]) -> Data:
        """The inputs of some classes, relabelled in the order given; the order of inputs is kept.

        Raises:
            UnknownClassError: a name that this data does not have.
            InputError: no name at all, or a name given twice.
        """
        for name in classes:
            if name not in self.classes:
                raise UnknownClassError(
                    f"no class called {name!r}; the data has {', '.join(self.classes)}"
                )
        if not classes:
            raise InputError(f"choose at least one class of {', '.join(self.classes)}")
        to_new = np.full(len(self.classes), -1, np.int64)
        for new, name in enumerate(classes):
            to_new[self.classes.index(name)] = new
        labels = to_new[self.y]
        chosen = labels >= 0
        return replace(
            self,
            x=self.x[chosen],
            y=labels[chosen],
            classes=tuple(classes),
            groups=self._groups_of(chosen),
        )

    def split(
        self: Data, fraction: float, seed: int = 0, *, held: int = 1, kept: int = 1
    ) -> tuple[Data, Data]:
        """``(rest, held out)``: a random ``fraction`` of every class, at least one input of each,
        is held out.

        With ``groups`` they are whole groups, none of which is on both sides: of every class at
        least ``held`` are held out and at least ``kept`` stay.

        Raises:
            InputError: the fraction is not between 0 and 1, or a class has a single input, or is in
                too few groups.
        """
        if not 0.0 < fraction < 1.0:
            raise InputError(
                f"the held-out fraction must be between 0 and 1, both excluded; got {fraction}"
            )
        if self.groups is not None:
            rows_out = held_out_rows(
                self.y, self.groups, fraction, seed, self.classes, held=held, kept=kept
            )
            return self.take(~rows_out), self.take(rows_out)
        draw = np.random.default_rng(seed)
        held_out = np.zeros(len(self.y), bool)
        for index, name in enumerate(self.classes):
            rows = np.flatnonzero(self.y == index)
            if len(rows) == 1:
                raise InputError(
                    f"class {name!r} has one {self.noun}; holding some out needs at least two"
                )
            if len(rows):
                wanted = min(max(1, round(fraction * len(rows))), len(rows) - 1)
                held_out[draw.permutation(rows)[:wanted]] = True
        return self.take(~held_out), self.take(held_out)


def require_memory(size: int, what: str) -> None:
    """Refuse data that would not fit, before any of it is decoded.

    It may take a quarter of the machine's memory: classes chosen, a part held out and channels put
    first are a copy each.

    Args:
        size: bytes of the decoded array. what: what it is, for the message.

    Raises:
        InputError: more than a quarter of the memory; the message has both numbers.
    """
    whole = physical_memory()
    if size > whole // 4:
        raise InputError(
            f"{what}: takes {size / 2**30:.1f} GiB of memory once decoded; this machine has"
            f" {whole / 2**30:.1f} GiB, of which data may take a quarter: choose a smaller size,"
            " fewer samples, or a larger machine"
        )


def physical_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


__all__ = ["Labelled", "Labels", "physical_memory", "require_memory"]
