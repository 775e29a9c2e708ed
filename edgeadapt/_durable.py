"""Files that are whole whatever happens: a crash or a power cut leaves the old file or the new
one.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def replace_file(path: Path, data: bytes, *, mode: int = 0o644, keep_owner: bool = False) -> None:
    """Write next to ``path``, make it durable, then rename.

    Args:
        mode: of the file. keep_owner: one that is there keeps owner, group and mode instead.

    Raises:
        OSError: the folder is missing, full or read-only; the old file is untouched.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            if keep_owner and path.exists():
                old = path.stat()
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
                mode = stat.S_IMODE(old.st_mode)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # without it a power cut may undo the rename
    finally:
        os.close(directory)
