"""``adapt`` and ``refold`` of a method that adapts an encoder, on random images in two
conditions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeadapt.host.encoders.base import example_input
from edgeadapt.testing._correction_checks import check_adapt_outputs, check_idle, check_same
from edgeadapt.testing._subject import State, Subject, expect, has

_ROWS = 64
_NEARER = 0.5
_REFRESHES = 4  # of the same condition: a moving average needs some
_SAME = 1e-4  # of the largest value; a batch is summed in another order


def images(encoder: Any, seed: int, batch: int = _ROWS) -> Tensor:
    return example_input(encoder.input, batch, torch.Generator().manual_seed(seed))


def dimmed(encoder: Any, x: Tensor) -> Tensor:
    """The same images with less contrast and more light, within the input's range."""
    low, high = (
        (0.0, 255.0) if encoder.input.dtype == "uint8" else encoder.input.range or (-1.0, 1.0)
    )
    return (low + 0.4 * (x.to(torch.float32) - low) + 0.5 * (high - low)).to(x.dtype)


def adapt_ports(method: Any, x: Tensor, weight: Tensor, generator: torch.Generator) -> State:
    """The ports of ``adapt``, with noise where the method searches at random."""
    width = int(getattr(method, "noise_width", 0))
    return {
        "x": x,
        "sample_weight": weight,
        **({"noise": torch.randn(width, generator=generator)} if width else {}),
    }


def refreshed(
    method: Any, state: State, x: Tensor, weight: Tensor | None = None, seed: int = 65
) -> State:
    """``state`` after one refresh, as a device makes it: as many calls as the method wants, each
    from what the one before wrote.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.ones(len(x)) if weight is None else weight
    for _ in range(int(getattr(method, "steps", 1))):
        state = {**state, **method.adapt(adapt_ports(method, x, weight, generator), state)[1]}
    return state


def check_adapt_encoder(subject: Subject) -> None:
    method, state = subject.method, subject.state
    x = dimmed(method.encoder, images(method.encoder, 61))
    weight = (torch.arange(_ROWS) % 2).to(torch.float32)

    def adapt(inputs: Tensor, given: Tensor, start: State) -> tuple[State, State]:
        outputs, new = method.adapt(
            adapt_ports(method, inputs, given, torch.Generator().manual_seed(60)), start
        )
        return outputs, new

    for given in (torch.ones(_ROWS), weight):
        outputs, new = adapt(x, given, state)
        check_adapt_outputs(outputs, new, given, state)
    other = torch.where(
        (weight > 0).reshape(-1, *[1] * (x.dim() - 1)), x, images(method.encoder, 62)
    )
    _, padded = adapt(other, weight, state)
    check_same(new, padded, "adapt: rows of weight 0 do not matter, whatever they contain")
    _, turned = adapt(x.flip(0), weight.flip(0), state)
    check_same(new, turned, "adapt: the order of the rows does not matter")
    for start in (state, refreshed(method, state, x)):
        outputs, idle = adapt(x, 0 * weight, start)
        check_idle(outputs, idle, start)
    expect(
        has(method, "refold"), "adapt: an adapted encoder is folded again: the method has refold"
    )
    _check_refold(subject)
    _check_adapt_moves(subject)
    if getattr(method, "brings_home", True):
        _check_adapt_helps(subject)


def _check_refold(subject: Subject) -> None:
    outputs, constants = subject.method.refold({}, subject.state)
    encoder = subject.method.encoder
    expect(not outputs, f"refold: gives no outputs, got {sorted(outputs)}")
    expect(bool(constants), "refold: gives constants of the encoder")
    for name, value in constants.items():
        expect(name in encoder.frozen, f"refold: {name} is a frozen tensor of the encoder")
        own = encoder.frozen[name]
        is_own = value.shape == own.shape and torch.allclose(value, own, rtol=1e-4, atol=1e-5)
        expect(is_own, f"refold: factory statistics give the encoder's own {name}")


def _check_adapt_moves(subject: Subject) -> None:
    """An adapted encoder gives other features, and the same ones each time."""
    method, x = subject.method, dimmed(subject.method.encoder, images(subject.method.encoder, 66))
    first, again = (_features(subject, refreshed(method, subject.state, x), x) for _ in range(2))
    expect(
        torch.equal(first, again),
        "adapt: the same inputs (and noise) give the same encoder each time",
    )
    moved = float((first - _features(subject, subject.state, x)).abs().max() / first.abs().max())
    expect(
        moved > _SAME,
        f"refold: after adapt the encoder gives other features, they moved by {moved:.2g} of the"
        " largest",
    )


def _check_adapt_helps(subject: Subject) -> None:
    """The source is the encoder adapted to clean images: random images are not what it was trained
    on.
    """
    method, encoder = subject.method, subject.method.encoder
    clean, other = images(encoder, 63), images(encoder, 64)
    source = subject.state
    for _ in range(_REFRESHES):
        source = refreshed(method, source, clean)
    want = _features(subject, source, clean).mean(dim=0)
    dim = dimmed(encoder, other)
    distance = float((_features(subject, source, dim).mean(dim=0) - want).norm())
    adapted = source
    for _ in range(_REFRESHES):
        adapted = refreshed(method, adapted, dim)
    left = float((_features(subject, adapted, dim).mean(dim=0) - want).norm())
    expect(distance > 1e-3, "refold: adapting to one condition leaves another condition apart")
    expect(
        left <= _NEARER * distance,
        f"adapt: a feature mean shifted by {distance:.3g} is nearer to the source after it, got"
        f" {left:.3g}",
    )


def _features(subject: Subject, state: State, x: Tensor) -> Tensor:
    encoder = subject.method.encoder
    constants = subject.method.refold({}, state)[1]
    z: Tensor = encoder.encode({"x": x}, {**encoder.frozen, **constants})["z"]
    return z
