"""A separable toy: Gaussian classes in orthogonal directions, a novel class, an unused slot and a
changed condition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.errors import InputError
from edgeadapt.host.contracts import Dims, FactoryData

FACTORY_ROWS = 80  # per class
_FACTORY_COUNT = 25.0
# norms: of a class mean, of the noise of a sample; deviation of a tap
_APART, _NOISE, _TAP_NOISE = 4.0, 1.8, 0.5


@dataclass(frozen=True)
class Rows:
    """Samples: z (B, D), taps (B, T), y (B,)."""

    z: Tensor
    taps: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def at(self, rows: Tensor) -> Rows:
        return Rows(self.z[rows], self.taps[rows], self.y[rows])

    def of_class(self, k: int) -> Rows:
        return self.at(torch.nonzero(self.y == k)[:, 0])

    def and_also(self, other: Rows) -> Rows:
        return Rows(
            torch.cat([self.z, other.z]),
            torch.cat([self.taps, other.taps]),
            torch.cat([self.y, other.y]),
        )

    @property
    def ones(self) -> Tensor:
        return torch.ones(len(self.y))


class Toy:
    """Slots 0 .. K - 3 are known at the factory, K - 2 is ``novel``, K - 1 is ``unused``."""

    def __init__(self, dims: Dims) -> None:
        if not 4 <= dims.slots <= dims.features:
            raise InputError(
                f"the toy needs 4 <= slots <= features, got slots = {dims.slots}, features ="
                f" {dims.features}"
            )
        rng = np.random.default_rng(7)
        self.dims = dims
        self.known = tuple(range(dims.slots - 2))
        self.novel = dims.slots - 2
        self.unused = dims.slots - 1
        directions = np.linalg.qr(rng.standard_normal((dims.features, dims.slots)))[0].T
        self._means = _tensor(_APART * directions + 1.0 / np.sqrt(dims.features))
        deviations = np.linspace(0.6, 1.4, dims.features)
        self._deviation = _tensor(deviations * _NOISE / np.sqrt((deviations**2).sum()))
        self._tap_means = _tensor(0.3 * rng.standard_normal((dims.slots, dims.taps)) + 1.0)
        moved = rng.standard_normal(dims.features)
        self._moved = _tensor(3.0 * moved / np.sqrt((moved**2).sum()))

    def rows(self, seed: int, per_class: int, classes: Iterable[int] | None = None) -> Rows:
        """``per_class`` samples of each class, the known ones by default, in random order."""
        generator = torch.Generator().manual_seed(seed)
        y = torch.tensor(
            [k for k in (self.known if classes is None else classes) for _ in range(per_class)]
        )
        y = y[torch.randperm(len(y), generator=generator)]
        z = (
            self._means[y]
            + torch.randn(len(y), self.dims.features, generator=generator) * self._deviation
        )
        taps = self._tap_means[y] + _TAP_NOISE * torch.randn(
            len(y), self.dims.taps, generator=generator
        )
        return Rows(z, taps, y)

    def shifted(self, rows: Rows) -> Rows:
        """The same samples in another condition: every feature and tap moved by the same amount."""
        return Rows(rows.z + self._moved, rows.taps + 4.0 * _TAP_NOISE, rows.y)

    def confused(self, rows: Rows) -> Rows:
        """The same samples in a condition in which class 0 lies where class 1 was."""
        return Rows(rows.z + (self._means[1] - self._means[0]), rows.taps, rows.y)

    def displaced(self, rows: Rows, seed: int) -> Rows:
        """Samples far from every class: each moved in a direction of its own."""
        away = torch.randn(rows.z.shape, generator=torch.Generator().manual_seed(seed))
        return Rows(rows.z + 10.0 * away / away.norm(dim=1, keepdim=True), rows.taps, rows.y)

    def factory_data(self) -> FactoryData:
        rows = self.rows(1, FACTORY_ROWS)
        weight = np.full(len(rows), _FACTORY_COUNT / FACTORY_ROWS, np.float32)
        return FactoryData(
            rows.z.numpy(), rows.taps.numpy(), rows.y.numpy(), weight, self.dims.slots
        )


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
