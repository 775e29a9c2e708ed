"""The calibration samples of an export, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.host.assembly.calibration import check_counts
from edgeadapt.host.data.class_numbers import class_numbers


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs x (N, ...), class slots y (N,), the number of each one's group (N,) or None, and the
    names of the classes.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    classes: tuple[str, ...]

    @classmethod
    def of(
        cls, calibration: tuple[Any, Any], classes: tuple[str, ...], groups: Sequence[Any] | None
    ) -> Samples:
        """Float64 becomes float32, names of classes and groups become numbers.

        Raises:
            InputError: not one label and group for each input, values that are not finite, or fewer
                than five samples of a class.
            UnknownClassError: a label that is none of ``classes``.
        """
        x, y = np.asarray(calibration[0]), class_numbers(calibration[1], classes)
        if len(x) != len(y) or not len(y):
            raise InputError(
                f"calibration is (inputs (N, ...), labels (N,)), got {x.shape} and {y.shape}"
            )
        if x.dtype == np.float64:
            x = x.astype(np.float32)
        if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
            raise InputError("calibration inputs have values that are not finite")
        check_counts(y, classes)
        if groups is None:
            return cls(x, y, None, classes)
        given = np.asarray(groups)
        if given.shape != (len(y),):
            raise InputError(
                f"groups names the group of each of {len(y)} calibration samples, got shape"
                f" {given.shape}"
            )
        numbers = np.unique(given, return_inverse=True)[1].astype(np.int64)
        return cls(x, y, numbers, classes)
