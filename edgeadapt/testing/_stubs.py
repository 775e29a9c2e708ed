"""Stubs with the right shapes in place of a method's core functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from edgeadapt.testing._subject import FUNCTIONS, adapts_encoder, has


class Stubbed:
    """A method with one function replaced; everything else is the method's own."""

    def __init__(self, method: Any, function: str, stub: Callable[..., Any]) -> None:
        self._method = method
        setattr(self, function, stub)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_method"], name)


def stubs_of(method: Any) -> Iterator[tuple[str, Stubbed]]:
    """Each stub of each core function that the method has, with a sentence that names it."""
    for function in FUNCTIONS:
        if has(method, function):
            for label, make in _STUBS[function].items():
                yield f"{function} {label}", Stubbed(method, function, make(method))


def _columns(z: Tensor, width: int) -> Tensor:
    """``z`` itself, cut or padded to ``width`` columns."""
    return torch.cat([z, torch.zeros(len(z), max(0, width - z.shape[1]))], dim=1)[:, :width]


def _learn_nothing(method: Any) -> Any:
    return lambda t, z, taps, y, w: {name: t[name] + 0.0 for name in method.learn(t, z, taps, y, w)}


def _learn_unweighted(method: Any) -> Any:
    return lambda t, z, taps, y, w: method.learn(t, z, taps, y, torch.ones_like(w))


def _learn_and_decay(method: Any) -> Any:
    return lambda t, z, taps, y, w: {
        name: new - 0.1 * t[name] for name, new in method.learn(t, z, taps, y, w).items()
    }


def _adapt_nothing(method: Any) -> Any:
    def adapt(*given: Any) -> Any:
        outputs, new = method.adapt(*given)
        state = given[1] if adapts_encoder(method) else given[0]
        return outputs, {name: state[name] + 0.0 for name in new}

    return adapt


def _fit_nothing(method: Any) -> Any:
    def fit(t: Any, *given: Any) -> Any:
        outputs, new = method.fit(t, *given)
        return outputs, {name: t[name] + 0.0 for name in new}

    return fit


def _fit_uphill(method: Any) -> Any:
    return lambda t, z, y, w, rate: method.fit(t, z, y, w, -rate)


def _refold_nothing(method: Any) -> Any:
    frozen = getattr(getattr(method, "encoder", None), "frozen", {})
    return lambda p, t: ({}, {name: frozen[name] for name in method.refold(p, t)[1]})


_STUBS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "learn": {
        "changes nothing": _learn_nothing,
        "ignores sample_weight": _learn_unweighted,
        "decays what was learned before": _learn_and_decay,
    },
    "predict": {
        "is constant": lambda m: lambda t, z: 0.0 * m.predict(t, z),
        "returns its input": lambda m: lambda t, z: _columns(z, m.predict(t, z).shape[1]),
    },
    "novelty": {
        "is constant": lambda m: lambda t, z, taps, logits: 0.0 * m.novelty(t, z, taps, logits),
        "is the norm of its input": lambda m: lambda t, z, taps, logits: (z * z).sum(dim=1),
        "has the wrong sign": lambda m: lambda t, z, taps, logits: -m.novelty(t, z, taps, logits),
    },
    "shift": {
        "is constant": lambda m: lambda t, z, taps, logits: 0.0 * m.shift(t, z, taps, logits),
        "returns its input": lambda m: (
            lambda t, z, taps, logits: _columns(z, m.shift(t, z, taps, logits).shape[1])
        ),
        "ignores the class": lambda m: (
            lambda t, z, taps, logits: m.shift(t, z, taps, torch.zeros_like(logits))
        ),
    },
    "correct": {"returns its input": lambda m: lambda t, z: z + 0.0},
    "adjust": {"returns its logits": lambda m: lambda t, z, logits: logits + 0.0},
    "adapt": {"changes nothing": _adapt_nothing},
    "fit": {"changes nothing": _fit_nothing, "goes uphill": _fit_uphill},
    "refold": {"returns the factory constants": _refold_nothing},
    "smooth": {
        "returns its logits": lambda m: lambda t, z, logits, w: logits + 0.0,
        "is one answer for the batch": lambda m: (
            lambda t, z, logits, w: logits.mean(dim=0, keepdim=True).expand_as(logits) + 0.0
        ),
        "ignores sample_weight": lambda m: (
            lambda t, z, logits, w: m.smooth(t, z, logits, torch.ones_like(w))
        ),
        "ignores the features": lambda m: (
            lambda t, z, logits, w: m.smooth(t, torch.ones_like(z), logits, w)
        ),
    },
}
