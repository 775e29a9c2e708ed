"""A folder of images, played once in the order of their names at a set rate."""

from __future__ import annotations

import fnmatch
import logging
import threading
from pathlib import Path

from edgeadapt._sample_files import IMAGES, check_regular, is_image
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.stream_sections import SequenceSource
from edgeadapt.daemon.decoding.picture_reader import read_picture
from edgeadapt.daemon.io.sources.image_input import require_frames
from edgeadapt.daemon.io.sources.rate_timer import RateTimer
from edgeadapt.daemon.messages import Arrival, Deliver
from edgeadapt.errors import InputError

log = logging.getLogger("edgeadapt.daemon")


class ImageSequence:
    """The first image comes at once, the others 1 / rate_hz s apart. One that cannot be read is
    logged, counted and skipped.
    """

    def __init__(self, settings: SequenceSource, spec: InputSpec) -> None:
        require_frames(settings.name, spec)
        self.name, self.stream, self.path = settings.name, settings.stream, settings.path
        self.unreadable = 0
        self._spec, self._rate_hz, self._pattern = spec, settings.rate_hz, settings.pattern
        self._files: list[Path] = []
        self._next = 0

    def counters(self) -> dict[str, int]:
        """For a status line."""
        return {"unreadable": self.unreadable}

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Play; when it is run again, from where it was.

        Raises:
            InputError: the folder cannot be read, or holds no such image.
        """
        self._files = self._files or self._found()
        timer = RateTimer(self._rate_hz, stop)
        while self._next < len(self._files) and not stop.is_set():
            file = self._files[self._next]
            try:
                check_regular(file)
                with open(file, "rb") as opened:
                    x = read_picture(str(file), self._spec, opened)
            except (InputError, OSError) as error:
                self.unreadable += 1
                log.warning("source %s: skipped: %s", self.name, error)
            else:
                deliver(Arrival(self.stream, self.name, x, name=file.name))
            self._next += 1
            if self._next < len(self._files) and not timer.wait():
                return

    def _found(self) -> list[Path]:
        try:
            files = sorted(
                file
                for file in self.path.iterdir()
                if is_image(file.name) and fnmatch.fnmatchcase(file.name, self._pattern)
            )
        except OSError as error:
            raise InputError(f"source {self.name!r}: the folder cannot be read: {error}") from error
        if not files:
            raise InputError(
                f"source {self.name!r}: no images {self._pattern!r} in {self.path}; suffixes read"
                f" here: {', '.join(IMAGES)}"
            )
        return files


__all__ = ["ImageSequence"]
