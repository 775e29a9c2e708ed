"""Where the benches keep what takes minutes to make."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Where the benches keep what takes minutes to make."""
    folder = Path(tempfile.gettempdir()) / f"edgeadapt-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
