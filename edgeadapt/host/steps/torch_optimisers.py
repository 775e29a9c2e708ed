"""What somebody writes who knows ``torch.optim``: its classes as optimisers of a learning step.

A class, or ``functools.partial(torch.optim.SGD, momentum=0.9)``, stands for the optimiser of
:mod:`edgeadapt.host.steps.optimisers` that takes the same steps. An object cannot: it holds
parameters and state of its own, and a graph has neither.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from edgeadapt.errors import CompileError
from edgeadapt.host.steps.optimisers import SGD, Adam, AdamW, Momentum, Optimiser

_OURS = "SGD, Momentum, Adam, AdamW and LAMB of edgeadapt.host.steps.optimisers"
_WITHOUT = (
    "weight_decay",
    "nesterov",
    "amsgrad",
    "maximize",
    "dampening",
)  # settings of torch's that ours do not have


def as_optimiser(given: Any) -> Optimiser:
    """An optimiser of a learning step.

    ``torch.optim.SGD`` without momentum is ``SGD()``, with it ``Momentum(beta)``; ``Adam`` and
    ``AdamW`` are ours of the same name, whose ``eps`` is 1e-6 unless it is given.

    Args:
        given: an :class:`Optimiser`, a class of ``torch.optim``, or a partial of one with settings.

    Raises:
        CompileError: an object of ``torch.optim``, a class or setting that has no counterpart, or
            something else; the message says what to write instead.

    >>> as_optimiser(functools.partial(torch.optim.SGD, momentum=0.9))
    Momentum(beta=0.9)
    """
    if isinstance(given, torch.optim.Optimizer):
        raise CompileError(_instead_of(given))
    kind, settings = (
        (given.func, given.keywords) if isinstance(given, functools.partial) else (given, {})
    )
    if isinstance(kind, type):
        if not issubclass(kind, torch.optim.Optimizer):
            raise CompileError(
                f"optimiser is the class {kind.__name__}; give an object: {kind.__name__}(...)"
            )
        return _counterpart(kind, settings)
    if not (callable(getattr(given, "state", None)) and callable(getattr(given, "update", None))):
        raise CompileError(
            f"optimiser is a {type(given).__name__}, "
            "which has no state(parameters) and no update(...); "
            f"give one of {_OURS}"
        )
    ours: Optimiser = given
    return ours


def _counterpart(kind: type, settings: Mapping[str, Any]) -> Optimiser:
    left = {name: value for name, value in settings.items() if value not in (None, False)}
    if "lr" in left:
        raise CompileError(
            f"lr = {left['lr']} of {kind.__name__}: the rate is given as "
            f"gradient_step(..., learning_rate={left['lr']})"
        )
    made: Optimiser
    if kind is torch.optim.SGD:
        momentum = left.pop("momentum", 0)
        made = Momentum(momentum) if momentum else SGD()
    elif kind in (torch.optim.Adam, torch.optim.AdamW):
        beta1, beta2 = left.pop("betas", (0.9, 0.999))
        own = {"beta1": beta1, "beta2": beta2, "eps": left.pop("eps", Adam.eps)}
        made = (
            AdamW(left.pop("weight_decay", 0.01), **own)
            if kind is torch.optim.AdamW
            else Adam(**own)
        )
    else:
        raise CompileError(
            f"torch.optim.{kind.__name__} has no counterpart; there are {_OURS}, "
            "or write an object with their two methods"
        )
    if rest := sorted(name for name, value in left.items() if value):
        raise CompileError(
            f"torch.optim.{kind.__name__}({rest[0]}={left[rest[0]]!r}) has no counterpart; "
            f"leave {rest[0]} out, or write an object with state and update"
        )
    return made


def _instead_of(optimiser: torch.optim.Optimizer) -> str:
    """What to write for an object of torch's, with its own settings."""
    kind, group = type(optimiser), optimiser.param_groups[0]
    said = (
        f"optimiser is an object of torch.optim.{kind.__name__}, "
        "which holds parameters and state of its own"
    )
    written = {
        torch.optim.SGD: lambda: f"Momentum({group['momentum']})" if group["momentum"] else "SGD()",
        torch.optim.Adam: lambda: f"Adam(*{tuple(group['betas'])})",
        torch.optim.AdamW: lambda: f"AdamW({group['weight_decay']})",
    }.get(kind)
    if written is None:
        return f"{said}; there are {_OURS}, or write an object with their two methods"
    lost = [
        name
        for name in _WITHOUT
        if group.get(name) and not (name == "weight_decay" and kind is torch.optim.AdamW)
    ]
    without = (
        f", without {' and '.join(lost)}, which {'has' if len(lost) == 1 else 'have'} "
        "no counterpart"
        if lost
        else ""
    )
    return (
        f"{said}; write {written()} of edgeadapt.host.steps.optimisers, "
        f"and learning_rate={float(group['lr']):g}{without}"
    )


__all__ = ["as_optimiser"]
