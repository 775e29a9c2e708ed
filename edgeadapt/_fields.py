"""Settings that a user gives in Python are held to their declared types, as those of a TOML file
are.

A field says what it allows in its annotation, ``Annotated[int, Meta(ge=100)]`` or
``Literal["refuse", "add"]``, and nowhere else. What is refused is what the daemon refuses: a word
that is not one of those listed, a number outside its range, NaN, a bool where a number is meant, a
whole number with a fraction. NumPy's scalars count as Python's.
"""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec
import numpy as np
from msgspec import inspect as mi

from edgeadapt._toml import allowed
from edgeadapt.errors import EdgeadaptError, InputError


def check_fields(settings: Any, error: type[EdgeadaptError] = InputError) -> None:
    """Hold every field of a dataclass to its annotation; for ``__post_init__``.

    Raises:
        error: with the class, the field, what it allows and the value that was given.
    """
    kind = type(settings)
    for name, hint in _hints(kind).items():
        value = getattr(settings, name)
        try:
            msgspec.convert(value.item() if isinstance(value, np.generic) else value, hint)
        except (msgspec.ValidationError, OverflowError):
            raise error(f"{kind.__name__}.{name} is {_words(hint)}, got {value!r:.80}") from None


def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _words(hint: Any) -> str:
    """The allowed values; ``None`` where it is one of them."""
    kind = mi.type_info(hint)
    is_optional = isinstance(kind, mi.UnionType) and kind.includes_none
    return allowed(kind) + (" or None" if is_optional else "")
