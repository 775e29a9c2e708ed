"""A condition that no linear head can hold beside the factory's: the same classes, mirrored. Made,
not measured.

Classes are +u, -u, +v, -v. Under the mirror x becomes off - x: what was one class looks like the
other, and only the offset tells. A head that is linear would need a product of the two; a
condition's own adaptor turns the features round. A camera whose polarity is switched does this to
an encoder that keeps contrast with its sign.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NAMES = ("plus u", "minus u", "plus v", "minus v")
WIDTH = 12
_RNG = np.random.default_rng(5)
_U, _V, _OFF = np.linalg.qr(_RNG.standard_normal((WIDTH, 3)))[0].T
_MEANS = 3.0 * np.stack([_U, -_U, _V, -_V])


def samples(count: int, seed: int, mirrored: float = 0.0) -> tuple[NDArray[np.float32], list[str]]:
    """``mirrored`` 0 is the factory condition, 1 the mirror; between them the classes fade into
    each other and out again.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(0, len(NAMES), count)
    x = (
        (1.0 - 2.0 * mirrored) * _MEANS[y]
        + 0.6 * rng.standard_normal((count, WIDTH))
        + 2.0 * mirrored * _OFF
    )
    return x.astype(np.float32), [NAMES[slot] for slot in y]


def drifted(count: int, seed: int, share: float) -> tuple[NDArray[np.float32], list[str]]:
    """The offset alone, to a share of it: a drift that takes no class away."""
    x, names = samples(count, seed)
    return (x + 2.0 * share * _OFF).astype(np.float32), names
