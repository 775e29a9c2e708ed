"""Features as they are stored, float16, and stored rows as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.storage.rows import EvidenceRow
from edgeadapt.errors import InputError, StateError


def as_stored(z: NDArray[np.float32], taps: NDArray[np.float32]) -> NDArray[np.float16]:
    """(N, D + T) features in the precision they are stored and learned in; one that does not fit
    becomes infinite.
    """
    width = z.shape[1]
    kept = np.empty((len(z), width + taps.shape[1]), np.float16)
    with np.errstate(over="ignore"):
        kept[:, :width] = z
        kept[:, width:] = taps
    return kept


def check_storable(features: Any) -> None:
    """Refuse, before anything changes, features that did not survive :func:`as_stored`."""
    if not np.isfinite(features).all():
        raise InputError(
            "a feature does not fit into float16, the precision evidence is stored in; scale the"
            " features below 65504"
        )


def rows_to_arrays(
    rows: Sequence[EvidenceRow], slots: Mapping[str, int], dim: int
) -> tuple[Any, Any, Any, Any, Any]:
    """Stored rows -> z (N, D), taps (N, T), y, sample_weight, is_factory (N,): what every learn,
    replay and forget uses.
    """
    if len({row.features.size for row in rows}) > 1 or rows[0].features.size < dim:
        raise StateError("evidence rows have features of different widths: the journal is damaged")
    features = np.stack([row.features for row in rows]).astype(np.float32)
    y = np.array([slots[row.label] for row in rows], np.int64)
    weight = np.array([row.weight for row in rows], np.float32)
    is_factory = np.array([row.is_factory for row in rows], np.float32)
    z, taps = np.ascontiguousarray(features[:, :dim]), np.ascontiguousarray(features[:, dim:])
    return z, taps, y, weight, is_factory
