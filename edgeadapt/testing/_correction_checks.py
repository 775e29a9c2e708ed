"""``correct``, ``adjust``, ``adapt`` and ``fit`` on features: nothing happens without cause, and
the cause is answered.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeadapt.testing._head_checks import accuracy
from edgeadapt.testing._subject import State, Subject, expect, has
from edgeadapt.testing._toy import Rows

FIT_STEPS = 50
_RATES = (0.1, 0.03, 0.01, 0.003)
_ADAPT_STEPS = 40
_BATCH = 32
_NEARER, _STILL = 0.5, 0.25  # share of the shift that may be left; that clean data may cause
# norm of a class's own move; gain in spreads of the logits; share of answers that may turn wrong
_TURNED, _SURER, _WRONG = 3.0, 0.05, 0.02


def check_correct(subject: Subject) -> None:
    rows = subject.toy.rows(41, 20)
    for label, z in (("clean", rows.z), ("shifted", subject.toy.shifted(rows).z)):
        corrected = subject.method.correct(subject.state, z)
        expect(corrected.shape == z.shape, f"correct: gives (B, D), got {tuple(corrected.shape)}")
        expect(
            torch.allclose(corrected, z, atol=1e-5),
            f"correct: the factory state changes nothing; {label} features moved",
        )
    expect(
        has(subject.method, "adapt") or has(subject.method, "fit"),
        "correct: something sets it: the method has adapt or fit",
    )


def check_adjust(subject: Subject) -> None:
    rows = subject.toy.rows(45, 20)
    for label, z in (("clean", rows.z), ("shifted", subject.toy.shifted(rows).z)):
        logits = subject.logits(subject.state, z)
        adjusted = subject.method.adjust(subject.state, z, logits)
        expect(adjusted.shape == logits.shape, f"adjust: gives (B, K), got {tuple(adjusted.shape)}")
        expect(
            torch.allclose(adjusted, logits, atol=1e-5),
            f"adjust: the factory state changes nothing; answers to {label} features moved",
        )
    expect(has(subject.method, "adapt"), "adjust: something sets it: the method has adapt")


def check_adapt(subject: Subject) -> None:
    rows = subject.toy.shifted(subject.toy.rows(42, 20))
    outputs, new = subject.method.adapt(subject.state, rows.z, rows.ones)
    check_adapt_outputs(outputs, new, rows.ones, subject.state)
    weight = (torch.arange(len(rows)) % 2).to(torch.float32)
    junk = torch.where(weight[:, None] > 0, rows.z, 100.0 * torch.ones_like(rows.z))
    outputs, one = subject.method.adapt(subject.state, rows.z, weight)
    check_adapt_outputs(outputs, one, weight, subject.state)
    _, two = subject.method.adapt(subject.state, junk, weight)
    check_same(one, two, "adapt: rows of weight 0 do not matter, whatever they contain")
    outputs, idle = subject.method.adapt(subject.state, rows.z, 0 * weight)
    check_idle(outputs, idle, subject.state)
    if has(subject.method, "correct"):
        _check_adapt_helps(subject)
    if has(subject.method, "adjust"):
        _check_adjust_helps(subject)
    expect(
        has(subject.method, "correct") or has(subject.method, "adjust"),
        "adapt: on features it is beside correct or adjust",
    )


def check_adapt_outputs(outputs: State, new: State, weight: Tensor, state: State) -> None:
    expect(
        set(outputs) == {"used", "wants_reset"},
        f"adapt: outputs are used and wants_reset, got {sorted(outputs)}",
    )
    used = outputs["used"]
    expect(
        used.shape == weight.shape and outputs["wants_reset"].shape == (),
        "adapt: used is (B,), wants_reset is ()",
    )
    expect(not bool(((used > 0) & (weight == 0)).any()), "adapt: used names no row of weight 0")
    expect(bool((used > 0).any()), "adapt: used names rows when rows have weight")
    for name, value in new.items():
        expect(
            name in state and value.shape == state[name].shape,
            f"adapt: {name} is one of its tensors and keeps its shape",
        )


def check_idle(outputs: State, new: State, state: State) -> None:
    expect(not bool(outputs["used"].any()), "adapt: a batch of weight 0 uses nothing")
    for name, value in new.items():
        expect(
            torch.equal(value, state[name]),
            f"adapt: a batch of weight 0 changes nothing, bit for bit; {name} changed",
        )


def check_same(one: State, two: State, promise: str) -> None:
    for name in one:
        expect(
            torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-5), f"{promise}; {name} differs"
        )


def _check_adapt_helps(subject: Subject) -> None:
    """The mean of a shifted stream comes nearer to the source; a clean stream stays where it is."""
    toy, clean = subject.toy, subject.toy.rows(43, 200)
    shifted = toy.shifted(clean)
    source = clean.z.mean(dim=0)
    distance = float((shifted.z.mean(dim=0) - source).norm())
    left = float(
        (subject.method.correct(_adapted(subject, shifted), shifted.z).mean(dim=0) - source).norm()
    )
    expect(
        left <= _NEARER * distance,
        f"correct: after adapt a mean shifted by {distance:.2f} is nearer to the source, got"
        f" {left:.2f}",
    )
    moved = float(
        (subject.method.correct(_adapted(subject, clean), clean.z).mean(dim=0) - source).norm()
    )
    expect(
        moved <= _STILL * distance,
        f"adapt: clean data cause no correction; it moved the mean by {moved:.2f}",
    )


def _check_adjust_helps(subject: Subject) -> None:
    """Where each class moved in a direction of its own, answers become surer of the right class; on
    clean data none becomes wrong.
    """
    toy, clean = subject.toy, subject.toy.rows(46, 60)
    away = torch.randn(
        toy.dims.slots, toy.dims.features, generator=torch.Generator().manual_seed(47)
    )
    away = _TURNED * away / away.norm(dim=1, keepdim=True)
    turned = Rows(clean.z + away[clean.y], clean.taps, clean.y)
    before = _answers(subject, subject.state, turned)
    after = _answers(subject, _adapted(subject, turned), turned)
    gained = _margin(after, turned) - _margin(before, turned)
    least = _SURER * float(before[:, list(toy.known)].std())
    expect(
        gained >= least,
        f"adjust: after adapt answers are surer of the right class by {least:.2g}, got"
        f" {gained:.2g}",
    )
    still = accuracy(_answers(subject, _adapted(subject, clean), clean), clean)
    own = accuracy(_answers(subject, subject.state, clean), clean)
    expect(
        still >= own - _WRONG,
        f"adapt: clean data cause no wrong answers: {own:.1%} were right before, {still:.1%} after",
    )


def _answers(subject: Subject, state: State, rows: Rows) -> Tensor:
    z = subject.method.correct(state, rows.z) if has(subject.method, "correct") else rows.z
    answers: Tensor = subject.method.adjust(state, z, subject.logits(state, z))
    return answers


def _margin(logits: Tensor, rows: Rows) -> float:
    """Mean distance of the right class's logit from the mean of the other known ones."""
    known = sorted(set(rows.y.tolist()))
    right = logits.gather(1, rows.y[:, None])[:, 0]
    others = (logits[:, known].sum(dim=1) - right) / (len(known) - 1)
    return float((right - others).mean())


