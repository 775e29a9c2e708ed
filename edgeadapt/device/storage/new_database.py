"""An empty ``learner.db``, there as a whole or not at all: one without tables is never ours.

It is made beside its place and renamed, so that a file that is empty was emptied by something else,
and is not taken for a folder in which nothing was learned yet.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from edgeadapt.device.storage import schema as journal_schema
from edgeadapt.device.storage.atomic_swap import make_durable, sync
from edgeadapt.errors import StateError, StorageError

_NAME = "learner.new"


def make_database(path: Path) -> None:
    """The database with its tables at ``path``, where no file is. The caller has the folder's lock.

    Raises:
        StorageError: the disk is full or fails; there is still no file.
        StateError: the log of a database that was here is left, which SQLite would play into the
            new one.
    """
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size:
        raise StateError(
            f"{path} is missing, and {log.name} beside it still has {log.stat().st_size} bytes of "
            f"changes to it; restore {path.name} from a copy, or remove {log.name} to begin anew"
        )
    new = path.with_name(_NAME)
    try:
        new.unlink(missing_ok=True)  # of a process that was killed
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
            for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=MEMORY", "synchronous=OFF"):
                db.execute(f"PRAGMA {pragma}")  # nobody has the name yet: one sync at the end
            db.execute("BEGIN")
            journal_schema.create(db)
            db.execute("COMMIT")
        make_durable(new)
        os.rename(new, path)
        sync(path.parent)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        why = error.strerror if isinstance(error, OSError) else error
        raise StorageError(f"cannot create {path}: {why}; make room, and open it again") from error


def require_content(path: Path) -> None:
    """Refuse a database file of no bytes before SQLite takes it, and removes the log beside it.

    Raises:
        StateError: it is empty.
    """
    if path.stat().st_size:
        return
    log = Path(f"{path}-wal")
    left = log.stat().st_size if log.exists() else 0
    what = f"; {log.name} beside it still has {left} bytes of changes" if left else ""
    raise StateError(
        f"{path} is empty, and no learner leaves it so: what it held is lost{what}; restore the "
        f"folder from a copy, or remove {path.name} to begin anew"
    )
