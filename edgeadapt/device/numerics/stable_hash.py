"""A hash of a sample's features, the same everywhere, so that nothing depends on when a label came.

Which labels of a class are held out (``held_out.py``), and whose raw inputs are kept follow from
it; random questions follow from the hash of a whole window. Rows with the same features have the
same hash; only among them the order of arrival decides.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray


def stable_hash(features: NDArray[Any], purpose: bytes = b"") -> int:
    """0 .. 2^63 - 1 from the float16 features (D + T,) as they are stored; hashes for another
    purpose (at most 16 bytes) are independent.
    """
    digest = blake2b(
        np.ascontiguousarray(features, "<f2").tobytes(), digest_size=8, person=purpose
    ).digest()
    return int.from_bytes(digest, "little") >> 1
