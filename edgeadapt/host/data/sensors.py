"""Labelled sensor data: windows of signals (N, C, L), or vectors of measurements (N, F), as float32
in units of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.host.data.images import read_npz
from edgeadapt.host.data.labelled import Labelled
from edgeadapt.inputs import check_finite


@dataclass(frozen=True, eq=False)
class SensorData(Labelled):
    """Labelled signals or vectors.

    Args:
        x: (N, C, L) float32, C channels of L values over time; or (N, F) float32, F measurements.
            Finite.
        y: (N,) int64, an index into ``classes``.
        classes: distinct names.
        groups: (N,) group of every sample, or None, as in ``Labelled``.

    Raises:
        InputError: shapes, dtypes or labels do not fit together, or a value is not finite; the
            message has it.
    """

    x: NDArray[np.float32]
    noun: ClassVar[str] = "sample"

    def _check_inputs(self) -> None:
        if self.x.dtype != np.float32 or self.x.ndim not in (2, 3) or 0 in self.x.shape[1:]:
            raise InputError(
                f"sensor data must be float32 (N, C, L) or (N, F); got {self.x.dtype}"
                f" {self.x.shape}"
            )
        check_finite(self.x, "sensor data")

    @property
    def channels(self) -> int:
        """C of signals, F of vectors."""
        return int(self.x.shape[1])


def load_sensors(path: str | Path, groups: str | None = None) -> SensorData:
    """Signals or vectors from one ``.npz`` with ``x`` float32, ``y`` whole numbers, and optionally
    ``classes`` and ``groups``.

    ``groups`` names the array of the groups: None is ``"groups"`` where it is there, ``""`` none.

    float64 and float16 are converted. Whole numbers are refused, as a device takes floats: convert
    them where they are recorded, in the units that the device will have.

    Raises:
        InputError: missing or damaged file, missing array, or arrays that do not fit together; the
            message names the file.
    """
    x, y, classes, of_row = read_npz(path, "float32 signals or vectors", groups)
    try:
        # what float32 cannot hold is not finite, and is named as such
        with np.errstate(over="ignore"):
            return SensorData(
                x.astype(np.float32) if x.dtype in (np.float64, np.float16) else x,
                y,
                classes,
                of_row,
            )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


__all__ = ["SensorData", "load_sensors"]
