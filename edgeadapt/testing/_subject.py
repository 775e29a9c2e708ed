"""A method under test, with what stands beside it in a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgeadapt.bundle.schema import NumericSpec, TensorSpec
from edgeadapt.host.contracts import Dims, with_derived
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.residual_shift import ResidualShift
from edgeadapt.testing._toy import Rows, Toy

FUNCTIONS = (
    "learn",
    "predict",
    "novelty",
    "shift",
    "correct",
    "adjust",
    "adapt",
    "fit",
    "refold",
    "smooth",
)
State = dict[str, Tensor]


def expect(is_kept: bool, promise: str) -> None:
    if not is_kept:
        raise AssertionError(promise)


def has(method: Any, function: str) -> bool:
    return callable(getattr(method, function, None))


def adapts_encoder(method: Any) -> bool:
    """Whether ``adapt`` and ``refold`` are functions of images: ``(ports, tensors)``, as a method
    with an ``encoder`` has them.
    """
    return getattr(method, "encoder", None) is not None


@dataclass(frozen=True)
class Subject:
    """Head and residuals are the method's own where it has them; ``state`` holds every tensor's
    factory value, derived ones too.
    """

    method: Any
    head: Any
    sense: Any
    toy: Toy
    specs: dict[str, TensorSpec]
    state: State

    @classmethod
    def of(cls, method: Any, dims: Dims) -> Subject:
        toy = Toy(dims)
        head = method if has(method, "predict") else Ridge()
        sense = method if has(method, "shift") else ResidualShift()
        specs: dict[str, TensorSpec] = {}
        state: State = {}
        data = toy.factory_data()
        for part in (head, sense, method):
            specs |= {spec.name: spec for spec in part.tensors(dims)}
            state |= {name: torch.from_numpy(value) for name, value in part.factory(data).items()}
        state |= getattr(method, "frozen", {})
        subject = cls(method, head, sense, toy, specs, state)
        return cls(method, head, sense, toy, specs, subject.derived(state))

    @property
    def parts(self) -> Iterator[Any]:
        """Head, residuals and method, each once."""
        yield self.head
        if self.sense is not self.head:
            yield self.sense
        if self.method is not self.head and self.method is not self.sense:
            yield self.method

    @property
    def numerics(self) -> list[NumericSpec]:
        return [
            numeric for part in self.parts if has(part, "numerics") for numeric in part.numerics()
        ]

    @property
    def frozen(self) -> tuple[str, ...]:
        return tuple(
            name
            for name in self.state
            if name not in self.specs or self.specs[name].kind == "frozen"
        )

    @property
    def unlearned(self) -> State:
        """The factory state without any evidence."""
        empty = {
            name: torch.zeros_like(v)
            for name, v in self.state.items()
            if name in self.specs and self.specs[name].kind == "evidence"
        }
        return self.derived({**self.state, **empty})

    def derived(self, state: State) -> State:
        """``state`` with everything recomputed that numerics derive from evidence."""
        return with_derived(state, self.numerics)

    def learned(self, state: State, rows: Rows, weight: float = 1.0, batch: int = 16) -> State:
        """``state`` after every part has learned the rows, batch by batch, and all that follows is
        derived.
        """
        for chosen in torch.split(torch.arange(len(rows)), batch):
            part_rows = rows.at(chosen)
            new: State = {}
            for part in self.parts:
                if has(part, "learn"):
                    new |= part.learn(
                        state, part_rows.z, part_rows.taps, part_rows.y, weight * part_rows.ones
                    )
            state = {**state, **new}
        return self.derived(state)

    def logits(self, state: State, z: Tensor) -> Tensor:
        logits: Tensor = self.head.predict(state, z)
        return logits

    def novelty(self, state: State, rows: Rows) -> Tensor:
        score: Tensor = self.method.novelty(state, rows.z, rows.taps, self.logits(state, rows.z))
        return score

    def residual(self, state: State, rows: Rows) -> Tensor:
        residual: Tensor = self.method.shift(state, rows.z, rows.taps, self.logits(state, rows.z))
        return residual
