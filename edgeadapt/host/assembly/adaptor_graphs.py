"""One adaptor of a bundle's family as three graphs: what a condition that trained it reads through,
a step of its training, what the search reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeadapt.errors import CompileError
from edgeadapt.host.assembly.examples import Examples, Ports
from edgeadapt.host.compile import CompiledGraph
from edgeadapt.host.compile.behaviour import LEARNING_STEPS
from edgeadapt.host.compile.cases import draw, separable
from edgeadapt.host.contracts import Adapts

_RATES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
_BATCH = 8


@dataclass(frozen=True)
class AdaptorGraphs:
    """``read`` answers what the shared read graph answers; ``fit`` is one step; ``probe`` changes
    nothing.
    """

    read: CompiledGraph
    fit: CompiledGraph
    probe: CompiledGraph


def compile_adaptor(
    adaptor: Adapts,
    read: Callable[[Ports, Ports, Adapts], tuple[Ports, Ports]],
    predict: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    examples: Examples,
) -> AdaptorGraphs:
    """Compile and check the graphs of one adaptor.

    Args:
        read: correction, adaptor, head and scores.
        predict: the head, which training goes through and leaves as it is.
        examples: values of every tensor, the adaptor's included.
    """
    name = adaptor.name

    def embedded(generator: torch.Generator, batch: int) -> Ports:
        return {"z": examples.features(generator, batch)["z"]}

    def labelled(generator: torch.Generator, batch: int) -> Ports:
        y = examples.labels(generator, batch)
        return {
            **embedded(generator, batch),
            "y": y,
            "sample_weight": torch.rand(batch, generator=generator) + 0.5,
        }

    def step(ports: Ports, t: Ports) -> tuple[Ports, Ports]:
        return adaptor.fit(
            t, ports["z"], ports["y"], ports["sample_weight"], ports["learning_rate"], predict
        )

    rate = _rate_that_learns(step, labelled, examples.tensors, name)
    return AdaptorGraphs(
        read=examples.compile(f"read_{name}", lambda p, t: read(p, t, adaptor), examples.features),
        fit=examples.compile(
            f"fit_{name}",
            step,
            lambda g, b: {**labelled(g, b), "learning_rate": rate},
            is_step=True,
        ),
        probe=examples.compile(
            f"probe_{name}", lambda p, t: ({"hidden": adaptor.probe(t, p["z"])}, {}), embedded
        ),
    )


def _rate_that_learns(
    step: Callable[[Ports, Ports], tuple[Ports, Ports]],
    labelled: Callable[[torch.Generator, int], Ports],
    tensors: Ports,
    name: str,
) -> Tensor:
    """The largest learning rate at which torch halves the loss of the toy problem that the compiler
    asks of the graph.

    A head with a steep read-out takes small steps; the compiler checks the graph, and has to be
    given a rate at which there is something to see.
    """
    ports = separable(draw(labelled, 400, _BATCH), ("z",)) | {"sample_weight": torch.ones(_BATCH)}
    for value in _RATES:
        rate, state, losses = torch.tensor(value), dict(tensors), []
        for _ in range(LEARNING_STEPS):
            outputs, new = step({**ports, "learning_rate": rate}, state)
            state |= new
            losses.append(float(outputs["loss"]))
        if losses[-1] <= 0.4 * losses[0]:
            return rate
    raise CompileError(
        f"fit_{name}: no learning rate from {_RATES[0]} to {_RATES[-1]} halves the loss of a"
        f" separable toy problem in {LEARNING_STEPS} steps"
    )
