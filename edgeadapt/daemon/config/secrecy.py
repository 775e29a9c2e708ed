"""How well a secret keeps: a token that can be guessed, a file that others can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

# characters, and different ones among them; 16 random hexadecimal digits have 64 bits
_SHORTEST, _FEWEST = 16, 6


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


__all__ = ["exposure_of", "weakness_of"]
