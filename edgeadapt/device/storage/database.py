"""``learner.db`` as a file: who may open it, transactions that are all or nothing, and the
write-ahead log.

WAL with ``synchronous=FULL``: a transaction that returned survives a power cut. ``secure_delete``
overwrites what is forgotten. The write-ahead log is written back here, at a size of our choosing,
so that every byte that goes to the disk can be counted.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeadapt.device.resources.write_meter import Writes
from edgeadapt.device.storage import schema as journal_schema
from edgeadapt.device.storage.corruption import UNREADABLE, reads
from edgeadapt.device.storage.file_identity import FileIdentity
from edgeadapt.device.storage.folder import FILE_NAME, FolderLock, claim, refusal, unreadable
from edgeadapt.device.storage.log_check import check_log
from edgeadapt.device.storage.new_database import make_database, require_content
from edgeadapt.device.storage.schema import VERSION as SCHEMA_VERSION
from edgeadapt.errors import StateError

LOG_BYTES = 4 << 20  # a write-ahead log of this size is written back after the next change
_BUSY_S = 5.0  # how long a change waits for another connection
_NO_JOURNAL: tuple[type[Exception], ...] = (*UNREADABLE, AssertionError)
_LARGEST = 1 << 53  # commits and bytes that any journal can have


def sane(number: Any) -> int:
    if not 0 <= int(number) <= _LARGEST:
        raise ValueError(f"the number {number} is out of range")
    return int(number)


class Database:
    """The file, its lock, its log and its transactions; ``meta`` is the one table that every reader
    needs. Thread-safe.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        """Open or create; a file of an earlier version is migrated. ``None`` keeps the journal in
        memory: nothing survives the process.

        Raises:
            StateError: locked by another process, not ours, damaged, newer, or not writable.
        """
        self.folder = Path(folder) if folder is not None else None
        self._mutex = threading.RLock()
        # called inside transactions; tests stop the process here
        self.at: Callable[[str], None] = lambda step: None
        self._lock: FolderLock | None = None
        self.is_new = False
        self._log: Path | None = None
        self._files: FileIdentity | None = None
        if self.folder is None:
            self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        else:
            self._lock, path = claim(self.folder)
            self._log = Path(f"{path}-wal")
            try:
                self.is_new = not path.exists()
                if self.is_new:
                    make_database(path)
                require_content(path)
                check_log(self._log)
                self._db = sqlite3.connect(
                    path, check_same_thread=False, isolation_level=None, timeout=_BUSY_S
                )
            except sqlite3.Error as error:
                self._lock.release()
                raise StateError(f"cannot open {path}: {error}") from error
            except BaseException:
                self._lock.release()
                raise
        try:
            left = self._log_bytes()  # of a process that was killed
            self._prepare()
            self.writes = Writes(*self._written_before())
            self.writes.add(self._log_bytes() - left)
            if self.is_new and self.folder is not None:
                self.writes.add((self.folder / FILE_NAME).stat().st_size)
            if self._log is not None:
                self._files = FileIdentity([path, self._log])
            # it may have been killed before what it deleted had left the log
            self.holds_deleted = left > 0
        except sqlite3.OperationalError as error:
            self.close()
            raise refusal(self.folder, error) from error
        except _NO_JOURNAL as error:
            self.close()
            raise StateError(
                f"{self.folder or 'memory'}: {FILE_NAME} is damaged or not a learner's journal:"
                f" {error}"
            ) from error
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        db = self._db
        is_empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if is_empty and self.folder is not None:
            raise StateError(
                f"{self.folder}: {FILE_NAME} has no tables: what it held is lost; restore the"
                f" folder from a copy, or remove {FILE_NAME} to begin anew"
            )
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "secure_delete=ON",
            "wal_autocheckpoint=0",
        ):
            db.execute(f"PRAGMA {pragma}")
        if is_empty:
            with self._all_or_nothing():
                journal_schema.create(db)
            self.is_new = True
            return
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            raise StateError(f"{self.folder}: {FILE_NAME} is a database of something else")
        self._refuse_foreign_parts(exactly=False)
        written = self.meta("schema")
        if written == str(SCHEMA_VERSION):
            self._refuse_foreign_parts(exactly=True)
            return
        if not journal_schema.can_migrate(written):
            raise StateError(
                f"{self.folder}: journal schema {written}, this version reads {SCHEMA_VERSION};"
                " open it with the version that wrote it"
            )
        with self._all_or_nothing():
            journal_schema.migrate(db, int(str(written)))
        self._refuse_foreign_parts(exactly=True)

    def _refuse_foreign_parts(self, *, exactly: bool) -> None:
        found = journal_schema.foreign_part(self._db, exactly=exactly)
        if found is not None:
            raise StateError(
                f"{self.folder}: {FILE_NAME} is damaged or not a learner's journal: it has {found}"
            )

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.at("before_commit")
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; a full or failing disk, or a file that was removed, becomes a
        StorageError and changes nothing.
        """
        with self._mutex:
            if self._files is not None:
                self._files.require()
            before = self._log_bytes()
            try:
                with self._all_or_nothing():
                    yield self._db
            except sqlite3.Error as error:
                raise refusal(self.folder, error) from error
            finally:
                self.writes.add(self._log_bytes() - before)
            self.at("after_commit")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Holds the mutex; what cannot be read becomes a StorageError."""
        with self._mutex:
            try:
                yield
            except sqlite3.Error as error:
                raise unreadable(self.folder, error) from error

    def _all(self, sql: str, *values: Any) -> list[Any]:
        """Every row that a SELECT finds."""
        with self._reading():
            return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, *values: Any) -> Any:
        """The first row of a SELECT that always finds one."""
        with self._reading():
            return self._db.execute(sql, values).fetchone()

    # -- the write-ahead log -----------------------------------------------------------------------
    def _log_bytes(self) -> int:
        """Size of the write-ahead log; as it was the last time where the system does not say."""
        if self._log is None:
            return 0
        try:
            self._last_log_bytes = self._log.stat().st_size
        except FileNotFoundError:
            self._last_log_bytes = 0
        except OSError as error:
            self.delayed = str(error)
        return self._last_log_bytes

    _last_log_bytes = 0

    def write_back(self, *, at_least: int = 0, wait_s: float = 0.0) -> None:
        """Move the write-ahead log into the database and empty it, if it has ``at_least`` so many
        bytes.

        It follows changes that are durable already, so that nothing may be raised here: a disk that
        is full or fails delays it to the next time, and what was committed stays in the log. So
        does a reader of an older state.

        Args:
            wait_s: how long to wait for readers of other connections.
        """
        with self._mutex:
            if self._log is None or self._log_bytes() < max(at_least, 1):
                self.holds_deleted = self.holds_deleted and self._log_bytes() > 0
                return
            try:
                page, pages = self._pragma("page_size"), self._pragma("page_count")
                frames = self._log_bytes() // page
                is_busy = self._truncate_log(wait_s)
            except sqlite3.Error as error:
                self.delayed = str(error)
                return
            self.delayed = "" if not is_busy else "in use"
            self.holds_deleted = self.holds_deleted and is_busy
            # at most: a page that changed twice is written once
            self.writes.add(page * min(frames, pages))

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _truncate_log(self, wait_s: float) -> bool:
        """True if a reader was in the way. Nothing else in this process waits longer for it than
        ``wait_s``.
        """
        self._db.execute(f"PRAGMA busy_timeout={int(1000 * wait_s)}")
        try:
            return bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        finally:
            self._db.execute(f"PRAGMA busy_timeout={int(1000 * _BUSY_S)}")

    delayed: str = ""
    """Why the log could not be written back the last time; empty if it could."""
    holds_deleted: bool = False
    """True while the log still has what was deleted: it is written back after every change until it
    is empty.
    """

    @property
    def unerased(self) -> str:
        """What of the deleted rows can still be read, and why; empty if nothing can."""
        if not self.holds_deleted:
            return ""
        why = "another connection reads the database" if self.delayed == "in use" else self.delayed
        return (
            f"the write-ahead log ({self._log_bytes()} bytes) still holds what was deleted:"
            f" {why or 'it was left behind'}; it is tried again until it is empty, and settle() or"
            " checkpoint() finish it"
        )

    def _written_before(self) -> tuple[int, list[tuple[float, int]]]:
        """Bytes written since the journal was created, and those of the last day by the hour, as
        the commits noted them.
        """
        since = time.time() - 25 * 3600.0
        found = self._db.execute(
            "SELECT min(time), max(written) FROM commits WHERE time >= ? GROUP BY cast(time / 3600"
            " AS INTEGER) ORDER BY 1",
            (since,),
        ).fetchall()
        before = sane(
            self._db.execute(
                "SELECT coalesce(max(written), 0) FROM commits WHERE time < ?", (since,)
            ).fetchone()[0]
        )
        hours = []
        for at, written in found:
            hours.append((float(at), max(0, sane(written) - before)))
            before = max(before, sane(written))
        return before, hours

    # -- meta --------------------------------------------------------------------------------------
    @reads
    def meta(self, key: str) -> str | None:
        found = self._all("SELECT value FROM meta WHERE key = ?", key)
        return str(found[0][0]) if found else None

    def set_meta(self, values: Mapping[str, str]) -> None:
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    @property
    def nbytes(self) -> int:
        """Bytes on disk, write-ahead log included."""
        if self.folder is None:
            return 0
        return sum(p.stat().st_size for p in self.folder.glob(FILE_NAME + "*"))

    def keep_lock(self) -> FolderLock | None:
        """The lock of the folder, which closing this journal does not release any more: whoever
        asks for it does.
        """
        lock, self._lock = self._lock, None
        return lock

    def close(self) -> None:
        with self._mutex:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._files = None  # the log goes with the last connection
            if self._lock is not None:
                self._lock.release()
