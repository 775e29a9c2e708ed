"""Inputs on which a graph is compared with torch: never only the traced ones, since those cannot
show a baked-in value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edgeadapt.errors import CompileError
from edgeadapt.host.compile.trace import Step

MakePorts = Callable[[torch.Generator, int], dict[str, Tensor]]
"""``(generator, batch) -> example ports``; equal generators must give equal examples."""

WEIGHT = "sample_weight"
TRACED_SEED = 0


@dataclass(frozen=True)
class Case:
    """Example ports, and the state they meet.

    ``has_ties`` marks inputs on which discrete outputs may differ between engines. ``state_scale``
    scales the example state down; ``has_moved`` takes the state after a few steps instead.
    """

    label: str
    ports: dict[str, Tensor]
    has_ties: bool = False
    state_scale: float = 1.0
    has_moved: bool = False

    def state(self, tensors: Mapping[str, Tensor], reads: Collection[str]) -> dict[str, Tensor]:
        """The tensors of this case; frozen ones stay as they are. Scaling keeps a Gram matrix
        positive definite.
        """
        if self.state_scale == 1.0:
            return dict(tensors)
        return {
            k: v * self.state_scale if k in reads and v.is_floating_point() else v
            for k, v in tensors.items()
        }


def draw(make_ports: MakePorts, seed: int, batch: int) -> dict[str, Tensor]:
    """Example ports of one seed, also where ``make_ports`` forgets to pass the generator on."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        ports = make_ports(torch.Generator().manual_seed(seed), batch)
    return {
        name: value.detach() if isinstance(value, Tensor) else value
        for name, value in ports.items()
    }


def batched_ports(name: str, make_ports: MakePorts, batch: int) -> tuple[str, ...]:
    """Ports whose leading axis is the batch: those that grow when the batch does.

    Raises:
        CompileError: another axis grows with the batch, or the rank or dtype changes.
    """
    small, large = draw(make_ports, TRACED_SEED, batch), draw(make_ports, TRACED_SEED, batch + 1)
    if list(small) != list(large):
        raise CompileError(
            f"{name}: make_ports gives {list(small)} at batch {batch} and {list(large)} at batch"
            f" {batch + 1}"
        )
    found = []
    for key, value in small.items():
        if not isinstance(value, Tensor):
            raise CompileError(
                f"{name}: the example of port {key!r} is a {type(value).__name__}, not a torch"
                " tensor"
            )
        if value.dtype != large[key].dtype or value.dim() != large[key].dim():
            raise CompileError(f"{name}: port {key} changes rank or dtype with the batch")
        if value.shape == large[key].shape:
            continue
        if value.shape[1:] != large[key].shape[1:] or value.shape[0] != batch:
            raise CompileError(
                f"{name}: port {key} has shape {tuple(value.shape)} at batch {batch}; only its"
                " leading axis may grow"
            )
        found.append(key)
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Subject:
    """A function that is compiled, and what it is tried on.

    Attributes:
        name: of the graph, for messages.
        tensors: example values by name, state and frozen.
        batch: samples of an example.
    """

    name: str
    fn: Step
    make_ports: MakePorts
    tensors: Mapping[str, Tensor]
    batch: int

    @cached_property
    def batched(self) -> tuple[str, ...]:
        """Ports whose leading axis is the batch."""
        return batched_ports(self.name, self.make_ports, self.batch)

    def ports(self, seed: int) -> dict[str, Tensor]:
        """Example ports of one seed."""
        return draw(self.make_ports, seed, self.batch)


