"""Which expert scores a cluster: the one that spreads the cluster's samples most evenly.

Each score is standardised over the pool and put into 50 equal bins on [-4, 4]; what lies outside
counts in the outermost bins. With q the shares of a cluster's samples in the bins::

    expert*(cluster) = argmax_n H_n,   H_n = -sum_b q_b ln q_b

Source: Maharana et al., ICLR 2025 (arXiv 2410.10636), section 4. The released code standardises
too, but its bins end at four *raw* standard deviations, so the expert of the smallest unit wins
whatever its shape; here an affine change of a score changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeadapt.device.coreset.samples import F64, I64

BINS = 50
REACH = 4.0
_ROUNDING = 1e-9  # of the largest value: a spread below it is rounding, the score is constant


def standardised(score: F64) -> F64:
    """(N,) zero mean and unit deviation; zeros where the score is constant."""
    spread = float(score.std())
    if spread <= _ROUNDING * max(float(np.abs(score).max()), 1e-300):
        return np.zeros(len(score))
    centred: F64 = (score - score.mean()) / spread
    return centred


def bin_entropy(standard: F64) -> float:
    """Nats, 0 .. ln 50, of standardised scores over the fixed bins."""
    place = np.clip(np.floor((standard + REACH) * (BINS / (2.0 * REACH))), 0, BINS - 1)
    q = np.bincount(place.astype(np.int64), minlength=BINS) / max(len(standard), 1)
    q = q[q > 0]
    return float(-(q * np.log(q)).sum())


def choose_experts(scores: Mapping[str, F64], cluster: I64) -> dict[int, str]:
    """Cluster -> name of its expert; the first named of equals."""
    standard = {name: standardised(np.asarray(score, np.float64)) for name, score in scores.items()}
    return {
        int(c): max(standard, key=lambda name: bin_entropy(standard[name][cluster == c]))
        for c in np.unique(cluster)
    }
