"""Which lines of the targets' modules were reached, measured in the process itself.

With ``sys.monitoring`` (Python 3.12) a line reports once and costs nothing afterwards, so every
execution is watched. Before, ``sys.settrace`` is used on every ``SAMPLED_EVERY``-th execution.
Counted are the statements of functions; module and class bodies run at import.
"""

from __future__ import annotations

import ast
import importlib
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

SAMPLED_EVERY = 1 if sys.version_info >= (3, 12) else 8
_OPTIMIZED = 0x1  # set for functions, not for module and class bodies
_TOOL = 3


def function_lines(module: str) -> set[int]:
    """Every line of the functions of a module that can execute."""
    file = str(importlib.import_module(module).__file__)
    with open(file, encoding="utf-8") as source:
        return set().union(
            *(
                _own_lines(code)
                for code in _codes(compile(source.read(), file, "exec"))
                if code.co_flags & _OPTIMIZED
            )
        )


def statement_of(module: str) -> dict[int, int]:
    """Line -> the first line of its statement: one that is wrapped counts once."""
    file = str(importlib.import_module(module).__file__)
    with open(file, encoding="utf-8") as source:
        statements = [
            node for node in ast.walk(ast.parse(source.read())) if isinstance(node, ast.stmt)
        ]
    found: dict[int, int] = {}
    for node in sorted(statements, key=lambda node: node.lineno):  # an inner one is the later one
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
            found[line] = node.lineno
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _own_lines(code: CodeType) -> set[int]:
    return {line for _, _, line in code.co_lines() if line} - {code.co_firstlineno}


class Lines:
    """Lines reached so far, by module."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._module_of = {str(importlib.import_module(name).__file__): name for name in modules}
        self.reached: dict[str, set[int]] = {name: set() for name in self._module_of.values()}
        # id of a code object -> its lines that were not reached
        self._left: dict[int, set[int]] = {}
        self._codes: list[CodeType] = []  # kept alive, so that an id stays what it was
        self._is_new = False
        if sys.version_info >= (3, 12):
            self._monitor()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the lines of what runs inside; threads that start inside are included."""
        if sys.version_info >= (3, 12):
            yield
            return
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]

    def has_new(self) -> bool:
        """Was a line reached for the first time since the last call?"""
        found, self._is_new = self._is_new, False
        return found

    def _missing(self, code: CodeType, module: str) -> set[int]:
        left = self._left.get(id(code))
        if left is None:
            self._codes.append(code)
            left = self._left[id(code)] = _own_lines(code) if code.co_flags & _OPTIMIZED else set()
        left -= self.reached[module]
        return left

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        module = self._module_of.get(frame.f_code.co_filename)
        if module is None:
            return None
        left = self._missing(frame.f_code, module)
        if not left:
            return None
        reached = self.reached[module]

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line" and frame.f_lineno in left:
                left.discard(frame.f_lineno)
                reached.add(frame.f_lineno)
                self._is_new = True
            return line

        return line

    def _monitor(self) -> None:
        monitoring = sys.monitoring  # type: ignore[attr-defined]

        def line(code: CodeType, number: int) -> Any:
            module = self._module_of.get(code.co_filename)
            if (
                module is not None
                and code.co_flags & _OPTIMIZED
                and number != code.co_firstlineno
                and number not in self.reached[module]
            ):
                self.reached[module].add(number)
                self._is_new = True
            return monitoring.DISABLE

        monitoring.use_tool_id(_TOOL, "fuzz")
        monitoring.register_callback(_TOOL, monitoring.events.LINE, line)
        monitoring.set_events(_TOOL, monitoring.events.LINE)
