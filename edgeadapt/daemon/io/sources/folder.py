"""A folder that is watched: each image in it is a sample, once it is written to its end, and again
when its contents are replaced.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeadapt._sample_files import is_image
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.stream_sections import FolderSource
from edgeadapt.daemon.decoding.picture_reader import read_picture
from edgeadapt.daemon.io.folder_ledger import Stamp, Taken
from edgeadapt.daemon.io.sources.image_input import require_frames
from edgeadapt.daemon.messages import Answer, Arrival, Deliver
from edgeadapt.errors import InputError

log = logging.getLogger("edgeadapt.daemon")
_AT_ONCE = 4096  # files that are looked at twice; the others wait for their turn
_SHARE = 0.1  # of the time may go into scanning


class FolderWatch:
    """Scans, as that needs nothing of the file system: it works on network drives and in
    containers.

    A file is taken when two scans find it unchanged; its name is the path from the folder. A file
    that cannot be read is logged, counted and left alone until it changes. One that the queue
    refuses is offered again.

    Args:
        settings: with ``label_from = "parent"`` a file at the top has no label; with ``existing =
            "skip"`` what the first scan finds is not taken.
        scan_s: between two scans; longer if a scan takes long.
        most: files that are remembered. While more than that lie in the folder, no new ones are
            taken.
        taken: files that were taken before this process, which are not taken again; a file is added
            once it was answered. None: what is there at the start is taken.
    """

    def __init__(
        self,
        settings: FolderSource,
        spec: InputSpec,
        *,
        scan_s: float = 1.0,
        most: int = 100_000,
        taken: Taken | None = None,
    ) -> None:
        require_frames(settings.name, spec)
        self.name, self.stream, self.path = settings.name, settings.stream, settings.path
        self.unreadable = 0
        self._spec, self._pattern = spec, settings.pattern
        self._has_labels = settings.label_from == "parent"
        self._scan_s, self._most = scan_s, most
        self._before, self._is_skipping = taken, settings.existing == "skip"
        self._taken: dict[str, Stamp] = {}
        self._changing: dict[str, Stamp] = {}
        self._is_overfull = False

    def counters(self) -> dict[str, int]:
        """For a status line."""
        return {"unreadable": self.unreadable}

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Watch until it is stopped.

        Raises:
            InputError: the folder cannot be read.
        """
        while not stop.is_set():
            started = time.monotonic()
            finished = self._scan(stop)
            took_s = time.monotonic() - started
            for file, stamp in finished:
                if stop.is_set() or not self._take(file, stamp, deliver):
                    break
            stop.wait(max(self._scan_s, took_s * (1.0 / _SHARE - 1.0)))

    def _scan(self, stop: threading.Event) -> list[tuple[str, Stamp]]:
        """Files that have not been taken and did not change since the last scan, the oldest
        first.
        """
        changing: dict[str, Stamp] = {}
        present: dict[str, Stamp] | None = {} if self._is_skipping or self._is_full() else None
        for file, stamp in self._files(self.path, stop):
            if present is not None:
                present[file] = stamp
            if (
                self._taken.get(file) != stamp
                and self._before is not None
                and self._before.has(file, stamp)
            ):
                self._taken[file] = stamp
            if self._taken.get(file) != stamp and len(changing) < _AT_ONCE:
                changing[file] = stamp
        if stop.is_set():
            return []
        if present is not None and self._is_skipping:
            self._taken, self._is_skipping = present, False
            return []
        if present is not None:
            self._forget_gone(present)
        finished = [
            (file, stamp) for file, stamp in changing.items() if self._changing.get(file) == stamp
        ]
        self._changing = changing
        return sorted(self._remembered(finished), key=lambda found: (found[1][1], found[0]))

    def _is_full(self) -> bool:
        return len(self._taken) >= self._most or (
            self._before is not None and len(self._before) >= self._most
        )

    def _forget_gone(self, present: dict[str, Stamp]) -> None:
        """Of files that are gone; an empty folder may be one that is not mounted yet."""
        self._taken = {file: stamp for file, stamp in self._taken.items() if file in present}
        if self._before is not None and present:
            self._before.keep(present.items())

    def _remembered(self, finished: list[tuple[str, Stamp]]) -> list[tuple[str, Stamp]]:
        """Those that there is memory for: a file that would be forgotten would be taken again and
        again.
        """
        known = [found for found in finished if found[0] in self._taken]
        new = [found for found in finished if found[0] not in self._taken]
        room = max(0, self._most - len(self._taken))
        if len(new) > room and not self._is_overfull:
            log.warning(
                "source %s: %d files of %s were taken and lie there still; new ones are taken when"
                " they are gone",
                self.name,
                len(self._taken),
                self.path,
            )
        self._is_overfull = len(new) > room
        return known + new[:room]

    def _files(self, folder: Path, stop: threading.Event) -> Iterator[tuple[str, Stamp]]:
        """Path from the watched folder, and stamp. Links are not followed: they could lead
        anywhere, and round.
        """
        try:
            entries = os.scandir(folder)
        except OSError as error:
            if folder == self.path:
                raise InputError(
                    f"source {self.name!r}: the folder cannot be read: {error}"
                ) from error
            return  # it went away in the meantime, or is not ours to read
        with entries:
            for entry in entries:
                if stop.is_set():
                    return
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._files(Path(entry.path), stop)
                elif (
                    is_image(entry.name)
                    and fnmatch.fnmatchcase(entry.name, self._pattern)
                    and entry.is_file(follow_symlinks=False)
                ):
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    yield os.path.relpath(entry.path, self.path), (found.st_size, found.st_mtime_ns)

    def _take(self, file: str, stamp: Stamp, deliver: Deliver) -> bool:
        """False if the queue had no room for it."""
        # a name of other bytes than UTF-8
        name = file.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        try:
            opened = os.open(
                self.path / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
            with os.fdopen(opened, "rb") as source:
                found = os.fstat(opened)
                if not stat.S_ISREG(found.st_mode) or (found.st_size, found.st_mtime_ns) != stamp:
                    return True  # the next scan sees it as it is now
                x = read_picture(name, self._spec, source)
        except FileNotFoundError:
            return True
        except (InputError, OSError) as error:
            self.unreadable += 1
            self._taken[file] = stamp
            if self._before is not None:
                self._before.add(file, stamp)
            log.warning("source %s: skipped: %s", self.name, error)
            return True
        parent = os.path.basename(os.path.dirname(name)) if self._has_labels else ""
        if not deliver(
            Arrival(
                self.stream,
                self.name,
                x,
                name=name,
                label=parent or None,
                reply=self._answered(file, stamp),
            )
        ):
            return False
        self._taken[file] = stamp
        return True

    def _answered(self, file: str, stamp: Stamp) -> Callable[[Answer], None] | None:
        """Remembers a file that has its answer; one that was dropped, or whose label was, or that
        waited when the daemon stopped, is taken after the restart.
        """
        before = self._before
        if before is None:
            return None

        def reply(answer: Answer) -> None:
            if not answer.error:
                before.add(file, stamp)

        return reply


__all__ = ["FolderWatch"]
