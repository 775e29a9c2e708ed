"""What a JSON schema says, apart from how the library that wrote it words it."""

from __future__ import annotations

from typing import Any

_UNORDERED = ("required", "enum", "anyOf", "oneOf", "type")


def meaning(schema: Any) -> Any:
    """The schema without what a release of a library may add or reorder and no reader depends on.

    Left out: defaults that are empty (an empty list, object, string or null); the indentation of
    descriptions; the order of lists that are sets.
    """
    if isinstance(schema, dict):
        kept = {
            key: meaning(value)
            for key, value in schema.items()
            if not _is_empty_default(key, value)
        }
        return {
            key: sorted(value, key=repr) if key in _UNORDERED and isinstance(value, list) else value
            for key, value in kept.items()
        }
    if isinstance(schema, list):
        return [meaning(one) for one in schema]
    return " ".join(schema.split()) if isinstance(schema, str) else schema


def _is_empty_default(key: str, value: Any) -> bool:
    return key == "default" and value in ([], {}, "", None)
