"""``adapt`` and ``refold`` of a method that adapts an encoder, on random images in two conditions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeadapt.host.encoding import example_input
from edgeadapt.testing._correcting import check_adapt_outputs, check_idle, check_same
from edgeadapt.testing._subject import State, Subject, expect, has

_ROWS = 64
_NEARER = 0.5


def images(encoder: Any, seed: int, batch: int = _ROWS) -> Tensor:
    return example_input(encoder.input, batch, torch.Generator().manual_seed(seed))


def dimmed(encoder: Any, x: Tensor) -> Tensor:
    """The same images with less contrast and more light, within the input's range."""
    low, high = (0.0, 255.0) if encoder.input.dtype == "uint8" else encoder.input.range or (-1.0, 1.0)
    return (low + 0.4 * (x.to(torch.float32) - low) + 0.5 * (high - low)).to(x.dtype)


def check_adapt_encoder(subject: Subject) -> None:
    method, state = subject.method, subject.state
    x = dimmed(method.encoder, images(method.encoder, 61))
    weight = (torch.arange(_ROWS) % 2).to(torch.float32)
    for given in (torch.ones(_ROWS), weight):
        outputs, new = method.adapt({"x": x, "sample_weight": given}, state)
        check_adapt_outputs(outputs, new, given, state)
    other = torch.where((weight > 0).reshape(-1, *[1] * (x.dim() - 1)), x, images(method.encoder, 62))
    _, padded = method.adapt({"x": other, "sample_weight": weight}, state)
    check_same(new, padded, "adapt: rows of weight 0 do not matter, whatever they contain")
    outputs, idle = method.adapt({"x": x, "sample_weight": 0 * weight}, state)
    check_idle(outputs, idle, state)
    expect(has(method, "refold"), "adapt: an adapted encoder is folded again: the method has refold")
    _check_refold(subject)
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


def _check_adapt_helps(subject: Subject) -> None:
    """The source is the encoder adapted to clean images: random images are not what it was trained on."""
    method, encoder = subject.method, subject.method.encoder
    clean, other = images(encoder, 63), images(encoder, 64)
    source = _adapted(subject, clean)
    want = _features(subject, source, clean).mean(dim=0)
    dim = dimmed(encoder, other)
    distance = float((_features(subject, source, dim).mean(dim=0) - want).norm())
    adapted = {**source, **method.adapt({"x": dim, "sample_weight": torch.ones(_ROWS)}, source)[1]}
    left = float((_features(subject, adapted, dim).mean(dim=0) - want).norm())
    expect(distance > 1e-3, "refold: adapting to one condition leaves another condition apart")
    expect(left <= _NEARER * distance, f"adapt: a feature mean shifted by {distance:.3g} is nearer to the source after it, got {left:.3g}")


def _adapted(subject: Subject, x: Tensor) -> State:
    return {**subject.state, **subject.method.adapt({"x": x, "sample_weight": torch.ones(len(x))}, subject.state)[1]}


def _features(subject: Subject, state: State, x: Tensor) -> Tensor:
    encoder = subject.method.encoder
    constants = subject.method.refold({}, state)[1]
    z: Tensor = encoder.encode({"x": x}, {**encoder.frozen, **constants})["z"]
    return z
