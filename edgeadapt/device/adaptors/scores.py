"""Scores of adaptors before a single step is taken.

Every score reads the probe features F (N, P) of a candidate: the features, at its factory state,
whose linear read-out its training sets. A reconstruction: Daniels et al. (EAR, arXiv 2308.02084,
section 3.3) search adaptors without training by a spectral analysis whose exact form was not
reachable, so the four scores below are ours or others'; ``edgeadapt bench search`` measures how
they rank.

    spectral     exp(-sum_i q_i ln q_i) tr(S_b) / tr(S_w), with q the eigenvalues of the centred
                 F F^T over their sum: of EAR's family
    naswot       ln |det K|, with K_nm the number of columns in which the codes F_n > 0 and F_m > 0
                 agree: Mellor et al., ICML 2021, eq. 2
    ridge        minus the leave-one-out loss of base + a closed-form ridge from F to what the base
                 gets wrong: ours
    parameters   the size: the trivial one
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

Array = NDArray[np.floating]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
PENALTIES = (1e2, 3e1, 1e1, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Of the mean eigenvalue of the centred F F^T; the one with the least leave-one-out loss is taken,
the largest of equals.
"""
TIED = 192
"""Columns of a tied correction that are fitted; of more, a random subspace is."""
_UNUSED = -1e8  # a logit below is an empty class slot
_JITTER = 1e-6
_OWN_SHARE = 1.0 - 1e-6  # of a fitted value that may come from the sample itself


@dataclass(frozen=True, eq=False)
class Candidate:
    """One adaptor.

    Attributes:
        probe: (N, P) finite, its features of the labelled samples. state_bytes: of its parameters.
        latency_ms: what correcting one sample takes, measured or declared.
        read_out: (P, K) of a linear head, for a candidate that trains one number per column of its
            probe and nothing else (scale and shift): what it can do to the logits is diag(gain)
            seen through the head, far less than a read-out of its own. None for all others.
    """

    name: str
    probe: Array
    state_bytes: int
    latency_ms: float = 0.0
    read_out: Array | None = None


@dataclass(frozen=True)
class LeaveOneOut:
    """Each sample judged by a fit to the others.

    Attributes:
        accuracy, loss: of base + correction; loss is the squared distance of the class shares from
            the one-hot label, 0 to 2.
        base_accuracy, base_loss: of the base alone.
        penalty: the one chosen.
        samples: that counted, repeated ones once.
    """

    accuracy: float
    loss: float
    base_accuracy: float
    base_loss: float
    penalty: float
    samples: int

    @property
    def gain(self) -> float:
        """Loss won over the base, in the size of accuracy and steadier: every sample moves it."""
        return self.base_loss - self.loss


def spectral(probe: Array, y: I64) -> float:
    """Effective rank of the centred features times the between-class over the within-class scatter;
    0 for one class or constant features.

    Args:
        probe: (N, P). y: (N,) class slots.

    Raises:
        InputError: see ``search.choose``.
    """
    features = _features(probe, y)
    values = np.linalg.eigvalsh(_small_gram(features))
    values = values[values > 1e-12 * max(values.max(initial=0.0), 1e-300)]
    if not len(values) or len(np.unique(y)) < 2:
        return 0.0
    share = values / values.sum()
    total = float((features**2).sum())
    between = sum(
        int((y == k).sum()) * float((features[y == k].mean(axis=0) ** 2).sum())
        for k in np.unique(y)
    )
    within = max(total - between, 1e-9 * total)
    return float(np.exp(-(share * np.log(share)).sum()) * between / within)


def naswot(probe: Array) -> float:
    """ln |det K| of the kernel of equal codes, a small multiple of the identity added so that
    samples with equal codes leave it finite.

    Args:
        probe: (N, P), not centred: the sign is the code.
    """
    checked = _checked(probe)
    codes = np.where(checked > 0, 1.0, -1.0)
    kernel = 0.5 * (checked.shape[1] + codes @ codes.T)
    kernel.flat[:: len(kernel) + 1] += _JITTER * checked.shape[1]
    return float(np.linalg.slogdet(kernel)[1])


