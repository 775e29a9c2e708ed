"""A path that a caller gave, before the operating system sees it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgeadapt.errors import InputError


def check_path(value: Any, what: str) -> Path:
    """A path as text or ``os.PathLike``.

    Raises:
        InputError: another type, an empty text, or a text with a zero byte.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(f"{what} is a path, got {value!r:.80}")
    return Path(text)


__all__ = ["check_path"]
