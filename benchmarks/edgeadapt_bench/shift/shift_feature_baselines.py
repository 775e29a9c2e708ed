"""Published label-free methods that leave the encoder alone: they correct its features, or the
answers of a batch.

    LAME            y <- softmax(log p + W y) over a batch, W the 5 nearest
                        Boudiaf et al., CVPR 2022, arXiv 2201.05718
    T3A             prototypes of the 100 features of least entropy per class
                        Iwasawa and Matsuo, NeurIPS 2021
    feature shift   z + (mean_source - mean_stream), a running average of .99
                        Niu et al., ICML 2024, arXiv 2404.01650
    mean and sd     the same with standard deviations, an average of .9
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.numerics.softmax import softmax
from edgeadapt_bench.shift.shift_dataset import Basis

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
NEIGHBOURS, LAME_ROUNDS, KEPT = 5, 100, 100
SLOW, FAST = 0.01, 0.1
PUBLISHED_BATCH = 64


class Lame:
    steps = 0

    def __init__(self, basis: Basis) -> None:
        self.name, self.head = "LAME", basis.head

    def predict(self, x: NDArray[np.uint8], z: F32) -> I64:
        chance = softmax(self.head.logits(z))
        unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        distance = (
            ((unit[:, None] - unit[None]) ** 2).sum(-1)
            if len(z) <= 8
            else 2.0 - 2.0 * unit @ unit.T
        )
        np.fill_diagonal(distance, np.inf)
        affinity = np.zeros((len(z), len(z)), np.float32)
        nearest = np.argsort(distance, axis=1)[:, : min(NEIGHBOURS, len(z) - 1)]
        np.put_along_axis(affinity, nearest, 1.0, axis=1)
        unary = np.log(chance + 1e-10)
        y, energy = chance, math.inf
        for _ in range(LAME_ROUNDS):
            pull = affinity @ y
            y = softmax(unary + pull)
            now = float((y * (np.log(np.maximum(y, 1e-20)) - unary - pull)).sum())
            if abs(now - energy) <= 1e-8 * abs(energy):
                break
            energy = now
        return y.argmax(axis=1).astype(np.int64)


class T3a:
    """The bank begins with the columns of the head."""

    def __init__(self, basis: Basis) -> None:
        self.name, self.steps, self.head = "T3A", 0, basis.head
        self.z = np.ascontiguousarray(basis.head.weight.T)
        logits = basis.head.logits(self.z)
        self.slots, self.entropy = logits.argmax(axis=1), _entropy(softmax(logits))

    def predict(self, x: NDArray[np.uint8], z: F32) -> I64:
        logits = self.head.logits(z)
        self.z = np.concatenate([self.z, z])
        self.slots = np.concatenate([self.slots, logits.argmax(axis=1)])
        self.entropy = np.concatenate([self.entropy, _entropy(softmax(logits))])
        kept = np.concatenate(
            [
                rows[np.argsort(self.entropy[rows], kind="stable")[:KEPT]]
                for rows in (np.flatnonzero(self.slots == k) for k in range(self.head.bias.size))
            ]
        )
        self.z, self.slots, self.entropy = self.z[kept], self.slots[kept], self.entropy[kept]
        unit = self.z / np.maximum(np.linalg.norm(self.z, axis=1, keepdims=True), 1e-12)
        prototypes = unit.T @ np.eye(self.head.bias.size, dtype=np.float32)[self.slots]
        prototypes /= np.maximum(np.linalg.norm(prototypes, axis=0, keepdims=True), 1e-12)
        self.steps += 1
        result: I64 = (z @ prototypes).argmax(axis=1)
        return result


class FeatureMoments:
    """Mean, and with ``is_scaled`` standard deviation, of the stream's features moved back to the
    source's; a running average per 64 images.
    """

    def __init__(self, basis: Basis, rate: float, *, is_scaled: bool) -> None:
        self.name = "mean and sd" if is_scaled else "slow feature shift"
        self.steps = 0
        self.head = basis.head
        self.rate = rate
        self.is_scaled = is_scaled
        self.source = basis.tuning_z.mean(axis=0), basis.tuning_z.var(axis=0)
        self.mean, self.variance = self.source

    def predict(self, x: NDArray[np.uint8], z: F32) -> I64:
        share = 1.0 - (1.0 - self.rate) ** (len(z) / PUBLISHED_BATCH)
        self.mean = self.mean + share * (z.mean(axis=0) - self.mean)
        self.variance = self.variance + share * (
            ((z - self.mean) ** 2).mean(axis=0) - self.variance
        )
        scale = np.sqrt((self.source[1] + 1e-6) / (self.variance + 1e-6)) if self.is_scaled else 1.0
        self.steps += 1
        return (
            self.head.logits(((z - self.mean) * scale + self.source[0]).astype(np.float32))
            .argmax(axis=1)
            .astype(np.int64)
        )


def _entropy(chance: F32) -> F32:
    result: F32 = -(chance * np.log(np.maximum(chance, 1e-12))).sum(axis=1)
    return result
