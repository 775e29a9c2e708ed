"""One line for every method: what a recipe calls it, what makes it, and what came of measuring it.

Nothing here imports torch: a method is imported when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

from edgeadapt.errors import InputError

_TUNING = "edgeadapt.host.tuning"

BASELINES: dict[tuple[str, str], str] = {
    ("delta", "head"): f"{_TUNING}.deltas.whole:Head",
    ("delta", "bias"): f"{_TUNING}.deltas.whole:Bias",
    ("delta", "full"): f"{_TUNING}.deltas.whole:Full",
    ("delta", "low_rank"): f"{_TUNING}.deltas.low_rank:LowRank",
    ("delta", "scale_shift"): f"{_TUNING}.deltas.scale_shift:ScaleShift",
}
"""What the methods are held against, by role and name."""


def made(role: str, name: str, options: Mapping[str, Any]) -> Any:
    """A method from its name and its settings, as a recipe and a file have them.

    Args:
        role: ``"delta"``, ``"start"`` or ``"score"``.
        name: as a recipe calls it.
        options: fields of its dataclass; one that is a delta itself is ``{"name": ..., "options":
            {...}}``, and a list becomes a tuple.

    Raises:
        InputError: no such method, no such setting, or a value that it refuses.
    """
    makes = {one: make for (of, one), make in BASELINES.items() if of == role}
    if name not in makes:
        raise InputError(f"no {role} {name!r}; there are {', '.join(sorted(makes))}")
    module, _, kind = makes[name].partition(":")
    method = getattr(import_module(module), kind)
    known = [field.name for field in fields(method)]
    if unknown := sorted(set(options) - set(known)):
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise InputError(f"{role} {name} has no setting {unknown[0]!r}; {has}")
    try:
        return method(**{key: _value(role, value) for key, value in options.items()})
    except (TypeError, ValueError) as error:  # one of the errors of edgeadapt is a ValueError
        raise InputError(f"{role} {name}: {error}") from None


def _value(role: str, value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"name", "options"}:
        return made(role, value["name"], value["options"])
    if isinstance(value, (list, tuple)):
        return tuple(_value(role, one) for one in value)
    return value


def options_of(method: Any) -> tuple[str, dict[str, Any]]:
    """Name and settings of a method, all of them, so that :func:`made` makes it again whatever
    defaults become.
    """
    return method.name, {
        field.name: _plain(getattr(method, field.name)) for field in fields(method)
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        name, options = options_of(value)
        return {"name": name, "options": options}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


__all__ = ["BASELINES", "made", "options_of"]
