"""Frames of a camera, a video file, a network stream or a GStreamer pipeline.

Of what is live only the newest frame counts: a thread reads and forgets, and the next frame is
handed over when one before it was answered, so that a slow loop sees fewer frames, not older ones.
A file waits for the loop instead, and loses none.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt._prepare import prepare
from edgeadapt.bundle.schema import InputSpec
from edgeadapt.daemon.config.schema import VideoSource
from edgeadapt.daemon.io.sources.image_input import require_frames
from edgeadapt.daemon.io.sources.rate_timer import RateTimer
from edgeadapt.daemon.io.sources.video_readers import (
    LAUNCH,
    Capture,
    Pipeline,
    Reader,
    camera_of,
    words_of,
)
from edgeadapt.daemon.messages import Answer, Arrival, Deliver
from edgeadapt.errors import InputError

log = logging.getLogger("edgeadapt.daemon")
_LIVE_AHEAD, _FILE_AHEAD = 2, 32  # frames that are handed over and not answered
_UNANSWERED_S = 10.0  # then they count as answered


class VideoFrames:
    """Frames are called by their number, from 0 on; of a file its own, of what is live those that
    came since the daemon started.

    Args:
        settings: where the frames come from; ``real_time`` matters to files alone.

    Raises:
        InputError: the bundle takes no images, what reads the video is missing, or a pipeline has a
            quote that is not closed.
    """

    def __init__(self, settings: VideoSource, spec: InputSpec) -> None:
        require_frames(settings.name, spec)
        self.name, self.stream = settings.name, settings.stream
        self._settings, self._spec, self._next = settings, spec, 0
        self._is_real_time = settings.real_time
        if settings.pipeline:
            words_of(settings.pipeline)
            if shutil.which(LAUNCH) is None:
                raise InputError(
                    f"source {self.name!r} needs {LAUNCH}, which is not installed; Debian and"
                    " Ubuntu have it in gstreamer1.0-tools"
                )
        elif importlib.util.find_spec("cv2") is None:
            raise InputError(
                f"source {self.name!r} needs OpenCV, which is not installed: pip install"
                " 'edgeadapt[video]'"
            )

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Bring frames until the end of the file or of a pipeline that plays one; when it is run
        again, from where it was.

        Raises:
            InputError: the camera or file cannot be read.
            ConnectionError: what is live ended, or no frame came for 10 s; run it again.
        """
        if self._settings.file is not None and camera_of(self._settings.file) is None:
            self._play(self._settings.file, deliver, stop)
        else:
            self._follow(deliver, stop)

    def _arrival(
        self,
        frame: NDArray[np.uint8],
        colour: str,
        number: int,
        at: tuple[float, float],
        ahead: _Ahead | None,
    ) -> Arrival:
        x = prepare(frame, self._spec, colour=colour)
        return Arrival(
            self.stream,
            self.name,
            x,
            name=str(number),
            at=at[0],
            came=at[1],
            reply=None if ahead is None else ahead.answered,
        )

    # -- live --------------------------------------------------------------------------------------
    def _open(self) -> Reader:
        if self._settings.pipeline:
            return Pipeline(self._settings.pipeline)
        device = camera_of(self._settings.file) if self._settings.file is not None else None
        return Capture(device or self._settings.url, "camera" if device is not None else "stream")

    def _follow(self, deliver: Deliver, stop: threading.Event) -> None:
        ahead, newest = _Ahead(_LIVE_AHEAD), _Newest(self._open, self._settings.every, self._next)
        try:
            while not stop.is_set():
                if not ahead.has_room(0.05):
                    continue
                found = newest.take(0.05)
                if found is not None:
                    frame, colour, number, at = found
                    arrival = self._arrival(frame, colour, number, at, ahead)
                    ahead.begin()
                    if not deliver(arrival):
                        ahead.answered()
                elif newest.has_ended:
                    newest.check()
                    return
        finally:
            newest.stop()
            self._next = newest.number

    # -- a file ------------------------------------------------------------------------------------
    def _play(self, file: Path, deliver: Deliver, stop: threading.Event) -> None:
        if not os.path.isfile(file):
            raise InputError(
                f"source {self.name!r}: {file} is"
                f" {'no regular file' if os.path.exists(file) else 'not there'}"
            )
        capture = Capture(str(file), "video")
        try:
            self._play_from(capture, file, deliver, stop)
        finally:
            capture.close()

    def _play_from(
        self, capture: Capture, file: Path, deliver: Deliver, stop: threading.Event
    ) -> None:
        timer = RateTimer(capture.rate_hz, stop) if self._is_real_time else None
        ahead, number, is_first = _Ahead(_FILE_AHEAD), 0, True
        while not stop.is_set():
            is_wanted = number >= self._next and number % self._settings.every == 0
            try:
                frame = capture.read(is_wanted)
            except ConnectionError:
                break
            if frame is not None:
                if timer is not None:
                    if not is_first and not timer.wait(self._settings.every):
                        return
                elif not ahead.waits(stop):
                    return
                ahead.begin()
                if not deliver(
                    self._arrival(frame, "bgr", number, (time.time(), time.monotonic()), ahead)
                ):
                    ahead.answered()
                self._next, is_first = number + 1, False
            number += 1
        if number == 0 and not stop.is_set():
            raise InputError(f"source {self.name!r}: {file} holds no frames that can be read")
        if not stop.is_set() and number < 0.9 * capture.frames:
            log.warning(
                "source %s: %s ends after %d of %d frames", self.name, file, number, capture.frames
            )