def _adapted(subject: Subject, rows: Rows) -> State:
    state, generator = subject.state, torch.Generator().manual_seed(44)
    for _ in range(_ADAPT_STEPS):
        chosen = torch.randint(0, len(rows), (_BATCH,), generator=generator)
        state = {**state, **subject.method.adapt(state, rows.z[chosen], torch.ones(_BATCH))[1]}
    return state


def check_fit(subject: Subject) -> float:
    """Returns the learning rate that worked, for the compiler's own check."""
    toy, method, state = subject.toy, subject.method, subject.state
    train, held_out = toy.confused(toy.rows(51, 60)), toy.confused(toy.rows(52, 40))
    rate = torch.tensor(_RATES[0])
    outputs, new = method.fit(state, train.z, train.y, train.ones, rate)
    expect(
        set(outputs) == {"loss"} and outputs["loss"].shape == (),
        f"fit: the output is loss (), got {sorted(outputs)}",
    )
    for name, value in new.items():
        expect(
            name in state and value.shape == state[name].shape,
            f"fit: {name} is one of its tensors and keeps its shape",
        )
    _check_fit_weight(subject, train, rate)
    before = float(outputs["loss"])
    losses = {}
    for candidate in _RATES:
        fitted = _fitted(subject, train, candidate)
        losses[candidate] = float(method.fit(fitted, train.z, train.y, train.ones, rate)[0]["loss"])
        if losses[candidate] <= 0.5 * before:
            if has(method, "correct"):
                _check_fit_helps(subject, fitted, held_out)
            return candidate
    raise AssertionError(
        f"fit: {FIT_STEPS} steps halve the loss at some learning rate; from {before:.3g} it went to"
        f" {losses}"
    )


def _fitted(subject: Subject, rows: Rows, rate: float) -> State:
    state, generator = subject.state, torch.Generator().manual_seed(53)
    for _ in range(FIT_STEPS):
        batch = rows.at(torch.randint(0, len(rows), (_BATCH,), generator=generator))
        state = {
            **state,
            **subject.method.fit(state, batch.z, batch.y, batch.ones, torch.tensor(rate))[1],
        }
    return state


def _check_fit_weight(subject: Subject, rows: Rows, rate: Tensor) -> None:
    moved = _fitted(subject, rows, _RATES[-1])
    for name, value in moved.items():
        expect(
            bool(value.isfinite().all()),
            f"fit: {name} stays finite over {FIT_STEPS} steps at learning rate {_RATES[-1]}",
        )
    for state in (subject.state, moved):  # momentum included
        _, idle = subject.method.fit(state, rows.z, rows.y, 0 * rows.ones, rate)
        for name, value in idle.items():
            expect(
                torch.equal(value, state[name]),
                f"fit: a batch of weight 0 changes nothing, bit for bit; {name} changed",
            )
    weight = (torch.arange(len(rows)) % 2).to(torch.float32)
    junk = torch.where(weight[:, None] > 0, rows.z, -5.0 * rows.z)
    one, two = (
        subject.method.fit(subject.state, z, rows.y, weight, rate)[1] for z in (rows.z, junk)
    )
    check_same(one, two, "fit: rows of weight 0 do not matter, whatever they contain")


def _check_fit_helps(subject: Subject, fitted: State, rows: Rows) -> None:
    before = accuracy(subject.logits(fitted, rows.z), rows)
    after = accuracy(subject.logits(fitted, subject.method.correct(fitted, rows.z)), rows)
    promise = "correct: after fit the head is right about corrected features"
    expect(
        after >= max(0.8, before + 0.2),
        f"{promise}: {before:.0%} uncorrected, {after:.0%} corrected",
    )
