"""A secret in a file, and how well it keeps: one that can be guessed, a file that others can
read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgeadapt.errors import RecipeError

# characters, and different ones among them; 16 random hexadecimal digits have 64 bits
_SHORTEST, _FEWEST = 16, 6


def read_secret(path: Path) -> str:
    """The token or password in a file, without the line's end.

    Raises:
        RecipeError: it cannot be read, or does not hold one line of printable ASCII. The message
            does not show it.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(4097).decode("ascii").strip("\r\n")
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path}: the secret in it cannot be read:"
            f" {getattr(error, 'strerror', None) or 'it is not ASCII'}"
        ) from None
    if not text or not text.isprintable() or text.strip() != text or len(text) > 4096:
        raise RecipeError(
            f"{path}: holds no secret: one line of 1 to 4096 printable characters is expected, with"
            " no space at either end"
        )
    return text


def weakness_of(token: str) -> str:
    """Why somebody could guess it; empty if nothing here says so. The text does not show it."""
    if len(token) < _SHORTEST:
        return f"has {len(token)} characters, and {_SHORTEST} are the least"
    if len(set(token)) < _FEWEST:
        return f"has {len(set(token))} different characters, and {_FEWEST} are the least"
    if token in (token + token)[1:-1]:
        return "is one piece, repeated"
    return ""


def exposure_of(path: Path) -> str:
    """Why others can read a file; empty if only its owner and group can.

    Raises:
        OSError: it is not there.
    """
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if not mode & stat.S_IROTH:
        return ""
    return f"{path}: every user of this machine can read it (mode {mode:04o}); chmod o-r"


__all__ = ["exposure_of", "read_secret", "weakness_of"]