class _Ahead:
    """Counts frames that were handed over and not answered. An answer that never comes does not
    stop the source for good.
    """

    def __init__(self, most: int) -> None:
        self._most, self._count, self._since = most, 0, time.monotonic()
        self._changed = threading.Condition()

    def has_room(self, timeout_s: float) -> bool:
        with self._changed:
            if self._changed.wait_for(lambda: self._count < self._most, timeout_s):
                return True
            if time.monotonic() - self._since < _UNANSWERED_S:
                return False
            self._count = 0
            return True

    def waits(self, stop: threading.Event) -> bool:
        """Until there is room; False if it was stopped."""
        while not stop.is_set():
            if self.has_room(0.05):
                return True
        return False

    def begin(self) -> None:
        with self._changed:
            self._count, self._since = self._count + 1, time.monotonic()

    def answered(self, answer: Answer | None = None) -> None:
        with self._changed:
            self._count, self._since = max(0, self._count - 1), time.monotonic()
            self._changed.notify()


class _Newest:
    """Reads on a thread of its own, as fast as frames come, and keeps the newest.

    Attributes:
        number: of the next frame. has_ended: no more will come, for the reason that ``check``
            raises, if there is one.
    """

    def __init__(self, open_reader: Any, every: int, number: int) -> None:
        self.number, self.has_ended = number, False
        self._open, self._every = open_reader, every
        self._newest: tuple[NDArray[np.uint8], str, int, tuple[float, float]] | None = None
        self._reader: Reader | None = None
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="video", daemon=True)
        self._thread.start()

    def take(
        self, timeout_s: float
    ) -> tuple[NDArray[np.uint8], str, int, tuple[float, float]] | None:
        """Frame, order of its channels, number and (seconds since the epoch, monotonic seconds)."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self.has_ended, timeout_s)
            newest, self._newest = self._newest, None
            return newest

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """A read that hangs is left alone: it ends by itself."""
        self._is_stopping = True
        if (reader := self._reader) is not None:
            reader.interrupt()
        self._thread.join(0.3)

    def _run(self) -> None:
        try:
            self._reader = reader = self._open()
            try:
                while not self._is_stopping:
                    frame = reader.read(self.number % self._every == 0)
                    with self._changed:
                        if frame is not None:
                            self._newest = (
                                frame,
                                reader.colour,
                                self.number,
                                (time.time(), time.monotonic()),
                            )
                            self._changed.notify()
                        self.number += 1
            finally:
                reader.close()
        except EOFError:
            pass
        except Exception as error:
            self._failure = error
        finally:
            with self._changed:
                self.has_ended = True
                self._changed.notify()


__all__ = ["VideoFrames"]
