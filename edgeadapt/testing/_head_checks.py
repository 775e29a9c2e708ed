"""``learn`` adds evidence; ``predict`` uses it."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeadapt.testing._subject import State, Subject, expect
from edgeadapt.testing._toy import Rows

_OF_CHANGE, _OF_VALUE = 1e-4, 2e-6  # float32 sums in another order
ACCURACY, NEW_CLASS_ACCURACY = 0.9, 0.8


def check_learn(subject: Subject) -> None:
    rows, more = subject.toy.rows(2, 12), subject.toy.rows(3, 12)
    _check_writes(subject, rows)
    _check_additive(subject, rows, more)
    _check_negative_weight_forgets(subject, rows)
    _check_weight(subject, rows)
    _check_class_axis(subject)


def _learn(subject: Subject, state: State, rows: Rows, weight: Tensor) -> State:
    return {**state, **subject.method.learn(state, rows.z, rows.taps, rows.y, weight)}


def _check_writes(subject: Subject, rows: Rows) -> None:
    new = subject.method.learn(subject.state, rows.z, rows.taps, rows.y, rows.ones)
    own = {
        spec.name for spec in subject.method.tensors(subject.toy.dims) if spec.kind == "evidence"
    }
    expect(
        set(new) == own,
        f"learn: writes exactly the method's evidence; they differ in {sorted(set(new) ^ own)}",
    )
    for name, value in new.items():
        shape = subject.specs[name].shape
        expect(
            tuple(value.shape) == shape,
            f"learn: {name} keeps its shape {shape}, got {tuple(value.shape)}",
        )
        expect(
            not torch.equal(value, subject.state[name]), f"learn: labelled samples change {name}"
        )


def _check_additive(subject: Subject, rows: Rows, more: Rows) -> None:
    together = _learn(
        subject, subject.state, rows.and_also(more), torch.ones(len(rows) + len(more))
    )
    apart = _learn(subject, _learn(subject, subject.state, more, more.ones), rows, rows.ones)
    _expect_equal(
        subject,
        together,
        apart,
        "evidence is additive: two batches give what their union gives, in either order",
    )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    straight = _learn(subject, subject.state, rows, rows.ones)
    permuted = _learn(subject, subject.state, rows.at(order), rows.ones)
    _expect_equal(subject, straight, permuted, "evidence does not depend on the order of rows")
    twice = _learn(subject, straight, rows, rows.ones)
    _expect_equal(
        subject,
        twice,
        _learn(subject, subject.state, rows, 2 * rows.ones),
        "weight 2 is learning twice",
    )


def _check_negative_weight_forgets(subject: Subject, rows: Rows) -> None:
    learned = _learn(subject, subject.state, rows, rows.ones)
    half = torch.arange(len(rows)) % 2
    kept = _learn(subject, subject.state, rows, half.to(torch.float32))
    forgotten = _learn(subject, learned, rows, (half - 1).to(torch.float32))
    _expect_equal(
        subject,
        forgotten,
        kept,
        "a negative weight forgets: what was learned and forgotten leaves no trace",
    )
    nothing = _learn(subject, learned, rows, -rows.ones)
    for name in _evidence(subject):
        change = (learned[name] - subject.state[name]).abs().max()
        left = (nothing[name] - subject.state[name]).abs().max()
        is_gone = bool(left <= _allowed(change, learned[name]))
        expect(
            is_gone,
            f"learn: a negative weight forgets: {left:.1e} of {change:.1e} is left in {name}",
        )


def _check_weight(subject: Subject, rows: Rows) -> None:
    idle = _learn(subject, subject.state, rows, 0 * rows.ones)
    for name in _evidence(subject):
        expect(
            torch.equal(idle[name], subject.state[name]),
            f"learn: rows of weight 0 change nothing, bit for bit; {name} changed",
        )
    junk = Rows(
        100 * torch.randn(rows.z.shape, generator=torch.Generator().manual_seed(1)),
        50 + rows.taps,
        rows.y,
    )
    padded = _learn(
        subject, subject.state, rows.and_also(junk), torch.cat([rows.ones, 0 * rows.ones])
    )
    _expect_equal(
        subject,
        padded,
        _learn(subject, subject.state, rows, rows.ones),
        "rows of weight 0 do not matter, whatever they contain",
    )


def _check_class_axis(subject: Subject) -> None:
    for k in (0, subject.toy.novel):
        rows = subject.toy.rows(4, 8, (k,))
        new = _learn(subject, subject.state, rows, rows.ones)
        for name in _evidence(subject):
            axis = subject.specs[name].class_axis
            if axis is not None:
                change = (
                    (new[name] - subject.state[name]).movedim(axis, 0).flatten(1).abs().amax(dim=1)
                )
                touched = torch.nonzero(change)[:, 0].tolist()
                expect(
                    touched == [k],
                    f"learn: a label of class {k} touches only its own slot of {name}, not"
                    f" {touched}",
                )


def _evidence(subject: Subject) -> list[str]:
    return [
        spec.name for spec in subject.method.tensors(subject.toy.dims) if spec.kind == "evidence"
    ]


def _allowed(change: Tensor, value: Tensor) -> float:
    return float(_OF_CHANGE * change + _OF_VALUE * value.abs().max())


def _expect_equal(subject: Subject, one: State, two: State, promise: str) -> None:
    for name in _evidence(subject):
        difference = (one[name] - two[name]).abs().max()
        allowed = _allowed((one[name] - subject.state[name]).abs().max(), one[name])
        expect(bool(difference <= allowed), f"learn: {promise}; {name} differs by {difference:.1e}")


def check_predict(subject: Subject) -> None:
    toy = subject.toy
    held_out, novel = toy.rows(11, 40), toy.rows(12, 40, (toy.novel,))
    logits = subject.logits(subject.state, held_out.z)
    expect(
        tuple(logits.shape) == (len(held_out), toy.dims.slots),
        f"predict: logits are (B, K), got {tuple(logits.shape)}",
    )
    expect(bool(logits.isfinite().all()), "predict: logits are finite, of unused slots too")
    _expect_accuracy(subject, subject.state, held_out, ACCURACY, "on factory evidence")
    learned = subject.learned(subject.unlearned, toy.rows(10, 60))
    _expect_accuracy(subject, learned, held_out, ACCURACY, "after learning from nothing")
    grown = subject.learned(subject.state, toy.rows(13, 30, (toy.novel,)))
    _expect_accuracy(subject, grown, novel, NEW_CLASS_ACCURACY, "on a class learned from 30 labels")
    _expect_accuracy(
        subject,
        grown,
        held_out,
        ACCURACY - 0.05,
        "on the known classes after a new one was learned",
    )
    for label, state, slots in (
        ("never taught", grown, (toy.unused,)),
        ("not taught yet", learned, (toy.novel, toy.unused)),
    ):
        _expect_never(subject, state, held_out.and_also(novel), slots, label)
    forgotten = subject.learned(grown, toy.rows(13, 30, (toy.novel,)), weight=-1.0)
    _expect_never(subject, forgotten, held_out.and_also(novel), (toy.novel,), "forgotten")


def accuracy(logits: Tensor, rows: Rows) -> float:
    return float((logits.argmax(dim=1) == rows.y).to(torch.float32).mean())


def _expect_accuracy(subject: Subject, state: State, rows: Rows, least: float, when: str) -> None:
    share = accuracy(subject.logits(state, rows.z), rows)
    expect(
        share >= least,
        f"predict: accuracy {when} is at least {least:.0%}, got {share:.0%} (chance"
        f" {1 / len(subject.toy.known):.0%})",
    )


def _expect_never(
    subject: Subject, state: State, rows: Rows, slots: tuple[int, ...], label: str
) -> None:
    predicted = subject.logits(state, rows.z).argmax(dim=1)
    for k in slots:
        expect(
            not bool((predicted == k).any()),
            f"predict: a class that was {label} is not predicted; slot {k} was",
        )