def ridge(
    probe: Array, logits: Array, y: I64, *, scale: float = 1.0, read_out: Array | None = None
) -> LeaveOneOut:
    """Leave-one-out accuracy and loss of ``softmax(scale logits) + [F, 1] B``, B the ridge from F
    to onehot(y) - softmax(scale logits).

    With F centred, F F^T = U diag(s) U^T and H = 1 1^T / N + U diag(s / (s + lambda)) U^T, what the
    others say of sample n about a target R is R_n - (R - H R)_n / (1 - H_nn). It is exact, the
    intercept is not penalised, and every lambda costs one product. Samples that repeat another's
    features and label count once: left out, their copy would answer for them.

    With a read-out W the correction of class k is sum_p b_p F_np W_pk + c_k: one vector b for all
    classes, so a sample leaves with all its classes, by (I - H_nn)^-1 of its block. Beyond ``TIED``
    columns, b is taken from a random subspace of that many.

    Args:
        probe: (N, P).
        logits: (N, K) of the base, slots without a class at -1e9.
        y: (N,) class slots.
        scale: inverse temperature of the logits. read_out: (P, K), see :class:`Candidate`.

    Raises:
        InputError: see ``search.choose``.
    """
    features = _checked(probe)
    shares, target, once, kept = _base(logits, y, scale, features)
    if read_out is None:
        return _leave_one_out(features[once], shares[once], target[once])
    weights = np.asarray(read_out, np.float64)
    if weights.shape != (features.shape[1], np.shape(logits)[1]) or not np.isfinite(weights).all():
        raise InputError(
            f"the read-out is finite and has a row for each of {features.shape[1]} probe columns"
            f" and a column for each slot, got {weights.shape}"
        )
    return _leave_one_out_tied(features[once], weights[:, kept], shares[once], target[once])


SCORES: dict[str, Callable[[Candidate, Array, I64, float], float]] = {
    "ridge": lambda c, logits, y, scale: (
        -ridge(c.probe, logits, y, scale=scale, read_out=c.read_out).loss
    ),
    "spectral": lambda c, logits, y, scale: spectral(c.probe, y),
    "naswot": lambda c, logits, y, scale: naswot(c.probe),
    "parameters": lambda c, logits, y, scale: float(c.state_bytes),
}
"""``SCORES[name](candidate, logits, y, scale)``: the larger, the better."""


def _checked(probe: Array) -> F64:
    features = np.asarray(probe, np.float64)
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise InputError(f"probe features are (N, P) of at least two samples, got {features.shape}")
    if not np.isfinite(features).all():
        raise InputError("probe features are finite numbers; got NaN or infinity")
    return features


def _features(probe: Array, y: I64) -> F64:
    features = _checked(probe)
    if np.shape(y) != (len(features),):
        raise InputError(f"one label for each of {len(features)} samples, got {np.shape(y)}")
    centred: F64 = features - features.mean(axis=0)
    return centred


def _small_gram(features: F64) -> F64:
    """The smaller of F F^T and F^T F: they share their eigenvalues."""
    gram: F64 = (
        features @ features.T if features.shape[1] > len(features) else features.T @ features
    )
    return gram


def shares_of(logits: Array, y: I64, scale: float) -> F64:
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or np.shape(y) != (len(values),) or len(values) < 2:
        raise InputError(
            f"logits are (N, K) with a label each, of at least two samples; got {values.shape} and"
            f" {np.shape(y)}"
        )
    if not np.isfinite(values).all() or not 0.0 < scale < np.inf:
        raise InputError(
            f"logits and their scale are finite and the scale is positive, got scale {scale}"
        )
    if y.min() < 0 or y.max() >= values.shape[1]:
        raise InputError(f"labels are slots 0 to {values.shape[1] - 1}, got {y.min()} to {y.max()}")
    shares = np.exp(scale * (values - values.max(axis=1, keepdims=True)))
    result: F64 = shares / shares.sum(axis=1, keepdims=True)
    return result


def _base(logits: Array, y: I64, scale: float, features: F64) -> tuple[F64, F64, I64, I64]:
    """Class shares, one-hot labels, the rows that count, and the slots that have a class."""
    shares = shares_of(logits, y, scale)
    if len(shares) != len(features):
        raise InputError(f"{len(features)} probe features and {len(shares)} logits")
    kept = np.union1d(np.flatnonzero((np.asarray(logits) > _UNUSED).any(axis=0)), y)
    target = (y[:, None] == kept[None, :]).astype(np.float64)
    once: I64 = np.unique(np.column_stack([features, y]), axis=0, return_index=True)[1].astype(
        np.int64
    )
    return shares[:, kept], target, np.sort(once), kept.astype(np.int64)


