"""Discrete key-value bottleneck that counts (Traeuble et al., ICML 2023, arXiv 2207.11240).

    i_c(z) = argmin_j |q_c(z) - K[c, j]|^2      q_c, K in whole numbers, frozen
    N[c, i_c(z), y] += 1                        what a label does: C whole numbers change
    logits_k(z) = 1 / C sum_c sum_j a[c, j](z) log((N[c, j, k] + s) / (n_k + s J))

a[c, .](z) weighs the ``reads`` nearest keys that are in use: softmax of -|q_c - K[c, j]|^2 / T_c.
Keys that no label ever met are left out, as in the paper.

Where we differ. The paper trains values V[c, j] by gradient descent from zero (label smoothing .1,
rate .3); at its settings they are proportional to counts minus their mean (a test trains both
ways), so that we count: one pass, in any order, no optimiser, and exact in whole numbers.
Bottlenecks are merged by adding N, and a sample is forgotten from C bytes, the receipt, when its
features are long gone. The read-out is the logarithm of frequencies (naive Bayes over books).
Queries are whitened with frozen factory statistics, and soft reads of a few keys are ours (an
option of the released code weighs all alike).

Queries are rounded to the grid of their keys, whole numbers up to 127, so that distances are exact
in float32: equal rounded queries choose the same key on every engine. A query that lies on a
rounding edge may still be rounded otherwise elsewhere; the receipt says where a sample was counted.
Weights of labels are rounded to whole numbers, half to even: evidence is whole samples, whatever a
factory weighs.

Not kept sparse. Counting only the m most frequent classes of a key forgets which counts it dropped:
no exact forgetting, and merging depends on the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.device.numerics.log_likelihood import STEP
from edgeadapt.errors import InputError
from edgeadapt.host.contracts import (
    INACTIVE,
    Arrays,
    Dims,
    FactoryData,
    Values,
    as_tensors,
    class_tensors,
    derived,
    evidence,
    frozen,
    one_hot,
)
from edgeadapt.host.methods.heads.key_value.keys import Start, moving_average_keys
from edgeadapt.host.methods.heads.key_value.split import (
    Split,
    Whitening,
    split,
    split_factory,
    split_tensors,
    whiten,
    whitening_factory,
    whitening_tensors,
)
from edgeadapt.host.methods.heads.projected_means import MOMENT, added_means, mean_numerics
from edgeadapt.host.methods.heads.projection import Projection
from edgeadapt.host.methods.whole_bytes import byte_tensor, from_bytes, to_bytes

_FAR = 1e9
_MOST = 127


@dataclass(frozen=True)
class KeyValueBottleneck:
    """State: ``counts.labels`` (C, J, K) int32 with receipts of C bytes, and ``mean.moment`` for
    novelty scores. Frozen: keys of a byte per entry and what makes queries.

    Args:
        books: C.
        pairs: J, keys per book, at most 256.
        key_dim: d, at most 256; 0 with ``chunk`` takes width / C.
        projection: features to fewer dimensions first; None for the features themselves.
        whitening: ``none``, ``scale`` (unit variance per column), ``total`` (principal components
            of unit variance) or ``within`` (unit scatter within the factory's classes).
        split: how queries are made, see ``split.py``.
        reads: keys read per book in a prediction; 1 is the nearest.
        softness: T_c, relative to the median squared distance of a factory query to a key.
        smoothing, informative: of the read-out, see ``log_frequency``.
        start, epochs: of the moving averages that place the keys, see ``keys.py``.
        rows: factory rows they are placed on, at most.
        compact: keep the means that novelty scores read in the space of the projection, see
            ``projected_means``.
        seed: of the split, the keys and the choice of rows.

    Raises:
        InputError: sizes out of range.
    """

    books: int = 32
    pairs: int = 128
    key_dim: int = 16
    projection: Projection | None = None
    whitening: Whitening = "total"
    split: Split = "signs"
    reads: int = 4
    softness: float = 0.05
    smoothing: float = 0.5
    informative: float = 0.0
    start: Start = "kmeans"
    epochs: int = 10
    rows: int = 4096
    compact: bool = False
    seed: int = 0
    name: ClassVar[str] = "key_value"

    def __post_init__(self) -> None:
        for label, low, high in (
            ("books", 1, 4096),
            ("pairs", 1, 256),
            ("key_dim", 0, 256),
            ("reads", 1, self.pairs),
            ("epochs", 0, 1000),
            ("rows", 1, 1 << 20),
        ):
            value = getattr(self, label)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InputError(
                    f"{label} of a key-value bottleneck is a whole number from {low} to {high}, got"
                    f" {value!r}"
                )
        for label, value in (("smoothing", self.smoothing), ("softness", self.softness)):
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"{label} of a key-value bottleneck is above 0, got {value!r}")
        if not (np.isfinite(self.informative) and self.informative >= 0):
            raise InputError(f"informative is 0 or more, got {self.informative!r}")
        for label, chosen, allowed in (
            ("whitening", self.whitening, get_args(Whitening)),
            ("split", self.split, get_args(Split)),
            ("start", self.start, get_args(Start)),
        ):
            if chosen not in allowed:
                raise InputError(f"{label} is one of {', '.join(allowed)}, got {chosen!r}")
        if self.key_dim == 0 and self.split != "chunk":
            raise InputError("key_dim 0 stands for width / books, which only split 'chunk' knows")
        if self.compact and self.projection is None:
            raise InputError("compact means need a projection")

    # -- what there is -----------------------------------------------------------------------------
    def _width(self, features: int) -> int:
        return self.projection.width if self.projection else features

    def _key_dim(self, features: int) -> int:
        return self.key_dim or max(1, self._width(features) // self.books)

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        width, d = self._width(dims.features), self._key_dim(dims.features)
        shape = (self.books, self.pairs, dims.slots)
        kept = width if self.compact else dims.features
        return [
            TensorSpec(
                name="counts.labels",
                dtype="int32",
                shape=shape,
                kind="evidence",
                merge="add",
                class_axis=2,
                bound=1e9,
                receipt=True,
            ),
            evidence(MOMENT, (kept + 1, dims.slots), 1),
            *(self.projection.tensors(dims.features) if self.projection else []),
            *whitening_tensors(self.whitening, width),
            *split_tensors(self.split, width, self.books, d),
            byte_tensor("keys.table", (self.books, self.pairs, d)),
            frozen("keys.offset", (self.books, d)),
            frozen("keys.grain", (self.books, 1)),
            frozen("keys.sharpness", (self.books, 1)),
            TensorSpec(
                name="values.log",
                dtype="int8",
                shape=shape,
                kind="derived",
                class_axis=2,
                persist="never",
            ),
            derived("values.used", (self.books, self.pairs), None, bound=1.0),
            *class_tensors(dims),
            *([derived("head.place", (dims.slots, width), 0)] if self.compact else []),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        """Keys from the features alone, then the counts of the labelled samples."""
        if len(data.z) == 0 or not np.isfinite(data.z).all():
            raise InputError(
                f"keys are placed on finite factory features, at least one; got {data.z.shape}"
            )
        fixed = self._place(data)
        state = {
            spec.name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
            for spec in self.tensors(data.dims)
            if spec.kind == "evidence"
        }
        learned = tuple(state)
        state |= {name: torch.from_numpy(value) for name, value in fixed.items()}
        for first in range(0, len(data.y), 1024):
            rows = slice(first, first + 1024)
            z, y, weight = (
                torch.from_numpy(part[rows]) for part in (data.z, data.y, data.sample_weight)
            )
            state |= self.redeem(state, self.receipt(state, z), y, torch.ones_like(weight))
            state |= self.learn_means(state, z, y, weight)
        return {**fixed, **{name: state[name].numpy() for name in learned}}

    def _place(self, data: FactoryData) -> Arrays:
        """The frozen tensors; no label is read unless the whitening is ``within``."""
        rng = np.random.default_rng(self.seed)
        rows = np.sort(rng.permutation(len(data.z))[: self.rows])
        some = FactoryData(
            data.z[rows], data.taps[rows], data.y[rows], data.sample_weight[rows], data.slots
        )
        fixed: Arrays = self.projection.factory(some) if self.projection else {}
        z = torch.from_numpy(some.z)
        x = self.projection.apply(as_tensors(fixed), z) if self.projection else z
        fixed |= whitening_factory(self.whitening, x.numpy().astype(np.float64), some)
        fixed |= split_factory(
            self.split, x.shape[1], self.books, self._key_dim(data.dims.features), self.seed
        )
        queries = self._queries(as_tensors(fixed), z, self._key_dim(data.dims.features)).numpy()
        offset = queries.mean(axis=0, dtype=np.float64).astype(np.float32)
        keys = moving_average_keys(
            queries - offset, self.pairs, start=self.start, epochs=self.epochs, seed=self.seed
        ).keys
        largest = np.abs(keys).max(axis=(1, 2), initial=0.0)[:, None]
        grain = np.where(largest > 1e-12, _MOST / np.maximum(largest, 1e-12), 1.0).astype(
            np.float32
        )
        table = np.rint(keys * grain[:, :, None]).astype(np.int8)
        exact = table.astype(np.float32)
        placed = np.clip(np.rint((queries - offset) * grain), -_MOST, _MOST)
        medians = [
            np.median(
                (placed[:, c, None] - exact[c][None, :64]) ** 2
                @ np.ones(exact.shape[2], np.float32)
            )
            for c in range(self.books)
        ]
        sharpness = (1.0 / (self.softness * np.maximum(np.array(medians), 1.0))).astype(np.float32)[
            :, None
        ]
        return {
            **fixed,
            "keys.table": to_bytes(table),
            "keys.offset": offset,
            "keys.grain": grain,
            "keys.sharpness": sharpness,
        }

    # -- from features to keys ---------------------------------------------------------------------
    def _queries(self, t: Values, z: Tensor, key_dim: int) -> Tensor:
        x = self.projection.apply(t, z) if self.projection else z
        return split(self.split, t, whiten(self.whitening, t, x), self.books, key_dim)

    def _distances(self, t: Values, z: Tensor) -> Tensor:
        """(B, C, J) |K|^2 - 2 q . K: squared distances but for what all keys of a book share. Whole
        numbers below 2^24, so exact in any order of sums.
        """
        keys = from_bytes(t["keys.table"])
        queries = self._queries(t, z, keys.shape[2])
        placed = torch.clamp(
            torch.round((queries - t["keys.offset"]) * t["keys.grain"]), -float(_MOST), float(_MOST)
        )
        products = torch.matmul(placed.permute(1, 0, 2), keys.permute(0, 2, 1)).permute(1, 0, 2)
        return (keys * keys).sum(dim=2)[None] - 2.0 * products

    def receipt(self, t: Values, z: Tensor) -> Tensor:
        """(B, C) uint8: the nearest key of every book, in use or not; the first of equals."""
        return self._distances(t, z).argmin(dim=2).to(torch.uint8)

    def redeem(
        self, t: Values, receipt: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        slots = t["counts.labels"].shape[2]
        chosen = (receipt.to(torch.int64)[:, :, None] == torch.arange(self.pairs)[None, None]).to(
            torch.float32
        )
        labels = one_hot(y, slots) * torch.round(sample_weight)[:, None]
        added = torch.matmul(chosen.flatten(1).T, labels).reshape(self.books, self.pairs, slots)
        return {"counts.labels": t["counts.labels"] + torch.round(added).to(torch.int32)}

    def learn(
        self, t: Values, z: Tensor, taps: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        return {
            **self.redeem(t, self.receipt(t, z), y, sample_weight),
            **self.learn_means(t, z, y, sample_weight),
        }

    def learn_means(
        self, t: Values, z: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        """``mean.moment`` alone: what labels of the factory condition teach the novelty scores."""
        return added_means(self.projection, t, z, y, sample_weight, compact=self.compact)

    # -- reading -----------------------------------------------------------------------------------
    def predict(self, t: Values, z: Tensor) -> Tensor:
        distance = self._distances(t, z) + (1.0 - t["values.used"]) * _FAR
        nearest = torch.amin(distance, dim=2, keepdim=True)
        limit = (
            -torch.topk(-distance, self.reads, dim=2).values[:, :, -1:]
            if self.reads > 1
            else nearest
        )
        share = torch.exp((nearest - distance) * t["keys.sharpness"]) * (distance <= limit).to(
            torch.float32
        )
        share = share / share.sum(dim=2, keepdim=True)
        values = t["values.log"].to(torch.float32)
        logits = torch.matmul(share.flatten(1), values.flatten(0, 1)) * (STEP / self.books)
        return logits + (t["head.active"] - 1.0) * -INACTIVE

    def numerics(self) -> list[NumericSpec]:
        counted = NumericSpec(
            numeric="log_frequency",
            reads=("counts.labels",),
            writes=("values.log", "values.used", "head.active"),
            arguments={"smoothing": self.smoothing, "informative": self.informative},
        )
        means = NumericSpec(numeric="class_mean", reads=(MOMENT,), writes=("head.mean",))
        return [counted, *mean_numerics(self.projection, means, compact=self.compact)]


def stored_bytes(specs: list[TensorSpec]) -> dict[str, int]:
    """Bytes in memory by kind of tensor: ``frozen``, ``evidence``, ``derived``."""
    sizes = dict.fromkeys(("frozen", "evidence", "derived"), 0)
    for spec in specs:
        sizes[spec.kind] += int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
    return sizes


__all__ = ["KeyValueBottleneck", "stored_bytes"]
