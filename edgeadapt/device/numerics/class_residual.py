"""What the novelty score ``relative_residual`` needs of the class means, once per label and not per
batch.

With class means m_k (D,), their columns M_k (d,), the centre mu (D,) and the span T (d, w)::

    inner_k = M_k T T^T
    offset_k = [|M_k|^2, |m_k - mu|^2 - |M_k T|^2]
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def class_residual(
    head_mean: NDArray[Any], shift_mean: NDArray[Any], centre: NDArray[Any], span: NDArray[Any]
) -> tuple[F32, F32]:
    """The class means inside the span, and the parts of distances to them that no sample changes.

    Args:
        head_mean: (K, D).
        shift_mean: (K, d or more), whitened columns first.
        centre: (D,).
        span: (d, w).

    Returns:
        (K, d) and (K, 2), as above. Inactive classes have what follows from means of zero.
    """
    exact = np.asarray(span, np.float64)
    columns = np.asarray(shift_mean, np.float64)[:, : len(exact)]
    centred = np.asarray(head_mean, np.float64) - centre
    spanned = columns @ exact
    offset = np.column_stack(
        [(columns**2).sum(axis=1), (centred**2).sum(axis=1) - (spanned**2).sum(axis=1)]
    )
    return (spanned @ exact.T).astype(np.float32), offset.astype(np.float32)