def _leave_one_out(features: F64, shares: F64, target: F64) -> LeaveOneOut:
    count, truth = len(features), target.argmax(axis=1)
    base_loss = float(((shares - target) ** 2).sum(axis=1).mean())
    base_accuracy = float((shares.argmax(axis=1) == truth).mean())
    if count < 2:
        return LeaveOneOut(base_accuracy, base_loss, base_accuracy, base_loss, PENALTIES[0], count)
    basis, values = _eigen(features - features.mean(axis=0))
    wrong = target - shares
    mean = wrong.mean(axis=0)
    inside, squared = basis.T @ (wrong - mean), basis**2
    found = []
    for penalty in PENALTIES:
        part = _part(values, penalty)
        own = np.minimum(1.0 / count + squared @ part, _OWN_SHARE)
        off = (wrong - mean - basis @ (part[:, None] * inside)) / (1.0 - own)[:, None]
        found.append(_judge(shares + wrong - off, target, base_accuracy, base_loss, penalty))
    return min(found, key=lambda left_out: left_out.loss)


def _leave_one_out_tied(features: F64, weights: F64, shares: F64, target: F64) -> LeaveOneOut:
    count, classes = target.shape
    base_loss = float(((shares - target) ** 2).sum(axis=1).mean())
    base_accuracy = float((shares.argmax(axis=1) == target.argmax(axis=1)).mean())
    if count < 2:
        return LeaveOneOut(base_accuracy, base_loss, base_accuracy, base_loss, PENALTIES[0], count)
    centred = features - features.mean(axis=0)
    columns = centred.shape[1]
    turn = (
        np.random.default_rng(0).standard_normal((columns, TIED)) / np.sqrt(columns)
        if columns > TIED
        else np.eye(columns)
    )
    # (N, K, TIED)
    design = np.stack([centred @ (weights[:, [k]] * turn) for k in range(classes)], axis=1)
    basis, values = _eigen(design.reshape(count * classes, -1))
    wrong = target - shares
    mean = wrong.mean(axis=0)
    inside, blocks = basis.T @ (wrong - mean).ravel(), basis.reshape(count, classes, -1)
    found = []
    for penalty in PENALTIES:
        part = _part(values, penalty)
        off = wrong - mean - (basis @ (part * inside)).reshape(count, classes)
        own = (blocks * part) @ blocks.transpose(0, 2, 1) + np.eye(classes) / count
        off = np.linalg.solve(np.eye(classes) - _OWN_SHARE * own, off[..., None])[..., 0]
        found.append(_judge(shares + wrong - off, target, base_accuracy, base_loss, penalty))
    return min(found, key=lambda left_out: left_out.loss)


def _part(values: F64, penalty: float) -> F64:
    part: F64 = values / (values + penalty * values.sum() / max(len(values), 1))
    return part


def _judge(
    others: F64, target: F64, base_accuracy: float, base_loss: float, penalty: float
) -> LeaveOneOut:
    loss = float(((others - target) ** 2).sum(axis=1).mean())
    return LeaveOneOut(
        float((others.argmax(axis=1) == target.argmax(axis=1)).mean()),
        loss,
        base_accuracy,
        base_loss,
        penalty,
        len(target),
    )


def _eigen(features: F64) -> tuple[F64, F64]:
    """U (N, r), s (r,) with F F^T = U diag(s) U^T and s above rounding."""
    wide = features.shape[1] > len(features)
    values, vectors = np.linalg.eigh(_small_gram(features))
    kept: NDArray[np.bool_] = values > 1e-10 * max(float(values.max(initial=0.0)), 1e-300)
    values, vectors = values[kept], vectors[:, kept]
    basis: F64 = vectors if wide else features @ (vectors / np.sqrt(values))
    return basis, values


__all__ = [
    "PENALTIES",
    "SCORES",
    "Array",
    "Candidate",
    "LeaveOneOut",
    "naswot",
    "ridge",
    "shares_of",
    "spectral",
]
