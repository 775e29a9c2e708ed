"""A module, a loss and an optimiser become a learning step: what ``compile_step`` takes.

    o = module(inputs);   e = loss(o, ports);   L = sum_i w_i e_i / sum_i w_i;
            p <- optimiser(p, dL/dp)

The parameters become tensors of the step, so the device holds them; the module itself stays as it
is. Samples whose ``sample_weight`` is 0 have no part in L, and a batch whose weights are all 0
changes nothing, bit for bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from edgeadapt.errors import CompileError
from edgeadapt.host.compile.cases import WEIGHT
from edgeadapt.host.compile.trace import Step
from edgeadapt.host.steps.optimisers import SGD, Momentum, Optimiser
from edgeadapt.host.steps.torch_optimisers import as_optimiser

Values = Mapping[str, Tensor]
Loss = Callable[[Any, Values], Tensor]
"""``(output of the module, ports) -> (B,)``, one loss for each sample, or ``-> ()``."""


class GradientStep(NamedTuple):
    """``compile_step(name, step.fn, make_ports, step.tensors, frozen=step.frozen)``."""

    fn: Step
    tensors: dict[str, Tensor]
    frozen: tuple[str, ...]


def gradient_step(
    module: nn.Module,
    loss: Loss,
    optimiser: Optimiser | Callable[..., torch.optim.Optimizer],
    *,
    learning_rate: float | str = "learning_rate",
    inputs: Sequence[str] = ("x",),
    train: Iterable[str] | None = None,
    freeze: Iterable[str] = (),
    prefix: str = "model",
    loss_name: str = "loss",
    outputs: Callable[[Any, Values], dict[str, Tensor]] | None = None,
) -> GradientStep:
    """One optimiser step on the parameters of a module.

    Args:
        module: with float32 parameters, in the mode in which it shall learn: ``eval()`` fixes
            running statistics and silences dropout, and gradients flow all the same. Its values are
            copied.
        loss: gives ``(B,)``, one loss for each sample, whose mean is weighted by the port
            ``sample_weight`` where there is one; or ``()``, in which case it must weight its
            samples itself.
        optimiser: of :mod:`edgeadapt.host.steps.optimisers`, or any object with their two methods.
            If its ``update`` takes no ``live``, a batch whose weights are all 0 is held off from
            outside, which costs one pass over everything it writes. A class of ``torch.optim``, or
            a partial of one, stands for ours that takes the same steps
            (:mod:`edgeadapt.host.steps.torch_optimisers`).
        learning_rate: a number, which becomes a constant of the graph, or the name of a port ``()
            float32``.
        inputs: the ports that the module is called with, in order.
        train: patterns of the parameters to train (``"head.*"``, as in a shell), without the
            prefix; by default all that require gradients. All others, and all buffers, are frozen.
        freeze: patterns of parameters that stay frozen though ``train`` names them.
        prefix: parameter ``0.weight`` becomes the tensor ``<prefix>.0.weight``.
        loss_name: of the output that holds L. The compiler warns where an output called ``loss``
            does not halve within 50 steps on a toy problem; a loss with a floor (an entropy,
            smoothed labels) takes another name, or ``compile_step(..., toy_loss="accept")``.
        outputs: ``(output of the module, ports) -> outputs`` to be given besides, as they are
            before the step.

    Raises:
        CompileError: an optimiser that is none, nothing to train, a pattern that names nothing, a
            module that writes running statistics or draws random numbers. While it is compiled: a
            missing port, or a loss of another shape.

    >>> from edgeadapt.host.steps.optimisers import SGD
    >>> def squared(out, ports):
    ...     return (out[:, 0] - ports["y"]) ** 2
    >>> step = gradient_step(nn.Linear(3, 1), squared, SGD(), freeze=["bias"])
    >>> sorted(step.tensors), step.frozen
    (['model.bias', 'model.weight'], ('model.bias',))
    """
    _refuse_training_mode(module)
    optimiser = as_optimiser(optimiser)
    held = {
        f"{prefix}.{name}": _copy(value)
        for name, value in (*module.named_parameters(), *module.named_buffers())
    }
    trained = tuple(f"{prefix}.{name}" for name in _trained(module, train, freeze))
    frozen = tuple(name for name in held if name not in trained)
    state = optimiser.state({name: held[name] for name in trained})
    if clash := sorted(set(state) & set(held)):
        raise CompileError(
            f"{clash[0]!r} is a tensor of the module and of the optimiser; choose another prefix"
            f" than {prefix!r}"
        )

    def fn(
        ports: dict[str, Tensor], tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        _refuse_training_mode(module)  # again: the mode may have been changed since
        arguments = tuple(_port(ports, name) for name in inputs)
        rate = _port(ports, learning_rate) if isinstance(learning_rate, str) else learning_rate
        live = (ports[WEIGHT].sum() > 0).to(ports[WEIGHT].dtype) if WEIGHT in ports else None
        # linear: scale one number, not every gradient
        scale, rest = (rate, 1.0) if isinstance(optimiser, (SGD, Momentum)) else (1.0, rate)

        def objective(parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            values = {**{name: tensors[name] for name in frozen}, **parameters}
            output = torch.func.functional_call(
                module,
                {name.removeprefix(f"{prefix}."): value for name, value in values.items()},
                arguments,
            )
            mean = _mean(loss(output, ports), ports.get(WEIGHT), live)
            return scale * mean, {loss_name: mean, **(outputs(output, ports) if outputs else {})}

        parameters = {name: tensors[name] for name in trained}
        gradients, given = torch.func.grad(objective, has_aux=True)(parameters)
        return given, _update(
            optimiser, parameters, gradients, {name: tensors[name] for name in state}, rest, live
        )

    return GradientStep(fn, {**held, **state}, frozen)


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _port(ports: Values, name: str) -> Tensor:
    if name not in ports:
        raise CompileError(
            f"the example has no port {name!r}; its ports: {', '.join(ports) or 'none'}"
        )
    return ports[name]


def _mean(each: Tensor, weight: Tensor | None, live: Tensor | None) -> Tensor:
    """The weighted mean of the losses; 0 where all weights are 0. A scalar is taken as it is."""
    if each.dim() == 0:
        return each
    if each.dim() != 1:
        raise CompileError(
            f"the loss has shape {list(each.shape)}; it must be one number, or one for each sample:"
            " (B,)"
        )
    if weight is None or live is None:
        return each.mean()
    return (weight * each).sum() / (weight.sum() + (1 - live))


def _update(
    optimiser: Optimiser,
    parameters: Values,
    gradients: Values,
    state: Values,
    rate: Tensor | float,
    live: Tensor | None,
) -> dict[str, Tensor]:
    """What the optimiser writes; the old values where ``live`` is 0, whether it sees to that itself
    or not.
    """
    if "live" in inspect.signature(optimiser.update).parameters:
        new, after = optimiser.update(parameters, gradients, state, rate, live=live)
        return {**new, **after}
    new, after = optimiser.update(parameters, gradients, state, rate)
    if live is None:
        return {**new, **after}
    old = {**parameters, **state}
    return {
        name: torch.where(live > 0, value, old[name]) for name, value in {**new, **after}.items()
    }


def _trained(module: nn.Module, train: Iterable[str] | None, freeze: Iterable[str]) -> list[str]:
    """Names of the parameters to train, in the module's order."""
    known = dict(module.named_parameters())
    chosen = (
        {name for name, value in known.items() if value.requires_grad}
        if train is None
        else _matching(known, train)
    )
    left = chosen - _matching(known, freeze)
    if not left:
        raise CompileError(f"no parameter is left to train; the module has: {_some(known)}")
    return [name for name in known if name in left]


def _matching(known: Iterable[str], patterns: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        names = {name for name in known if fnmatchcase(name, pattern)}
        if not names:
            raise CompileError(
                f"no parameter is called {pattern!r}; the module has: {_some(known)}"
            )
        found |= names
    return found


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return (", ".join(listed[:12]) or "none") + (
        f" and {len(listed) - 12} more" if len(listed) > 12 else ""
    )


def _refuse_training_mode(module: nn.Module) -> None:
    for name, part in module.named_modules():
        where = f"{name or 'the module'} ({type(part).__name__})"
        if isinstance(part, _NormBase) and part.training and part.track_running_stats:
            raise CompileError(
                f"{where} is in train() mode: it would write its running statistics, in which"
                " samples of weight 0 count; call eval() on it, or write statistics that are"
                " weighted in a step of your own"
            )
        if isinstance(part, _DropoutNd) and part.training and part.p > 0:
            raise CompileError(
                f"{where} is in train() mode: it draws random numbers, and a graph has none; call"
                " eval() on it"
            )
