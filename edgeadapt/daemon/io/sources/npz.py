"""The rows of an ``.npz``, played at a set rate, once or for ever."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from edgeadapt._prepare import prepare
from edgeadapt._sample_files import read_samples
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.stream_sections import NpzSource
from edgeadapt.daemon.io.sources.image_input import takes_frames
from edgeadapt.daemon.io.sources.rate_timer import RateTimer
from edgeadapt.daemon.messages import Arrival, Deliver
from edgeadapt.errors import InputError


class ArrayReplay:
    """Row i is called ``i``, and ``i#2`` when it comes for the second time.

    Rows of the bundle's own shape are inputs as they are; other pictures are brought into its form.
    Where the bundle takes features, a row is ``z``.

    Args:
        classes: names of the ids that ``y`` may hold.
    """

    def __init__(self, settings: NpzSource, spec: InputSpec, classes: Sequence[str] = ()) -> None:
        self.name, self.stream, self.path = settings.name, settings.stream, settings.path
        self._spec, self._rate_hz, self._is_looped = spec, settings.rate_hz, settings.loop
        self._has_labels, self._classes = settings.labels, classes
        self._next = 0

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Play; when it is run again, from where it was.

        Raises:
            InputError: the file cannot be read, or does not fit the bundle.
        """
        x, y = self._read()
        timer = RateTimer(self._rate_hz, stop)
        while not stop.is_set() and (self._is_looped or self._next < len(x)):
            turn, row = divmod(self._next, len(x))
            deliver(
                self._arrival(
                    x[row], y[row] if y else None, f"{row}#{turn + 1}" if turn else str(row)
                )
            )
            self._next += 1
            if (self._is_looped or self._next < len(x)) and not timer.wait():
                return

    def _arrival(self, row: NDArray[Any], label: str | None, name: str) -> Arrival:
        if self._spec.layout == "features":
            return Arrival(self.stream, self.name, features={"z": row}, name=name, label=label)
        return Arrival(
            self.stream,
            self.name,
            row if row.shape == self._spec.shape else prepare(row, self._spec),
            name=name,
            label=label,
        )

    def _read(self) -> tuple[NDArray[Any], list[str]]:
        x, y = read_samples(self.path)
        if x.shape[1:] != self._spec.shape and not takes_frames(self._spec):
            raise InputError(
                f"{self.path}: rows of x have shape {x.shape[1:]}, and the bundle takes"
                f" {self._spec.layout} of shape {self._spec.shape}"
            )
        if not self._has_labels:
            return x, []
        if not y:
            raise InputError(f"{self.path}: has no labels y")
        return x, [self._class_name(value) for value in y]

    def _class_name(self, value: str | int) -> str:
        if isinstance(value, str):
            return value
        if not 0 <= value < len(self._classes):
            raise InputError(
                f"{self.path}: y has the class id {value}, and the bundle has {len(self._classes)}"
                " classes; names are taken too"
            )
        return self._classes[value]


__all__ = ["ArrayReplay"]
