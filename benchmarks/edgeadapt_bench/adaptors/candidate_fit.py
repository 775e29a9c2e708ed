"""Training an adaptor in a bench: the loss and the update of the method's own ``fit``, with torch's
tape instead of a functional gradient.

The tape costs a twentieth of what tracing a gradient anew in every step costs; the numbers are
those of ``fit``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeadapt.host.contracts import FactoryData
from edgeadapt.host.methods.adaptors.family import Training
from edgeadapt.host.methods.adaptors.trained import TrainedAdaptor
from edgeadapt_bench.adaptors.search_streams import Source

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Tensors = dict[str, Tensor]


def factory(candidate: TrainedAdaptor, source: Source) -> Tensors:
    """Its factory values."""
    data = FactoryData(
        source.z, np.zeros((len(source.z), 0), np.float32), source.y, source.weight, source.slots
    )
    return {name: torch.from_numpy(value) for name, value in candidate.factory(data).items()}


def train(
    candidate: TrainedAdaptor,
    source: Source,
    head: Tensors,
    z: F32,
    y: I64,
    how: Training,
    *,
    seed: int = 0,
    watch: Callable[[int, Tensors], None] | None = None,
) -> Tensors:
    """The candidate's tensors after ``how.steps`` steps over shuffled rows, the head's tensors as
    they are.

    Args:
        z, y: labelled rows.
        seed: of their order.
        watch: called after each step with its number and the tensors.
    """
    t = factory(candidate, source)
    rng, queue = np.random.default_rng(seed), np.zeros(0, np.int64)
    features = torch.from_numpy(z)
    labels = torch.from_numpy(y)
    weight = torch.ones(how.batch)
    rate = torch.tensor(how.learning_rate)
    for step in range(how.steps):
        while len(queue) < how.batch:
            queue = np.append(queue, rng.permutation(len(y)))
        rows, queue = torch.from_numpy(queue[: how.batch]), queue[how.batch :]
        parameters = {
            name: value.requires_grad_() for name, value in candidate.parameters(t).items()
        }
        loss = candidate.loss(
            parameters, head, features[rows], labels[rows], weight, source.head.predict
        )
        gradient = torch.autograd.grad(loss, list(parameters.values()))
        with torch.no_grad():
            t = candidate.moved(
                t, parameters, dict(zip(parameters, gradient, strict=True)), weight, rate
            )
        if watch is not None:
            watch(step + 1, t)
    return {name: value.detach() for name, value in t.items()}


def adapted_logits(
    candidate: TrainedAdaptor, source: Source, head: Tensors, t: Tensors, z: F32
) -> F32:
    """(N, K) of the head on corrected features."""
    with torch.no_grad():
        logits: F32 = source.head.predict(head, candidate.correct(t, torch.from_numpy(z))).numpy()
    return logits
