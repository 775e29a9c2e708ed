"""A head that counts: the smallest method with receipts. Made for the tests of forgetting, not for
accuracy.

logits_k(z) = mean_c log((N[c, i_c(z), k] + 1/2) / (sum_k' N[c, i_c(z), k'] + K/2)),
        i_c(z) = argmin_j |z_c - K[c, j]|^2

with z cut into C parts z_c. Its evidence N is integers, its receipt is C bytes. (Traeuble et al.,
ICML 2023, is where codebooks with counts come from; nothing of that paper is claimed here.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.host.contracts import (
    Arrays,
    Dims,
    FactoryData,
    Values,
    class_moment,
    evidence,
    frozen,
    head_tensors,
    one_hot,
)


@dataclass(frozen=True)
class CountingCodes:
    books: int = 4
    codes: int = 8
    seed: int = 0
    name: ClassVar[str] = "counting_codes"

    def tensors(self, dims: Dims) -> list[TensorSpec]:
        counts = TensorSpec(
            name="codes.counts",
            dtype="int32",
            shape=(self.books, self.codes, dims.slots),
            kind="evidence",
            merge="add",
            class_axis=2,
            bound=1e9,
            receipt=True,
        )
        keys = frozen("codes.keys", (self.books, self.codes, dims.features // self.books))
        return [
            keys,
            counts,
            evidence("mean.moment", (dims.features + 1, dims.slots), 1),
            *head_tensors(dims.features, dims),
        ]

    def factory(self, data: FactoryData) -> Arrays:
        rows = np.random.default_rng(self.seed).choice(len(data.y), self.codes, replace=False)
        keys = np.ascontiguousarray(
            data.z[rows].reshape(self.codes, self.books, -1).transpose(1, 0, 2)
        )
        zero = {
            "codes.counts": torch.zeros((self.books, self.codes, data.slots), dtype=torch.int32),
            "mean.moment": torch.zeros(data.dims.features + 1, data.slots),
        }
        z, y = torch.from_numpy(data.z), torch.from_numpy(data.y)
        t = {"codes.keys": torch.from_numpy(keys), **zero}
        # whole samples, whatever the factory weighs
        counted = self.redeem(t, self.receipt(t, z), y, torch.ones(len(y)))
        moment = class_moment(z, y, torch.from_numpy(data.sample_weight), data.slots)
        return {
            "codes.keys": keys,
            "codes.counts": counted["codes.counts"].numpy(),
            "mean.moment": moment.numpy(),
        }

    def receipt(self, t: Values, z: Tensor) -> Tensor:
        parts = z.reshape(-1, self.books, 1, z.shape[1] // self.books)
        distance = ((parts - t["codes.keys"][None]) ** 2).sum(dim=3)
        return distance.argmin(dim=2).to(torch.uint8)

    def redeem(
        self, t: Values, receipt: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        slots = t["codes.counts"].shape[2]
        # (B, C, J)
        chosen = (receipt.to(torch.int64)[:, :, None] == torch.arange(self.codes)[None, None]).to(
            torch.float32
        )
        labels = one_hot(y, slots) * sample_weight[:, None]
        added = torch.matmul(chosen.flatten(1).T, labels).reshape(self.books, self.codes, slots)
        return {"codes.counts": t["codes.counts"] + torch.round(added).to(torch.int32)}

    def learn(
        self, t: Values, z: Tensor, taps: Tensor, y: Tensor, sample_weight: Tensor
    ) -> dict[str, Tensor]:
        moment = t["mean.moment"] + class_moment(z, y, sample_weight, t["mean.moment"].shape[1])
        return {**self.redeem(t, self.receipt(t, z), y, sample_weight), "mean.moment": moment}

    def predict(self, t: Values, z: Tensor) -> Tensor:
        counts = t["codes.counts"].to(torch.float32)
        slots = counts.shape[2]
        # (C, J, K)
        reads = torch.log((counts + 0.5) / (counts.sum(dim=2, keepdim=True) + 0.5 * slots))
        chosen = (
            self.receipt(t, z).to(torch.int64)[:, :, None] == torch.arange(self.codes)[None, None]
        ).to(torch.float32)
        logits = torch.matmul(chosen.flatten(1), reads.reshape(-1, slots)) / self.books
        return logits + (t["head.active"] - 1.0) * 1e9

    def numerics(self) -> list[NumericSpec]:
        return [
            NumericSpec(
                numeric="nearest_mean",
                reads=("mean.moment",),
                writes=("head.weight", "head.mean", "head.active"),
            )
        ]


if __name__ == "__main__":
    import sys

    from feature_vectors import NAMES, WIDTH, samples

    from edgeadapt import host

    x, names = samples(400, [0, 1, 2, 3], 1)
    labels = np.array([NAMES.index(name) for name in names])
    host.export(
        sys.argv[1],
        host.Identity(WIDTH),
        calibration=(x, labels),
        classes=NAMES[:4],
        class_slots=8,
        guard_per_class=20,
        head=CountingCodes(),
        name="counting",
        stress=False,
    )
