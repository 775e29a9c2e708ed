"""Which module of a network an operator comes from, so that an error can say where to look.

Modules are followed by torch's global forward hooks while a function is traced, so a network called
inside the function (``torch.func.functional_call``) is followed too. An operator of a gradient
belongs to the module whose forward pass made its autograd node; these are numbered in the order of
their making.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

META = "module_path"
"""Key of a graph node's ``meta`` with the path of its module; absent outside of modules."""

# the compiler's wrapper, a learner, torch.func.grad around its loss, the loss, what it calls
_SEARCH_DEPTH = 5


class Origins(TorchDispatchMode):
    """While active, marks every node of the graph being traced with the path of its module, and
    keeps the operator that runs.

    ``operator`` is the one that raised, after an error; ``path`` its module, as
    ``encoder.blocks.3.norm (LayerNorm)``. A root is called by the name under which the function
    reaches it, or else by its class.

    Args:
        fn: the function that is traced, in whose closure and globals the roots are looked for.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.operator: str | None = None
        self.path: str | None = None
        self._paths: dict[int, str] = {}
        for name, module in _modules(fn, _SEARCH_DEPTH, set()):
            self._learn(name, module)
        self._entered: list[tuple[nn.Module, int]] = []
        # autograd nodes [first, last) of a module, inner modules first
        self._spans: list[tuple[int, int, str]] = []
        self._hooks = ExitStack()

    def __enter__(self) -> Origins:
        before = register_module_forward_pre_hook(self._enter_module)
        after = register_module_forward_hook(self._leave_module)
        self._hooks.callback(before.remove)
        self._hooks.callback(after.remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.close()
        if error[0] is not None and self.path is None and self._entered:
            self.path = self._path(self._entered[-1][0])  # Python failed between operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        mode = get_proxy_mode()
        graph = mode.tracer.graph if mode is not None else None
        last = next(iter(reversed(graph.nodes)), None) if graph is not None else None
        self.operator, self.path = str(func), self._here()
        result = func(*args, **(kwargs or {}))
        if graph is not None and self.path is not None:
            for node in reversed(graph.nodes):
                if node is last:
                    break
                node.meta[META] = self.path
        self.operator = self.path = None
        return result

    @property
    def kind(self) -> str | None:
        """The class of the module that raised, after an error inside one."""
        return self.path.rpartition("(")[2].rstrip(")") if self.path else None

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        self._learn(type(module).__name__, module)
        self._entered.append((module, torch.autograd._get_sequence_nr()))

    def _leave_module(self, module: nn.Module, args: Any, result: Any) -> None:
        while self._entered:  # past modules that raised and were caught
            left, first = self._entered.pop()
            if left is module:
                self._spans.append((first, torch.autograd._get_sequence_nr(), self._path(module)))
                return

    def _learn(self, name: str, root: nn.Module) -> None:
        if id(root) not in self._paths:
            for path, module in root.named_modules():
                self._paths.setdefault(id(module), f"{name}.{path}" if path else name)

    def _here(self) -> str | None:
        node = torch._C._current_autograd_node()
        if node is not None:
            number = node._sequence_nr()
            return next((path for first, last, path in self._spans if first <= number < last), None)
        return self._path(self._entered[-1][0]) if self._entered else None

    def _path(self, module: nn.Module) -> str:
        kind = type(module).__name__
        path = self._paths.get(id(module), kind)
        return path if path == kind else f"{path} ({kind})"


def where(operator: Any, path: str | None) -> str:
    """The beginning of a message: ``aten.rand.default in encoder.drop (Dropout) ``, as much of it
    as is known.
    """
    return " ".join([*([str(operator)] if operator else []), *([f"in {path}"] if path else []), ""])


def _modules(value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """The networks that a function can reach, by the names it uses for them."""
    while not isinstance(value, FunctionType):
        if isinstance(value, MethodType):
            yield from (
                (name, owned)
                for name, owned in vars(value.__self__).items()
                if isinstance(owned, nn.Module)
            )
            value = value.__func__
        elif isinstance(value, partial):
            value = value.func
        else:
            return
    if depth == 0 or id(value) in seen or (value.__module__ or "").partition(".")[0] == "torch":
        return
    seen.add(id(value))
    names = value.__code__.co_freevars
    for name, found in chain(
        zip(names, map(_content, value.__closure__ or ()), strict=True),
        _globals(value, value.__code__),
    ):
        if isinstance(found, nn.Module):
            yield name, found
        else:
            yield from _modules(found, depth - 1, seen)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is assigned later
        return None


def _globals(function: FunctionType, code: CodeType) -> Iterator[tuple[str, Any]]:
    """The globals that a function and the functions written inside it name."""
    yield from (
        (name, function.__globals__[name]) for name in code.co_names if name in function.__globals__
    )
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _globals(function, inner)


__all__ = ["META", "Origins", "where"]
