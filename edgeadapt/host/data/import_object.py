"""``"module:name"`` in a recipe: a function of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from edgeadapt.errors import InputError


def imported(spec: str, what: str) -> Callable[..., Any]:
    """The function or class that ``"module:name"`` names.

    Args:
        spec: the module is looked for as ``import`` does.
        what: what it makes, for messages: ``"network"``, ``"data set"``.

    Raises:
        InputError: another form, nothing of that name, or nothing that can be called.
    """
    module, _, name = spec.partition(":")
    if not (module and name):
        raise InputError(f"a {what} of your own is named 'module:function', got {spec!r}")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{what} {spec!r} cannot be imported: {error}") from error
    if not callable(factory):
        raise InputError(
            f"{what} {spec!r} is a {type(factory).__name__}, not a function or class that builds a"
            f" {what}"
        )
    return factory  # type: ignore[no-any-return]


__all__ = ["imported"]
