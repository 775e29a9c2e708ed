"""Streaming learners of other libraries, as they come: factory rows, then labels.

    river_softmax    river (BSD-3): StandardScaler | SoftmaxRegression, its default optimiser
    avalanche_slda   Avalanche (MIT): StreamingLDA, Hayes and Kanan 2020, its default shrinkage

Both get features divided by the factory's deviation per column. Neither has a setting that is
chosen here, so neither is part of ``best_of``. Avalanche's package asks for many others that this
class never uses; it is measured where it can be imported.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt_bench.transfer.transfers import F32, I64


class Streaming(Protocol):
    """A learner that is never refitted."""

    def learn(self, z: F32, y: I64) -> None: ...
    def predict(self, z: F32) -> I64: ...


class RiverSoftmax:
    """Raises: RuntimeUnavailable: river is not installed."""

    def __init__(self, dim: int, classes: int) -> None:
        try:
            from river.linear_model import SoftmaxRegression
            from river.preprocessing import StandardScaler
        except ImportError as error:
            raise RuntimeUnavailable(f"{error}: pip install river") from error
        self._model: Any = StandardScaler() | SoftmaxRegression()
        self._names = [str(column) for column in range(dim)]

    def learn(self, z: F32, y: I64) -> None:
        for row, label in zip(z.tolist(), y.tolist(), strict=True):
            self._model.learn_one(dict(zip(self._names, row, strict=True)), label)

    def predict(self, z: F32) -> I64:
        rows = (dict(zip(self._names, row, strict=True)) for row in z.tolist())
        return np.array([self._model.predict_one(row) for row in rows], np.int64)


class AvalancheSlda:
    """Raises: RuntimeUnavailable: avalanche-lib, or something that it imports, is not installed."""

    def __init__(self, dim: int, classes: int) -> None:
        try:
            import torch
            from avalanche.training.supervised.deep_slda import StreamingLDA
        except ImportError as error:
            raise RuntimeUnavailable(f"{error}: pip install avalanche-lib") from error
        self._torch = torch
        self._model: Any = StreamingLDA(
            slda_model=torch.nn.Identity(),
            criterion=None,
            input_size=dim,
            num_classes=classes,
            evaluator=None,
        )

    def learn(self, z: F32, y: I64) -> None:
        for row, label in zip(self._torch.from_numpy(z), self._torch.from_numpy(y), strict=True):
            self._model.fit(row[None], label[None])

    def predict(self, z: F32) -> I64:
        answers: NDArray[np.int64] = (
            self._model.predict(self._torch.from_numpy(z)).argmax(1).numpy()
        )
        return answers


STREAMING = {"river_softmax": RiverSoftmax, "avalanche_slda": AvalancheSlda}
"""Name -> learner."""


def installed() -> tuple[list[str], dict[str, str]]:
    """Names of those that can be imported, and why the others cannot."""
    here, absent = [], {}
    for name, make in STREAMING.items():
        try:
            make(2, 2)
        except RuntimeUnavailable as error:
            absent[name] = str(error)
        else:
            here.append(name)
    return here, absent


def streaming_answers(
    name: str, factory: tuple[F32, I64], labelled: list[tuple[F32, I64]], part: F32, classes: int
) -> list[I64]:
    """Answers for a part (M, D) after the factory's rows and each further piece of labels."""
    scale = np.maximum(factory[0].std(axis=0), 1e-6)
    learner: Streaming = STREAMING[name](part.shape[1], classes)
    learner.learn(factory[0] / scale, factory[1])
    answers = []
    for z, y in labelled:
        if len(y):
            learner.learn(z / scale, y)
        answers.append(learner.predict(part / scale))
    return answers
