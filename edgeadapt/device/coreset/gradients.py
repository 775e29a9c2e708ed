"""Gradients of the last layer in closed form, as two factors: no backward pass, and no (N, K (D +
1)) matrix.

For a softmax head with cross-entropy, or a linear head with half the squared error, the gradient of
sample i with respect to the weights (K, D + 1) is::

    g_i = u_i (x) h_i,   u_i = p_i - onehot(y_i),   h_i = [z_i; 1]
    <g_i, g_j> = <u_i, u_j> (<z_i, z_j> + 1),        |g_i| = |u_i| sqrt(|z_i|^2 + 1)

Source: Maharana et al., Adapt-infinity, ICLR 2025 (arXiv 2410.10636), selects by gradients of a
large model, a backward pass per sample and a random projection; the closed form for a light head on
frozen features is our reconstruction of it.

>>> u, z = residuals(np.array([[0.25, 0.75]]), np.array([1])), np.array([[3.0, 4.0]], np.float32)
>>> float(gradient_kernel(u, z, u, z)[0, 0]), round(float(gradient_norms(u, z)[0]) ** 2, 9)
(3.25, 3.25)
"""

from __future__ import annotations

import numpy as np

from edgeadapt.device.coreset.samples import F32, F64, I64


def residuals(p: F64, y: I64) -> F64:
    """(N, K) p - onehot(y)."""
    u = np.array(p, np.float64)
    u[np.arange(len(y)), y] -= 1.0
    return u


def gradient_norms(u: F64, z: F32) -> F64:
    """(N,) |u_i| sqrt(|z_i|^2 + 1)."""
    squared = (u**2).sum(axis=1) * ((np.asarray(z, np.float64) ** 2).sum(axis=1) + 1.0)
    return np.asarray(np.sqrt(squared))


def gradient_kernel(u: F64, z: F32, other_u: F64, other_z: F32) -> F64:
    """(N, M) inner products of the gradients of N samples with those of M others; exact, from the
    two factors.
    """
    features = np.asarray(z, np.float64) @ np.asarray(other_z, np.float64).T
    return np.asarray((u @ other_u.T) * (features + 1.0))


def gradient_mean(u: F64, z: F32, share: F64) -> F64:
    """(K, D + 1) sum_i share_i g_i: one matrix of the size of the head, whatever N is."""
    weighted = u * share[:, None]
    return np.hstack([weighted.T @ z, weighted.sum(axis=0)[:, None]])


def gradient_products(u: F64, z: F32, total: F64) -> F64:
    """(N,) <g_i, total> = u_i . (total h_i), total (K, D + 1)."""
    return np.asarray((u * (z @ total[:, :-1].T + total[:, -1])).sum(axis=1))


def gradient_sketch(u: F64, z: F32, width: int = 128, seed: int = 0) -> F32:
    """(N, width) r_i = (A u_i) o (B h_i) / sqrt(width), A and B of seeded signs: E <r_i, r_j> =
    <g_i, g_j>.

    An unbiased product of two sign projections. Its inner products scatter (about <g, g> /
    sqrt(width)), so it serves k-means, and whoever needs a single inner product takes
    ``gradient_kernel``.
    """
    rng = np.random.default_rng(seed)
    a = rng.choice(np.array([-1.0, 1.0], np.float32), (u.shape[1], width))
    b = rng.choice(np.array([-1.0, 1.0], np.float32), (z.shape[1] + 1, width))
    sketch = (np.asarray(u, np.float32) @ a) * (z @ b[:-1] + b[-1]) / np.sqrt(np.float32(width))
    return np.asarray(sketch, np.float32)
