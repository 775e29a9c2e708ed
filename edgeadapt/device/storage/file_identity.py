"""Are the files that were opened still those under their names?

What is written into a file that was removed, or that another has replaced, is gone when the process
ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgeadapt.errors import StorageError


class FileIdentity:
    """Device and inode of files, as they are now."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._known = [(path, _identity(path)) for path in paths]

    def require(self) -> None:
        """Two ``stat`` calls, some microseconds.

        Raises:
            StorageError: one of them was removed, moved or replaced.
        """
        for path, known in self._known:
            if _identity(path) != known:
                raise StorageError(
                    f"{path} was removed or replaced while it is in use: nothing that is learned "
                    "would last, so nothing is taken; put it back, or close and open again"
                )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:  # whatever the reason, it cannot be opened again under this name
        return None
    return found.st_dev, found.st_ino
