"""Deltas, starts and scores by the names that recipes and files use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

from edgeadapt.errors import InputError
from edgeadapt.host.tuning.registry import Role, makes


def _kinds(role: Role) -> dict[str, Any]:
    made = (make.partition(":") for make in makes(role).values())
    kinds = (getattr(import_module(module), name) for module, _, name in made)
    return {kind.name: kind for kind in kinds}


DELTAS, STARTS, SCORES = _kinds("delta"), _kinds("start"), _kinds("score")


def member(kinds: Mapping[str, Any], key: str, name: str, options: Mapping[str, Any]) -> Any:
    """The member of this name, with these settings.

    Args:
        kinds: one of the three tables.
        key: of the recipe, for messages, such as ``"tune.method"``.
        options: fields of its dataclass. The parts of a union are names, or ``{"name": ...,
            "options": {...}}``.

    Raises:
        InputError: no such name or setting, or a value that it refuses; the message has those that
            there are.
    """
    kind = kinds.get(name)
    if kind is None:
        raise InputError(f"{key} = {name!r}; allowed: {', '.join(sorted(kinds))}")
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        allowed = ", ".join(known) or "none"
        raise InputError(f"{key} {name!r} has no option {unknown[0]!r}; allowed: {allowed}")
    try:
        if "parts" in options:
            parts = [_named(part) for part in options["parts"]]
            return kind(tuple(member(kinds, f"{key}.parts", *part) for part in parts))
        return kind(**options)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:  # of another type
        raise InputError(f"{key} {name!r}: {error}") from None


def _named(part: Any) -> tuple[str, Mapping[str, Any]]:
    return (part["name"], part["options"]) if isinstance(part, Mapping) else (part, {})


def options_of(method: Any) -> dict[str, Any]:
    """All settings of a member, as :func:`member` takes them and as JSON holds them; so a file
    stays what it is when defaults change.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        if is_dataclass(value) and not isinstance(value, type):
            return {"name": value.name, "options": options_of(value)}
        return value

    return {field.name: plain(getattr(method, field.name)) for field in fields(method)}


__all__ = ["DELTAS", "SCORES", "STARTS", "member", "options_of"]
