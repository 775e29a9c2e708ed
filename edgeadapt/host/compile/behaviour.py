"""Properties of a step that agreement with torch cannot show: torch agrees with a wrong method too.

They are asked of the exported graph, not of the function.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch

from edgeadapt.errors import CompileError, CompileWarning
from edgeadapt.host.compile.cases import WEIGHT, Subject, separable
from edgeadapt.host.compile.session import Session
from edgeadapt.runtime import NEXT

ToyLoss = Literal["refuse", "warn", "accept"]
"""What a step whose ``loss`` does not halve on the toy problem meets."""

LEARNING_STEPS = 50
_IDLE_STEPS = 5
_ROW_TOLERANCE = 1e-5  # of the change; sums over a batch may be ordered differently


def check_step(
    subject: Subject, sessions: tuple[Session, ...], toy_loss: ToyLoss = "refuse"
) -> None:
    """Check what every step must do.

    - each tensor it writes changes on random inputs;
    - samples with ``sample_weight`` 0 change nothing: bit for bit when all are 0, and whatever they
      contain when some are;
    - a step with a ``loss`` at least halves it in 50 steps on a separable toy problem: ``toy_loss``
      says what happens if not, and "accept" does not try it.

    Raises:
        CompileError: names the tensor and the property.
    """
    name = subject.name
    writes = tuple(key.removesuffix(NEXT) for key in sessions[-1].outputs if key.endswith(NEXT))
    if not writes:
        raise CompileError(f"{name}: is declared a step and writes no tensor")
    _changes(subject, sessions[-1], writes)
    if WEIGHT in subject.ports(0):
        if WEIGHT not in sessions[-1].inputs:
            raise CompileError(
                f"{name}: {WEIGHT} has no effect; padding rows of weight 0 would be learned from"
            )
        for session in sessions:
            _ignores_weightless_batches(subject, session, writes)
            _ignores_weightless_rows(subject, session, writes)
    if "loss" in sessions[-1].outputs and toy_loss != "accept":
        said = _does_not_learn(subject, sessions[-1])
        if said and toy_loss == "refuse":
            raise CompileError(f"{name}: {said}")
        if said:
            told = f'{name}: {said}; toy_loss="accept" takes it as it is'
            warnings.warn(told, CompileWarning, stacklevel=4)


def _changes(subject: Subject, session: Session, writes: tuple[str, ...]) -> None:
    state, idle = dict(subject.tensors), set(writes)
    for seed in range(_IDLE_STEPS):
        after = session(subject.ports(200 + seed), state)
        for key in writes:
            if not torch.equal(after[key + NEXT], state[key]):
                idle.discard(key)
            state[key] = after[key + NEXT]
    if idle:
        raise CompileError(
            f"{subject.name}: {sorted(idle)[0]} does not change in {_IDLE_STEPS} random steps; do"
            " not write it, or fix the update"
        )


def _ignores_weightless_batches(
    subject: Subject, session: Session, writes: tuple[str, ...]
) -> None:
    state = dict(subject.tensors)
    ports = subject.ports(300)
    after = session(ports, state)  # also from a state that has moved
    moved = {**state, **{key: after[key + NEXT] for key in writes}}
    for start in (state, moved):
        same = session({**subject.ports(301), WEIGHT: torch.zeros_like(ports[WEIGHT])}, start)
        for key in writes:
            if not torch.equal(same[key + NEXT], start[key]):
                difference = (same[key + NEXT].double() - start[key].double()).abs().max().item()
                raise CompileError(
                    f"{subject.name}: {key} changes by {difference:.1e} although every {WEIGHT} is"
                    " 0; gate it: torch.where(sample_weight.sum() > 0, new, old)"
                )


def _ignores_weightless_rows(subject: Subject, session: Session, writes: tuple[str, ...]) -> None:
    tensors, batch = subject.tensors, subject.batch
    ports, other = subject.ports(310), subject.ports(311)
    if ports[WEIGHT].dim() != 1 or batch < 2:
        return
    muted = torch.arange(batch) % 2 == 0
    ports[WEIGHT] = torch.where(muted, 0.0, ports[WEIGHT])
    swapped = dict(ports)
    for key in subject.batched:
        if key != WEIGHT:
            swapped[key] = torch.where(
                muted.reshape(-1, *[1] * (ports[key].dim() - 1)), other[key], ports[key]
            )
    one, two = session(ports, tensors), session(swapped, tensors)
    for key in writes:
        a, b, old = (value.double() for value in (one[key + NEXT], two[key + NEXT], tensors[key]))
        if a.numel() == 0:
            continue
        allowed = (
            _ROW_TOLERANCE * (a - old).abs().max()
            + torch.finfo(torch.float32).eps * 4 * a.abs().max()
        )
        difference = (a - b).abs().max()
        if not bool(difference <= allowed):
            raise CompileError(
                f"{subject.name}: {key} depends on rows whose {WEIGHT} is 0 (by"
                f" {difference.item():.1e}); weight every mean, sum and norm over the batch"
            )


def _does_not_learn(subject: Subject, session: Session) -> str:
    """What became of the loss, if it was not halved; else nothing."""
    ports, state = separable(subject.ports(400), subject.batched), dict(subject.tensors)
    if WEIGHT in ports:
        ports[WEIGHT] = torch.ones_like(ports[WEIGHT])
    losses = []
    for _ in range(LEARNING_STEPS):
        after = session(ports, state)
        losses.append(after["loss"].double().mean().item())
        state.update(
            {key.removesuffix(NEXT): value for key, value in after.items() if key.endswith(NEXT)}
        )
    if losses[-1] <= 0.5 * losses[0]:
        return ""
    sign = "" if losses[-1] < losses[0] else "the sign of the update and "
    return (
        f"{LEARNING_STEPS} steps on a separable toy problem took the loss from {losses[0]:.3g} to"
        f" {losses[-1]:.3g}, not to half; check {sign}the learning rate in the example ports, or"
        " give a loss that has a floor another name"
    )