def parity_cases(
    make_ports: MakePorts,
    batched: tuple[str, ...],
    batch: int,
    *,
    is_batch_free: bool,
    has_state: bool = True,
) -> list[Case]:
    """At least eight cases: traced, random, and the edges where exporters and engines were seen to
    differ.

    Where the batch is free, four sizes of it take the place of edges that are none: those of float
    inputs where all are integers, and those of the state where a graph reads none.
    """
    first = draw(make_ports, TRACED_SEED, batch)
    floats = tuple(key for key in batched if first[key].is_floating_point() and key != WEIGHT)
    cases = [Case("the traced input", first)]
    cases += [Case(f"random input {seed}", draw(make_ports, seed, batch)) for seed in (1, 2, 3)]
    edges = [
        Case("zeros", _change(draw(make_ports, 4, batch), floats, torch.zeros_like), has_ties=True)
    ]
    edges.append(
        Case("inputs times 30", _change(draw(make_ports, 5, batch), floats, lambda v: v * 30))
    )
    edges.append(
        Case(
            "constant rows",
            _change(draw(make_ports, 6, batch), floats, _constant_rows),
            has_ties=True,
        )
    )
    edges.append(
        Case(
            "nearly constant rows",
            _change(
                draw(make_ports, 12, batch), floats, lambda v: 0.01 * v + 0.99 * _constant_rows(v)
            ),
        )
    )
    cases += edges if floats or not is_batch_free else []
    cases.append(
        Case(
            "one repeated sample",
            _change(draw(make_ports, 7, batch), batched, lambda v: v[:1].expand_as(v).clone()),
        )
    )
    if WEIGHT in first:
        cases.append(
            Case(
                "all sample_weight 0",
                {**draw(make_ports, 8, batch), WEIGHT: torch.zeros_like(first[WEIGHT])},
            )
        )
        half = (torch.arange(first[WEIGHT].shape[0]) % 2).to(first[WEIGHT].dtype)
        cases.append(
            Case(
                "every other sample_weight 0",
                {**draw(make_ports, 9, batch), WEIGHT: half.reshape(first[WEIGHT].shape)},
            )
        )
        cases.append(
            Case(
                "fractional sample_weight",
                {**draw(make_ports, 10, batch), WEIGHT: torch.linspace(0.1, 0.9, half.numel())},
            )
        )
    if has_state or not is_batch_free:
        cases += [
            Case(f"state times {scale}", draw(make_ports, 11, batch), state_scale=scale)
            for scale in (0.5, 0.9)
        ]
        cases += [
            Case(
                f"random input {seed} after some steps",
                draw(make_ports, seed, batch),
                has_moved=True,
            )
            for seed in (13, 14)
        ]
    settings = tuple(
        key
        for key, value in first.items()
        if key not in batched and value.is_floating_point() and key != WEIGHT
    )
    if settings:  # a learning rate that is the same in every example could be baked in unseen
        cases.append(
            Case(
                f"{', '.join(settings)} times 0.7",
                _change(draw(make_ports, 15, batch), settings, lambda v: v * 0.7),
            )
        )
    if is_batch_free:
        cases += [
            Case(f"batch {size}", draw(make_ports, 20 + size, size))
            for size in (1, 2, 7, 4 * batch)
        ]
    return cases


def separable(ports: Mapping[str, Tensor], batched: tuple[str, ...]) -> dict[str, Tensor]:
    """A toy problem: samples of one class share a template plus a tenth of their own difference to
    it.
    """
    if "y" not in ports or ports["y"].is_floating_point():
        return dict(ports)
    label = ports["y"]
    # first sample of the same class
    leader = (label[:, None] == label[None, :]).to(torch.int64).argmax(1)
    toy = dict(ports)
    for key in batched:
        if ports[key].is_floating_point() and key != WEIGHT:
            toy[key] = 0.9 * ports[key][leader] + 0.1 * ports[key]
    return toy


def _change(
    ports: dict[str, Tensor], names: tuple[str, ...], change: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    return {key: change(value) if key in names else value for key, value in ports.items()}


def _constant_rows(value: Tensor) -> Tensor:
    return (
        value
        if value.dim() < 2
        else value.flatten(1).mean(1).reshape(-1, *[1] * (value.dim() - 1)).expand_as(value).clone()
    )
